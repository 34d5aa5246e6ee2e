from collections import Counter

import torch

from avalanche_plugin.balance import balanced_labels


def test_classes_are_equally_frequent_and_their_holders_take_turns():
    keys = [((3, 0), (5, 0)), ((5, 0), (7, 0))]
    rng = torch.Generator().manual_seed(0)
    first, second = balanced_labels(keys, 30, rng)
    assert Counter(first) == {0: 10, 1: 5}
    assert Counter(second) == {0: 5, 1: 10}


def test_the_remainder_goes_to_other_classes_each_time():
    rng = torch.Generator().manual_seed(0)
    drawn = [balanced_labels([((0, 0), (1, 0), (2, 0))], 1, rng) for _ in range(50)]
    assert {labels[0] for (labels,) in drawn} == {0, 1, 2}


def test_only_some_classes_are_drawn():
    keys = [((0, 0), (1, 0)), ((1, 0), (2, 0))]
    rng = torch.Generator().manual_seed(0)
    first, second = balanced_labels(keys, 30, rng, only={(1, 0), (2, 0)})
    assert set(first) == {1}  # its own labels
    assert len(first) + second.count(0) == 15  # in turns
    assert second.count(1) == 15
