"""`edm2 sample` with a network of a small project's sweep."""

from edm2.cli.main import edm2

NETWORK = "models/sweep/G-0/000000001024-ema_length-0.1.safetensors"
OTHER = NETWORK.replace("0.1.", "0.2.")


def sample(*options: str, network: str = NETWORK) -> None:
    """The command in the current folder, with errors as exceptions."""
    edm2.main(["sample", network, *options], prog_name="edm2", standalone_mode=False)
