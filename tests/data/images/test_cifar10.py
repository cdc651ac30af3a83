"""CIFAR-10's archive: read where it lies, with nothing run from its pickles, and every fault named.

White-box: lowers limits of gigabytes.
"""

from __future__ import annotations

import gzip
import hashlib
import inspect
import io
import os
import pickle
import resource
import struct
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from effbench.data.images import cifar10 as module
from effbench.data.images.cifar10 import cifar10, unpickled
from effbench.errors import ConfigError, DataError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NAMES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
ROWS = 20
RNG = np.random.default_rng(0)


def py2(value: Any) -> bytes:
    """Pickle opcodes as Python 2's cPickle wrote them (protocol 2): byte strings, and numpy of its day."""
    if isinstance(value, dict):
        return b"}(" + b"".join(py2(key) + py2(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(py2, value)) + b"e"
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    shape = b"(" + b"".join(map(py2, value.shape)) + b"t"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = py2(value.dtype.str[1:].encode())
    dtype = b"cnumpy\ndtype\n" + kind + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + py2(value.tobytes()) + b"tb"


def py2_file(value: Any) -> bytes:
    return b"\x80\x02" + py2(value) + b"."


def batch() -> dict[bytes, Any]:
    labels = [row % 10 for row in range(ROWS)]
    return {
        b"data": RNG.integers(0, 256, (ROWS, 3072), dtype=np.uint8),
        b"labels": labels,
        b"batch_label": b"training batch",
        b"filenames": [b"x.png"] * ROWS,
    }


@pytest.fixture
def batches() -> dict[str, dict[bytes, Any]]:
    meta = {b"num_cases_per_batch": ROWS, b"label_names": [name.encode() for name in CLASSES], b"num_vis": 3072}
    return {**{name: batch() for name in NAMES}, "batches.meta": meta}


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def members(batches: dict[str, dict[bytes, Any]]) -> dict[str, bytes]:
    return {f"cifar-10-batches-py/{name}": py2_file(content) for name, content in batches.items()}


@pytest.fixture
def archive(tmp_path: Path, members: dict[str, bytes]) -> Path:
    return write_archive(tmp_path / "cifar-10-python.tar.gz", members)


# --- content --------------------------------------------------------------------------------------------------


def test_rows_are_red_green_blue_planes_in_the_files_order(
    tmp_path: Path, archive: Path, batches: dict[str, dict[bytes, Any]]
) -> None:
    assert archive.exists()
    splits = cifar10(tmp_path, val_fraction=0)
    rows = np.concatenate([batches[name][b"data"] for name in NAMES[:5]])
    red, green, blue = rows[:, :1024], rows[:, 1024:2048], rows[:, 2048:]
    expected = np.stack([plane.reshape(-1, 32, 32) for plane in (red, green, blue)], axis=1)
    assert torch.equal(splits.train.images, torch.from_numpy(expected))
    assert splits.train.labels.tolist() == [label for name in NAMES[:5] for label in batches[name][b"labels"]]
    assert splits.val is None
    assert splits.test is not None
    assert torch.equal(splits.test.images.flatten(1), torch.from_numpy(batches["test_batch"][b"data"]))
    assert splits.classes == tuple(CLASSES)


def test_the_extracted_folder_gives_what_the_archive_gives(
    tmp_path: Path, archive: Path, members: dict[str, bytes]
) -> None:
    write_folder(tmp_path / "extracted", {name.split("/")[1]: content for name, content in members.items()})
    one, other = cifar10(archive.parent), cifar10(tmp_path / "extracted")
    assert one.sha256 == other.sha256
    assert torch.equal(one.train.images, other.train.images)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_files_repickled_by_python_3_are_read_too(
    tmp_path: Path, batches: dict[str, dict[bytes, Any]], protocol: int
) -> None:
    write_folder(tmp_path / "old", {name: py2_file(content) for name, content in batches.items()})
    write_folder(tmp_path / "new", {name: pickle.dumps(content, protocol) for name, content in batches.items()})
    assert cifar10(tmp_path / "old").sha256 == cifar10(tmp_path / "new").sha256


def test_the_handwritten_pickles_are_what_pickle_itself_reads(batches: dict[str, dict[bytes, Any]]) -> None:
    content = batches["data_batch_1"]
    loaded = pickle.loads(py2_file(content).replace(b"numpy.core", b"numpy._core"), encoding="bytes")
    assert loaded.keys() == content.keys()
    assert np.array_equal(loaded[b"data"], content[b"data"])


@pytest.mark.usefixtures("archive")
def test_val_is_stratified_from_train_by_seed_and_test_unchanged(tmp_path: Path) -> None:
    splits, same_seed, other = (cifar10(tmp_path, val_fraction=0.2, split_seed=seed) for seed in (0, 0, 1))
    assert splits.val is not None
    assert same_seed.val is not None
    assert other.val is not None
    assert torch.bincount(splits.train.labels).tolist() == [8] * 10
    assert torch.bincount(splits.val.labels).tolist() == [2] * 10
    assert torch.equal(splits.val.images, same_seed.val.images)
    assert not torch.equal(splits.val.images, other.val.images)
    both = torch.cat([splits.train.images, splits.val.images]).flatten(1)
    assert len(torch.unique(both, dim=0)) == 100
    assert splits.test is not None
    assert len(splits.test) == ROWS


@pytest.mark.usefixtures("archive")
def test_image_size_resizes_every_split(tmp_path: Path) -> None:
    splits = cifar10(tmp_path, image_size=8)
    assert {tuple(split.images.shape[1:]) for split in splits.named().values()} == {(3, 8, 8)}


@pytest.mark.parametrize("fraction", [-0.1, 1, 10])
def test_a_fraction_out_of_range_is_named(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.val_fraction must be a number in \[0, 1\); got"):
        cifar10(tmp_path, val_fraction=fraction)


@pytest.mark.usefixtures("archive")
def test_reading_the_archive_writes_nothing(tmp_path: Path) -> None:
    cifar10(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]


def test_the_default_root_is_in_the_cache_folder(
    tmp_path: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_archive(tmp_path / "effbench" / "cifar10" / "cifar-10-python.tar.gz", members)
    assert len(cifar10().train) == 90


# --- missing and damaged --------------------------------------------------------------------------------------


def test_missing_files_error_says_where_to_put_or_download_them(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        cifar10(tmp_path / "nothing")
    for part in (
        str(tmp_path / "nothing"),
        "cifar-10-python.tar.gz",
        "https://",
        "data.root=DIR",
        "data.download=true",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_missing_batch_is_named(tmp_path: Path, members: dict[str, bytes], kind: str) -> None:
    del members["cifar-10-batches-py/data_batch_3"], members["cifar-10-batches-py/batches.meta"]
    if kind == "folder":
        write_folder(tmp_path, {name.split("/")[1]: content for name, content in members.items()})
    else:
        write_archive(tmp_path / "cifar-10-python.tar.gz", members)
    with pytest.raises(DataError, match=r"cifar-10-.* has no data_batch_3, batches\.meta"):
        cifar10(tmp_path)


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.99])
def test_a_cut_archive_is_named(tmp_path: Path, archive: Path, share: float) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: round(len(content) * share)])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz (is no whole tar\.gz archive|has no)"):
        cifar10(tmp_path)


def test_text_in_place_of_an_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is no whole tar\.gz archive"):
        cifar10(tmp_path)


def test_archive_of_published_size_must_have_the_published_md5(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = archive.read_bytes()
    monkeypatch.setattr(module, "NUM_BYTES", len(content))
    with pytest.raises(DataError, match=rf"is damaged: md5 {hashlib.md5(content).hexdigest()}, published c58f3010"):
        cifar10(tmp_path)
    monkeypatch.setattr(module, "MD5", hashlib.md5(content).hexdigest())
    assert len(cifar10(tmp_path).train) == 90


def test_the_published_digest_is_the_one_that_torchvision_has() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    assert datasets.CIFAR10.tgz_md5 == module.MD5
    assert datasets.CIFAR10.url == module.URL
    assert [name for name, _ in datasets.CIFAR10.train_list] == list(module.TRAIN_FILES)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (b"data", None, r"no uint8 array \(N, 3072\) in b'data'"),
        (b"data", np.zeros((ROWS, 3071), np.uint8), r"no uint8 array \(N, 3072\)"),
        (b"data", np.zeros(ROWS * 3072, np.uint8), r"no uint8 array \(N, 3072\)"),
        (b"data", np.zeros((ROWS, 3072), np.int8), r"data_batch_2 is not a file of CIFAR-10: an array .* not of bytes"),
        (b"labels", None, r"no list of 20 labels"),
        (b"labels", [0] * (ROWS - 1), r"no list of 20 labels"),
        (b"labels", [0] * (ROWS - 1) + [10], r"data_batch_2 row 19 has label 10, outside \[0, 10\)"),
        (b"labels", [-1] * ROWS, r"data_batch_2 row 0 has label -1, outside"),
        (b"labels", [b"cat"] * ROWS, r"data_batch_2 row 0 has label b'cat', outside"),
    ],
)
def test_a_batch_with_other_content_is_named(
    tmp_path: Path, batches: dict[str, dict[bytes, Any]], key: bytes, value: Any, said: str
) -> None:
    if value is None:
        del batches["data_batch_2"][key]
    else:
        batches["data_batch_2"][key] = value
    write_folder(tmp_path, {name: py2_file(content) for name, content in batches.items()})
    with pytest.raises(DataError, match=said):
        cifar10(tmp_path)


@pytest.mark.parametrize("names", [None, [], b"cat", [1, 2]])
def test_a_meta_file_without_names_is_named(tmp_path: Path, batches: dict[str, dict[bytes, Any]], names: Any) -> None:
    del batches["batches.meta"][b"label_names"]
    if names is not None:
        batches["batches.meta"][b"label_names"] = names
    write_folder(tmp_path, {name: py2_file(content) for name, content in batches.items()})
    with pytest.raises(DataError, match=r"batches\.meta has no list of names in b'label_names'"):
        cifar10(tmp_path)


# --- hostile pickles and archives -----------------------------------------------------------------------------


class Runs:
    """Its pickle calls `function(*arguments)` on loading."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def hostile(sentinel: Path) -> dict[str, bytes]:
    touch = f"__import__('pathlib').Path({str(sentinel)!r}).touch()"
    return {
        "os.system": pickle.dumps(Runs(os.system, f"touch {sentinel}")),
        "eval": pickle.dumps(Runs(eval, touch)),
        "eval, old protocol": pickle.dumps({b"data": Runs(eval, touch)}, 0),
        "eval, python 2": b"\x80\x02c__builtin__\neval\nU" + bytes([len(touch)]) + touch.encode() + b"\x85R.",
        "inst": b"(S" + repr(touch).encode() + b"\ni__builtin__\neval\n.",
        "partial": pickle.dumps(Runs(partial, eval, touch)),
        "numpy's own reader": pickle.dumps(Runs(np.load, str(sentinel))),
        "a method of what is allowed": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__reduce__\x93.",
        "a module through what is allowed": b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.tofile.self\x93.",
        "persistent id": b"Psomething\n.",
        "extension": b"\x82\x01.",
        "memory": b"\x80\x02}r\xff\xff\xff\x7f\x8e" + b"\xff" * 8 + b".",
        "codec": pickle.dumps(Runs(__import__("_codecs").encode, "x", "rot13")),
    }


@pytest.mark.parametrize("name", hostile(Path("x")))
@pytest.mark.row(41)
def test_a_hostile_pickle_is_refused_by_name_and_runs_nothing(tmp_path: Path, name: str) -> None:
    sentinel = tmp_path / "ran"
    with pytest.raises(DataError, match=r"^FILE is not a file of CIFAR-10: .*") as caught:
        unpickled(hostile(sentinel)[name], "FILE")
    assert not sentinel.exists()
    if "eval" in name:
        assert ".eval, which is refused" in str(caught.value)


@pytest.mark.row(41)
def test_the_hostile_pickles_do_run_where_pickle_is_trusted(tmp_path: Path) -> None:
    for name in ("os.system", "eval", "inst"):
        sentinel = tmp_path / name
        pickle.loads(hostile(sentinel)[name].replace(b"__builtin__", b"builtins"))
        assert sentinel.exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # an altered pickle may hold any text, which Python may comment on
def test_an_altered_batch_gives_a_dictionary_or_a_named_error() -> None:
    whole = py2_file(batch() | {b"data": np.zeros((1, 3072), np.uint8)})
    random = np.random.default_rng(1)
    outcomes = {True: 0, False: 0}
    for _ in range(1000):
        content = bytearray(whole)
        content[random.integers(len(content) if random.random() < 0.3 else 250)] = random.integers(256)
        try:
            outcomes[isinstance(unpickled(bytes(content), "FILE"), dict)] += 1
        except DataError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 50


@pytest.mark.row(41)
def test_an_opcode_that_asks_for_memory_gets_none() -> None:
    put_at_2_to_31 = b"\x80\x02}r\xff\xff\xff\x7f."
    limit = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 1_000_000_000, limit[1]))
    try:
        with pytest.raises(MemoryError):
            pickle.loads(put_at_2_to_31)
        assert unpickled(put_at_2_to_31, "FILE") == {}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


@pytest.mark.row(41)
@pytest.mark.parametrize("what", [[1], b"text", 3])
def test_a_pickle_of_something_else_is_named(what: Any) -> None:
    with pytest.raises(DataError, match="not a dictionary"):
        unpickled(py2_file(what), "FILE")


HOSTILE_MEMBERS = {
    "above": ("../escaped", tarfile.REGTYPE, "leads out of its folder"),
    "above, within": ("cifar-10-batches-py/../../data_batch_1", tarfile.REGTYPE, "leads out of its folder"),
    "absolute": ("/tmp/escaped", tarfile.REGTYPE, "leads out of its folder"),
    "another system's way": ("..\\escaped", tarfile.REGTYPE, "leads out of its folder"),
    "a folder above": ("../folder", tarfile.DIRTYPE, "leads out of its folder"),
    "a symbolic link": ("cifar-10-batches-py/data_batch_1", tarfile.SYMTYPE, "is a link"),
    "a hard link": ("cifar-10-batches-py/data_batch_1", tarfile.LNKTYPE, "is a link"),
    "a character device": ("cifar-10-batches-py/data_batch_1", tarfile.CHRTYPE, "is no file or folder"),
    "a block device": ("cifar-10-batches-py/data_batch_1", tarfile.BLKTYPE, "is no file or folder"),
    "a pipe": ("cifar-10-batches-py/data_batch_1", tarfile.FIFOTYPE, "is no file or folder"),
}


@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
@pytest.mark.parametrize("case", HOSTILE_MEMBERS)
@pytest.mark.row(42)
def test_archive_with_unsafe_member_is_refused_without_writing(
    case: str, first: bool, tmp_path: Path, members: dict[str, bytes]
) -> None:
    name, kind, why = HOSTILE_MEMBERS[case]
    path = tmp_path / "in" / "cifar-10-python.tar.gz"
    path.parent.mkdir()
    hostile = tarfile.TarInfo(name)
    hostile.type, hostile.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    with tarfile.open(path, "w:gz") as tar:
        if first:
            tar.addfile(hostile)
        for inside, content in members.items():
            info = tarfile.TarInfo(inside)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if not first:
            tar.addfile(hostile)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as refusal:
        cifar10(path.parent)
    assert why in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/escaped").exists()


def test_other_files_of_the_published_archive_are_ignored(tmp_path: Path, members: dict[str, bytes]) -> None:
    write_archive(tmp_path / "cifar-10-python.tar.gz", {**members, "cifar-10-batches-py/readme.html": b"<html>"})
    assert len(cifar10(tmp_path).train) == 90


@pytest.mark.row(42)
def test_archive_member_of_huge_size_is_refused_by_its_header(tmp_path: Path) -> None:
    header = tarfile.TarInfo("cifar-10-batches-py/readme.html")
    header.size = 1 << 40
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(header.tobuf() + b"a" * 1024))
    with pytest.raises(DataError, match=r"readme\.html is said to have 1,099,511,627,776 bytes, above the limit"):
        cifar10(tmp_path)


@pytest.mark.slow
@pytest.mark.row(42)
def test_zeros_without_end_take_neither_memory_nor_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 MB in 60 kB, as members that are not even wanted."""
    monkeypatch.setattr(module, "_ARCHIVE_LIMIT", 20_000_000)
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for number in range(10):
            info = tarfile.TarInfo(f"cifar-10-batches-py/{number}")
            info.size = 6_000_000
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="unpacks to more than the limit of 20,000,000 bytes"):
            cifar10(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.row(42)
def test_a_member_above_the_limit_is_refused(
    tmp_path: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FILE_LIMIT", 100_000)
    members["cifar-10-batches-py/test_batch"] += b"\0" * 100_000
    write_archive(tmp_path / "cifar-10-python.tar.gz", members)
    with pytest.raises(DataError, match="test_batch .* above the limit of 100,000 bytes"):
        cifar10(tmp_path)


@pytest.mark.row(42)
def test_an_archive_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ARCHIVE_LIMIT", 1_000_000)
    header = tarfile.TarInfo("././@LongLink")  # a name of 1 GB, which tarfile would keep whole
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1_000_000_000
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + b"a" * 3_000_000))
    with pytest.raises(DataError, match=r"python\.tar\.gz unpacks to more than the limit of 1,000,000 bytes"):
        cifar10(tmp_path)


# --- download -------------------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Breaking(BaseHTTPRequestHandler):
    """Promises 1000 bytes and gives 10."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """serve(handler): a server on this machine in the place of the published address."""
    servers = []

    def start(handler: Any) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setattr(module, "URL", f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz")

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_download_fetches_the_archive_once_and_checks_it(
    tmp_path: Path, archive: Path, serve: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(partial(Quiet, directory=str(archive.parent)))
    monkeypatch.setattr(module, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    fetched = tmp_path / "new" / "root"
    assert len(cifar10(fetched, download=True).train) == 90
    assert [path.name for path in fetched.iterdir()] == ["cifar-10-python.tar.gz"]
    assert capsys.readouterr() == ("", "")  # no progress bar where there is no terminal
    monkeypatch.setattr(module, "URL", "http://127.0.0.1:9/gone")
    assert len(cifar10(fetched, download=True).train) == 90


def test_a_download_of_the_wrong_digest_is_named_and_not_kept(tmp_path: Path, archive: Path, serve: Any) -> None:
    serve(partial(Quiet, directory=str(archive.parent)))
    wrong = hashlib.md5(archive.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=rf"http://.* gave a file of md5 {wrong}, published is c58f3010"):
        cifar10(tmp_path / "new", download=True)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("fault", ["refused", "404", "broken off"])
def test_an_address_that_fails_is_named_and_nothing_is_kept(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "refused":
        monkeypatch.setattr(module, "URL", "http://127.0.0.1:9/cifar-10-python.tar.gz")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
    else:
        serve(Breaking if fault == "broken off" else partial(Quiet, directory=str(tmp_path)))
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1.*(cannot be reached or broke off|gave a file of md5)"):
        cifar10(tmp_path / "new", download=True)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_root_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/below cannot be read or put there .*: Not a directory"):
        cifar10(tmp_path / "file" / "below", download=True)


# --- config ---------------------------------------------------------------------------------------------------


def test_yaml_holds_exactly_the_parameters_and_their_defaults() -> None:
    path = Path(__file__).parents[3] / "conf" / "data" / "cifar10.yaml"
    config = yaml.safe_load(path.read_text())
    assert config.pop("defaults") == ["_base", "_self_"]
    assert config.pop("_target_") == "effbench.data.images.cifar10.cifar10"
    assert config == {name: parameter.default for name, parameter in inspect.signature(cifar10).parameters.items()}
