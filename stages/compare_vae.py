"""`python -m stages.compare_vae REVISION...`: autoencoders of several experiments side by side.

Revisions are as for `stages.compare`; `$(dvc exp list --name-only)` names all experiments. Those that
differ in `seed` alone are one variant. Writes to reports/compare_vae/ a table of the variants, mean ±
standard deviation over seeds, and a grid: held-out images, and what the first seed of each variant
makes of them.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from edm2.params import UserError
from edm2.reporting.compare import variants, variants_table
from edm2.reporting.tables import as_markdown
from edm2.runtime.files import write_text
from stages.experiments import fetch, flat_params, read

METRICS = ("reports/vae/metrics.json", "reports/yardsticks/metrics.json")
SHOWN = 16  # held-out images


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stages.compare_vae", description=__doc__)
    parser.add_argument("revisions", nargs="+", metavar="REVISION")
    parser.add_argument("--out", type=Path, default=Path("reports/compare_vae"))
    given = parser.parse_args()
    try:
        experiments = {rev: (_metrics(rev), flat_params(rev)) for rev in given.revisions}
        table = variants_table(experiments)
        draw(
            {name: revisions[0] for name, revisions in variants(experiments).items()},
            given.out / "reconstructions.png",
        )
    except UserError as error:
        print(f"compare_vae: {error}", file=sys.stderr)
        return 2
    write_text(given.out / "compare.csv", table.to_csv(index=False))
    write_text(given.out / "compare.md", as_markdown(table))
    print(table.to_string(index=False))
    print(f"\ngrid: {given.out / 'reconstructions.png'}")
    return 0


def _metrics(revision: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for path in METRICS:
        found |= json.loads(read(revision, path))
    return found


def draw(revisions: dict[str, str], path: Path) -> None:
    """Images held out in the workspace, spread over all of them, and a row per revision."""
    import torch

    from edm2.data.images import ImageShards
    from edm2.reporting.grids import write_rows
    from edm2.vae.codec import load_codec

    held_out = ImageShards(Path("data/images"), "held_out")
    step = max(1, len(held_out) // SHOWN)
    images, _ = held_out.batch(range(0, len(held_out), step)[:SHOWN])
    rows = {"image": images}
    for name, revision in revisions.items():
        with TemporaryDirectory() as scratch:
            codec = load_codec(
                fetch(revision, "models/vae", Path(scratch) / "vae"), torch.device("cpu")
            )
        rows[name] = codec.decode(codec.encode(images)[0])
    write_rows(path, rows)


if __name__ == "__main__":
    sys.exit(main())
