"""Pages of the site that are notebooks, with the outputs that are stored in them.

They become Markdown, so that their links are checked and they look like other pages. mkdocs calls `on_files`.
"""

from pathlib import Path
from typing import Any


def on_files(files: Any, config: Any) -> Any:
    """Make a page of each notebook below docs/."""
    from mkdocs.structure.files import File

    class NotebookPage(File):
        def is_documentation_page(self) -> bool:
            return True

    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text = notebook_page(Path(file.abs_src_path))
        files.remove(file)
        files.append(NotebookPage.generated(config, file.src_uri, content=text))
    return files


def notebook_page(path: Path) -> str:
    """A notebook as Markdown, with its pictures inside."""
    from nbconvert import MarkdownExporter

    exporter = MarkdownExporter(config={"ExtractOutputPreprocessor": {"enabled": False}})
    text, _ = exporter.from_filename(str(path))
    text = text.replace("![png](data:", "![Output of the code above](data:")
    return text.replace(' border="1" class="dataframe"', "")  # as tables of other pages
