"""ExecuTorch files (.pte): programs for phones and other small devices, lowered to XNNPACK for processors.

Memory is planned when the file is made, so that it states the most samples of a call.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from effbench.errors import MissingExtraError
from effbench.export.executorch_runtime import check_header
from effbench.export.interface import Forward, Interface
from effbench.export.isolated import Isolated
from effbench.export.torch_files import exported_program
from effbench.log import without_torchao_notes

log = logging.getLogger(__name__)


def make_executorch(model: nn.Module, example: Tensor, interface: Interface) -> bytes:
    """Return the content of a .pte file: what XNNPACK can compute is its, the rest is ExecuTorch's own kernels.

    Args:
        model: the model, on the CPU.
        example: two samples, or one if the file takes one.
        interface: free dimensions with their largest sizes.
    """
    with _unconfigured_logging(), without_torchao_notes():
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
        except ImportError as error:
            raise MissingExtraError("format=executorch", "executorch") from error
        log.info("lowering the model for XNNPACK: of many layers this takes minutes")
        program = exported_program(model, example, interface)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    content: bytes = lowered.buffer
    return content


def load_executorch(content: bytes) -> Forward:
    """Return the model as ExecuTorch runs it on the CPU, in a process of its own."""
    check_header(content)  # before a process is started
    # as many threads as torch, so that no more processors are used
    run = Isolated("effbench.export.executorch_runtime", content, torch.get_num_threads())

    def forward(inputs: Tensor) -> Tensor:
        return torch.from_numpy(run(inputs.numpy()))

    return forward


def require_executorch() -> None:
    """Look for executorch without importing it: that takes seconds, and a caller that only loads files never does.

    Raises:
        MissingExtraError: it is not installed.
    """
    if find_spec("executorch") is None:
        raise MissingExtraError("format=executorch", "executorch")


@contextmanager
def _unconfigured_logging() -> Iterator[None]:
    """Undo what executorch's import does to the root logger: `logging.basicConfig`, which would print all lines."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:], root.level = before, level
