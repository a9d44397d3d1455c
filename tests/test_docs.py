"""What the documentation says is true: its links, commands, params and examples exist and work."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from markdown.extensions.toc import slugify
from ruamel.yaml import YAML
from tiny import ROOT

from docs.hooks import generated_pages
from edm2.cli.main import edm2
from edm2.cli.parsing import PathOrCommand
from edm2.params.loading import fields
from edm2.params.tree import Params

GENERATED = {f"docs/{uri}": text for uri, text in generated_pages().items()}
KEYS = {key for key, _ in fields(Params)}
SECTIONS = {key.partition(".")[0] for key in KEYS if "." in key}
FENCE = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
KEY = re.compile(r"([a-z_]+(?:\.[a-z_0-9]+)+)(?:: .*)?")
SUFFIXES = (".npy", ".npz", ".json", ".yaml", ".py", ".csv")
EXTERNAL = re.compile(
    r"<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*>"
    r"|(?:@import|url\()\s*[\"']?(?:https?:)?//[^)]*"
)


@dataclass(frozen=True)
class Page:
    """A Markdown file of the repository."""

    path: str
    text: str

    @property
    def prose(self) -> str:
        """The text without blocks of code."""
        return FENCE.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        """Blocks of code; not those that include plug-ins or use them, which tests/plugins runs."""
        return [
            body
            for name, body in FENCE.findall(self.text)
            if name == language and not body.startswith(("--8<--", "plugins:"))
        ]

    @property
    def anchors(self) -> set[str]:
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        names = {slugify(re.sub(r"[`*]|\]\(.*?\)|\[", "", heading), "-") for heading in headings}
        explicit = re.findall(r"\{#([^}]+)\}|^::: (\S+)", self.text, re.MULTILINE)
        return names | {name for pair in explicit for name in pair if name}


def _pages() -> list[Page]:
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    return [
        Page(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(paths)
    ]


PAGES = _pages()
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)


@every_page
def test_relative_links_lead_to_a_file_and_an_anchor_that_exist(page):
    broken = []
    for link in LINK.findall(CODE.sub("", page.prose)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        path = (ROOT / page.path).parent / name if name else ROOT / page.path
        target = path.resolve().relative_to(ROOT).as_posix()
        generated = page.path.startswith("docs/") and target in GENERATED
        if not (generated or path.exists()):
            broken.append(link)
        elif anchor:
            text = GENERATED[target] if generated else path.read_text(encoding="utf-8")
            broken += [link] * (anchor not in Page(target, text).anchors)
    assert not broken


def _commands(page: Page) -> Iterator[tuple[list[str], bool]]:
    """The words after `edm2` of each command line, and whether it is a complete one."""
    shell = "".join(page.blocks("sh")).replace("\\\n", "")
    lines = [(line, True) for line in shell.splitlines()]
    lines += [(code, False) for code in CODE.findall(page.prose)]
    for line, complete in lines:
        words = line.split()
        if "edm2" in words and (words[0] in ("edm2", "torchrun")):
            line = re.sub(r"\$\([^)]*\)", "X", line).partition(" > ")[0]
            words = shlex.split(line, comments=complete)
            yield words[words.index("edm2") + 1 :], complete


@every_page
def test_commands_exist_and_take_the_options_that_they_are_shown_with(page):
    for words, complete in _commands(page):
        command: click.Command = edm2
        while isinstance(command, click.Group) and words:
            if isinstance(command, PathOrCommand) and words[0] not in command.commands:
                break  # it takes a path
            assert words[0] in command.commands, f"edm2 {words[0]}"
            command, words = command.commands[words[0]], words[1:]
        if complete:
            command.make_context(command.name, words)  # raises UsageError
        else:
            known = {option for param in command.params for option in param.opts}
            assert {word for word in words if word.startswith("--")} <= known


def _quoted_keys(page: Page) -> Iterator[str]:
    text = page.prose
    if page.path == "CHANGELOG.md":  # the first column of its tables has the old names
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE)
    for code in CODE.findall(text):
        match = KEY.fullmatch(code)
        if match and match[1].partition(".")[0] in SECTIONS and not code.endswith(SUFFIXES):
            yield match[1]
    for block in page.blocks("sh"):
        yield from re.findall(r"-S '?([\w.]+)=", block)


@every_page
def test_params_exist(page):
    assert set(_quoted_keys(page)) <= KEYS


def _merged(tree: dict, changes: dict) -> dict:
    merged = {
        key: _merged(tree[key], value)
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(tree.get(key), dict)
    }
    return {**tree, **changes, **merged}


@every_page
def test_yaml_examples_are_valid_params(page):
    defaults = YAML(typ="safe").load(ROOT / "params.yaml")
    for block in page.blocks("yaml"):
        Params.model_validate(_merged(defaults, YAML(typ="safe").load(block)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "code"),
    [(page.path, code) for page in PAGES for code in page.blocks("python")],
    ids=lambda value: value if str(value).endswith(".md") else "",
)
def test_python_examples_run(path, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, path, "exec"), {})


def test_every_param_has_a_row_with_its_type_and_default():
    page = Page("", GENERATED["docs/reference/params.md"])
    leaves = {key for key in KEYS if not any(other.startswith(f"{key}.") for other in KEYS)}
    assert leaves <= page.anchors
    rows = {
        line.split(" | ")[0].partition("#")[2].rstrip("}"): line.split(" | ")[1:3]
        for line in page.text.splitlines()
    }
    assert rows["evaluation.samples"] == ["integer from 1 to 10,000,000", "`1000`"]
    assert rows["guidance.interval"] == [
        "list of 2: number from 0 to 1,000,000 each, or `null`",
        "`null`",
    ]
    assert rows["vae.variance"] == ["number from 0 to 10,000 or `learned`", "`0.1`"]


def test_every_command_and_stage_has_a_section():
    commands = Page("", GENERATED["docs/reference/commands.md"]).anchors
    assert {"edm2-ema-reconstruct", "edm2-sample", "edm2-model-summary"} <= commands
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    sections = Page("", GENERATED["docs/reference/stages.md"]).anchors
    assert {slugify(f"{name}x" if "matrix" in stages[name] else name, "-") for name in stages} <= (
        sections
    )


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_needs_no_network(tmp_path):
    """Strict mode also fails on links between pages that lead nowhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    files = [path for kind in ("html", "css") for path in tmp_path.rglob(f"*.{kind}")]
    assert len(files) > 30
    external = {
        f"{path.relative_to(tmp_path)}: {match}"
        for path in files
        for match in EXTERNAL.findall(path.read_text(encoding="utf-8"))
    }
    assert not external


def test_the_check_for_external_files_finds_them():
    for text in (
        '<script src="https://example.org/x.js"></script>',
        '<link rel="stylesheet" href="//example.org/x.css">',
        "@font-face { src: url('https://example.org/x.woff2') }",
    ):
        assert EXTERNAL.search(text)
    assert not EXTERNAL.search('<a href="https://example.org">x</a>')


def test_the_gallery_is_made_of_files_that_exist():
    folders = {"results": ROOT / "docs/results", "ladder": ROOT / "docs/results/ladder"}
    text = (ROOT / "docs/make_gallery.py").read_text()
    names = re.findall(r'(results|ladder) / "([\w/]+\.\w+)"', text)
    assert len(names) > 5
    for folder, name in names:
        assert (folders[folder] / name).exists(), name


def test_pictures_of_the_gallery_are_small_and_described():
    path = ROOT / "docs/results/gallery.md"
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", path.read_text(encoding="utf-8"))
    assert pictures
    for description, name in pictures:
        assert len(description) > 20, name
        assert (path.parent / name).stat().st_size <= 100_000, name


def test_figures_are_used():
    used = {
        Path(name).name
        for page in PAGES
        for name in re.findall(r"[\w./-]+\.(?:png|svg)", page.text)
    }
    assert {
        path.name for kind in ("png", "svg") for path in (ROOT / "docs").rglob(f"*.{kind}")
    } <= used
