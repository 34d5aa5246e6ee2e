"""What subcommands share: words that are paths, the splits to judge by, reports."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condense_core.config import CondenseConfig
from condense_core.data import ImageData
from condense_core.errors import ConfigError
from condense_core.runlog import atomic_write_text
from condense_core.runs.experiment import load_splits


def is_stored_set(what: str) -> bool:
    """Whether a command-line word names a file or folder, not a reference."""
    return os.path.exists(what) or is_path(what) or Path(what).suffix != ""


def is_path(word: str) -> bool:
    """Whether a command-line word has a path separator, which no name has."""
    return "/" in word or os.sep in word


def read_splits(
    name: str,
    *,
    data_root: Path | None,
    download: bool,
    like: Mapping[str, Any],
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: Any = None,
    cache: Path | None = None,
    skip_corrupt: bool = False,
) -> tuple[ImageData, ImageData, str | None]:
    """Training and test images of a named set, read as those of an artefact were.

    Args:
        name: A data set.
        data_root: Its folder.
        download: Whether torchvision may fetch missing files.
        like: Configuration of the artefact; empty without one. It knows how its images
            were resized, and by its seed which were held out for testing.
        image_size: (H, W), in place of the artefact's.
        channels: 1 or 3, in place of the artefact's.
        classes: Value of ``data.classes``, in place of the artefact's.
        cache: As for `condense_core.runs.experiment.load_splits`.
        skip_corrupt: Likewise.

    Returns:
        As `condense_core.runs.experiment.load_splits`.

    Raises:
        ConfigError: The configuration of the artefact is not valid.
        DataError: The data set is unknown or cannot be read.
    """
    data = like.get("data")
    data = data if isinstance(data, dict) else {}
    config = CondenseConfig.from_dict(
        {
            "seed": like.get("seed", 0),
            "data": {
                "name": name,
                "image_size": image_size or data.get("image_size"),
                "channels": channels or data.get("channels"),
                "classes": classes or data.get("classes"),
            },
        }
    )
    return load_splits(
        config,
        data_root=data_root,
        download=download,
        cache=cache,
        skip_corrupt=skip_corrupt,
    )


def check_target(target: str | None) -> None:
    """Refuse a report nobody can write before the training, not after.

    Raises:
        ConfigError: See `check_folder`, or it is a folder itself.
    """
    if target not in (None, "-"):
        check_folder("--json", Path(str(target)))
        if Path(str(target)).is_dir():
            raise ConfigError(f"--json {target} is a folder: name a file in it")


def check_folder(option: str, file: Path) -> None:
    """Refuse a file whose folder does not exist or cannot be written to.

    Raises:
        ConfigError: See above.
    """
    folder = file.absolute().parent
    if not os.path.isdir(folder):
        raise ConfigError(
            f"{option} {file}: its folder does not exist; make it or choose another"
        )
    check_writable(option, folder)


def check_writable(option: str, folder: Path) -> None:
    """Refuse a folder that cannot be written to, nor made if it is missing.

    Raises:
        ConfigError: See above.
    """
    near = folder.absolute()
    while not os.path.lexists(near):
        near = near.parent
    if not os.path.isdir(near):
        raise ConfigError(f"{option} {folder}: {near} is no folder; choose another")
    if not os.access(near, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{option} {folder}: no permission to write to {near}; choose another "
            "place or change its permissions"
        )


def write_json(target: str | None, content: Any) -> None:
    """Write a report to a file, to stdout (``-``) or nowhere (None).

    Raises:
        RunError: The file cannot be written.
    """
    if target is None:
        return
    text = json.dumps(content, indent=2, ensure_ascii=False)
    if target == "-":
        print(text)
        return
    atomic_write_text(target, text + "\n")
