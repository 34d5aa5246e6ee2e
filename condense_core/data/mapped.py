"""Image tensors that lie in a file and are read a page at a time.

A mapped tensor is used like any other. What differs is memory: the kernel counts each
page that was ever touched as resident, so that a loop over a mapped set slowly "holds"
all of it. `gather` and `chunks` read any tensor and hand mapped pages back as they go:
a set larger than memory stays cheap, and a tensor in memory costs nothing extra.
"""

import math
import mmap
import warnings
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

MOST_RESIDENT = 2**29  # bytes of pages touched before they are handed back
# Bytes that the kernel may map for one touched page: where the file system keeps a file
# in large folios, a whole huge page.
_FAULT = 2**21


class _Map(mmap.mmap):
    """A read-only map of a file that counts what was touched."""

    touched = 0


# By the address of their storage, which views of a tensor share.
_MAPS: WeakValueDictionary[int, _Map] = WeakValueDictionary()


def map_images(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The bytes of a file as a read-only uint8 tensor that is never loaded whole.

    Args:
        path: File of exactly ``prod(shape)`` bytes, more than none.
        shape: Of the tensor.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is shorter.
    """
    with open(path, "rb") as file:
        # Read-only and shared: counts against no memory limit, however big the file.
        mapping = _Map(file.fileno(), math.prod(shape), access=mmap.ACCESS_READ)
    _advise(mapping, "MADV_RANDOM")
    with warnings.catch_warnings():
        # torch has no read-only tensors; nothing here writes to images.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        images = torch.from_numpy(np.frombuffer(mapping, dtype=np.uint8))
    _MAPS[images.untyped_storage().data_ptr()] = mapping
    return images.view(shape)


def gather(images: Tensor, index: Tensor) -> Tensor:
    """``images[index]``, on the device of ``images``."""
    index, mapping = index.to(images.device), _map_of(images)
    if mapping is None:
        return images[index]
    each = images[0].nbytes + _FAULT
    picked = []
    for part in index.flatten().split(max(1, MOST_RESIDENT // each)):
        picked.append(images[part])
        mapping.touched += len(part) * each
        _release(mapping, beyond=MOST_RESIDENT)
    return torch.cat(picked).view(*index.shape, *images.shape[1:])


def chunks(images: Tensor, size: int) -> Iterator[Tensor]:
    """``torch.split(images, size)``, one view at a time."""
    mapping = _map_of(images)
    for start in range(0, len(images), size):
        if mapping is not None:
            ahead = images[start : start + 2 * size]
            _advise(mapping, "MADV_WILLNEED", ahead)
        chunk = images[start : start + size]
        yield chunk
        if mapping is not None:
            mapping.touched += chunk.nbytes
            _release(mapping, beyond=MOST_RESIDENT)


def expecting(view: Tensor) -> Tensor:
    """``view``, which the caller is about to read whole."""
    mapping = _map_of(view)
    if mapping is not None:
        mapping.touched += view.nbytes + _FAULT
        _release(mapping, beyond=MOST_RESIDENT)  # of what was read before
    return view


def is_mapped(images: Tensor) -> bool:
    """Whether a tensor, or the one it is a view of, came from `map_images`."""
    return _map_of(images) is not None


def _map_of(images: Tensor) -> _Map | None:
    if images.device.type != "cpu" or not _MAPS:
        return None
    return _MAPS.get(images.untyped_storage().data_ptr())


def _release(mapping: _Map, *, beyond: int) -> None:
    if mapping.touched > beyond:
        mapping.touched = 0
        _advise(mapping, "MADV_DONTNEED")  # still in the page cache, if there is room


def _advise(mapping: _Map, advice: str, part: Tensor | None = None) -> None:
    """Tell the kernel, where it can be told (not on Windows)."""
    option = getattr(mmap, advice, None)
    if option is None:
        return
    if part is None:
        mapping.madvise(option)
        return
    offset, size = int(part.storage_offset()), part.numel()  # of bytes
    start = offset // mmap.PAGESIZE * mmap.PAGESIZE
    mapping.madvise(option, start, offset + size - start)
