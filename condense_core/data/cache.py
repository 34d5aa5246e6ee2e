"""Big image sets decoded once: a mapped uint8 file instead of a million small ones.

``CACHE/SPLIT-KEY/`` holds ``images.u8``, every image (C, H, W) one after another and
sorted by class, and ``cache.json`` with everything else. The key is a digest of the
list of source files, the classes and the image shape: another selection is another
cache, and a changed folder never meets an old one.

While it is written the folder is called ``SPLIT-KEY.partial`` and ``progress.json``
says which parts are safely on disk. A killed writer goes on after the last of them; the
folder takes its final name in one step.

Shape legend: N images, Y classes, C H W image.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from condense_core.data import (
    ImageData,
    KnownFacts,
    PixelStatistics,
    histograms,
    statistics_of_histograms,
)
from condense_core.data.mapped import map_images
from condense_core.data.options import CLASSES
from condense_core.data.readers.decode import Unreadable, require_read
from condense_core.errors import DataError, RunError
from condense_core.runlog import RunLog, atomic_write_text

VERSION = 1
_FACTS = {"counts", "unreadable", "mean", "std", "fingerprint", "changed_ns"}
SPARE_BYTES = 2**26  # left free on the disk beside the cache


@dataclass(frozen=True, slots=True)
class Part:
    """Some images on their way into a cache.

    Attributes:
        images: uint8 (n, C, H, W).
        labels: int64 (n,).
        positions: Where in the cache they belong, int64 (n,) ascending; None for right
            after those before.
        unreadable: Files that gave no image.
    """

    images: Tensor
    labels: Tensor
    positions: Tensor | None = None
    unreadable: Sequence[Unreadable] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a cache is made of.

    Attributes:
        split: Train or test.
        root: Folder of the source files.
        source: Their names; part of the key.
        classes: Class names in label order.
        image_shape: (C, H, W) of every image.
        images: Their number, unreadable ones included.
        parts: From a part number to that part and all after it. Images of parts
            without ``positions`` come sorted by class.
    """

    split: str
    root: Path
    source: Sequence[str]
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    images: int
    parts: Callable[[int], Iterator[Part]]

    def key(self, folder: Path) -> str:
        """Name of the cache below ``folder``."""
        # Relative: a cache inside the folder of its data set can move with it.
        origin = os.path.relpath(self.root.resolve(), folder.resolve())
        text = json.dumps([origin, self.classes, self.image_shape])
        digest = hashlib.sha256(text.encode())
        for name in self.source:
            digest.update(name.encode(errors="surrogateescape") + b"\0")
        return f"{self.split}-{digest.hexdigest()[:16]}"

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        channels, height, width = self.image_shape
        return channels * height * width


@dataclass(slots=True)
class _Progress:
    """What is safely on disk."""

    parts: int = 0
    images: int = 0
    counts: list[int] = field(default_factory=list)
    histograms: list[list[int]] = field(default_factory=list)
    unreadable: list[list[str]] = field(default_factory=list)

    def after(self, part: Part, num_classes: int) -> "_Progress":
        """The progress once a part is written too."""
        counts = torch.bincount(part.labels, minlength=num_classes)
        values = histograms(part.images)
        if self.counts:
            counts = counts + torch.tensor(self.counts)
            values = values + torch.tensor(self.histograms)
        return _Progress(
            parts=self.parts + 1,
            images=self.images + len(part.labels),
            counts=counts.tolist(),
            histograms=values.tolist(),
            unreadable=[*self.unreadable, *map(list, part.unreadable)],
        )


def open_cache(
    folder: Path, plan: Plan, *, name: str, skip_corrupt: bool = False
) -> ImageData:
    """The images of a plan from its cache, which is written first if there is none.

    Args:
        folder: Of all caches; made if it does not exist.
        plan: What the cache holds.
        name: Of the data set, for messages and reports.
        skip_corrupt: Whether files that cannot be read may be left out.

    Returns:
        Images in a mapped file, sorted by class; fingerprint and statistics are known.

    Raises:
        DataError: Files cannot be read; the disk is too full; the cache is of another
            version, damaged or incomplete.
        RunError: The cache cannot be written.
    """
    final = folder / plan.key(folder)
    if not final.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _only_writer(final.with_name(f"{final.name}.lock")):
                if not final.exists():  # else another process wrote it meanwhile
                    _write(final, plan, name=name, skip_corrupt=skip_corrupt)
        except OSError as error:
            raise RunError(
                f"cannot write the cache {str(folder)!r} ({error.strerror or error}): "
                "choose another folder with --cache DIR, or free some space; the same "
                "command goes on where it stopped"
            ) from error
    return _open(final, plan, name=name, skip_corrupt=skip_corrupt)


def _open(final: Path, plan: Plan, *, name: str, skip_corrupt: bool) -> ImageData:
    remedy = f"delete {str(final)!r} to have it written again"
    content = _read_json(final / "cache.json")
    if not isinstance(content, dict):
        raise DataError(f"the cache {str(final)!r} is incomplete: {remedy}")
    if content.get("version") != VERSION:
        raise DataError(
            f"the cache {str(final)!r} has version {content.get('version')!r}, this "
            f"program reads {VERSION}: {remedy}"
        )
    missing = _FACTS - content.keys()
    if missing:
        raise DataError(f"the cache {str(final)!r} lacks {min(missing)!r}: {remedy}")
    if not skip_corrupt:
        require_read([Unreadable(*pair) for pair in content["unreadable"]])
    counts, file = torch.tensor(content["counts"]), final / "images.u8"
    count = int(counts.sum())
    expected = count * plan.image_bytes
    size = file.stat().st_size if file.exists() else 0
    if size != expected or size == 0:
        raise DataError(
            f"the cache {str(file)!r} has {size:,} bytes, not {expected:,}: it was cut "
            f"short; {remedy}"
        )
    data = ImageData(
        images=map_images(file, (count, *plan.image_shape)),
        labels=torch.arange(len(counts)).repeat_interleave(counts),
        classes=plan.classes,
        name=name,
    )
    changed_ns = file.stat().st_mtime_ns
    if changed_ns != content["changed_ns"]:
        # Copied or touched since it was written: look at every byte, once.
        if data.fingerprint() != content["fingerprint"]:
            raise DataError(
                f"the cache {str(file)!r} is damaged, its checksum differs: {remedy}"
            )
        content["changed_ns"] = changed_ns
        if os.access(final, os.W_OK):
            atomic_write_text(final / "cache.json", json.dumps(content))
    statistics = PixelStatistics(tuple(content["mean"]), tuple(content["std"]))
    return data.with_known(KnownFacts(content["fingerprint"], statistics))


def _write(final: Path, plan: Plan, *, name: str, skip_corrupt: bool) -> None:
    partial = final.with_name(f"{final.name}.partial")
    partial.mkdir(exist_ok=True)
    done, clean = _resume(partial, plan, skip_corrupt=skip_corrupt)
    file = partial / "images.u8"
    _require_space(final.parent, plan, file)
    with (
        open(file, "r+b" if file.exists() else "w+b", buffering=0) as target,
        RunLog(
            None,
            total=plan.images,
            description=f"cache {name} {plan.split}",
            resume_step=done.images + len(done.unreadable),
        ) as log,
    ):
        for part in plan.parts(done.parts):
            _put(target, part, done.images, plan.image_bytes)
            os.fsync(target.fileno())  # on disk before progress.json says so
            if part.unreadable and clean is None:
                clean = done  # to come back to, should the files be repaired
            done = done.after(part, len(plan.classes))
            content = {
                "version": VERSION,
                "done": asdict(done),
                "clean": None if clean is None else asdict(clean),
            }
            atomic_write_text(partial / "progress.json", json.dumps(content))
            log.advance(done.images + len(done.unreadable))
        if done.images:
            target.truncate(done.images * plan.image_bytes)
    unreadable = [Unreadable(*pair) for pair in done.unreadable]
    if not skip_corrupt:
        require_read(unreadable)
    if not done.images:
        raise DataError(f"{name}: none of {plan.images} images can be read")
    _finish(partial, final, plan, done)


def _finish(partial: Path, final: Path, plan: Plan, done: _Progress) -> None:
    """Checksum what is on disk, then give the cache its name."""
    file = partial / "images.u8"
    statistics = statistics_of_histograms(torch.tensor(done.histograms))
    counts = torch.tensor(done.counts)
    data = ImageData(
        images=map_images(file, (done.images, *plan.image_shape)),
        labels=torch.arange(len(counts)).repeat_interleave(counts),
        classes=plan.classes,
    )
    content = {
        "version": VERSION,
        "classes": plan.classes,
        "image_shape": plan.image_shape,
        "counts": done.counts,
        "unreadable": done.unreadable,
        "mean": statistics.mean,
        "std": statistics.std,
        "fingerprint": data.fingerprint(),
        "changed_ns": file.stat().st_mtime_ns,
    }
    del data  # some systems rename no folder with a mapped file
    atomic_write_text(partial / "cache.json", json.dumps(content))
    (partial / "progress.json").unlink()
    partial.rename(final)


def _resume(
    partial: Path, plan: Plan, *, skip_corrupt: bool
) -> tuple[_Progress, _Progress | None]:
    """Progress to go on from, and the progress before the first unreadable file."""
    content = _read_json(partial / "progress.json")
    if not isinstance(content, dict) or not {"done", "clean"} <= content.keys():
        return _Progress(), None
    if content.get("version") != VERSION:
        raise DataError(
            f"the unfinished cache {str(partial)!r} has version "
            f"{content.get('version')!r}, this program writes {VERSION}: delete it"
        )
    done = _Progress(**content["done"])
    clean = None if content["clean"] is None else _Progress(**content["clean"])
    if clean is not None and not skip_corrupt:
        done, clean = clean, None  # the files may have been repaired
    file = partial / "images.u8"
    size = file.stat().st_size if file.exists() else 0
    if size < done.images * plan.image_bytes:
        return _Progress(), None
    return done, clean


def _put(target: IO[bytes], part: Part, images: int, image_bytes: int) -> None:
    """Write a part, runs of neighbouring positions together."""
    pixels = part.images.contiguous().numpy().reshape(len(part.images), -1)
    if part.positions is None:
        runs = [(images, 0, len(pixels))]
    else:
        breaks = (part.positions.diff() != 1).nonzero().flatten().add(1).tolist()
        starts = [0, *breaks]
        ends = [*breaks, len(pixels)]
        first = part.positions[starts].tolist()
        runs = list(zip(first, starts, ends, strict=True))
    for position, start, end in runs:
        content = memoryview(pixels[start:end].data).cast("B")
        target.seek(position * image_bytes)
        while content:  # a nearly full disk takes a part and says so in the count
            content = content[target.write(content) :]


def _require_space(folder: Path, plan: Plan, file: Path) -> None:
    total = plan.images * plan.image_bytes
    # What the file occupies, which may be full of holes.
    there = getattr(file.stat(), "st_blocks", 0) * 512 if file.exists() else 0
    needed = max(0, total - there) + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    channels, height, width = plan.image_shape
    what = (
        f"the cache of {plan.images:,} images of {height}x{width} px, {channels} "
        f"channel(s)"
    )
    if free < needed:
        raise DataError(
            f"{what}, needs {needed / 1e9:.2f} GB in {str(folder)!r}, {free / 1e9:.2f} "
            "GB are free: free some, choose another folder with --cache DIR, or fewer "
            f"classes with {CLASSES}"
        )
    if total > SPARE_BYTES:
        print(
            f"writing {what}: {total / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB "
            "are free",
            file=sys.stderr,
        )


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """One process writes, others wait for it; the lock of a killed one is gone."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
