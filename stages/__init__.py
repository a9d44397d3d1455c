"""One file per stage of the pipeline: read params, call edm2, write outs. No mathematics."""
