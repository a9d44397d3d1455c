"""All checks, in the order in which they run: what takes long is last."""

from collections.abc import Iterator

from edm2.pipeline.doctor.cache import objects
from edm2.pipeline.doctor.dvc_files import broken_links, configuration, lock_file, run_cache
from edm2.pipeline.doctor.dvc_processes import experiments, process_locks
from edm2.pipeline.doctor.environment import disk, packages, params, repository
from edm2.pipeline.doctor.finding import Check, Finding
from edm2.pipeline.doctor.mlflow_store import deliveries, store
from edm2.pipeline.doctor.states import checkpoints, incomplete_files, logs, notes
from edm2.pipeline.doctor.weights import unfinished_downloads, weights
from edm2.runtime.system_errors import explain, first_line

CHECKS: tuple[Check, ...] = (
    packages,
    repository,
    params,
    disk,
    configuration,
    lock_file,
    process_locks,
    experiments,
    run_cache,
    broken_links,
    store,
    deliveries,
    incomplete_files,
    notes,
    logs,
    unfinished_downloads,
    checkpoints,
    weights,
    objects,
)


def examine() -> Iterator[Finding]:
    """What is wrong with the project in the current folder. Nothing is written."""
    for check in CHECKS:
        try:
            yield from check()
        except Exception as error:  # a broken file that the check did not expect
            yield _unchecked(check, error)


def _unchecked(check: Check, error: Exception) -> Finding:
    name = check.__name__.replace("_", " ")
    reason = explain(error) or f"{type(error).__name__}: {first_line(error)}"
    return Finding(name, f"cannot be checked ({reason.rstrip('.')})", "The other checks go on.", "")
