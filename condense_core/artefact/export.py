"""Write a condensed set as ordinary images or arrays: the very set of `images()`."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from condense_core.artefact import CondensedDataset
from condense_core.data import to_bytes
from condense_core.data.png import to_png
from condense_core.errors import ConfigError, RunError
from condense_core.runlog import atomic_write_bytes

FILES = ("npz", "pt")  # formats that are one file each
RULE = (
    "npz and pt write a file and add their suffix if it is missing, png and "
    "imagefolder fill a new or empty folder"
)
_FILE_SUFFIXES = (".npz", ".pt", ".png")


def export(condensed: CondensedDataset, *, format: str, out: str | Path) -> Path:
    """Export the fixed set.

    Args:
        condensed: The artefact.
        format: ``npz`` (images uint8 (N, H, W, C), labels, classes, mean, std), ``pt``
            (the same as tensors, images (N, C, H, W); loads with weights_only),
            ``imagefolder`` (OUT/CLASS/*.png) or ``png`` (flat files named by label,
            class and number).
        out: As `RULE` has it.

    Returns:
        What was written.

    Raises:
        ConfigError: The format is unknown.
        RunError: ``out`` is no place for it, or the disk is full.
    """
    if format not in FORMATS:
        raise ConfigError(
            f"unknown export format {format!r}: choose from {', '.join(FORMATS)}"
        )
    out = _place(format, Path(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        FORMATS[format](condensed, out)
    except OSError as error:
        raise RunError(
            f"cannot write {out} ({error.strerror}): check that its folder is "
            "writable, or choose another --out"
        ) from error
    return out


def _place(format: str, out: Path) -> Path:
    """Where an export goes, by `RULE`."""
    suffix = f".{format}" if format in FILES else ""
    given = out.suffix.lower()
    if given != suffix and given in _FILE_SUFFIXES:
        remedy = f"end it in {suffix}" if suffix else "leave its suffix out"
        raise RunError(f"--out {out} does not fit --format {format} ({RULE}): {remedy}")
    if suffix and out.is_dir():
        raise RunError(f"--out {out} is a folder ({RULE}): name a file in it")
    return out if given == suffix else out.with_name(out.name + suffix)


def _npz(condensed: CondensedDataset, out: Path) -> None:
    images, labels = condensed.images()
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=to_bytes(images).permute(0, 2, 3, 1).cpu().numpy(),
        labels=labels.cpu().numpy(),
        classes=np.array(condensed.classes),
        mean=np.array(condensed.statistics.mean),
        std=np.array(condensed.statistics.std),
    )
    atomic_write_bytes(out, buffer.getvalue())


def _pt(condensed: CondensedDataset, out: Path) -> None:
    images, labels = condensed.images()
    buffer = io.BytesIO()
    torch.save(
        {
            "images": to_bytes(images).cpu(),
            "labels": labels.cpu(),
            "classes": list(condensed.classes),
            "mean": list(condensed.statistics.mean),
            "std": list(condensed.statistics.std),
        },
        buffer,
    )
    atomic_write_bytes(out, buffer.getvalue())


def _imagefolder(condensed: CondensedDataset, out: Path) -> None:
    names = [safe_file_name(name) for name in condensed.classes]
    if len(set(names)) < len(names):
        names = [f"{label:05d}-{name}" for label, name in enumerate(names)]
    _write_folder(condensed, out, lambda label, k: f"{names[label]}/{k:05d}.png")


def _png(condensed: CondensedDataset, out: Path) -> None:
    names = [safe_file_name(name) for name in condensed.classes]
    _write_folder(
        condensed, out, lambda label, k: f"{label:05d}-{names[label]}-{k:05d}.png"
    )


def _write_folder(
    condensed: CondensedDataset, out: Path, name: Callable[[int, int], str]
) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not an empty folder: choose another --out")
    images, labels = condensed.images()
    for index, label in enumerate(labels.tolist()):
        path = out / name(label, index % condensed.images_per_class)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, to_png(images[index]))


def safe_file_name(name: str) -> str:
    """A class name as a file name: no separators, no hidden or parent folders."""
    safe = "".join(c if c.isalnum() or c in " -_.+" else "_" for c in name).strip(". ")
    return safe or "_"


FORMATS: dict[str, Callable[[CondensedDataset, Path], None]] = {
    "png": _png,
    "npz": _npz,
    "pt": _pt,
    "imagefolder": _imagefolder,
}
