"""Models in MLflow: a folder of files, and how they are loaded and called.

A model has the flavor `python_function`: MLflow imports the module `loader` and calls its `_load_pyfunc` with
the folder of the model, where the files are in `NETWORK`. So weights are never pickled.
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

from edm2.runtime.delivery.store import Store
from edm2.runtime.delivery.views import NOTE_TAG
from edm2.runtime.files import write_json, write_text
from edm2.runtime.temporaries import temporary_folder

NETWORK = "network"  # folder of the files in that of the model
MODEL_TAG = "edm2.model"
SHARED = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
MAX_NOTE = 8000  # characters of a tag
REQUIREMENTS, ENVIRONMENT = "requirements.txt", "python_env.yaml"
FORBIDDEN = str.maketrans("/:.%\"'", "------")  # in names of models


@dataclass(frozen=True)
class Model:
    """What MLflow gets of a model, beside its files.

    Attributes:
        loader: module with a function `_load_pyfunc(folder)`, whose result has a method `predict`.
        signature: inputs, outputs and params, each as JSON; see `mlflow.models.ModelSignature`.
        requirements: as for pip.
        metrics: those that are not finite are left out, since MLflow has no such metrics of models.
        dataset: name and digest of what they compare with; empty if that is no dataset of MLflow.
        note: Markdown, shown as its description.
    """

    name: str
    loader: str
    signature: Mapping[str, str]
    requirements: Sequence[str]
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    note: str
    dataset: Sequence[str] = ()


def log_model(
    store: Store, run_ids: Sequence[str], model: Model, folder: Path, time: int
) -> Iterator[int]:
    """Log a model to the first of these runs; the others list it, too.

    Yields the size of each file before it is sent.

    An attempt after a failure goes on with the same model. One that is complete is left as it is.

    Args:
        folder: of its files.
        time: of its metrics, in ms.

    Raises:
        Exception: whatever MLflow raises.
    """
    with store.session():
        logged = _find_or_create(store, run_ids[0], model)
    if str(logged.status) == "READY":
        return
    with temporary_folder() as temporary:
        description = temporary / "model"
        _describe(description, logged.model_id, run_ids[0], model)
        for root, prefix in ((folder, f"{NETWORK}/"), (description, "")):
            for path in sorted(path for path in root.rglob("*") if path.is_file()):
                yield path.stat().st_size
                inside = f"{prefix}{path.relative_to(root).as_posix()}"
                with store.session():
                    store.log_model_file(logged, path, inside)
    with store.session():
        _finish(store, logged.model_id, run_ids, model, time)


def _find_or_create(store: Store, run_id: str, model: Model) -> Any:
    """The model, or the one that an earlier attempt created."""
    name = model.name.translate(FORBIDDEN)
    key = sha256(f"{run_id} {name}".encode()).hexdigest()
    models = store.client.search_logged_models([store.experiment], f"tags.`{MODEL_TAG}` = '{key}'")
    if models:
        return models[0]
    own = {NOTE_TAG: model.note[:MAX_NOTE], MODEL_TAG: key}
    tags = {
        key: value for key, value in store.client.get_run(run_id).data.tags.items() if key in SHARED
    }
    return store.client.create_logged_model(
        store.experiment, name, run_id, {**tags, **own}, dict(model.params)
    )


def _describe(folder: Path, model_id: str, run_id: str, model: Model) -> None:
    """Write `MLmodel` and the files of the environment, which MLflow reads.

    `pyfunc.save_model` would write the same, after a second in which it lists all installed packages.
    """
    import mlflow
    from mlflow import pyfunc
    from mlflow.models import Model as Description
    from mlflow.models import ModelSignature

    signature = ModelSignature.from_dict(dict(model.signature))
    description = Description(run_id=run_id, model_id=model_id, signature=signature)
    pyfunc.add_to_model(description, model.loader, python_env=ENVIRONMENT)
    folder.mkdir()
    description.save(str(folder / "MLmodel"))
    requirements = [*model.requirements, f"mlflow=={mlflow.__version__}"]
    write_text(folder / REQUIREMENTS, "".join(f"{line}\n" for line in requirements))
    environment = {
        "python": platform.python_version(),
        "build_dependencies": ["pip", "setuptools", "wheel"],
        "dependencies": [f"-r {REQUIREMENTS}"],
    }
    write_json(folder / ENVIRONMENT, environment)  # which is YAML, too


def _finish(store: Store, model_id: str, run_ids: Sequence[str], model: Model, time: int) -> None:
    from mlflow.entities import LoggedModelOutput, Metric

    name, digest = model.dataset or (None, None)
    metrics = [  # of models MLflow would make NaN 0
        Metric(key, value, time, 0, model_id, name, digest)
        for key, value in model.metrics.items()
        if isfinite(value)
    ]
    store.client.log_batch(run_ids[0], metrics=metrics)
    for run_id in run_ids:
        outputs = store.client.get_run(run_id).outputs
        known = [output.model_id for output in (outputs.model_outputs if outputs else ())]
        if model_id not in known:
            store.client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    store.client.finalize_logged_model(model_id, "READY")
