import pytest

from avalanche_plugin.sizes import bytes_per_generator


@pytest.mark.parametrize(
    ("generators", "expected", "current", "limit"),
    [
        (1, 5, 0, 200),  # a known length: an equal share from the start
        (3, 5, 200, 200),
        (1, None, 0, 1000),  # an unknown one: all, then halves
        (2, None, 1000, 500),
        (3, None, 500, 250),
        (4, None, 250, 250),
        (3, 2, 500, 250),  # longer than expected
        (2, 5, 150, 150),  # never more than those that are stored may have
    ],
)
def test_the_limit_of_each_generator(generators, expected, current, limit):
    found = bytes_per_generator(
        1000, generators=generators, expected=expected, current=current
    )
    assert found == limit
