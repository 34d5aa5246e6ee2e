"""Images to condense a generator again from: those that it draws itself.

Shape legend: Y classes.
"""

import logging
from dataclasses import replace

import torch

from avalanche_plugin.pixels import LabelledImages, ValueRange, class_names
from avalanche_plugin.slot import Slot
from condense_core import CondensedDataset, ImageData
from condense_core.data import to_unit

_LOG = logging.getLogger("avalanche_plugin")
BATCH = 512  # images generated at once


def warn_of_loss(again: int, stored: int) -> None:
    """Say that generators lose quality for good, which a known length avoids.

    Args:
        again: How many are condensed again into fewer bytes; 0 says nothing.
        stored: How many there are.
    """
    if again:
        _LOG.warning(
            "%d of %d stored generators are condensed again from their own images, "
            "into fewer bytes: more experiences came than were expected; give their "
            "number (expected_experiences) if the benchmark does not know it",
            again,
            stored,
        )


def own_images(
    slot: Slot,
    condensed: CondensedDataset,
    *,
    per_class: int,
    values: ValueRange,
    rng: torch.Generator,
) -> LabelledImages:
    """Fresh images of every class of a stored generator.

    Args:
        slot: The stored generator.
        condensed: The same, unpacked.
        per_class: Images of each class, at least 1.
        values: Range that pixels of the result stand for; contains that of ``slot``.
        rng: On the CPU; the only source of randomness.
    """
    images, labels = [], []
    for wanted in torch.arange(len(slot.keys)).repeat(per_class).split(BATCH):
        pixels, drawn = condensed.sample(
            len(wanted), classes=wanted.tolist(), fresh=True, generator=rng
        )
        images.append(values.to_pixels(slot.values.from_pixels(pixels)))
        labels.append(drawn)  # in the order of the images, which is a random one
    data = ImageData(
        images=torch.cat(images),
        labels=torch.cat(labels),
        classes=class_names(slot.keys),
    )
    return LabelledImages(data, slot.keys, values)


def with_old_classes(
    new: LabelledImages,
    slot: Slot,
    condensed: CondensedDataset,
    *,
    rng: torch.Generator,
) -> LabelledImages:
    """New images, joined by as many of each class of a stored generator.

    Args:
        new: The new images.
        slot: The stored generator.
        condensed: The same, unpacked.
        rng: On the CPU; the only source of randomness.
    """
    values = new.values.union(slot.values)
    per_class = -(-len(new.data) // len(new.keys))
    old = own_images(slot, condensed, per_class=per_class, values=values, rng=rng)
    in_model_space = new.values.from_pixels(to_unit(new.data.images))
    wider = replace(new.data, images=values.to_pixels(in_model_space))
    return joined(old, new._replace(data=wider, values=values))


def joined(old: LabelledImages, new: LabelledImages) -> LabelledImages:
    """Two sets of one value range as one, on the device of the new images.

    A class that both have is one class.
    """
    assert old.values == new.values
    keys = tuple(dict.fromkeys([*old.keys, *new.keys]))
    old_data = old.data.to(new.data.images.device)
    position_Y = torch.tensor(
        [keys.index(key) for key in new.keys], device=new.data.labels.device
    )
    data = ImageData(
        images=torch.cat([old_data.images, new.data.images]),
        labels=torch.cat([old_data.labels, position_Y[new.data.labels]]),
        classes=class_names(keys),
        name=new.data.name,
    )
    return LabelledImages(data, keys, new.values)
