import torch

from avalanche_plugin.memory import GeneratorMemory
from avalanche_plugin.recondense import own_images


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
