"""Names of revisions: commits, branches, tags and experiments; `workspace` is none of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WORKSPACE = "workspace"
MAX_LISTED = 20  # names of a kind


def commit_of(revision: str) -> str | None:
    """The SHA-1 of the commit that a name refers to; None if there is none."""
    from dvc.scm import RevError, resolve_rev
    from scmrepo.exceptions import SCMError

    with _git() as git:
        if git is None or not revision:
            return None
        try:
            return str(resolve_rev(git, revision))
        except (RevError, SCMError):  # SCMError: there is no commit at all
            return None


def revision_names() -> dict[str, list[str]]:
    """Names by kind; kinds without any are left out."""
    from dvc.repo.experiments.utils import exp_refs

    with _git() as git:
        if git is None:
            return {}
        names = {
            "experiments": [info.name for info in exp_refs(git)],
            "branches": list(git.list_branches()),
            "tags": list(git.list_tags()),
        }
    return {kind: sorted(of_kind) for kind, of_kind in names.items() if of_kind}


def listed(names: dict[str, list[str]]) -> str:
    """Names by kind, in words."""
    kinds = []
    for kind, of_kind in names.items():
        more = len(of_kind) - MAX_LISTED
        rest = f" and {more} more" if more > 0 else ""
        kinds.append(f"{kind} {', '.join(of_kind[:MAX_LISTED])}{rest}")
    return "; ".join(kinds)


@contextmanager
def _git() -> Iterator[Any]:
    """The repository of the current folder; None without git."""
    from dvc.repo import Repo
    from dvc.scm import NoSCM

    with Repo(uninitialized=True) as repo:
        yield None if isinstance(repo.scm, NoSCM) else repo.scm
