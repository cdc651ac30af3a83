"""A file of data in the package is read if its sha256 is the one beside it; otherwise it is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from effbench.data.shipped import read_shipped, write_shipped
from effbench.errors import DataError

CONTENT = b"some data"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    path = tmp_path / "data.xz"
    write_shipped(path, CONTENT)
    return path


def test_what_is_written_is_read_with_its_sha256(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.xz"
    write_shipped(path, CONTENT)
    assert capsys.readouterr().out == f"data.xz: 9 bytes, sha256 {SHA256}\n"
    assert read_shipped(path) == (CONTENT, SHA256)
    assert (tmp_path / "data.xz.sha256").read_text() == f"{SHA256}  data.xz\n"  # as sha256sum -c takes it


@pytest.mark.parametrize("content", [b"some dat", b"some data\n", b"some dbta", b""])
def test_another_content_is_named(content: bytes, shipped: Path) -> None:
    shipped.write_bytes(content)
    with pytest.raises(DataError, match=rf"{shipped} is damaged: its sha256 is not {SHA256}\. Install effbench again"):
        read_shipped(shipped)


@pytest.mark.parametrize("stated", [b"", b"\xff\xfe", SHA256[:-1].encode()])
def test_a_damaged_digest_is_named(stated: bytes, shipped: Path) -> None:
    shipped.with_name("data.xz.sha256").write_bytes(stated)
    with pytest.raises(DataError, match=rf"{shipped} is damaged"):
        read_shipped(shipped)


@pytest.mark.parametrize("name", ["data.xz", "data.xz.sha256"])
def test_a_missing_file_is_named(name: str, shipped: Path) -> None:
    shipped.with_name(name).unlink()
    with pytest.raises(DataError, match=rf"{shipped} cannot be read \(.*No such file.*{name}.*Install effbench again"):
        read_shipped(shipped)
