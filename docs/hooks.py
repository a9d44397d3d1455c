"""Pages of the site that are generated when it is built, so that they cannot become outdated.

`generated_pages` returns them as Markdown: params from the pydantic model, stages from dvc.yaml,
commands from click, the Python API from the packages, and copies of two files of the repository.
Nothing of this is committed. mkdocs calls `on_config` and `on_files`.
"""

import ast
import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from edm2.cli.main import edm2 as edm2_command
from edm2.params.loading import fields
from edm2.params.number_types import Range
from edm2.params.tree import Params

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edm2"
NAMES = {int: "integer", float: "number", bool: "true or false", str: "text", dict: "mapping"}
COPIES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing/index.md"}


def on_config(config: Any) -> Any:
    """Leave pages that do not exist yet out of the navigation."""
    config.nav = _existing(config.nav, generated_pages().keys())
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for uri, text in generated_pages().items():
        files.append(File.generated(config, uri, content=text))
    return files


def generated_pages() -> dict[str, str]:
    """Markdown by path below docs/."""
    return {
        "reference/params.md": params_page(),
        "reference/stages.md": stages_page(),
        "reference/commands.md": commands_page(),
        **api_pages(),
        **{page: _moved(name, page) for name, page in COPIES.items()},
    }


# --- params ---------------------------------------------------------------------------------------


def params_page() -> str:
    """One table per section of params.yaml."""
    defaults = YAML(typ="safe").load(ROOT / "params.yaml")
    descriptions = dict(fields(Params))
    lines = [
        "# Params\n",
        "Every field of `params.yaml`: its type, its value in the repository, and what it means. "
        "`edm2 params describe` prints the same for your project, `edm2 params check` checks the "
        "file. Unknown keys, wrong types, and combinations that cannot work are errors; all of them "
        "are listed before anything runs. Time is counted in images (`nimg`).\n",
        "A list may be written as a range: `0.02...0.24 by 0.02` has both ends. In `diffusion`, "
        "`null` is the paper's value for the config "
        "([which these are](../guides/configs.md#what-null-means)).\n",
    ]
    for section, model in _sections(Params):
        title = section or "Top level"
        lines += [f"\n## {title}\n", *([_sentence(descriptions[section])] if section else [])]
        lines += ["\n| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            if _is_section(field):
                continue
            key = f"{section}.{name}" if section else name
            default = _pick(defaults, key)
            cells = (
                f"`{name}`{{#{key}}}",
                _type(field.annotation, field.metadata),
                f"`{json.dumps(default, ensure_ascii=False)}`",
                _cell(descriptions[key]),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Each section of the tree by its key path, parents before their children."""
    yield prefix, model
    for name, field in model.model_fields.items():
        if _is_section(field):
            yield from _sections(field.annotation, f"{prefix}.{name}".lstrip("."))


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _pick(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def _type(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """The type of a field in words: "integer from 1 to 8, or `null`"."""
    origin, args = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _type(args[0], [*annotation.__metadata__, *metadata])
    if origin in (Union, UnionType):
        kinds = [_type(arg) for arg in args if arg is not NoneType]
        return " or ".join(kinds) + (", or `null`" if NoneType in args else "")
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin is tuple:
        items = _type(args[0])
        return f"list of {items}" if args[-1] is Ellipsis else f"list of {len(args)}: {items} each"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"`{{{', '.join(annotation.model_fields)}}}`"
    ranges = [f"from {item}" for item in metadata if isinstance(item, Range)]
    return " ".join([NAMES[origin or annotation], *ranges])


# --- stages ---------------------------------------------------------------------------------------


def stages_page() -> str:
    """What dvc.yaml declares, with the description of each stage's module."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    lines = [
        "# Stages\n",
        "The pipeline as [dvc.yaml](https://dvc.org/doc/user-guide/project-structure/dvcyaml-files) "
        "declares it. `X` is a training, like `G-0`: those stages run for each of `configs` and `seeds`. "
        "`dvc dag` draws the graph, `dvc status` says what would run, `dvc repro -s NAME` runs one "
        "stage. The [pipeline in a picture](../start.md#the-pipeline).\n",
    ]
    for name, stage in stages.items():
        inputs = [dep for dep in stage["deps"] if not dep.startswith(("edm2/", "stages/"))]
        outputs = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
        lines += [
            f"\n## {name}{'@X' if 'matrix' in stage else ''}\n",
            _stage_description(name) + "\n",
            f"- **Reads** {_paths(inputs)}",
            f"- **Writes** {_paths(outputs)}",
            f"- **Depends on params** {_param_links(stage.get('params', []))}",
        ]
    return "\n".join(lines) + "\n"


def _paths(entries: Any) -> str:
    names = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
    return (
        ", ".join(f"`{name.replace('${item.config}-${item.seed}', 'X')}`" for name in names)
        or "nothing in the project"
    )


def _param_links(keys: Any) -> str:
    sections = {section for section, _ in _sections(Params)}
    links = (
        f"[`{key}`](params.md#{key.replace('.', '') if key in sections else key})" for key in keys
    )
    return ", ".join(links) or "none"


# --- commands -------------------------------------------------------------------------------------


def commands_page() -> str:
    """The help of every command of `edm2`."""
    root = click.Context(edm2_command, info_name="edm2", **edm2_command.context_settings)
    lines = ["# Commands\n", *_help(edm2_command, root)]
    for context, command in _commands(edm2_command, root):
        lines += [f"\n## {context.command_path}\n", *_help(command, context)]
    return "\n".join(lines) + "\n"


def _commands(
    group: click.Group, parent: click.Context
) -> Iterator[tuple[click.Context, click.Command]]:
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, parent, info_name=name)
        yield context, command
        if isinstance(command, click.Group):
            yield from _commands(command, context)


def _help(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"```text\n{usage}\n```\n"
    yield _dedent(command.help or "") + "\n"
    records = [param.get_help_record(context) for param in command.get_params(context)]
    options = [record for record in records if record and record[0].startswith("-")]
    if options[:-1]:  # the last one is --help
        yield "| option | meaning |\n|---|---|"
        yield from (f"| `{names}` | {_cell(meaning)} |" for names, meaning in options[:-1])
    if isinstance(command, click.Group):
        yield ""
        for sub, subcommand in _commands(command, context):
            if sub.parent is context:
                path = sub.command_path
                yield f"- [`{path}`](#{path.replace(' ', '-')}): {subcommand.get_short_help_str(200)}"


# --- Python API -----------------------------------------------------------------------------------


def api_pages() -> dict[str, str]:
    """A page per package of edm2; the docstrings themselves are read by mkdocstrings."""
    packages = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
    pages = {"reference/api/index.md": _api_index(packages)}
    for folder in packages:
        modules = _modules(folder)
        lines = [f"# edm2.{folder.name}\n", _docstring(folder / "__init__.py") + "\n"]
        lines += [f"::: {module}" for module in modules]
        pages[f"reference/api/{folder.name}.md"] = "\n".join(lines) + "\n"
    return pages


def _api_index(packages: list[Path]) -> str:
    lines = [
        "# Python API\n",
        "Generated from the docstrings. Shapes are in brackets (`[N, C, H, W]`), time is counted in "
        "images (`nimg`). What a package exports is listed under its name; the other modules are "
        "there to be read and extended, and may change between versions.\n",
    ]
    for folder in packages:
        lines += [
            f"\n## [edm2.{folder.name}]({folder.name}.md)\n",
            _docstring(folder / "__init__.py") + "\n",
        ]
        lines += [f"- {export}" for export in _exports(folder)]
    return "\n".join(lines) + "\n"


def _modules(folder: Path) -> list[str]:
    """Dotted names of the modules of a package, those of its sub-packages last."""
    files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    files += sorted(folder.glob("*/*.py"))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    return [name.removesuffix(".__init__") for name in names]


def _exports(folder: Path) -> Iterator[str]:
    """The names in `__all__` of a package, linked to the module that defines them."""
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    exported = next((ast.literal_eval(node.value) for node in tree.body if _assigns_all(node)), [])
    modules = {
        definition.name: module
        for module in _modules(folder)
        for definition in _body(ROOT / f"{module.replace('.', '/')}.py")
        if isinstance(definition, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(definition)
    }
    for name in exported:
        text = f"`edm2.{folder.name}.{name}`"
        yield f"[{text}][{modules[name]}.{name}]" if name in modules else text


def _assigns_all(node: ast.stmt) -> TypeGuard[ast.Assign]:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


# --- shared ---------------------------------------------------------------------------------------


def _body(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding="utf-8")).body if path.exists() else []


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _stage_description(name: str) -> str:
    """The docstring of a stage's function `run`."""
    functions = (
        node for node in _body(ROOT / f"stages/{name}.py") if isinstance(node, ast.FunctionDef)
    )
    return next(ast.get_docstring(node) or "" for node in functions if node.name == "run")


def _cell(text: str) -> str:
    """Text in a cell of a table: marks of Markdown outside of code are escaped."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def _dedent(text: str) -> str:
    return "\n".join(line.strip() for line in text.replace("\b", "").splitlines()).strip()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _existing(nav: Any, generated: Collection[str]) -> Any:
    """The navigation without pages that neither exist nor are generated."""
    if isinstance(nav, str):
        return nav if nav in generated or (ROOT / "docs" / nav).exists() else None
    if isinstance(nav, dict):
        entries = {title: _existing(entry, generated) for title, entry in nav.items()}
        return {title: entry for title, entry in entries.items() if entry}
    return [entry for entry in (_existing(entry, generated) for entry in nav) if entry]


def _moved(name: str, page: str) -> str:
    """A file of the repository's root, its links as seen from `page`."""
    up = "../" * page.count("/")
    text = (ROOT / name).read_text(encoding="utf-8")
    for source, target in COPIES.items():
        text = text.replace(f"]({source}", f"]({up}{target}")
    return re.sub(r"\]\(docs/", f"]({up}", text)
