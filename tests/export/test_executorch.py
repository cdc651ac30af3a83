"""ExecuTorch files: what torch answers and what the runtime answers by hand, the largest batch, broken files."""

from __future__ import annotations

import logging
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effbench.export.executorch_runtime import Program, check_header
from effbench.export.formats import export_bytes, loaded
from effbench.export.isolated import RuntimeFailedError

MODEL = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1),
    nn.BatchNorm2d(8),
    nn.Hardswish(),
    nn.MaxPool2d(2),
    nn.Conv2d(8, 8, 3, groups=8),
    nn.GELU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.LayerNorm(8),
    nn.Linear(8, 5),
)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    whole = MODEL.eval().requires_grad_(False)
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)  # type: ignore[union-attr,operator]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr,operator]
    return whole


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def content(model: nn.Module) -> bytes:
    return export_bytes("executorch", model, images(2), "images", max_batch=4)


BY_HAND = """
import sys, numpy as np, torch
from executorch.runtime import Runtime
program = Runtime.get().load_program(sys.argv[1])
method = program.load_method("forward")
assert tuple(method.metadata.input_tensor_meta(0).sizes()) == (4, 3, 12, 12)
given = torch.from_numpy(np.load(sys.argv[2]))
np.save(sys.argv[2], np.stack([method.execute((given[size * 4 : size * 4 + size],))[0].sum(0) for size in (1, 2, 4)]))
try:
    method.execute((given[:5],))
except RuntimeError:
    sys.exit(0)
sys.exit("a batch of five was computed")
"""


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.process
def test_batches_of_every_size_equal_torch(model: nn.Module, content: bytes) -> None:
    """Of 1 to the 4 that memory is planned for, and of more, which are computed in parts."""
    exported = loaded("executorch", content)
    for count in (1, 2, 3, 4, 5, 8, 11):
        expected = model(images(count))
        if count > 1:
            assert expected.std(0).min() > 1e-4  # not one answer for all
        torch.testing.assert_close(exported(images(count)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.process
def test_another_input_and_a_damaged_program_are_named(content: bytes) -> None:
    with pytest.raises(Exception, match=r"made for an input of \(4, 3, 12, 12\), .* got float32 \(2, 3, 9, 9\)"):
        loaded("executorch", content)(torch.zeros(2, 3, 9, 9))
    half = len(content) // 2
    with pytest.raises(Exception, match="ExecuTorch finds no program in it, so it is damaged|crashed"):
        loaded("executorch", content[:64] + bytes(half - 64) + content[half:])(images(2))


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.process
def test_the_runtime_by_hand_gives_the_same_and_takes_no_more(model: nn.Module, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "it.pte").write_bytes(content)
    np.save(tmp_path / "it.npy", images(20).numpy())
    words = [sys.executable, "-c", BY_HAND, str(tmp_path / "it.pte"), str(tmp_path / "it.npy")]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [model(images(20)[size * 4 : size * 4 + size]).sum(0).numpy() for size in (1, 2, 4)]
    np.testing.assert_allclose(np.load(tmp_path / "it.npy"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.process
def test_a_file_for_one_sample_answers_for_many(model: nn.Module) -> None:
    exported = loaded("executorch", export_bytes("executorch", model, images(2), "images", max_batch=1))
    torch.testing.assert_close(exported(images(3)), model(images(3)), rtol=1e-5, atol=1e-6)


@pytest.mark.proof
@pytest.mark.slow
def test_equal_models_give_equal_bytes_without_places(model: nn.Module, content: bytes) -> None:
    assert export_bytes("executorch", model, images(2), "images", max_batch=4) == content
    for place in (str(Path(__file__).parents[2]), "site-packages", "/home/", "/root/", sys.prefix, ".py"):
        assert place.encode() not in content


@pytest.mark.proof
@pytest.mark.slow
def test_an_export_leaves_logging_as_it_was(model: nn.Module) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    export_bytes("executorch", model, images(2), "images", max_batch=2)
    assert (root.handlers, root.level) == before


def test_more_samples_than_planned_are_computed_in_parts() -> None:
    class Method:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        def __call__(self, given: tuple[Tensor]) -> list[Tensor]:
            self.sizes.append(len(given[0]))
            return [2 * given[0]]

    method = Method()
    program = Program(method, (4, 1), None)
    given = torch.arange(11.0).reshape(11, 1)
    assert torch.equal(program(given), 2 * given)
    assert method.sizes == [4, 4, 3]


# --- broken files


def header(root: int = 64, identifier: bytes = b"ET12", extended: bytes = b"eh00", **sizes: int) -> bytes:
    found = {"length": 32, "program": 100, "base": 128, "segments": 72, **sizes}
    return struct.pack("<I4s4sIQQQ", root, identifier, extended, *found.values()).ljust(200, b"\0")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes, fewer than the header"),
        (b"x" * 5000, "not those of a .pte file"),
        (header(identifier=b"FT12"), "not those of a .pte file"),
        (header(extended=b"\0" * 4), "not those of a .pte file"),
        (header(length=8), "not those of a .pte file"),
        (header()[:199], "promises 200 bytes, and it has 199: it was cut"),
        (header(segments=2**63), "promises 9223372036854775936 bytes"),
        (header(root=100), "damaged"),
        (header(program=129), "damaged"),
        (header(base=0, program=201), "promises 201 bytes"),
    ],
    ids=range(10),
)
def test_a_header_of_another_file_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_header(content)


def test_a_whole_header_is_accepted() -> None:
    check_header(header())
    check_header(header(base=0, program=200))


@pytest.mark.proof
def test_a_whole_file_is_accepted_and_a_cut_one_is_not(content: bytes) -> None:
    check_header(content)
    with pytest.raises(ValueError, match="it was cut"):
        check_header(content[:-1])


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_is_an_error_or_a_wrong_answer(seed: int, content: bytes) -> None:
    """The runtime may crash at it, in a process of its own: this one goes on."""
    random = np.random.default_rng(seed)
    damaged = bytearray(content)
    # half of them in the program, whose offsets lead anywhere; the others in weights
    [program] = struct.unpack_from("<Q", content, 16)
    end = program if seed % 2 else len(content)
    for place in random.integers(40, end, 1 + 4 * seed):
        damaged[place] ^= int(random.integers(1, 256))
    with suppress(RuntimeFailedError, ValueError):
        assert len(loaded("executorch", bytes(damaged))(images(2))) == 2
