"""What every reader is given, and what several of them need."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from condense_core.config.strict import nearest
from condense_core.data.options import CLASSES
from condense_core.errors import DataError

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `load_source` was asked for."""

    name: str
    split: Split
    data_root: Path | None
    download: bool
    image_size: tuple[int, int] | None
    channels: int | None
    classes: tuple[str, ...] | None = None
    cache: Path | None = None
    skip_corrupt: bool = False

    def folder(self, *, may_create: bool = False) -> Path:
        """The data root, checked."""
        if self.data_root is None:
            raise DataError(
                f"data set {self.name!r} is read from a folder and none was given: "
                "use --data-root DIR"
            )
        root = self.data_root.expanduser()
        if root.is_dir() or (may_create and not root.exists()):
            return root
        what = "is a file, not a folder" if root.is_file() else "does not exist"
        remedy = "give its folder" if root.is_file() else "check --data-root"
        raise DataError(f"data root {str(root)!r} {what}: {remedy}")


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Turn what the system refuses to read into a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{where}: cannot read {str(error.filename or 'its files')!r} "
            f"({error.strerror or error}): check the folder and its permissions"
        ) from error


def require_module(module: str, *, install: str) -> Any:
    """An optional module, or `DataError` saying how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(f"{error}: pip install {install}") from error


def choose_classes(
    known: Sequence[str], wanted: Sequence[str] | None, *, where: str
) -> tuple[list[str], Tensor]:
    """The classes to read, in label order.

    Args:
        known: Names of all classes.
        wanted: Names of those to keep, in the order of their labels; None for all.
        where: For messages.

    Returns:
        The names of the classes kept, and for each known class its new label or -1.

    Raises:
        DataError: A name is unknown, or wanted twice.
    """
    if wanted is None:
        return list(known), torch.arange(len(known))
    position = {name: index for index, name in enumerate(known)}
    labels = torch.full((len(known),), -1)
    for label, name in enumerate(wanted):
        if name not in position:
            raise DataError(
                f"{where}: no class {name!r}{nearest(name, known)} among its "
                f"{len(known)}: correct the list, {CLASSES}"
            )
        if labels[position[name]] >= 0:
            raise DataError(
                f"the list of classes names {name!r} twice: name each class once"
            )
        labels[position[name]] = label
    return list(wanted), labels


def class_positions(
    names: Sequence[str], known: Sequence[str], *, where: str
) -> list[int]:
    """Position of each class name of a test split in the training split's."""
    if list(names) == list(known):  # also where two classes share a name
        return list(range(len(known)))
    position = {name: index for index, name in enumerate(known)}
    extra = [name for name in names if name not in position]
    if extra:
        raise DataError(
            f"{where}: class {extra[0]!r} is not among the {len(known)} training "
            f"classes ({', '.join(known[:3])}, ...): rename or remove it"
        )
    return [position[name] for name in names]
