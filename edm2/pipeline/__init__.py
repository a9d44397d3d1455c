"""The code of the stages and commands, which combines the other packages, and the runner of stages.

`stages/` holds one thin file per DVC stage, which calls this package. Nothing else in edm2 knows DVC.
"""
