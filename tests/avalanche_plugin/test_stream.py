"""What experiences of Avalanche's benchmarks tell about their streams."""

import pytest
from avalanche.benchmarks import benchmark_with_validation_stream, nc_benchmark
from avalanche.benchmarks.scenarios.generic_scenario import CLStream

from avalanche_plugin.stream import expected_experiences
from tests.avalanche_plugin.streams import STREAMS, nc_stream


@pytest.mark.parametrize("kind", STREAMS)
def test_the_length_is_that_of_the_stream(kind, pairs):
    assert expected_experiences(STREAMS[kind](pairs)[0]) == 5


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("part", [slice(1), slice(1, None), slice(2, 4)])
def test_a_slice_does_not_hide_the_length(kind, part, pairs):
    for experience in STREAMS[kind](pairs)[part]:
        assert expected_experiences(experience) == 5


def test_a_validation_stream_does_not_change_the_length(pairs):
    benchmark = nc_benchmark(*pairs, n_experiences=5, task_labels=False)
    split = benchmark_with_validation_stream(benchmark, 0.2)
    assert expected_experiences(next(iter(split.train_stream[1:]))) == 5


def test_a_stream_that_is_generated_as_it_goes_has_no_length(pairs):
    stream = CLStream("train", (experience for experience in nc_stream(pairs)))
    assert expected_experiences(next(iter(stream))) is None
