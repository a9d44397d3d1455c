"""The notebooks of the documentation run on the results of any project, and are stored as they ran."""

import nbformat
import pytest
from nbclient import NotebookClient
from tiny import ROOT

PATHS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
MAX_BYTES = 300_000
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """The kinds of a cell's outputs but for notes and progress."""
    return [sorted(output.data) for output in cell.outputs if output.output_type != "stream"]


@every_notebook
def test_it_is_stored_as_it_ran_from_top_to_bottom(path):
    assert path.stat().st_size <= MAX_BYTES
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)
    assert max(len(cell.source.splitlines()) for cell in cells) <= 9


@every_notebook
def test_it_runs_on_the_results_of_a_tiny_project(path, finished, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    stored = nbformat.read(path, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(finished)}}
    NotebookClient(notebook, resources=resources, timeout=120).execute()
    cells = code_cells(notebook)
    assert [kinds(cell) for cell in cells] == [kinds(cell) for cell in code_cells(stored)]
    [slider] = [
        html
        for cell in cells
        for output in cell.outputs
        if 'type="range"' in (html := output.get("data", {}).get("text/html", ""))
    ]
    assert slider.count("<figure") == 3  # EMA lengths of the tiny project
