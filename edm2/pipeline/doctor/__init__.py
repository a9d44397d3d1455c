"""What `edm2 doctor` looks for: files that were left half written, damaged or locked, and what stages lack.

Each check is a function that yields findings; `examination.CHECKS` lists them. A check writes nothing and
waits for nothing. What `--fix` does is the `repair` of a finding: it makes again what can be made again, and
moves what is broken aside.
"""
