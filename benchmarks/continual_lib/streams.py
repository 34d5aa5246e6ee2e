"""The data sets, and their classes as a stream of experiences.

Shape legend: N images, C H W image.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from condense_core.data.sources import load_source
from condense_core.seeding import make_generator

CLASSES = 10


class Pixels(Dataset):
    """Images in memory, as Avalanche wants them: (float image in [0, 1], int label)."""

    def __init__(self, images_NCHW: Tensor, labels_N: Tensor) -> None:
        self.images_NCHW = images_NCHW
        self.targets = labels_N.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images_NCHW[index].float() / 255, self.targets[index]


@dataclass(frozen=True)
class Data:
    """Both splits, 8 bits."""

    train: Pixels
    test: Pixels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return tuple(self.train.images_NCHW.shape[1:])

    @property
    def image_bytes(self) -> int:
        return self.train.images_NCHW[0].numel()


def load_data(name: str, data_root: Path | None, limit: int | None) -> Data:
    """Read both splits; ``limit`` keeps that many training images of each class."""
    train = load_source(name, split="train", data_root=data_root)
    test = load_source(name, split="test", data_root=data_root)
    kept = torch.arange(len(train.labels))
    if limit is not None:
        members = [
            (train.labels == label).nonzero()[:limit] for label in range(CLASSES)
        ]
        kept = torch.cat(members).flatten().sort().values
    return Data(
        Pixels(train.images[kept], train.labels[kept]), Pixels(test.images, test.labels)
    )


def class_order(seed: int) -> list[int]:
    generator = make_generator(seed, "continual", "class order")
    return torch.randperm(CLASSES, generator=generator).tolist()


def split(data: Data, experiences: int, order: list[int]) -> Any:
    """The benchmark of Avalanche: classes in this order, as many in each experience."""
    from avalanche.benchmarks import nc_benchmark

    return nc_benchmark(
        data.train,
        data.test,
        n_experiences=experiences,
        task_labels=False,
        fixed_class_order=order,
    )
