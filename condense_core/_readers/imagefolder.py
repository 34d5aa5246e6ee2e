"""Folders of image files, one folder per class."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condense_core._convert import pil_pixels
from condense_core._readers.request import Request, class_positions, require_module
from condense_core.data import ImageData
from condense_core.errors import DataError, MissingSplitError

_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
)
_SLAB = 4096  # image files handed to the thread pool together


def read_imagefolder(request: Request) -> ImageData:
    """``train/CLASS/*`` and ``test/CLASS/*`` or ``val/CLASS/*``."""
    root = request.folder()
    folder = root / "train"
    if not folder.is_dir() and request.split == "train":
        found = ", ".join(path.name for path in _class_folders(root)[:3])
        raise DataError(
            f"no folder 'train' in {str(root)!r} (found: {found or 'no folders'}): "
            "expected layout is train/CLASS/*.png, and test/CLASS/*.png or "
            "val/CLASS/*.png for the test split"
        )
    classes = None
    if request.split == "test":
        if folder.is_dir():
            classes = [path.name for path in _class_folders(folder)]
        tests = [root / "test", root / "val"]
        existing = [path for path in tests if path.is_dir()]
        if not existing:
            raise MissingSplitError(
                f"no folder 'test' or 'val' in {str(root)!r}: the test split needs "
                "test/CLASS/*.png or val/CLASS/*.png"
            )
        folder = existing[0]
    return read_class_folders(folder, request, classes)


def read_class_folders(
    folder: Path, request: Request, classes: list[str] | None = None
) -> ImageData:
    """``CLASS/*`` below a folder; labels follow ``classes``, or the sorted names."""
    names, files = _image_files(folder)
    positions = class_positions(names, classes or names, where=str(folder))
    counts = torch.tensor([len(paths) for paths in files])
    labels = torch.tensor(positions).repeat_interleave(counts)
    flat = [path for paths in files for path in paths]
    return ImageData(
        images=_decode(flat, request),
        labels=labels,
        classes=tuple(classes or names),
        name=request.name,
    )


def _class_folders(folder: Path) -> list[Path]:
    entries = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in entries if not path.name.startswith("."))


def _image_files(folder: Path) -> tuple[list[str], list[list[Path]]]:
    """Class names and the sorted image files of each, sub-folders included."""
    class_folders = _class_folders(folder)
    if not class_folders:
        raise DataError(
            f"empty data set, no class folders in {str(folder)!r}: expected layout is "
            f"{folder.name}/CLASS/*.png"
        )
    files = []
    for class_folder in class_folders:
        paths = sorted(_walk(class_folder))
        if not paths:
            raise DataError(
                f"class folder {str(class_folder)!r} has no images: add some "
                f"({' '.join(sorted(s[1:] for s in _SUFFIXES))}) or remove the folder"
            )
        files.append(paths)
    return [path.name for path in class_folders], files


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if path.suffix.lower() in _SUFFIXES and not name.startswith("."):
                yield path


def _decode(paths: list[Path], request: Request) -> Tensor:
    """Image files as uint8 (N, C, H, W)."""
    image_module = require_module("PIL.Image", install="pillow")

    def read(path: Path) -> NDArray[np.uint8]:
        try:
            with image_module.open(path) as image:
                return pil_pixels(
                    image, size=request.image_size, channels=request.channels
                )
        except Exception as error:  # decoders of damaged files raise almost anything
            detail = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(
                f"cannot read image {str(path)!r} ({detail}): repair or remove it"
            ) from error

    first = read(paths[0])
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)

    def fill(index: int) -> None:
        pixels = read(paths[index])
        if pixels.shape != first.shape:
            _raise_mixed(paths[0], first.shape, paths[index], pixels.shape)
        images[index] = pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), _SLAB):
            list(pool.map(fill, range(start, min(start + _SLAB, len(paths)))))
    return torch.from_numpy(images)


def _raise_mixed(
    path: Path, shape: tuple[int, ...], other: Path, other_shape: tuple[int, ...]
) -> None:
    files = f"{str(path)!r} and {str(other)!r}"
    if shape[0] != other_shape[0]:
        raise DataError(
            f"mixed channels: {files} have {shape[0]} and {other_shape[0]}: use "
            "--set data.channels=1|3"
        )
    raise DataError(
        f"mixed sizes: {files} are {shape[1]}x{shape[2]} and "
        f"{other_shape[1]}x{other_shape[2]} pixels: use --set data.image_size=[H,W]"
    )
