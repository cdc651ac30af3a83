"""ExecuTorch's runtime: the header of a .pte file, and the file as a function, in a process that runs nothing else.

The runtime has one pool of threads for the whole process, which must not change once a program is loaded, and a file
can make it crash: so it never runs in the user's process (see `effbench.export.isolated`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

METHOD = "forward"
# offset of the root table, identifier; then an inserted header: identifier, its length, and sizes in bytes of the
# program, of what lies before the segments (weights), and of the segments
_HEADER = struct.Struct("<I4s4sIQQQ")


@dataclass(frozen=True)
class Program:
    """A loaded program as a function of any number of samples.

    Attributes:
        method: of the runtime: takes an input of at most these sizes.
        sizes: of the input, for which the file's memory is planned; the first is the number of samples.
        owner: what the method reads and the runtime does not keep.
    """

    method: Any
    sizes: tuple[int, ...]
    owner: Any

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs. More samples than the file takes are computed in parts.

        Raises:
            ValueError: the input has other sizes than the file, or the runtime refuses it.
        """
        most = self.sizes[0]
        if len(inputs) > most:
            import torch

            return torch.cat([self(part) for part in inputs.split(most)])
        given = f"{str(inputs.dtype).removeprefix('torch.')} {tuple(inputs.shape)}"
        # the runtime takes any smaller size; only the tokens of a text may be fewer
        if inputs.is_floating_point() and tuple(inputs.shape[1:]) != self.sizes[1:]:
            raise ValueError(f"it was made for an input of {self.sizes}, at most {most} samples, and got {given}")
        try:
            outputs: Tensor = self.method((inputs,))[0]
        except RuntimeError as error:
            raise ValueError(
                f"it was made for an input of at most {self.sizes}, and its runtime refuses {given} ({error})"
            ) from error
        return outputs


def check_header(content: bytes) -> None:
    """Raise ValueError unless the file is as long as its header says, which the runtime does not compare."""
    if len(content) < _HEADER.size:
        raise ValueError(f"it has {len(content)} bytes, fewer than the header of a .pte file")
    root, identifier, extended, length, program, base, segments = _HEADER.unpack_from(content)
    if identifier[:2] != b"ET" or extended != b"eh00" or length < _HEADER.size - 8:
        raise ValueError("its first bytes are not those of a .pte file")
    whole = base + segments if base else program
    if not (root < program <= (base or program) and whole <= len(content)):
        raise ValueError(f"its header promises {whole} bytes, and it has {len(content)}: it was cut, or is damaged")


def import_executorch() -> Any:
    """Return ExecuTorch's runtime without its exporter, which `executorch.runtime` imports, too: that takes long."""
    import torch  # noqa: F401 - its libraries are the runtime's
    from executorch.extension.pybindings import _C

    return _C


def open_program(runtime: Any, content: bytes, threads: int) -> Program:
    """Return the program of a .pte file. Its runtime may crash if the file is broken.

    Args:
        runtime: of `import_executorch`.
        content: of the file.
        threads: of the runtime, for all programs of this process.

    Raises:
        ValueError: it is no .pte file, is damaged, or has other methods and inputs than effbench's exports.
    """
    check_header(content)
    runtime._unsafe_reset_threadpool(threads)  # unsafe once a program is loaded
    # by default little more than the header is verified
    verified = runtime.Verification.InternalConsistency
    try:
        program = runtime._load_program_from_buffer(content, program_verification=verified)
    except RuntimeError as error:
        raise ValueError(f"ExecuTorch finds no program in it, so it is damaged ({error})") from error
    names = [program.get_method_name(number) for number in range(program.num_methods())]
    if names != [METHOD]:
        raise ValueError(f"it has the methods {', '.join(names):.100}, and an export of effbench has {METHOD} alone")
    about = program.method_meta(METHOD)
    if (about.num_inputs(), about.num_outputs()) != (1, 1):
        raise ValueError(f"it has {about.num_inputs()} inputs and {about.num_outputs()} outputs, and not one of each")
    return Program(program.load_method(METHOD), tuple(about.input_tensor_meta(0).sizes()), (content, program))


def open_file(content: bytes, threads: int) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Return the program of a .pte file as a function of an array; see `open_program`.

    Args:
        content: of the file.
        threads: of the runtime.
    """
    import torch

    program = open_program(import_executorch(), content, threads)
    return lambda inputs: program(torch.from_numpy(inputs)).numpy()
