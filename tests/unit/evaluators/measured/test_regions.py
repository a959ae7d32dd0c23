"""Rectangles of images."""

from __future__ import annotations

import numpy as np

from agentfly.evaluators.measured.regions import bounds, common, difference, grown, joint, relative, size_of, strips

A = (slice(3, 8), slice(2, 5))


def test_regions_are_the_smallest_ones() -> None:
    a = np.zeros((10, 12, 3), np.uint8)
    b = a.copy()
    assert difference(a, b) is None
    b[3, 4, 1], b[7, 2, 0] = 1, 1
    assert difference(a, b) == A
    assert bounds((a != b).any(axis=2)) == A
    assert grown(A, 4, a.shape) == (slice(0, 10), slice(0, 9))


def test_regions_are_joined_and_cut() -> None:
    b = (slice(7, 9), slice(0, 3))
    assert joint(A, None) == A
    assert joint(A, b) == (slice(3, 9), slice(0, 5))
    assert common(A, b) == (slice(7, 8), slice(2, 3))
    assert common(A, (slice(8, 9), slice(0, 3))) is None
    assert relative(A, (slice(1, 9), slice(2, 9))) == (slice(2, 7), slice(0, 3))
    assert size_of(A) == (5, 3)


def test_strips_make_up_the_region() -> None:
    assert strips(A, 6) == [(slice(3, 5), A[1]), (slice(5, 7), A[1]), (slice(7, 8), A[1])]
    assert strips(A, 1) == [(slice(row, row + 1), A[1]) for row in range(3, 8)]
    assert strips(A, 1000) == [A]
