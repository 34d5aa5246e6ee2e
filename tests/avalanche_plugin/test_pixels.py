import pytest
import torch

from avalanche_plugin.pixels import ValueRange, labelled_images
from condense_core import DataError


def test_values_outside_0_1_survive_within_an_eighth_bit_of_their_range():
    images = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    values = ValueRange.of(images)
    again = values.from_pixels(values.to_pixels(images).float() / 255)
    spans = torch.tensor(values.high) - torch.tensor(values.low)
    assert ((again - images).abs().amax(dim=(0, 2, 3)) <= spans / 255 / 2 * 1.01).all()


def test_a_constant_channel_is_kept():
    images = torch.full((2, 1, 8, 8), -1.5)
    values = ValueRange.of(images)
    assert torch.equal(values.from_pixels(values.to_pixels(images) / 255), images)


def test_union_holds_both():
    union = ValueRange((0.0,), (1.0,)).union(ValueRange((-2.0,), (0.5,)))
    assert union == ValueRange((-2.0,), (1.0,))


def test_labels_become_places_and_keys_keep_the_originals():
    images = torch.rand(6, 1, 8, 8)
    labels, tasks = torch.tensor([7, 3, 7, 3, 3, 7]), torch.tensor([0, 0, 1, 1, 0, 0])
    data, keys, _ = labelled_images(images, labels, tasks)
    assert keys == ((3, 0), (3, 1), (7, 0), (7, 1))
    pairs = [keys[place] for place in data.labels.tolist()]
    assert pairs == list(zip(labels.tolist(), tasks.tolist(), strict=True))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.rand(4, 64), torch.arange(4), "not images"),
        (torch.rand(4, 2, 8, 8), torch.arange(4), "not images"),
        (torch.rand(0, 1, 8, 8), torch.arange(0), "no samples"),
        (torch.rand(4, 1, 8, 8), torch.arange(3), "labels of shape"),
        (torch.rand(4, 1, 8, 8), torch.rand(4), "one integer per image"),
        (torch.full((4, 1, 8, 8), torch.nan), torch.arange(4), "NaN"),
    ],
)
def test_bad_samples_are_refused(images, labels, message):
    with pytest.raises(DataError, match=message):
        labelled_images(images, labels, torch.zeros_like(labels))
