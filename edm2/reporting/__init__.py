"""Tables, curves and grids from the files that stages leave; the paper's tables as data."""
