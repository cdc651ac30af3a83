"""Which test samples the final runs of a study have right, as matrices of bytes: a row a run, a column a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from effbench.study.table import Confirmation, StudyTable

Bytes = NDArray[np.int8]
_AS_GIVEN = 1e-4  # a metric that is the mean of `correct` to this accuracy is the accuracy


class Samples:
    """The correct test samples of a study. An arm takes part in many comparisons: each matrix is built once.

    Args:
        table: of the study.
    """

    def __init__(self, table: StudyTable):
        self._table = table
        # By the ids of runs, which the table keeps alive: a run cannot be a key, because its settings are a dict.
        self._rows: dict[int, Bytes | None] = {}
        self._matrices: dict[tuple[int, ...], Bytes | None] = {}

    def of(self, runs: Sequence[Confirmation]) -> Bytes | None:
        """Return 1 for each test sample that a run has right and 0 for others, a row a run; at least 2 x 2.

        None where the test samples differ between seeds (resampling seeds then covers them), where a run has no
        predictions, or where the metric is not the share of correct samples.

        Args:
            runs: of one arm, from the table.
        """
        key = tuple(map(id, runs))
        if key not in self._matrices:
            self._matrices[key] = self._matrix(runs) if self._table.same_test_samples else None
        return self._matrices[key]

    def _matrix(self, runs: Sequence[Confirmation]) -> Bytes | None:
        rows = []
        for run in runs:
            if id(run) not in self._rows:
                self._rows[id(run)] = _row(run)
            row = self._rows[id(run)]
            if row is None:
                return None
            rows.append(row)
        same = len(rows) > 1 and len({row.shape for row in rows}) == 1 and rows[0].size > 1
        return np.array(rows) if same else None


def _row(run: Confirmation) -> Bytes | None:
    if not run.correct or run.test is None:
        return None
    row = np.frombuffer(bytes(run.correct), np.int8)
    # another metric, such as macro F1, is no mean over samples, and has no variance over them of this form
    return None if abs(float(row.mean()) - run.test) > _AS_GIVEN else row
