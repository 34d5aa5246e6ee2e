"""Image files to pixels; files that cannot be read are listed, all of them."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from condense_core.data.convert import pil_pixels
from condense_core.data.options import CHANNELS, IMAGE_SIZE, SHAPE
from condense_core.data.readers.request import require_module
from condense_core.errors import DataError

_SLAB = 4096  # image files handed to the thread pool together
_NAMED = 10  # unreadable files a message names

Size = tuple[int, int] | None


class Unreadable(NamedTuple):
    """An image file no decoder understands."""

    path: str
    detail: str


def read_file(path: Path, size: Size, channels: int | None) -> NDArray[np.uint8]:
    """One image file as uint8 (C, H, W).

    Raises:
        DataError: The file cannot be decoded; the message says why.
    """
    image_module = require_module("PIL.Image", install="pillow")
    try:
        with image_module.open(path) as image:
            return pil_pixels(image, size=size, channels=channels)
    except Exception as error:  # decoders of damaged files raise almost anything
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(detail) from error


def decode_files(
    paths: Sequence[Path], size: Size, channels: int | None, *, threads: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], list[Unreadable]]:
    """Image files as uint8 (n, C, H, W), without those that cannot be read.

    Args:
        paths: The files.
        size: (H, W) to resize to, or None.
        channels: 1 or 3 to convert, or None.
        threads: Decoders side by side.

    Returns:
        The images, which files they are (one bool a path), and the files left out.

    Raises:
        DataError: Two images differ in shape, or Pillow is missing.
    """
    kept = np.zeros(len(paths), dtype=bool)
    unreadable: list[Unreadable] = []
    first, images = 0, np.empty((0, 0, 0, 0), dtype=np.uint8)
    for index, path in enumerate(paths):  # the first readable file sets the shape
        try:
            pixels = read_file(path, size, channels)
        except DataError as error:
            unreadable.append(Unreadable(str(path), str(error)))
            continue
        first, kept[index] = index, True
        images = np.empty((len(paths), *pixels.shape), dtype=np.uint8)
        images[index] = pixels
        break

    def fill(index: int) -> Unreadable | None:
        try:
            pixels = read_file(paths[index], size, channels)
        except DataError as error:
            return Unreadable(str(paths[index]), str(error))
        require_same_shape(paths[first], images.shape[1:], paths[index], pixels.shape)
        images[index] = pixels
        kept[index] = True
        return None

    with ThreadPoolExecutor(threads) as pool:
        for start in range(first + 1, len(paths), _SLAB):
            results = pool.map(fill, range(start, min(start + _SLAB, len(paths))))
            unreadable.extend(filter(None, results))
    return (images if kept.all() else images[kept[: len(images)]]), kept, unreadable


def all_cores() -> int:
    """Cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def require_read(unreadable: Sequence[Unreadable]) -> None:
    """Raise `DataError` naming the files that cannot be read, if there are any."""
    if not unreadable:
        return
    named = ", ".join(f"{path!r} ({detail})" for path, detail in unreadable[:_NAMED])
    more = f" and {len(unreadable) - _NAMED} more" if len(unreadable) > _NAMED else ""
    files = "image" if len(unreadable) == 1 else f"{len(unreadable)} images:"
    raise DataError(
        f"cannot read {files} {named}{more}: repair or remove them, or leave them out "
        "with --skip-corrupt"
    )


def require_same_shape(
    path: Path, shape: tuple[int, ...], other: Path, other_shape: tuple[int, ...]
) -> None:
    """Raise `DataError` if two image files differ in shape, saying how to convert."""
    if shape == other_shape:
        return
    files = f"{str(path)!r} and {str(other)!r}"
    sizes = f"{shape[1]}x{shape[2]} and {other_shape[1]}x{other_shape[2]} pixels"
    channels = f"{shape[0]} and {other_shape[0]} channels"
    if shape[0] == other_shape[0]:
        raise DataError(
            f"mixed sizes: {files} have {sizes}: resize them, such as with {IMAGE_SIZE}"
        )
    if shape[1:] == other_shape[1:]:
        raise DataError(
            f"mixed channels: {files} have {channels}: convert them, such as with "
            f"{CHANNELS}"
        )
    raise DataError(
        f"mixed channels and sizes: {files} have {channels}, {sizes}: convert them, "
        f"such as with {SHAPE}"
    )
