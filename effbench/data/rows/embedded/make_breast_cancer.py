"""Makes breast_cancer.csv.xz from scikit-learn's copy: python -m effbench.data.rows.embedded.make_breast_cancer."""

from __future__ import annotations

import lzma

from sklearn.datasets import load_breast_cancer

from effbench.data.rows.breast_cancer import FILE
from effbench.data.shipped import write_shipped


def make() -> str:
    """Return the table as CSV; repr() of a number is the shortest text that gives it back."""
    data = load_breast_cancer()
    lines = [",".join([*map(str, data.feature_names), "diagnosis"])]
    for row, label in zip(data.data.tolist(), data.target.tolist(), strict=True):
        lines.append(",".join([*map(repr, row), str(data.target_names[label])]))
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    write_shipped(FILE, lzma.compress(make().encode(), preset=9 | lzma.PRESET_EXTREME))
