"""`python .dvc/plots/make_page.py`: makes page.html again, with another version of the scripts.

DVC fills this page in `dvc plots show` and `dvc plots diff`. Its own page loads scripts from the internet;
this one contains them, and is kept in the repository, so that plots need neither network nor setup.
"""

from pathlib import Path

import vl_convert

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh_tag}
<title>Plots</title>
<link rel="icon" href="data:,">
<style>
body { font-family: sans-serif; margin: 1rem; }
body > div { margin-bottom: 2rem; max-width: 100%; overflow-x: auto; }
</style>
<script>%s</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""

if __name__ == "__main__":
    page = PAGE.replace("%s", vl_convert.javascript_bundle())
    (Path(__file__).parent / "page.html").write_text(page, encoding="utf-8")
