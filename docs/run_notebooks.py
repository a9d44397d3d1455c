"""Execute the notebooks of the documentation on the results of this project, and store their outputs.

Run it in the root of the repository after `dvc repro` of the default params: `python docs/run_notebooks.py`.
"""

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent / "notebooks"


def run(path: Path, project: Path) -> Any:
    """The notebook at `path`, executed in the folder `project`, without progress and notes on stderr.

    Raises:
        CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(project)}}
    NotebookClient(notebook, resources=resources, timeout=None, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        nbformat.write(run(path, Path.cwd()), path)
