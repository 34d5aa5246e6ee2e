"""scikit-learn's 8x8 digits: no files needed."""

from math import ceil

import torch

from condense_core.data import ImageData
from condense_core.data.readers.request import Request, require_module
from condense_core.seeding import make_generator


def read_digits(request: Request) -> ImageData:
    """A fixed stratified split: 1437 images to train, 360 to test."""
    digits = require_module(
        "sklearn.datasets", install="gencondense[demo]"
    ).load_digits()
    images = torch.from_numpy(digits.images).float().mul(255 / 16).round()
    labels = torch.from_numpy(digits.target).long()
    # One fifth of each class for test; the rounding that keeps the total at one fifth
    # goes to the classes with the largest remainders.
    exact = torch.bincount(labels).double() / 5
    tested = exact.floor().long()
    short = ceil(len(labels) / 5) - int(tested.sum())
    tested[(exact - tested).argsort(descending=True, stable=True)[:short]] += 1
    generator = make_generator(0, "digits", "split")
    kept = []
    for label, count in enumerate(tested.tolist()):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        kept.append(members[:count] if request.split == "test" else members[count:])
    index = torch.cat(kept).sort().values
    return ImageData(
        images=images[index, None].to(torch.uint8),
        labels=labels[index],
        classes=tuple(str(name) for name in digits.target_names),
    )
