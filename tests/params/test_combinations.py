"""Values that are valid alone but not in combination: the problem has the key and the value."""

import os

import pytest
from tiny import ROOT, default_params

from edm2.params import ParamsError, load
from edm2.params.loading import check_tree

# changed field, its value; the problem's key and value; other texts in the problem
WRONG = [
    ("configs", ["G", "G"], "configs", ["G", "G"], []),
    ("dataset.source", "folder", "dataset.path", None, []),
    ("dataset.path", "somewhere", "dataset.path", "somewhere", []),
    ("dataset.resolution", 18, "dataset.resolution", 18, ["16 or 20"]),
    ("codec.path", "sd", "codec.path", "sd", ["stable_diffusion"]),
    ("codec.normalization", "paper", "codec.normalization", "paper", ["trained"]),
    ("codec.rounding", "truncate", "codec.rounding", "truncate", ["nearest", "trained"]),
    ("vae.backbone_path", "vgg.pth", "vae.backbone_path", "vgg.pth", ["classifier"]),
    ("vae.detector_path", "x.pth", "vae.detector_path", "x.pth", ["classifier"]),
    ("vae.images.shards", "a.tar", "vae.images.shards", "a.tar", ["a.tar"]),
    ("vae.images.shards", "{a,b}.tar", "vae.images.shards", "{a,b}.tar", ["2 of 2", "/a.tar"]),
    ("vae.images.held_out", "{a..b.tar", "vae.images.held_out", "{a..b.tar", ["braces"]),
    ("vae.warmup_nimg", 99999, "vae.warmup_nimg", 99999, ["vae.duration_nimg", "12800"]),
    ("vae.losses.pool", 3, "vae.losses.pool", 3, ["dataset.resolution (16)", "Nearest: 2"]),
    (
        "vae.adversarial.generator_nimg",
        64,
        "vae.adversarial.generator_nimg",
        64,
        ["vae.adversarial.discriminator_nimg", "2560"],
    ),
    ("vae.equivariance.flip_channels", 2, "vae.equivariance.flip_channels", 2, ["(4)"]),
    ("vae.microbatch", 48, "vae.microbatch", 48, ["vae.batch", "64"]),
    ("vae.evaluate_nimg", 100, "vae.evaluate_nimg", 100, ["vae.batch", "64 or 128"]),
    ("diffusion.channel_mult", [1, 2, 2, 2], "diffusion.channel_mult", [1, 2, 2, 2], ["4x4"]),
    ("diffusion.size", "S", "diffusion.size, diffusion.channels", ("S", 32), []),
    ("diffusion.channels", 100, "diffusion.channels", 100, ["64"]),
    (
        "diffusion.duration_nimg",
        102401,
        "diffusion.duration_nimg",
        102401,
        ["102400 or 102528"],
    ),
    ("diffusion.log_nimg", 100, "diffusion.log_nimg", 100, ["diffusion.batch", "128"]),
    ("diffusion.microbatch", 48, "diffusion.microbatch", 48, ["128"]),
    ("diffusion.magnitudes_nimg", 200, "diffusion.magnitudes_nimg", 200, ["128 or 256"]),
    ("diffusion.magnitudes_nimg", 256000, "diffusion.magnitudes_nimg", 256000, ["102400"]),
    ("diffusion.attention_resolutions", [7], "diffusion.attention_resolutions", 7, ["[4, 2]"]),
    (
        "diffusion.per_config",
        {"C": {"per_config": {"C": {"lr_ref": 1.0}}}},
        "diffusion.per_config.C.per_config",
        {"C": {"lr_ref": 1.0}},
        [],
    ),
    (
        "diffusion.per_config",
        {"G": {"batch": 96}},
        "ema.snapshot_nimg (config G)",
        2560,
        ["diffusion.batch", "96"],
    ),
    (
        "diffusion.per_config",
        {"G": {"size": "S"}},
        "diffusion.size, diffusion.channels (config G)",
        ("S", 32),
        [],
    ),
    ("launch", "torchrun --nproc_per_node=3", "diffusion.batch", 128, ["3 ranks", "126 or 129"]),
    ("launch", "torchrun --nnodes 2 --nproc-per-node 3", "diffusion.batch", 128, ["6 ranks"]),
    (
        "launch",
        "torchrun --nproc_per_node=0",
        "launch",
        "torchrun --nproc_per_node=0",
        ["--nproc_per_node=8"],
    ),
    ("launch", "srun torchrun --nnodes -2", "launch", "srun torchrun --nnodes -2", ["--nnodes=8"]),
    (
        "launch",
        "torchrun --nproc-per-node",
        "launch",
        "torchrun --nproc-per-node",
        ["--nproc_per_node=8"],
    ),
    (
        "launch",
        "torchrun --nproc_per_node=8 | tee log",
        "launch",
        "torchrun --nproc_per_node=8 | tee log",
        ["shell", "script"],
    ),
    ("launch", "", "launch", "", ["python"]),
    ("launch", None, "launch", None, ["Write python"]),
    ("launch", {}, "launch", {}, ["Write python"]),
    ("runtime.workers", 10**9, "runtime.workers", 10**9, ["1,024"]),
    ("launch", "torchrun 'x", "launch", "torchrun 'x", ["python"]),
    ("launch", {"fid": "python"}, "launch.default", None, ["default: python"]),
    ("launch", {"default": "python", "fit": "a"}, "launch.fit", "a", ["fid"]),
    (
        "launch",
        {"default": "python", "report": "torchrun --nproc_per_node=2"},
        "launch.report",
        "torchrun --nproc_per_node=2",
        ["python"],
    ),
    (
        "launch",
        {"default": "torchrun --nproc_per_node=2", "train_vae": "torchrun --nproc_per_node=3"},
        "vae.batch",
        64,
        ["3 ranks", "63 or 66"],
    ),
    ("ema.snapshot_nimg", 409600, "ema.snapshot_nimg", 409600, ["102400"]),
    ("ema.snapshot_nimg", 38400, "ema.snapshot_nimg", 38400, ["102400", "Nearest: 25600."]),
    (
        "vae.ema.snapshot_nimg",
        25600,
        "vae.ema.snapshot_nimg",
        25600,
        ["vae.duration_nimg", "12800"],
    ),
    ("vae.ema.snapshot_nimg", 5120, "vae.ema.snapshot_nimg", 5120, ["divisor", "6400"]),
    ("vae.ema.snapshot_nimg", 100, "vae.ema.snapshot_nimg", 100, ["vae.batch", "64 or 128"]),
    ("vae.ema.ema_lengths", [0.1, 0.05], "vae.ema.ema_lengths", [0.1, 0.05], []),
    ("vae.ema.evaluate_lengths", [0.1, 0.1], "vae.ema.evaluate_lengths", [0.1, 0.1], []),
    ("ema.source", "published", "ema.path", None, []),
    ("ema.path", "pickles", "ema.path", "pickles", ["training"]),
    ("sweep.ema_lengths", [0.1, 0.05], "sweep.ema_lengths", [0.1, 0.05], []),
    ("sweep.nimg", [5119], "sweep.nimg", 5119, ["ema.snapshot_nimg", "Nearest: 2560 or 5120."]),
    ("sweep.nimg", [5120, 102401], "sweep.nimg", 102401, ["102400"]),
    ("sweep.nimg", [10240, 5120], "sweep.nimg", [10240, 5120], []),
    ("sweep.nimg", [5120, 5120], "sweep.nimg", [5120, 5120], []),
    ("sweep.tensors", ["*-affine"], "sweep.tensors_base", None, ["sweep.tensors"]),
    ("sweep.tensors_base", 0.1, "sweep.tensors_base", 0.1, ["null"]),
    *(
        ("sweep.search", {"low": low, "high": high, "tolerance": tolerance}, key, value, mentions)
        for low, high, tolerance, key, value, mentions in (
            (0.2, 0.1, 0.005, "sweep.search.low", 0.2, ["sweep.search.high (0.1)"]),
            (0.1, 0.285, 0.005, "sweep.search.high", 0.285, ["0.28"]),
            (0.1, 0.2, 0.0001, "sweep.search.tolerance", 0.0001, ["0.0005", "0.05"]),
            (0.1, 0.2, 0.05, "sweep.search.tolerance", 0.05, ["half of the range"]),
            (0.1, 0.2, 0.005, "sweep.materialize", True, ["false", "sweep.search"]),
            (0.1, 0.2, 0.005, "evaluation.seed_blocks", 1, ["at least 10"]),
        )
    ),
    ("guidance.strength", [2.0], "guidance.strength", [2.0], ["guide: none"]),
    ("guidance.guide", "snapshot", "guidance.ema_length, guidance.nimg", (None, None), []),
    ("guidance.guide", "unlabeled", "diffusion.label_dropout", 0.0, ["0.1"]),
    ("guidance.guide", "trained", "guidance.changes", {}, ["conditional"]),
    ("guidance.guide", "published", "guidance.path", None, []),
    ("guidance.changes", {"channels": 4}, "guidance.changes", {"channels": 4}, ["guide: none"]),
    ("guidance.nimg", 5120, "guidance.nimg", 5120, ["guidance.guide: none"]),
    ("sampling.sigma_min", 100, "sampling.sigma_min", 100.0, ["sampling.sigma_max", "80"]),
    ("sampling.churn_interval", [50.0, 0.05], "sampling.churn_interval", [50.0, 0.05], []),
    (
        "sampling.churn_interval",
        [90.0, 100.0],
        "sampling.churn_interval",
        [90.0, 100.0],
        ["sampling.sigma_max", "80"],
    ),
    (
        "sampling.churn_interval",
        [0.0, 0.001],
        "sampling.churn_interval",
        [0.0, 0.001],
        ["sampling.sigma_min", "0.002"],
    ),
    ("evaluation.metrics", ["kid"], "evaluation.metrics", ["kid"], ["fd"]),
    ("evaluation.metrics", ["fd", "kid", "kid"], "evaluation.metrics", ["fd", "kid", "kid"], []),
    ("evaluation.metrics", ["fd", "is"], "evaluation.metrics", ["fd", "is"], ["inception"]),
    ("evaluation.samples", 64, "evaluation.samples", 64, ["features.dims: 64"]),
    ("evaluation.detector", "inception", "evaluation.samples", 1000, ["2048"]),
    ("evaluation.detector", "dinov2", "evaluation.samples", 1000, ["1024"]),
    ("evaluation.detector_path", "x.pth", "evaluation.detector_path", "x.pth", ["classifier"]),
    ("evaluation.reference", "x.npz", "evaluation.reference", "x.npz", ["classifier"]),
]


@pytest.mark.parametrize(
    ("field", "changed", "key", "value", "mentions"),
    WRONG,
    ids=[f"{field}={value}" for field, value, *_ in WRONG],
)
def test_a_combination_that_cannot_work_is_refused(problems, field, changed, key, value, mentions):
    matches = [p for p in problems({field: changed}) if (p.key, p.value) == (key, value)]
    (named,) = matches
    assert [text for text in mentions if text not in f"{named.allowed} {named.fix}"] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sweep.nimg", [51200, 102400]),
        ("sweep.tensors", ["*-affine"]),
        ("guidance.strength", [1.0, 2.0]),
    ],
)
def test_a_search_is_of_whole_networks_at_the_end_and_few_or_many_strengths(problems, key, value):
    search = {"low": 0.01, "high": 0.25, "tolerance": 0.005}
    changes = {
        "sweep.search": search,
        "sweep.materialize": False,
        "evaluation.seed_blocks": 100,
        "sweep.tensors_base": 0.1 if key == "sweep.tensors" else None,
        "guidance.guide": "snapshot" if key == "guidance.strength" else "none",
        "guidance.nimg": 51200 if key == "guidance.strength" else None,
    }
    (problem,) = problems({**changes, key: value})
    assert (problem.key, problem.value) == (key, value)
    assert "sweep.search" in problem.allowed


def test_compilation_needs_a_compiler(params, only_problem, monkeypatch, tmp_path):
    compiler = tmp_path / "my-c++"
    compiler.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    problem = only_problem({"runtime.compile": True})
    assert (problem.key, problem.value) == ("runtime.compile", True)
    assert "g++" in problem.allowed
    assert "false" in problem.fix
    params({"runtime.compile": False})
    monkeypatch.setenv("CXX", str(compiler))
    params({"runtime.compile": True})


def test_workers_share_the_lanes_of_blocks(params):
    """Batches of 128 and 64 images have as many lanes."""
    for workers in (None, 0, 1, 2, 64):
        params({"runtime.workers": workers, "runtime.reading": "blocks"})
    params({"runtime.workers": 3, "runtime.reading": "random"})
    with pytest.raises(ParamsError) as error:
        params({"runtime.workers": 128, "runtime.reading": "blocks"})
    (problem,) = error.value.problems
    assert (problem.key, problem.value) == ("runtime.workers", 128)
    assert "64, the lanes of vae.batch" in problem.allowed


@pytest.mark.parametrize(
    ("shards", "fix"),
    [
        ("tars", "tars/*.tar"),
        ("images", "dataset.source"),
        ("https://host/0.tar", "download"),
        ("~/0.tar", "write /"),
        ("{a,b}.tar", "2 of 2"),
        ("pipe.tar", "FIFO"),
        ("none-*.tar", "no file matches"),
    ],
)
def test_what_to_write_instead_of_a_pattern_without_files(problems, tmp_path, shards, fix):
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/0.tar").touch()
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "pipe.tar")
    (problem,) = (p for p in problems({"vae.images.shards": shards}) if p.value == shards)
    assert problem.key == "vae.images.shards"
    assert fix in problem.fix


@pytest.mark.parametrize(
    ("changes", "key", "mentions"),
    [
        ({"detector_path": "x.pth"}, "evaluation.detector_path", "/x.pth"),
        ({"reference": "x.npz"}, "evaluation.reference", "/x.npz"),
        ({"reference": "x.pkl"}, "evaluation.reference", "/x.pkl"),
        ({"reference": "x.pth"}, "evaluation.reference", "numpy.savez"),
        ({"reference": "there.npz", "metrics": ["fd", "kid"]}, "evaluation.metrics", "fd and is"),
        ({"metrics": ["fd", "is"]}, "evaluation.metrics", "inception"),
    ],
)
def test_files_and_metrics_must_fit_a_published_detector(
    only_problem, tmp_path, changes, key, mentions
):
    (tmp_path / "there.npz").touch()
    detector = {"evaluation.detector": "dinov2", "evaluation.samples": 2000}
    problem = only_problem(detector | {f"evaluation.{name}": v for name, v in changes.items()})
    assert problem.key == key
    assert mentions in f"{problem.allowed} {problem.fix}"


def test_samples_must_exceed_the_dimensions_of_the_detector(params, only_problem):
    for detector, dims in (("inception", 2048), ("dinov2", 1024), ("classifier", 64)):
        changes = {"evaluation.detector": detector, "features.dims": 64}
        assert params({**changes, "evaluation.samples": dims + 1}).detector_dims == dims
        problem = only_problem({**changes, "evaluation.samples": dims})
        assert (problem.key, problem.value) == ("evaluation.samples", dims)


def test_the_inception_score_needs_an_image_for_each_of_its_ten_splits(params, only_problem):
    changes = {
        "evaluation.detector": "inception",
        "evaluation.allow_singular": True,
        "evaluation.metrics": ["fd", "is"],
    }
    params({**changes, "evaluation.samples": 10})
    problem = only_problem({**changes, "evaluation.samples": 9})
    assert (problem.key, problem.value) == ("evaluation.samples", 9)


def test_each_metric_has_its_own_minimum_of_samples(params, only_problem):
    few = {
        "evaluation.samples": 3,
        "evaluation.metrics": ["fd", "kid", "recall"],
        "evaluation.allow_singular": True,
    }
    problem = only_problem(few)
    assert (problem.key, problem.value) == ("evaluation.samples", 3)
    assert "4 for recall" in problem.allowed
    params({**few, "evaluation.neighbors": 2})
    single = only_problem({"evaluation.samples": 1, "evaluation.allow_singular": True})
    assert (single.key, single.value) == ("evaluation.samples", 1)


def test_published_networks_need_their_folder_and_config_g(params, only_problem, tmp_path):
    changes = {"ema.source": "published", "ema.path": "pickles"}
    assert only_problem(changes).key == "ema.path"
    (tmp_path / "pickles").mkdir()
    assert params(changes).ema.path == "pickles"
    for configs in (["F"], ["F", "G"]):
        problem = only_problem({**changes, "configs": configs})
        assert (problem.key, problem.value) == ("configs", configs)


def test_times_of_published_networks_are_not_checked(params):
    changes = {"ema.source": "published", "ema.path": ".", "sweep.nimg": [2147483000]}
    assert params(changes).sweep.nimg == (2147483000,)


def test_a_problem_of_one_config_names_it(params, problems):
    """And is not a problem if that config is not trained."""
    entry = {"diffusion.per_config": {"A": {"batch": 96}}}
    keys = [problem.key for problem in problems({"configs": ["B", "A"], **entry})]
    assert keys
    assert all(key.endswith("(config A)") for key in keys)
    assert params({"configs": ["B", "G"], **entry}).of("A").diffusion.batch == 96


def test_a_problem_of_several_configs_is_listed_once(only_problem):
    entries = {"A": {"lr_ref": 0.001}, "B": {"lr_ref": 0.002, "log_nimg": 6400}}
    changes = {"diffusion.log_nimg": 100, "diffusion.per_config": entries}
    assert only_problem({"configs": ["A", "B", "G"], **changes}).key == (
        "diffusion.log_nimg (config A, G)"
    )
    assert only_problem({"configs": ["A", "G"], **changes}).key == "diffusion.log_nimg"


def test_the_ranks_must_share_the_batch_evenly(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ParamsError) as error:
        load(ROOT / "params.yaml")
    (problem,) = (p for p in error.value.problems if p.key == "diffusion.batch")
    assert "126 or 129" in problem.fix


def test_ranks_of_a_launch_are_those_of_its_stage(monkeypatch):
    tree = default_params()
    monkeypatch.setenv("WORLD_SIZE", "3")
    check_tree(tree, "params.yaml", "fid")
    with pytest.raises(ParamsError) as error:
        check_tree(tree, "params.yaml", "train_vae")
    assert [problem.key for problem in error.value.problems] == ["vae.batch"]
