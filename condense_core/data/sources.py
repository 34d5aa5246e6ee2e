"""Data sets by name, from the user's folders; nothing is downloaded unless asked for.

A new source is one function from `Request` to `ImageData` and one row of `SOURCES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from condense_core.config.strict import nearest
from condense_core.data import ImageData, require_images
from condense_core.data.convert import fit_images
from condense_core.data.options import CHANNELS, IMAGE_SIZE
from condense_core.data.readers.digits import read_digits
from condense_core.data.readers.imagefolder import read_imagefolder
from condense_core.data.readers.npz import read_imagenet64, read_npz
from condense_core.data.readers.request import (
    Request,
    Split,
    choose_classes,
    readable,
)
from condense_core.data.readers.torchvision_sets import (
    TORCHVISION_SETS,
    read_torchvision,
)
from condense_core.errors import DataError
from condense_core.generator import LARGEST_SIDE, SMALLEST_SIDE

__all__ = [
    "CACHED",
    "CACHE_FOLDER",
    "SOURCES",
    "Split",
    "load_source",
]

CACHED = frozenset({"imagenet64"})  # too big for memory: cached unless told otherwise
CACHE_FOLDER = ".condense-cache"  # in the data root, where no other is named

SOURCES: dict[str, Callable[[Request], ImageData]] = {
    "digits": read_digits,
    **dict.fromkeys(TORCHVISION_SETS, read_torchvision),
    "imagefolder": read_imagefolder,
    "npz": read_npz,
    "imagenet64": read_imagenet64,
}


def load_source(
    name: str,
    *,
    split: Split,
    data_root: Path | None,
    download: bool = False,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    cache: Path | None = None,
    skip_corrupt: bool = False,
) -> ImageData:
    """Read one split of a named data set.

    Args:
        name: A key of `SOURCES`.
        split: ``"train"`` or ``"test"``; the label of a class is the same in both.
        data_root: Folder of the data set; not needed by ``digits``.
        download: Let torchvision fetch missing files into ``data_root``.
        image_size: (H, W) to resize to, antialiased; the aspect ratio is not kept.
        channels: 1 or 3, to convert between grey and RGB.
        classes: Names of the classes to read, in label order; all of them when None.
        cache: Folder for a decoded copy on disk, mapped instead of held in memory; for
            image files and npz arrays. None reads into memory.
        skip_corrupt: Leave out image files that cannot be read.

    Returns:
        Images with sides of 8 to 128 pixels.

    Raises:
        DataError: unknown name; missing, unreadable, empty or inconsistent files.
    """
    if name not in SOURCES:
        raise DataError(
            f"unknown data set {name!r}{nearest(name, SOURCES)}: choose from "
            f"{', '.join(SOURCES)}"
        )
    if split not in ("train", "test"):
        raise DataError(f"unknown split {split!r}: choose 'train' or 'test'")
    if channels not in (None, 1, 3):
        raise DataError(f"channels={channels}: choose 1 or 3, such as {CHANNELS}")
    if image_size is not None:
        _check_size(name, image_size)
    request = Request(
        name=name,
        split=split,
        data_root=Path(data_root) if data_root is not None else None,
        download=download,
        image_size=image_size,
        channels=channels,
        classes=tuple(classes) if classes is not None else None,
        cache=Path(cache).expanduser() if cache is not None else None,
        skip_corrupt=skip_corrupt,
    )
    with readable(name):
        data = SOURCES[name](request).renamed(name)
    fitted = fit_images(data.images, size=image_size, channels=channels)
    if fitted is not data.images:
        data = replace(data, images=fitted)
    data = _select(data, request.classes)
    _check_size(name, data.image_shape[1:])
    if split == "train":
        require_images(data)
    return data


def _select(data: ImageData, classes: tuple[str, ...] | None) -> ImageData:
    """The images of some classes, for readers that read all."""
    wanted, place = choose_classes(data.classes, classes, where=data.name)
    if data.classes == tuple(wanted):
        return data
    labels = place[data.labels]
    kept = (labels >= 0).nonzero().flatten()
    return ImageData(
        images=data.images[kept],
        labels=labels[kept],
        classes=tuple(wanted),
        name=data.name,
    )


def _check_size(name: str, size: tuple[int, int]) -> None:
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in size):
        raise DataError(
            f"{name}: images of {size[0]}x{size[1]} pixels, sides must be "
            f"{SMALLEST_SIDE} to {LARGEST_SIDE}: choose a size, such as {IMAGE_SIZE}"
        )
