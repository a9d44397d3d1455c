"""Downloads of weights from a server that sends something else."""

from tracking_server import content, serving

from edm2.features.weights import fetch_weights
from edm2.params import UserError
from edm2.runtime.failures import _describe

CONTENT = bytes(range(256)) * 5000
KEY = "vae.backbone_path"


def files(cache):
    return [path.name for path in cache.iterdir() if not path.name.endswith(".lock")]


def refused(this):
    """Why a download fails; None: it does not."""
    try:
        fetch_weights(this)
    except UserError as error:
        return _describe(error)
    return None


def try_download(published, cache, name, fault, tally):
    """A download that a fault ends, and one without."""
    tally.tried += 1
    with serving() as server:
        server.fault = fault
        this = published(server.uri)
        status, text = refused(this) or (0, "")
        if status == 2 and text.isprintable() and this.url in text and KEY in text:
            tally.explained += 1
        else:
            tally.failed.append(f"{name}: {status} {text}")
        tally.left_at_once += files(cache)
        server.fault = content(CONTENT)
        path, _ = fetch_weights(this)
        tally.same += path.read_bytes() == CONTENT
        path.unlink()
    tally.left += files(cache)
