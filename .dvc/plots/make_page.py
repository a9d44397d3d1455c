"""`python .dvc/plots/make_page.py FILE`: the page that `dvc plots show` fills, without network access.

DVC's own page loads its plotting scripts from the internet; this one contains them.
"""

import sys
from pathlib import Path

import vl_convert

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Plots</title>
<script>%s</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""

if __name__ == "__main__":
    Path(sys.argv[1]).write_text(PAGE % vl_convert.javascript_bundle(), encoding="utf-8")
