"""What does not fit into memory is refused before it is measured, or named where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from effbench.data.option_checks import check_fits
from effbench.errors import EffbenchError, first_line

FLOAT_BYTES = 4


def check_batch(size: int, sample_bytes: int, processes: int) -> None:
    """Refuse a batch whose inputs exceed the memory of this machine. Raises ConfigError.

    Args:
        size: samples of the batch.
        sample_bytes: of one sample.
        processes: that hold the batch at once.
    """
    what = f"batch_sizes: the inputs of a batch of {size}, in {processes} processes that take turns,"
    check_fits(processes * size * sample_bytes, what, "Lower batch_sizes.")


def check_convolutions(channels: int, size: int, batch: int) -> None:
    """Refuse a pair of convolutions that exceeds the memory of this machine. Raises ConfigError.

    Args:
        channels: of the input and the output.
        size: rows, and columns.
        batch: samples.
    """
    # weights of the standard one and of both parts of the separable one; input, values between the parts, output
    values = (9 + 1) * channels**2 + 9 * channels + 3 * batch * channels * size**2
    what = f"mode=layers: channels={channels} sizes={size} batch={batch}"
    check_fits(FLOAT_BYTES * values, what, "Lower channels, sizes or batch.")


def check_attention(tokens: int, width: int) -> None:
    """Refuse a text that exceeds the memory of this machine. Raises ConfigError.

    Args:
        tokens: of the text.
        width: values of a token.
    """
    # queries, keys, values and the result; scores of all tokens with all are never in memory at once
    check_fits(FLOAT_BYTES * 4 * tokens * width, f"mode=attention: tokens={tokens}", "Lower tokens.")


@contextmanager
def naming_lack_of_memory(what: str, remedy: str) -> Iterator[None]:
    """Turn a lack of memory within the block into an EffbenchError.

    Args:
        what: could not be held, for the message.
        remedy: last sentence of the message.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        from effbench.training.failure_policies import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        raise EffbenchError(f"out of memory: {what} ({first_line(error)[:200]}). {remedy}") from error
