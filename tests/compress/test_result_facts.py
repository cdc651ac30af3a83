"""What the record of a compressed run says of its data.

White-box: a split of more than 10,000 samples would take minutes to compress.
"""

from __future__ import annotations

from typing import Any

import pytest

from effbench.compress.run import _evaluated


@pytest.mark.parametrize(
    ("evaluated", "samples", "expected"),
    [
        (None, 12_000, {}),  # all of the split
        (None, 10_000, {"test": 10_000}),
        ({"test": 500, "val": 9}, 10_000, {"test": 10_000, "val": 9}),  # a training with limit_test_batches
        ({"test": 500}, 12_000, {}),
    ],
)
def test_metrics_have_the_number_of_their_own_samples(
    evaluated: dict[str, int] | None, samples: int, expected: dict[str, int]
) -> None:
    """An interval of an accuracy is computed from it."""
    data: dict[str, Any] = {"name": "d", "counts": {"test": 12_000}}
    data |= {"evaluated": evaluated} if evaluated else {}
    found = _evaluated(data, {"split": "test", "samples": samples})
    assert found["evaluated"] == expected
    assert found["counts"] == {"test": 12_000}
