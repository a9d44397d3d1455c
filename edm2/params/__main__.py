"""`python -m edm2.params [FILE]`: check a params file and print what every field means."""

import sys
import textwrap

from edm2.params import Params, UserError, load
from edm2.params.loading import fields
from edm2.params.section import Section


def main() -> int:
    path = sys.argv[1] if len(sys.argv) > 1 else "params.yaml"
    try:
        params = load(path)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for key, description in fields(Params):
        value = params
        for part in key.split("."):
            value = getattr(value, part)
        if isinstance(value, Section):
            print(f"\n{key}: {description}")
        else:
            print(textwrap.indent(f"{key} = {value!r}\n    {description}", "  "))
    return 0


if __name__ == "__main__":
    sys.exit(main())
