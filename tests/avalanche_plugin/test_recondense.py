import pytest
import torch
from torch.overrides import TorchFunctionMode

from avalanche_plugin.memory import GeneratorMemory
from avalanche_plugin.pixels import labelled_images
from avalanche_plugin.recondense import joined, own_images, with_old_classes
from condense_core.data import to_unit


class NewTensors(TorchFunctionMode):
    """Records the device that each new tensor is asked for on."""

    def __init__(self):
        super().__init__()
        self.devices = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.tensor:
            self.devices.append((kwargs or {}).get("device"))
        return function(*args, **(kwargs or {}))


def test_own_images_come_with_their_labels(digits, quick):
    """What a memory condenses again is labelled as what it replays."""
    images, labels, *_ = digits
    chosen = labels < 2
    memory = GeneratorMemory(60_000, config=quick, device="cpu")
    memory.observe(images[chosen], labels[chosen], torch.zeros_like(labels[chosen]))
    (slot,) = memory.slots
    own, keys, values = own_images(
        slot,
        slot.unpack("cpu"),
        per_class=40,
        values=slot.values,
        rng=torch.Generator().manual_seed(0),
    )
    assert keys == ((0, 0), (1, 0))
    assert own.counts.tolist() == [40, 40]
    means = torch.stack([images[labels == c].mean(dim=0) for c in range(2)])
    pixels = values.from_pixels(own.images / 255)
    nearest = torch.cdist(pixels.flatten(1), means.flatten(1)).argmin(dim=1)
    assert (nearest == own.labels).float().mean() > 0.8


def test_old_and_new_classes_are_joined_on_the_device_of_the_new_images(device):
    first, second = (
        labelled_images(images, labels.to(device), torch.zeros_like(labels))
        for images, labels in [
            (torch.rand(4, 1, 8, 8), torch.tensor([7, 3, 7, 3])),
            (torch.rand(3, 1, 8, 8, device=device), torch.tensor([5, 3, 5])),
        ]
    )
    second = second._replace(values=first.values)
    with NewTensors() as new:
        data, keys, _ = joined(first, second)
    assert new.devices == [second.data.labels.device]
    assert keys == ((3, 0), (7, 0), (5, 0))
    assert [keys[i][0] for i in data.labels.tolist()] == [7, 3, 7, 3, 5, 3, 5]
    assert torch.equal(data.images[4:], second.data.images)


@pytest.fixture
def widened(digits, instant):
    """Digits 0 and 1 of a memory, joined by 2 and 3 with values from -2 to 0."""
    images, labels, *_ = digits
    old, new = labels < 2, (labels >= 2) & (labels < 4)
    memory = GeneratorMemory(60_000, config=instant, device="cpu")
    memory.observe(images[old], labels[old], torch.zeros_like(labels[old]))
    (slot,) = memory.slots
    images, labels = images[new] * 2 - 2, labels[new]
    return with_old_classes(
        labelled_images(images, labels, torch.zeros_like(labels)),
        slot,
        slot.unpack("cpu"),
        rng=torch.Generator().manual_seed(0),
    )


def test_old_classes_have_as_many_images_as_new_ones(widened):
    assert widened.keys == ((0, 0), (1, 0), (2, 0), (3, 0))
    assert widened.data.counts.tolist() == [60, 60, 60, 60]


def test_new_images_keep_their_values_in_the_joined_range(widened, digits):
    images, labels, *_ = digits
    pixels = to_unit(widened.data.images[widened.data.labels == 2])
    torch.testing.assert_close(
        widened.values.from_pixels(pixels),
        images[labels == 2] * 2 - 2,
        atol=0.02,  # more than a step between bytes, which is 3/255 from -2 to 1
        rtol=0.0,
    )


def test_old_images_keep_their_values_in_the_joined_range(widened):
    """Those of the generator are from 0 to 1."""
    old = widened.values.from_pixels(to_unit(widened.data.images))
    old = old[widened.data.labels < 2]
    assert -0.02 < old.min() < old.max() < 1.02


def test_a_shared_memory_takes_labels_of_any_device(digits, instant, device):
    images, labels, *_ = digits
    memory = GeneratorMemory(
        60_000, policy="shared", config=instant, device=str(device)
    )
    for number in range(2):
        chosen = labels // 2 == number
        new = labels[chosen].to(device)
        memory.observe(images[chosen].to(device), new, torch.zeros_like(new))
    assert len(memory.classes) == 4
