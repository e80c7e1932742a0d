"""Distances to voxels, beside SciPy's transform of the whole grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from raylign.registration.distances import distance_to


@pytest.mark.parametrize("share", [0.002, 0.05, 0.6])
def test_distances_are_those_of_the_whole_transform(share: float) -> None:
    random = np.random.default_rng(0)
    targets = random.random((13, 17, 22)) < share
    asked = random.random(targets.shape) < 0.4
    pitch = (1.5, 0.7, 1.1)
    gold = distance_transform_edt(~targets, sampling=pitch)
    found = distance_to(targets, asked, pitch)
    assert np.allclose(found[asked], gold[asked], atol=1e-5)
    assert (found[~asked] == 0).all()


def test_without_a_target_all_is_infinitely_far_and_nothing_that_is_not_asked_is_answered() -> None:
    none, asked = np.zeros((3, 4, 5), np.bool_), np.zeros((3, 4, 5), np.bool_)
    assert (distance_to(none, asked, (1.0, 1.0, 1.0)) == 0).all()
    asked[1, 2, 3] = True
    found = distance_to(none, asked, (1.0, 1.0, 1.0))
    assert np.isinf(found[1, 2, 3]) and np.isfinite(found).sum() == found.size - 1
