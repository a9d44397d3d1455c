"""One thin file per DVC stage: read params, call edm2.pipeline, write outs."""

import sys

from edm2.runtime.starting import explain_errors_of_start

if sys.argv[:1] == ["-m"]:  # `python -m stages.NAME` imports this package first
    explain_errors_of_start()
