"""The table that ships equals scikit-learn's."""

from __future__ import annotations

import lzma

import numpy as np
import pytest
import torch

from effbench.data.rows.breast_cancer import FILE, breast_cancer
from effbench.errors import ConfigError


def test_the_table_is_scikit_learns():
    from sklearn.datasets import load_breast_cancer

    data, theirs = breast_cancer(val_fraction=0, test_fraction=0), load_breast_cancer()
    np.testing.assert_array_equal(data.train.inputs, theirs.data.astype(np.float32))
    np.testing.assert_array_equal(data.train.labels, theirs.target)
    assert data.classes == tuple(theirs.target_names)
    assert data.facts["features"] == list(theirs.feature_names)


def test_the_script_makes_the_same_text():
    from effbench.data.rows.embedded import make_breast_cancer  # imports scikit-learn

    assert lzma.decompress(FILE.read_bytes()).decode() == make_breast_cancer.make()


def test_splits_share_no_row_and_keep_the_classes_shares():
    data = breast_cancer()
    assert [len(split) for split in data.named().values()] == [410, 46, 113]
    rows = torch.cat([split.inputs for split in data.named().values()])
    assert len(rows.unique(dim=0)) == 569
    for split in data.named().values():
        assert float(split.labels.double().mean()) == pytest.approx(357 / 569, abs=0.02)


def test_bad_fractions_are_named():
    with pytest.raises(ConfigError, match="data.val_fraction"):
        breast_cancer(val_fraction=1.5)
