"""Checksums of single files."""

import hashlib

import pytest

from edm2.params import UserError
from edm2.runtime import checksums
from edm2.runtime.checksums import checksum_file, require_checksum, write_checksum


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "G.csv"
    path.write_text("nimg,value\n256,1.5\n", encoding="utf-8")
    write_checksum(path)
    return path


def test_a_checksum_is_a_line_of_sha256sum(table):
    expected = hashlib.sha256(table.read_bytes()).hexdigest()
    assert (table.parent / "G.csv.sha256").read_text() == f"{expected}  G.csv\n"


def test_a_file_as_written_is_returned(table):
    assert require_checksum(table) == table


@pytest.mark.parametrize("damaged", ["G.csv", "G.csv.sha256"])
def test_a_changed_byte_of_either_file_is_refused(table, damaged):
    path = table.parent / damaged
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"G\.csv: SHA-256 differs .*dvc repro"):
        require_checksum(table)


@pytest.mark.parametrize("missing", ["G.csv", "G.csv.sha256"])
def test_a_missing_file_is_named(table, missing):
    (table.parent / missing).unlink()
    with pytest.raises(UserError, match=rf"{missing}: does not exist.*dvc repro"):
        require_checksum(table)


def test_a_file_that_cannot_be_read_is_named(table, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checksums, "sha256", fail)
    with pytest.raises(UserError, match=r"G\.csv: .*cannot be read \(Input/output error"):
        require_checksum(table)


def test_the_file_of_another_config_is_refused(table):
    other = table.with_name("F.csv")
    other.write_bytes(table.read_bytes())
    checksum_file(other).write_bytes(checksum_file(table).read_bytes())
    with pytest.raises(UserError, match=r"F\.csv: SHA-256 differs"):
        require_checksum(other)
