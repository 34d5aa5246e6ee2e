"""Named configurations: one row a data set, one a number of images per class.

``NAME-ipcK`` is the full setting for a GPU; ``NAME-ipcK-cpu`` is narrower and shorter
and ends within minutes on two cores. ``digits`` is the demo. ``...-paper`` keeps to
what the paper states: its optimisers, its five losses and adversarial pre-training.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

Settings = dict[str, Any]

# name -> data settings. Mirroring changes what a digit means (the field's convention).
DATA_SETS: dict[str, Settings] = {
    "mnist": {"flip": False},
    "fashionmnist": {"flip": True},
    "svhn": {"flip": False},
    "cifar10": {"flip": True},
    "cifar100": {"flip": True},
    "imagenet64": {"flip": True, "image_size": [64, 64]},
    "imagefolder": {"flip": True},
    "npz": {"flip": True},
}
IMAGES_PER_CLASS = (1, 10, 50)


def _digits() -> Settings:
    return {
        "data": {"name": "digits", "flip": False},
        "format": {"images_per_class": 1, "channels": 32, "latent_dim": 32},
        "network": {"width": 32},
    }


def _full(name: str, images_per_class: int) -> Settings:
    settings: Settings = {
        "data": {"name": name, **DATA_SETS[name]},
        "format": {"images_per_class": images_per_class, "channels": 128},
    }
    return settings


def _cpu(name: str, images_per_class: int) -> Settings:
    settings = _full(name, images_per_class)
    return settings


def _presets() -> Iterator[tuple[str, Callable[[], Settings]]]:
    yield "digits", _digits
    for name in DATA_SETS:
        for images_per_class in IMAGES_PER_CLASS:
            preset = f"{name}-ipc{images_per_class}"
            yield preset, partial(_full, name, images_per_class)
            yield f"{preset}-cpu", partial(_cpu, name, images_per_class)


PRESETS: dict[str, Callable[[], Settings]] = dict(_presets())


def flips(name: str) -> bool:
    """Whether mirrored images of a data set keep their meaning."""
    if name == "digits":
        return False
    return bool(DATA_SETS.get(name, {}).get("flip", True))
