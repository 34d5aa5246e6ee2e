"""Arrays in npz files: plain ones, and the batches of downsampled ImageNet.

Shape legend: N data set, C H W image.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condense_core.data import ImageData
from condense_core.data.cache import Part, Plan, open_cache
from condense_core.data.convert import fit_images, index_labels, quantise
from condense_core.data.options import SHAPE
from condense_core.data.readers.imagefolder import read_imagefolder
from condense_core.data.readers.request import Request, choose_classes, class_positions
from condense_core.errors import DataError, MissingSplitError

# Glob patterns of the files of each split; the first that matches anything is used.
_PLAIN = {"train": ("train*.npz",), "test": ("test*.npz", "val*.npz")}
_IMAGENET = {"train": ("train_data_batch_*.npz",), "test": ("val_data*.npz",)}


def read_npz(request: Request) -> ImageData:
    """``train*.npz`` and ``test*.npz`` or ``val*.npz``, concatenated by name.

    Arrays: ``images`` (N, H, W, C) or (N, H, W), ``labels`` (N,), and optionally
    ``classes``, the names.
    """
    return _read(request, _PLAIN, key="images", to_nchw=_channels_first)


def read_imagenet64(request: Request) -> ImageData:
    """An image folder tree, or the published npz batches of downsampled ImageNet.

    RGB whatever the files are: one in fifty of ImageNet's is grey. Image files become
    64 px unless another size is asked for.
    """
    root = request.folder()
    request = replace(request, channels=request.channels or 3)
    if (root / "train").is_dir() or not any(root.glob("*.npz")):
        size = request.image_size or (64, 64)
        return read_imagefolder(replace(request, image_size=size))
    return _read(request, _IMAGENET, key="data", to_nchw=_rows_to_images)


def _read(
    request: Request,
    patterns: Mapping[str, tuple[str, ...]],
    *,
    key: str,
    to_nchw: Callable[[NDArray[Any], Path], Tensor],
) -> ImageData:
    root = request.folder()
    train, paths = (_files(root, patterns[split]) for split in ("train", request.split))
    if not paths:
        kind = MissingSplitError if train else DataError
        raise kind(
            f"{request.name}: no {' or '.join(patterns[request.split])} in "
            f"{str(root)!r} for the {request.split} split: check --data-root"
        )
    per_file = [_array(path, "labels") for path in paths]
    labels, classes = _labels(per_file, paths, train or paths)
    if request.cache is not None:
        sizes = [len(values) for values in per_file]
        return _cached(
            request, root, paths, sizes, labels, classes, key=key, to_nchw=to_nchw
        )
    images = torch.empty(0)
    start = 0
    # Into one array, file by file: big sets would not fit in memory twice.
    for path, values in zip(paths, per_file, strict=True):
        part = _images(path, key, to_nchw, len(values), request)
        if path == paths[0]:
            images = torch.empty((len(labels), *part.shape[1:]), dtype=torch.uint8)
        _require_shape(path, tuple(part.shape[1:]), paths[0], tuple(images.shape[1:]))
        images[start : start + len(part)] = part
        start += len(part)
    return ImageData(images=images, labels=labels, classes=classes, name=request.name)


def _images(
    path: Path,
    key: str,
    to_nchw: Callable[[NDArray[Any], Path], Tensor],
    labels: int,
    request: Request,
) -> Tensor:
    """All images of a file, one for each of its labels: uint8 (N, C, H, W)."""
    images = quantise(to_nchw(_array(path, key), path), name=str(path))
    if len(images) != labels:
        raise DataError(
            f"{str(path)!r} has {len(images)} images but {labels} labels: write one "
            "label per image"
        )
    return fit_images(images, size=request.image_size, channels=request.channels)


def _cached(
    request: Request,
    root: Path,
    paths: list[Path],
    sizes: list[int],
    labels: Tensor,
    classes: tuple[str, ...],
    *,
    key: str,
    to_nchw: Callable[[NDArray[Any], Path], Tensor],
) -> ImageData:
    """The same through a cache, where images are sorted by class; a file is a part."""
    assert request.cache is not None
    wanted, place = choose_classes(classes, request.classes, where=request.name)
    labels = place[labels]
    # Position of every image among those of wanted classes, sorted by class.
    chosen = (labels >= 0).nonzero().flatten()
    order = chosen[labels[chosen].argsort(stable=True)]
    position = torch.full((len(labels),), -1)
    position[order] = torch.arange(len(order))
    shape = _image_shape(paths[0], key, to_nchw, request)

    def parts(start: int) -> Iterator[Part]:
        each = zip(paths, position.split(sizes), labels.split(sizes), strict=True)
        for path, here, label in islice(each, start, None):
            rows = here.argsort()[(here < 0).sum() :]  # ascending by position
            images = _images(path, key, to_nchw, len(here), request)
            _require_shape(path, tuple(images.shape[1:]), paths[0], shape)
            yield Part(images[rows], label[rows], positions=here[rows])

    plan = Plan(
        split=request.split,
        root=root,
        source=[f"{path.name} {path.stat().st_size}" for path in paths],
        classes=tuple(wanted),
        image_shape=shape,
        images=len(order),
        parts=parts,
    )
    return open_cache(request.cache, plan, name=request.name)


def _image_shape(
    path: Path,
    key: str,
    to_nchw: Callable[[NDArray[Any], Path], Tensor],
    request: Request,
) -> tuple[int, int, int]:
    """(C, H, W) of the images of a file, from the header of the array alone."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
            if np.lib.format.read_magic(file) == (1, 0):
                shape, _, _ = np.lib.format.read_array_header_1_0(file)
            else:
                shape, _, _ = np.lib.format.read_array_header_2_0(file)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        shape = _array(path, key).shape  # says what is wrong
    one = to_nchw(np.zeros((1, *shape[1:]), dtype=np.uint8), path)
    fitted = fit_images(one, size=request.image_size, channels=request.channels)
    channels, height, width = fitted.shape[1:]
    return channels, height, width


def _require_shape(
    path: Path, shape: tuple[int, ...], first: Path, first_shape: tuple[int, ...]
) -> None:
    if shape != first_shape:
        raise DataError(
            f"{str(path)!r} has images of shape {shape}, {first.name} of "
            f"{first_shape}: convert them, such as with {SHAPE}"
        )


def _files(root: Path, patterns: tuple[str, ...]) -> list[Path]:
    for pattern in patterns:
        if found := sorted(root.glob(pattern)):
            return found
    return []


def _array(path: Path, key: str, *, optional: bool = False) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if key in archive:
                return np.asarray(archive[key])
            found = ", ".join(archive.files) or "nothing"
    except Exception as error:  # damaged archives raise almost anything
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"cannot read {key!r} of {str(path)!r} ({detail}): write it again with "
            "numpy.savez from plain arrays, not objects"
        ) from error
    if optional:
        return np.empty(0)
    raise DataError(
        f"{str(path)!r} has no array {key!r} (found: {found}): add it with numpy.savez"
    )


def _labels(
    per_file: list[NDArray[Any]], paths: list[Path], train: list[Path]
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels of ``paths``, numbered as in the training files, and the class names."""
    values = _concatenate(per_file, paths)
    names, train_names = _names(paths), _names(train)
    where = paths[0].name
    if paths == train:
        return index_labels(values, name=where, classes=train_names)
    if names and train_names and names != train_names:
        labels, own = index_labels(values, name=where, classes=names)
        positions = class_positions(own, train_names, where=where)
        return torch.tensor(positions)[labels], tuple(train_names)
    # Numbered together, so that a value absent from one split shifts nothing.
    train_values = _concatenate([_array(path, "labels") for path in train], train)
    together = np.concatenate([train_values, values])
    labels, classes = index_labels(together, name=where, classes=train_names)
    if train_names is None:
        trained = index_labels(train_values, name=train[0].name)[1]
        class_positions(classes, trained, where=where)
    return labels[len(train_values) :], classes


def _names(paths: list[Path]) -> list[str] | None:
    """The ``classes`` of the files, which must agree; None if they have none."""
    listed = [_array(path, "classes", optional=True).tolist() for path in paths]
    for path, names in zip(paths, listed, strict=True):
        if names != listed[0]:
            raise DataError(
                f"{str(path)!r} and {paths[0].name} list different classes: write the "
                "same 'classes' to both"
            )
    return [str(name) for name in listed[0]] or None


def _concatenate(per_file: list[NDArray[Any]], paths: list[Path]) -> NDArray[Any]:
    for path, values in zip(paths, per_file, strict=True):
        if values.ndim != 1:
            raise DataError(
                f"{str(path)!r} has labels of shape {values.shape}: write one integer "
                "per image"
            )
    return np.concatenate(per_file)


def _channels_first(images: NDArray[Any], path: Path) -> Tensor:
    if images.ndim == 3:
        return torch.from_numpy(images)[:, None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DataError(
            f"{str(path)!r} has images of shape {images.shape}: write (N, H, W, C) "
            "with C 1 or 3, or (N, H, W)"
        )
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _rows_to_images(rows: NDArray[Any], path: Path) -> Tensor:
    side = isqrt(rows.shape[-1] // 3)
    if rows.ndim != 2 or rows.shape[1] != 3 * side * side:
        raise DataError(
            f"{str(path)!r} has data of shape {rows.shape}: expected the (N, 12288) "
            "rows of downsampled ImageNet"
        )
    return torch.from_numpy(rows).reshape(-1, 3, side, side)
