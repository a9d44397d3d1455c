"""Names of tensors in the paper's figures and in published weights."""

import re

import pytest
import torch

from edm2.diffusion import build_denoiser
from edm2.diffusion.names import PAPER_TENSORS, matching, own_name, paper_name, published_name
from edm2.diffusion.published import infer_denoiser, load_published
from edm2.params import UserError

# all tensors of a network of two levels, as in published files
PUBLISHED = {
    "unet.emb_fourier.freqs",
    "unet.emb_fourier.phases",
    "unet.emb_noise.weight",
    "unet.emb_label.weight",
    "unet.out_conv.weight",
    "unet.out_gain",
    "unet.enc.8x8_conv.weight",
    "logvar_fourier.freqs",
    "logvar_fourier.phases",
    "logvar_linear.weight",
    *(
        f"unet.enc.{block}.{tensor}"
        for block in ("8x8_block0", "4x4_down", "4x4_block0")
        for tensor in ("emb_gain", "conv_res0.weight", "conv_res1.weight", "emb_linear.weight")
    ),
    *(
        f"unet.dec.{block}.{tensor}"
        for block in (
            "4x4_in0",
            "4x4_in1",
            "4x4_block0",
            "4x4_block1",
            "8x8_up",
            "8x8_block0",
            "8x8_block1",
        )
        for tensor in ("emb_gain", "conv_res0.weight", "conv_res1.weight", "emb_linear.weight")
    ),
    "unet.enc.4x4_block0.conv_skip.weight",
    *(
        f"unet.dec.{block}.conv_skip.weight"
        for block in ("4x4_block0", "4x4_block1", "8x8_block0", "8x8_block1")
    ),
    *(
        f"unet.{block}.attn_{part}.weight"
        for part in ("qkv", "proj")
        for block in ("enc.4x4_block0", "dec.4x4_in0", "dec.4x4_block0", "dec.4x4_block1")
    ),
}


def tiny():
    return build_denoiser(
        "G",
        channels=8,
        resolution=8,
        channel_mult=(1, 2),
        res_blocks=1,
        attention_resolutions=(4,),
        num_classes=3,
    )


def as_published(denoiser):
    return {published_name(name): t.clone() for name, t in denoiser.state_dict().items()}


def test_every_tensor_has_its_published_name():
    assert set(as_published(tiny())) == PUBLISHED


def test_loaded_published_weights_give_the_same_network():
    source, target = tiny(), tiny()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    x, sigma, labels = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 2.0]), torch.tensor([0, 2])
    assert not torch.allclose(source(x, sigma, labels), target(x, sigma, labels))
    load_published(target, as_published(source))
    assert torch.equal(source(x, sigma, labels), target(x, sigma, labels))
    assert torch.equal(source.uncertainty(sigma), target.uncertainty(sigma))


def test_published_weights_may_lack_the_uncertainty_head():
    source = {k: v for k, v in as_published(tiny()).items() if not k.startswith("logvar")}
    target = tiny()
    load_published(target, source)
    assert torch.equal(target.unet.enc["8x8-conv"].weight, source["unet.enc.8x8_conv.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("unet.out_gain"), "missing.* 1, .*unet.out_gain"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown.* 1, .*extra"),
        (lambda t: t.update({"unet.out_gain": torch.zeros(2)}), r"unet.out_gain.*\(2,\)"),
    ],
)
def test_weights_of_another_network_are_an_error(change, message):
    tensors = as_published(tiny())
    change(tensors)
    with pytest.raises(UserError, match=message):
        load_published(tiny(), tensors)


def test_the_tensors_of_the_papers_sweeps_exist_at_size_s():
    with torch.device("meta"):
        names = {paper_name(name) for name, _ in build_denoiser("G").unet.named_parameters()}
    assert set(PAPER_TENSORS) <= names
    assert len(PAPER_TENSORS) == len(set(PAPER_TENSORS)) == 28


def test_patterns_match_names_in_the_paper():
    names = [name for name, _ in tiny().unet.named_parameters()]
    assert matching("enc-8x8-conv", names) == ["enc.8x8-conv.weight"]
    assert len(matching("*-affine", names)) == 10
    assert matching("*", names) == names
    with pytest.raises(UserError, match="'enc-8x8-covn'.* enc-8x8-conv"):
        matching("enc-8x8-covn", names)


SHAPES = {
    "latents": {"channels": 64},
    "unconditional": {"channels": 192, "num_classes": 0},
    "pixels": {"channels": 192, "in_channels": 3},
    "another depth": {
        "channels": 24,
        "resolution": 32,
        "channel_mult": (1, 2, 2),
        "res_blocks": 1,
        "attention_resolutions": (32, 8),
        "num_classes": 7,
    },
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def published(request):
    """A network, and its tensors under their published names, without memory."""
    with torch.device("meta"):
        source = build_denoiser("G", **request.param)
    return source, {published_name(n): t for n, t in source.state_dict().items()}


def test_names_can_be_converted_back():
    names = list(build_denoiser("G", channels=8).state_dict())
    assert [own_name(published_name(name)) for name in names] == names


def test_the_network_of_published_tensors_is_inferred(published):
    source, tensors = published
    denoiser = infer_denoiser(tensors)
    assert denoiser.unet.shape == source.unet.shape
    assert denoiser.config == source.config


def arguments_of(denoiser):
    """The arguments with which the authors' code makes this network."""
    shape = denoiser.shape
    return {
        "img_resolution": shape.resolution,
        "img_channels": shape.in_channels,
        "label_dim": shape.num_classes,
        "model_channels": shape.channels,
        "channel_mult": list(shape.channel_mult),
        "channel_mult_noise": None,
        "channel_mult_emb": None,
        "num_blocks": shape.res_blocks,
        "attn_resolutions": list(denoiser.config.attention_resolutions),
        "use_fp16": True,
        "dropout": 0.1,
        "sigma_data": 0.5,
        "logvar_channels": 128,
        "label_balance": 0.5,
        "concat_balance": 0.5,
        "res_balance": 0.3,
        "attn_balance": 0.3,
        "clip_act": 256,
    }


def test_arguments_that_describe_the_tensors_are_accepted(published):
    source, tensors = published
    arguments = arguments_of(source)
    infer_denoiser(tensors, arguments)
    other_levels = {"attn_resolutions": [*arguments["attn_resolutions"], 2]}  # without such a level
    infer_denoiser(tensors, arguments | other_levels)
    eightfold = {"model_channels": source.shape.channels // 8}
    eightfold["channel_mult"] = [8 * mult for mult in source.shape.channel_mult]
    infer_denoiser(tensors, arguments | eightfold)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("img_resolution", 128),
        ("img_channels", 8),
        ("label_dim", 11),
        ("model_channels", 96),
        ("channel_mult", [1, 2, 3, 3]),
        ("channel_mult", "1234"),
        ("channel_mult_noise", 2),
        ("channel_mult_emb", 2),
        ("num_blocks", 2),
        ("attn_resolutions", [16]),
        ("attn_resolutions", None),
        ("sigma_data", 1.0),
        ("logvar_channels", 64),
        ("label_balance", 0.4),
        ("concat_balance", 0.6),
        ("res_balance", 0.5),
        ("attn_balance", 0.5),
        ("clip_act", None),
        ("channels_per_head", 32),
        ("resample_filter", [1, 3, 3, 1]),
        ("dual_stream", True),
    ],
)
def test_arguments_of_another_network_are_refused_by_name(name, value):
    with torch.device("meta"):
        source = build_denoiser("G", channels=64)
    tensors = {published_name(n): t for n, t in source.state_dict().items()}
    with pytest.raises(UserError, match=f"argument {name} .*{re.escape(repr(value))}"):
        infer_denoiser(tensors, arguments_of(source) | {name: value})


def test_weights_of_other_networks_are_an_error():
    with pytest.raises(UserError, match=r"expected tensors like .*, found 1 others"):
        infer_denoiser({"model.weight": torch.zeros(1)})
