"""Tables, curves and grids from the outputs of the stages; the paper's tables as data."""
