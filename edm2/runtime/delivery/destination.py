"""Which MLflow store a run logs to."""

import os
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from edm2.params import Params
from edm2.params.tracking_checks import VARIABLE


@dataclass(frozen=True)
class Destination:
    """A store and an experiment in it.

    Attributes:
        uri: as params or MLFLOW_TRACKING_URI have it; None: the store of the project.
        from_environment: whether the environment variable set it.
    """

    uri: str | None
    experiment: str
    from_environment: bool = False

    @property
    def name(self) -> str:
        """The store, as it is shown."""
        return ".mlflow" if self.uri is None else without_password(self.uri)

    @property
    def kept(self) -> str | None:
        """The URI, as it is kept on disk: passwords of the environment stay there."""
        return self.name if self.from_environment else self.uri


def destination(params: Params) -> Destination:
    """Where params say, or where MLFLOW_TRACKING_URI says if `tracking.uri` is null."""
    tracking = params.tracking
    if tracking.uri is None and os.environ.get(VARIABLE):
        return Destination(os.environ[VARIABLE], tracking.experiment, from_environment=True)
    return Destination(tracking.uri, tracking.experiment)


def with_password(uri: str | None) -> str | None:
    """A URI that was kept on disk, with the password that MLFLOW_TRACKING_URI has for it."""
    current = os.environ.get(VARIABLE)
    return current if current and uri == without_password(current) else uri


def without_password(uri: str) -> str:
    """A URI with *** for its password."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    if ":" not in user:
        return uri
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***{at}{host}"))
