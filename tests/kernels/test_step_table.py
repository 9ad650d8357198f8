"""The overlap check outside C, against a comparison of all pairs and of all bytes."""

import numpy as np
import pytest

from rprop_kernels.kernels.step_table import byte_range, find_overlap, is_disjoint


def random_ranges(rng, count, size=400, length=12):
    start = rng.integers(0, size, count)
    return np.stack([start, start + rng.integers(0, length, count)], axis=1)


def meet(a, b):
    return a[0] < b[1] and b[0] < a[1]


def meeting_pairs(writes, reads):
    """All pairs that share a byte, one of them written; reads are numbered after the writes."""
    ranges = [*map(tuple, writes), *map(tuple, reads)]
    return {
        (i, j)
        for j in range(len(ranges))
        for i in range(min(j, len(writes)))
        if ranges[i][0] < ranges[i][1] and ranges[j][0] < ranges[j][1] and meet(ranges[i], ranges[j])
    }


@pytest.mark.parametrize("seed", range(300))
def test_ranges_meet_as_in_a_comparison_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    writes, reads = random_ranges(rng, rng.integers(0, 9)), random_ranges(rng, rng.integers(0, 9))
    pairs = meeting_pairs(writes, reads)
    filled = [x[x[:, 0] < x[:, 1]] for x in (writes, reads)]
    assert is_disjoint(*filled) == (not pairs)
    tested = set()

    def overlaps(i, j):
        tested.add((min(i, j), max(i, j)))
        return False

    assert find_overlap(writes, reads, overlaps) is None
    assert tested == pairs  # each candidate goes to the exact test, and no other
    found = find_overlap(writes, reads, lambda i, j: True)
    assert (found is None) == (not pairs)
    assert found is None or tuple(sorted(found)) in pairs


def test_only_the_exact_test_decides():
    ranges = np.array([[0, 10], [5, 15], [9, 20]])
    assert sorted(find_overlap(ranges, ranges[:0], lambda i, j: {i, j} == {0, 2})) == [0, 2]


@pytest.mark.parametrize("view", [np.s_[...], np.s_[::-1], np.s_[1:3, ::2], np.s_[::-2, ::-3], np.s_[2:2], np.s_[3, 4]])
def test_the_byte_range_of_a_view(view):
    memory = np.zeros((4, 6), np.float32)
    array = memory[view]
    start = memory.__array_interface__["data"][0]
    low, high = byte_range(np.asarray(array) if array.ndim else memory[3:4, 4:5])
    numbers = np.arange(24).reshape(4, 6)[view]
    if numbers.size:
        assert (low - start, high - start) == (4 * numbers.min(), 4 * numbers.max() + 4)
    else:
        assert low == high
