"""What composes the packages: a stage's frame, and the code of each stage.

`stages/` holds one thin file per DVC stage, which calls this package. Nothing else in edm2 knows DVC.
"""
