"""What each path asks a GPU for, without one: `python tests/device/report.py [--lines N] [PATH ...]`.

Prints the host's waits for the device and the kernels that are started, by line, for paths whose names
contain one of the given texts; all without any.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from device.stub import Unavailable, environment

TESTS = Path(__file__).parents[1]


def run_paths(names: list[str], folder: Path) -> dict[str, dict]:
    """Records of paths by name, as dictionaries: all of them in one process.

    Raises:
        Unavailable: see `stub.environment`.
    """
    output = folder / "records.json"
    command = [sys.executable, "-m", "device.run", str(output), *names]
    path = os.pathsep.join((str(TESTS.parent), str(TESTS)))
    done = subprocess.run(
        command,
        env={**environment(folder), "PYTHONPATH": path},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(output.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="PATH")
    parser.add_argument("--lines", type=int, default=8, help="of each kind; 8 if not given")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            records = run_paths(args.names, Path(folder))
        except Unavailable as reason:
            sys.exit(f"fake CUDA tensors cannot be used: {reason}")
    for name, record in records.items():
        print(name)
        for step in record["steps"]:
            totals = {kind: sum(step[kind].values()) for kind in ("syncs", "copies", "launches")}
            print(f"  {step['name']}:", ", ".join(f"{n} {kind}" for kind, n in totals.items()))
            for kind in ("syncs", "copies", "launches", "operations"):
                lines = sorted(step[kind].items(), key=lambda item: -item[1])
                for place, count in lines[: args.lines]:
                    print(f"    {kind:<10} {count:6}  {place}")
        if record["error"]:
            print(record["error"])


if __name__ == "__main__":
    main()
