"""Plans: sizes on the disk, hours, and what to change if memory is too small."""

import io
import tarfile

import pytest
import torch
from latent_files import members, pack
from tiny import ROOT

from edm2.data.latents import latent_sample
from edm2.params import UserError, load
from edm2.params.replicates import Replicate
from edm2.planning import plan as planning
from edm2.planning.dataset import DatasetSize, dataset_size
from edm2.planning.gpus import GPUS, gpu_named
from edm2.planning.plan import Device, Plan, Planner, Row
from edm2.planning.stages import Part, Stage, ranks_of, stages_of
from edm2.planning.text import plan_text
from edm2.planning.workloads import Workload
from edm2.vae.network import Autoencoder

GIB = 2**30
DEFAULT = load(ROOT / "params.yaml")
DIGITS = DatasetSize(1528, 269, 10, 16, (4, 4, 4), 600.0, True)


def linear(images, passes=4, key="diffusion.microbatch"):
    """A workload whose step needs a GiB and another one for each image."""

    def build(device):
        kept = torch.empty(GIB, dtype=torch.uint8)
        return lambda count: (kept, torch.empty(images * GIB, dtype=torch.uint8))

    return Workload(build, images, passes, "fp32", key=key, resized=linear)


def planner(device):
    return Planner(DEFAULT, device)


def test_the_digits_are_counted():
    size = dataset_size(DEFAULT, None, None)
    assert (size.train + size.held_out, size.classes) == (1797, 10)
    assert size.latent_shape == (4, 4, 4)
    assert size.measured


def test_numbers_of_a_dataset_may_be_stated():
    size = dataset_size(DEFAULT, 1000, 7)
    assert (size.train, size.held_out, size.classes) == (850, 150, 7)
    assert not size.measured
    with pytest.raises(UserError) as error:
        dataset_size(DEFAULT, 1000, None)
    assert "--classes" in str(error.value)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_bytes_of_latents_are_those_of_a_shard(dtype):
    latent = torch.zeros(4, 64, 64)
    sample = latent_sample("00000000", latent, latent.clone(), 3, getattr(torch, dtype))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for ending in ("safetensors", "cls"):
            member = tarfile.TarInfo(f"00000000.{ending}")
            member.size = len(sample[ending])
            tar.addfile(member, io.BytesIO(sample[ending]))
        expected = tar.offset  # without the end of the archive
    size = DatasetSize(10, 1, 10, 512, (4, 64, 64), 1.0, False, dtype)
    assert size.latents_on_disk == 10 * expected


def test_latents_without_images_are_imported_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    pack(tmp_path / "x.zip", members([0, 1, 1]))
    source = {"source": "latents", "path": "x.zip", "held_out": None}
    dataset = DEFAULT.dataset.model_copy(update=source)
    latents = DEFAULT.latents.model_copy(update={"dtype": "float32"})
    params = DEFAULT.model_copy(update={"dataset": dataset, "latents": latents})
    size = dataset_size(params, None, None)
    assert (size.train, size.held_out, size.classes) == (3, 0, 2)
    stages = {stage.name: stage for stage in stages_of(params, size)}
    for name in ("prepare", "train_features", "reference", "train_vae", "baselines"):
        assert (stages[name].images, stages[name].parts, stages[name].disk_bytes) == (0, (), 0)
    latents = stages["encode_latents"]
    assert (latents.images, latents.parts) == (3, ())
    assert latents.disk_bytes == 3 * (512 + 1024 + 512 + 512)  # 672 bytes, in blocks; label


def test_snapshots_of_the_vae_on_the_disk():
    """Ten of each of two averages, in 16 bits."""
    stage = next(stage for stage in stages_of(DEFAULT, DIGITS) if stage.name == "train_vae")
    parameters = sum(p.numel() for p in Autoencoder(DEFAULT.vae).parameters())
    assert stage.disk_bytes == parameters * 10 * 2 * 2
    assert stage.parts[-1].images == 269 * (1 + 2 + 5)  # decoded: at the end, in between, averages


def test_snapshots_and_networks_on_the_disk():
    stages = {stage.name: stage for stage in stages_of(DEFAULT, DIGITS)}
    parameters = stages["sweep_ema@G-0"].disk_bytes / 2 / 12  # 12 networks in 16 bits
    # 40 times, two averages in 16 bits; the last network in 32
    assert stages["train_diffusion@G-0"].disk_bytes == parameters * (40 * 2 * 2 + 4)
    # parameters, two moments, two averages
    assert stages["train_diffusion@G-0"].scratch_bytes == 3 * parameters * 5 * 4


def test_networks_that_are_not_kept_take_no_disk():
    sweep = DEFAULT.sweep.model_copy(update={"materialize": False})
    params = DEFAULT.model_copy(update={"sweep": sweep})
    assert {s.name: s.disk_bytes for s in stages_of(params, DIGITS)}["sweep_ema@G-0"] == 0


def test_hours_follow_from_operations_and_speed():
    workload = Workload(None, precision="bf16", flops=5_000_000)
    stage = Stage("fid@G-0", 100, (Part("denoising", workload, 3600), Part("more", workload, 3600)))
    row = planner(Device({"bf16": 2e-6, "fp32": 1e-9}, None))._row(stage, None, None)
    assert row.flops == 2 * 3600 * 5_000_000
    assert row.gpu_hours == pytest.approx(5.0)  # at two million operations a second
    assert row.memory_bytes is None


def test_too_little_memory_gives_the_number_of_images_that_fits():
    stage = Stage("train_diffusion@G-0", 1, (Part("training", linear(32), 1),))
    (warning,) = planner(Device(None, 20.5 * GIB))._warnings(stage)
    # at most 19 images, and a divisor of the 128 of a rank
    assert "needs 33.0 GiB of 20.5 GiB" in warning
    assert "Set diffusion.microbatch to 16." in warning
    assert not list(planner(Device(None, 33.5 * GIB))._warnings(stage))


def test_memory_for_no_image_is_said():
    stage = Stage("train_diffusion@G-0", 1, (Part("training", linear(8), 1),))
    (warning,) = planner(Device(None, 1.5 * GIB))._warnings(stage)
    assert "Not even diffusion.microbatch: 1 fits" in warning


def plan_with(seeds):
    """A plan of the given seeds, of workloads that cost nothing on fake tensors."""
    rows = [
        Row(stage, group, training, 100, 2, 1000, 5, 70, 9, 0.5, None, past)
        for stage, group, training, past in (
            ("prepare", "prepare", None, 3.0),
            *((f"fid@G-{seed}", "fid@G", Replicate("G", seed), 8.0) for seed in seeds),
        )
    ]
    free = [Row("report", "report", None, 0, 1, 0, None, 0, 0, 0.0, None, None)]
    return Plan(DIGITS, rows + free, ["a warning"])


def line(text, first):
    """The line that starts so, with single spaces."""
    (found,) = (line for line in text.splitlines() if line.startswith(first))
    return " ".join(found.split())


def test_trainings_of_a_config_are_one_line_of_the_text():
    text = plan_text(plan_with((0, 3, 4)))
    assert line(text, "stage").startswith("stage trainings images operations")
    assert line(text, "prepare") == "prepare 100 1e+03 0.00 0.07 kB 0.5 0.25 3"
    # images, operations, disk, hours on both GPUs and seconds of three; memory of one at a time
    assert line(text, "fid@G") == "fid@G 3 300 3e+03 0.00 0.21 kB 1.5 0.75 24"
    assert line(text, "total") == "total 4e+03 0.28 kB 2 1"  # not all past seconds are known
    assert line(text, "Not in the table").endswith(": report.")
    assert text.endswith("warning: a warning")


def test_a_single_training_has_the_name_of_its_stage():
    text = plan_text(plan_with((3,)))
    assert line(text, "stage").startswith("stage images")
    assert line(text, "fid@G-3").startswith("fid@G-3 100 ")


def test_a_warning_is_given_once_for_all_seeds(monkeypatch):
    trainings = [Replicate("G", seed) for seed in (0, 12)]
    parts = (Part("training", linear(32), 1),)
    stages = [Stage(f"train_guide@{t}", 1, parts, training=t) for t in trainings]
    monkeypatch.setattr(planning, "stages_of", lambda params, size: [*stages, Stage("report", 0)])
    plan = planner(Device(None, 20.5 * GIB)).plan(DIGITS, {"train_guide@G": 7.0})
    (warning,) = plan.warnings
    assert warning.startswith("train_guide@G: training needs 33.0 GiB")
    assert [row.past_seconds for row in plan.rows] == [7.0, 7.0, None]
    assert plan.total("past_seconds") is None  # that of the report is not known


def test_ranks_are_those_of_the_launcher():
    assert ranks_of("fid", DEFAULT) == 1


def test_gpus_have_a_speed_in_each_precision():
    for gpu in GPUS.values():
        assert gpu.tflops.keys() == {"fp32", "bf16", "fp16"}
        assert gpu.tflops["fp16"] >= gpu.tflops["fp32"]
    with pytest.raises(UserError) as error:
        gpu_named("a100")
    assert "a100-80gb" in str(error.value)
