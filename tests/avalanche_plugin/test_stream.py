"""What experiences of Avalanche's benchmarks tell about their streams."""

import pytest
import torch
from avalanche.benchmarks import (
    benchmark_from_datasets,
    benchmark_with_validation_stream,
    nc_benchmark,
    ni_benchmark,
)
from avalanche.benchmarks.scenarios.generic_scenario import CLStream
from avalanche.benchmarks.utils import AvalancheDataset

from avalanche_plugin.stream import expected_classes, expected_experiences
from tests.avalanche_plugin.streams import STREAMS, nc_stream


@pytest.mark.parametrize("kind", STREAMS)
def test_the_length_is_that_of_the_stream(kind, pairs):
    assert expected_experiences(STREAMS[kind](pairs)[0]) == 5


@pytest.mark.parametrize("kind", STREAMS)
def test_the_classes_are_those_of_each_experience(kind, pairs):
    stream = STREAMS[kind](pairs)
    assert expected_classes(stream[0]) == (2,) * 5
    assert expected_classes(next(iter(stream[3:]))) == (2,) * 5


@pytest.mark.parametrize("from_zero", [False, True])
def test_experiences_may_have_different_numbers_of_classes(pairs, from_zero):
    stream = nc_benchmark(
        *pairs,
        n_experiences=3,
        task_labels=from_zero,
        class_ids_from_zero_in_each_exp=from_zero,
        per_exp_classes={0: 6},
    ).train_stream
    assert expected_classes(stream[0]) == (6, 2, 2)


def test_experiences_of_the_same_classes_count_them_all(pairs):
    stream = ni_benchmark(*pairs, n_experiences=3, balance_experiences=True)
    assert expected_classes(stream.train_stream[1]) == (10, 10, 10)


def test_a_stream_without_lists_of_targets_has_unknown_classes(pairs):
    train, _ = pairs
    data = AvalancheDataset([torch.utils.data.TensorDataset(*train.tensors)])
    stream = benchmark_from_datasets(train=[data, data]).train_stream
    assert expected_experiences(stream[0]) == 2
    assert expected_classes(stream[0]) is None


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("part", [slice(1), slice(1, None), slice(2, 4)])
def test_a_slice_does_not_hide_the_length(kind, part, pairs):
    for experience in STREAMS[kind](pairs)[part]:
        assert expected_experiences(experience) == 5


def test_a_validation_stream_does_not_change_the_length(pairs):
    benchmark = nc_benchmark(*pairs, n_experiences=5, task_labels=False)
    split = benchmark_with_validation_stream(benchmark, 0.2)
    experience = next(iter(split.train_stream))
    assert expected_experiences(experience) == 5
    assert expected_classes(experience) == (2,) * 5


def test_a_stream_that_is_generated_as_it_goes_has_no_length(pairs):
    stream = CLStream("train", (experience for experience in nc_stream(pairs)))
    experience = next(iter(stream))
    assert expected_experiences(experience) is None
    assert expected_classes(experience) is None
