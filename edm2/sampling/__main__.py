"""`python -m edm2.sampling`: the command is stages/sample.py, where sampler, networks and codec meet;
this room knows none of the others.
"""

import runpy

runpy.run_module("stages.sample", run_name="__main__")
