import pytest

from avalanche_plugin.sizes import shares


@pytest.mark.parametrize(
    ("weights", "expected", "limits"),
    [
        ([1], 5, [200]),  # a known length: an equal share from the start
        ([1, 1, 1], 5, [200] * 3),
        ([1], None, [1000]),  # an unknown one: all, then halves
        ([1, 1], None, [500] * 2),
        ([1, 1, 1], None, [250] * 3),
        ([1, 1, 1, 1], None, [250] * 4),
        ([1, 1, 1], 2, [250] * 3),  # longer than expected
        ([6], 10, [600]),  # by the number of classes
        ([6, 2, 2], 10, [600, 200, 200]),
        ([6, 2, 2, 2], 10, [300, 100, 100, 100]),  # more of them than expected
    ],
)
def test_the_share_of_each_generator(weights, expected, limits):
    assert shares(1000, weights, expected=expected) == limits


@pytest.mark.parametrize("budget", [999, 1001, 153_601])
def test_equal_numbers_of_classes_are_equal_parts_to_the_byte(budget):
    for length in (3, 5, 7):
        for classes in (2, 10):
            weights = [classes] * length
            by_classes = shares(budget, weights, expected=length * classes)
            assert by_classes == shares(budget, [1] * length, expected=length)
