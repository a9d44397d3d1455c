"""Files that are no YAML in UTF-8: the error has the place and the way out, in one line."""

from pathlib import Path

import pytest

from edm2.params import UserError
from edm2.params.yaml_file import read_yaml


@pytest.fixture
def error_of(tmp_path: Path):
    """error_of(content): what follows the file's name in the error of reading these bytes."""

    def get(content: bytes) -> str:
        path = tmp_path / "params.yaml"
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read_yaml(path)
        message = str(error.value)
        assert message.startswith(str(path))
        assert "\n" not in message
        return message.removeprefix(str(path))

    return get


@pytest.mark.parametrize(
    ("content", "place", "mentions"),
    [
        ("a: 1\nb: 2 # café\n".encode("cp1252"), ":2:11", ["0xe9", "UTF-8", "CP1252"]),
        ("a: 1 # é\r\nb: é\r\n".encode() + b"\xff", ":3:1", ["0xff", "UTF-8"]),
        ("a: 1\n".encode("utf-16"), "", ["UTF-16", "Save it as UTF-8"]),
        ("a: 1\n".encode("utf-16-be"), ":1:1", ["0x0000", "UTF-8"]),
        ("a: 1\n".encode("utf-32"), "", ["UTF-32", "Save it as UTF-8"]),
        (b"a: 1\nb: \0\n", ":2:4", ["0x0000"]),
        (b"a: 1\nb: \x07\n", ":2:4", ["0x0007"]),
        (b"a: 1\n\tb: 1\n", ":2:1", ["spaces"]),
        (b"a: 1\nb: 2\na: 3\n", ":3:1", ["duplicate key", "one of the two"]),
        (b"a: 1\n--- \nb: 2\n", ":2:1", ["one document"]),
        (b"a: 1\nb: *c\n", ":2:4", ["Quote", "*"]),
        (b"a: 1\nb: !c d\n", ":2:4", ["Quote", "!"]),
        (b"a: 1\nb: %c\n", ":2:4", ["Quote"]),
        (b"a: 1\nb: c: d\n", ":2:5", ["colon"]),
        (b"a: 1\nb:2\nc: 3\n", ":2:1", ["space after the colon"]),
        (b"a: 1\nb: [1, 2\nc: 3\n", ":2:4", ["Close the bracket"]),
        (b"a: 1\nb: 'x\nc: 3\n", ":2:4", ["Close the quotes"]),
        (b"a:\n  b: 1\n   c: 1\n", ":3:5", ["Indent"]),
        ("a: 1\nb:\xa02\nc: 3\n".encode(), ":2:1", ["no-break"]),
        (b"a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n", ":2:1", ["merge conflict"]),
        (b"a: [", ":1:5", ["Close"]),
        (b"a: {{ b }}\n", ":1:5", ["braces"]),
        (b"a: " + b"9" * 5000, "", ["4300 digits"]),
        (b"a: " + b"[" * 500, "", ["recursion"]),
        (b"a: 2020-13-45\n", "", ["month"]),
    ],
)
def test_what_is_no_yaml_is_told_with_its_place(error_of, content, place, mentions):
    error = error_of(content)
    assert error.startswith(f"{place}: " if place else (":", " "))
    assert [text for text in mentions if text not in error] == []


def test_a_byte_order_mark_and_all_ends_of_lines_are_read(tmp_path):
    path = tmp_path / "params.yaml"
    for content in (b"\xef\xbb\xbfa: 1\nb: 2\n", b"a: 1\r\nb: 2\r\n", b"a: 1\rb: 2\r"):
        path.write_bytes(content)
        assert read_yaml(path) == {"a": 1, "b": 2}


def test_anchors_and_aliases_are_read(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: &x {b: 1}\nc: *x\n")
    assert read_yaml(path) == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_folder_and_a_missing_file_are_told(tmp_path):
    for path, reason in ((tmp_path, "directory"), (tmp_path / "nowhere.yaml", "No such file")):
        with pytest.raises(UserError, match=reason) as error:
            read_yaml(path)
        assert str(error.value).startswith(f"{path}: ")
