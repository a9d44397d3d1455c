"""One thin file per DVC stage: read params, call edm2.pipeline, write outs."""
