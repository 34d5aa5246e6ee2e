"""Folders of image files, one folder per class."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condense_core.data import ImageData
from condense_core.data.cache import Part, Plan, open_cache
from condense_core.data.readers.decode import (
    Size,
    Unreadable,
    all_cores,
    decode_files,
    read_file,
    require_read,
    require_same_shape,
)
from condense_core.data.readers.request import Request, choose_classes, class_positions
from condense_core.errors import DataError, MissingSplitError

Decoded = tuple[NDArray[np.uint8], NDArray[np.bool_], list[Unreadable]]

PART_FILES = 1024  # files a worker process decodes at once
_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
)


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
    names = [path.name for path in _class_folders(folder)]
    known, _ = choose_classes(classes or names, request.classes, where=str(folder))
    if request.classes is not None:
        names = [name for name in known if (folder / name).is_dir()]
    files = _image_files(folder, names)
    positions = class_positions(names, known, where=str(folder))
    counts = torch.tensor([len(paths) for paths in files])
    labels = torch.tensor(positions).repeat_interleave(counts)
    flat = [path for paths in files for path in paths]
    if request.cache is not None:
        return _cached(folder, flat, labels, known, request)
    images, kept, unreadable = decode_files(
        flat, request.image_size, request.channels, threads=all_cores()
    )
    if not request.skip_corrupt:
        require_read(unreadable)
    return ImageData(
        images=torch.from_numpy(images),
        labels=labels[torch.from_numpy(kept)],
        classes=tuple(known),
        name=request.name,
    )


def _cached(
    folder: Path,
    paths: list[Path],
    labels: Tensor,
    classes: list[str],
    request: Request,
) -> ImageData:
    """The same through a cache, decoded by all cores on first use."""
    assert request.cache is not None
    order = labels.argsort(stable=True)  # a test split may name its classes otherwise
    paths, labels = [paths[i] for i in order.tolist()], labels[order]
    shape = _first_shape(paths, request)

    def parts(start: int) -> Iterator[Part]:
        rest = paths[start * PART_FILES :]
        done = start * PART_FILES
        for images, kept, unreadable in _decode_in_parallel(rest, request, shape):
            here = labels[done : done + len(kept)][torch.from_numpy(kept)]
            done += len(kept)
            yield Part(torch.from_numpy(images), here, unreadable=unreadable)

    plan = Plan(
        split=request.split,
        root=folder,
        source=[str(path)[len(str(folder)) + 1 :] for path in paths],
        classes=tuple(classes),
        image_shape=shape,
        images=len(paths),
        parts=parts,
    )
    return open_cache(
        request.cache, plan, name=request.name, skip_corrupt=request.skip_corrupt
    )


def _first_shape(paths: list[Path], request: Request) -> tuple[int, int, int]:
    if request.image_size is not None and request.channels is not None:
        return request.channels, *request.image_size
    for path in paths:
        with suppress(DataError):
            channels, height, width = read_file(
                path, request.image_size, request.channels
            ).shape
            return channels, height, width
    raise DataError(f"none of {len(paths)} image files can be read: {paths[0]}, ...")


def _decode_in_parallel(
    paths: list[Path], request: Request, shape: tuple[int, int, int]
) -> Iterator[Decoded]:
    """Results in order, by worker processes if there is work for more than one."""
    parts = [
        (paths[start : start + PART_FILES], shape, request.image_size, request.channels)
        for start in range(0, len(paths), PART_FILES)
    ]
    workers = min(all_cores(), len(parts))
    if workers < 2:
        yield from map(_decode_part, parts)
        return
    # Not forked: torch has threads, and a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_ignore_interrupts)
    try:
        ahead: deque[Future[Decoded]] = deque()
        for part in parts:
            ahead.append(pool.submit(_decode_part, part))
            if len(ahead) > 2 * workers:  # bounds what waits in memory
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process that decodes images was killed, or a script has no "
            'if __name__ == "__main__": around its calls; correct that and run the '
            "same again, it goes on where it stopped"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_part(
    work: tuple[list[Path], tuple[int, int, int], Size, int | None],
) -> Decoded:
    paths, shape, size, channels = work
    images, kept, unreadable = decode_files(paths, size, channels)
    if len(images) and images.shape[1:] != shape:
        require_same_shape(Path("the first image"), shape, paths[0], images.shape[1:])
    return images.reshape(-1, *shape), kept, unreadable


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's


def _class_folders(folder: Path) -> list[Path]:
    entries = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in entries if not path.name.startswith("."))


def _image_files(folder: Path, names: list[str]) -> list[list[Path]]:
    """The sorted image files of each class, sub-folders included."""
    if not names:
        raise DataError(
            f"empty data set, no class folders in {str(folder)!r}: expected layout is "
            f"{folder.name}/CLASS/*.png"
        )
    files = []
    for name in names:
        paths = sorted(_walk(folder / name))
        if not paths:
            raise DataError(
                f"class folder {str(folder / name)!r} has no images: add some "
                f"({' '.join(sorted(s[1:] for s in _SUFFIXES))}) or remove the folder"
            )
        files.append(paths)
    return files


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error  # which os.walk would pass over

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if path.suffix.lower() in _SUFFIXES and not name.startswith("."):
                yield path
