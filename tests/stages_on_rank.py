"""Runs stages one after another in one process, which is a rank: `stages_on_rank PORT=STAGE@CONFIG …`.

Each stage has a port of its own, so that no rank meets the one that leaves the stage before.
"""

import os
import runpy
import sys

for argument in sys.argv[1:]:
    os.environ["MASTER_PORT"], _, stage = argument.partition("=")
    name, *config = stage.split("@")
    sys.argv[1:] = config
    runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)
