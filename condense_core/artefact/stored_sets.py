"""Small training sets from files: artefacts, exports, any folder of images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from condense_core.artefact import CondensedDataset
from condense_core.artefact.export import safe_file_name
from condense_core.data import ImageData, PixelStatistics, as_image_data, to_unit
from condense_core.data.readers.imagefolder import read_class_folders
from condense_core.data.readers.request import Request, readable
from condense_core.errors import ArtefactError, DataError

ARTEFACT = ".safetensors"
KINDS = (
    f"an artefact ({ARTEFACT}), an .npz or .pt file, or a folder of CLASS/*.png "
    "(condense export --format imagefolder)"
)


@dataclass(frozen=True, slots=True)
class StoredSet:
    """Images to train on, with the normalisation they came with, if any."""

    data: ImageData | CondensedDataset
    statistics: PixelStatistics | None
    config: dict[str, object]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.data.image_shape

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [0, 1] and labels (N,)."""
        if isinstance(self.data, CondensedDataset):
            return self.data.images()
        return to_unit(self.data.images), self.data.labels

    def fingerprint(self) -> str:
        """SHA-256 of all that decides the images."""
        if isinstance(self.data, CondensedDataset):
            return self.data.digest
        return self.data.fingerprint()


def load_stored_set(path: Path, classes: tuple[str, ...]) -> StoredSet:
    """Read a training set.

    Args:
        path: A ``.safetensors`` artefact, an ``.npz`` or ``.pt`` export, or a folder
            of CLASS/*.png (directly, or below ``train``).
        classes: Class names of the data set to test on, in label order; class folders
            are matched to them by name.

    Raises:
        DataError: Missing, unreadable, or classes that do not fit.
        ArtefactError: See `CondensedDataset.load`.
    """
    with readable(str(path)):
        if path.is_dir():
            return StoredSet(_folder(path, classes), None, {})
        if not path.exists():
            raise DataError(f"{path} does not exist: name {KINDS}")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _arrays(path, _read_npz(path))
    if suffix == ".pt":
        return _arrays(path, _read_pt(path))
    try:
        condensed = CondensedDataset.load(path)
    except ArtefactError as error:
        if suffix == ARTEFACT:
            raise
        raise ArtefactError(f"{path} is no artefact ({error}): name {KINDS}") from error
    config = condensed.metadata.get("config")
    return StoredSet(
        condensed, condensed.statistics, config if isinstance(config, dict) else {}
    )


def _folder(path: Path, classes: tuple[str, ...]) -> ImageData:
    folder = path / "train" if (path / "train").is_dir() else path
    if not any(entry.is_dir() for entry in folder.iterdir()):
        raise DataError(f"{folder} has no class folders: name {KINDS}")
    request = Request(
        name=str(path),
        split="train",
        data_root=path,
        download=False,
        image_size=None,
        channels=None,
    )
    data = read_class_folders(folder, request)
    known = {safe_file_name(name): label for label, name in enumerate(classes)}
    if all(name in known for name in data.classes):
        positions = torch.tensor([known[name] for name in data.classes])
    elif len(data.classes) == len(classes):
        positions = torch.arange(len(classes))
    else:
        odd = next(name for name in data.classes if name not in known)
        raise DataError(
            f"class folder {odd!r} of {path} is not a class of the data set "
            f"({', '.join(classes[:3])}, ...): rename it"
        )
    return ImageData(
        images=data.images,
        labels=positions[data.labels],
        classes=classes,
        name=str(path),
    )


def _arrays(path: Path, arrays: dict[str, object]) -> StoredSet:
    try:
        images, labels = np.asarray(arrays["images"]), np.asarray(arrays["labels"])
        names = arrays.get("classes")
    except KeyError as error:
        raise DataError(
            f"{path} has no array {error}: write images and labels"
        ) from None
    if path.suffix.lower() == ".npz" and images.ndim == 4:
        images = images.transpose(0, 3, 1, 2)
    if names is not None:
        names = tuple(str(name) for name in np.asarray(names).ravel())
    data = as_image_data(
        (np.ascontiguousarray(images), labels), classes=names, name=path.name
    )
    statistics = None
    if "mean" in arrays and "std" in arrays:
        mean, std = np.asarray(arrays["mean"]), np.asarray(arrays["std"])
        channels = (data.image_shape[0],)
        if mean.shape != channels or std.shape != channels:
            raise DataError(
                f"{path} has mean of shape {mean.shape} and std of shape {std.shape}: "
                f"write one value for each of the {channels[0]} channels, or neither"
            )
        statistics = PixelStatistics(tuple(mean.tolist()), tuple(std.tolist()))
    return StoredSet(data, statistics, {})


def _read_npz(path: Path) -> dict[str, object]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # damaged archives raise almost anything
        raise DataError(
            f"cannot read {path} ({type(error).__name__}): export it again"
        ) from error


def _read_pt(path: Path) -> dict[str, object]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise DataError(
            f"cannot read {path} ({type(error).__name__}): export it again"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no mapping: export it again")
    return content
