"""The notebooks of the documentation run on the results of any project, and are stored as they ran."""

import nbformat
import pytest

from docs.run_notebooks import NOTEBOOKS, run

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
MAX_BYTES, MAX_LINES = 300_000, 10  # of a notebook, of a cell
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """The kinds of a cell's outputs, like [["image/png", "text/plain"]]."""
    return [sorted(output.data) for output in cell.outputs]


@every_notebook
def test_it_is_stored_as_it_ran_from_top_to_bottom(path):
    assert path.stat().st_size <= MAX_BYTES
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    results = {"display_data", "execute_result"}
    assert {output.output_type for cell in cells for output in cell.outputs} <= results
    assert max(len(cell.source.splitlines()) for cell in cells) <= MAX_LINES


@every_notebook
def test_it_runs_on_the_results_of_a_tiny_project(path, finished, tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    stored, cells = code_cells(nbformat.read(path, as_version=4)), code_cells(run(path, finished))
    assert [kinds(cell) for cell in cells] == [kinds(cell) for cell in stored]
    [slider] = [
        html
        for cell in cells
        for output in cell.outputs
        if 'type="range"' in (html := output.data.get("text/html", ""))
    ]
    assert slider.count("<figure") == 3  # EMA lengths of the tiny project
