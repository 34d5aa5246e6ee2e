"""torchvision's sets: their arrays are used as they are, no sample is decoded."""

from dataclasses import dataclass
from pathlib import Path

import torch

from condense_core.data import ImageData
from condense_core.data.readers.request import Request, require_module
from condense_core.errors import DataError


@dataclass(frozen=True, slots=True)
class _TorchvisionSet:
    """How one torchvision class takes its split and lays out ``data``."""

    class_name: str
    files: str  # where torchvision looks below the root, for messages
    to_nchw: tuple[int, ...] | None  # permutation of data's axes; None for (N, H, W)
    labels: str = "targets"
    splits_by_name: bool = False
    classes: tuple[str, ...] | None = None  # None: the class attribute


TORCHVISION_SETS = {
    "mnist": _TorchvisionSet("MNIST", "MNIST/raw (or processed)", None),
    "fashionmnist": _TorchvisionSet("FashionMNIST", "FashionMNIST/raw", None),
    "svhn": _TorchvisionSet(
        "SVHN",
        "train_32x32.mat and test_32x32.mat",
        (0, 1, 2, 3),
        labels="labels",
        splits_by_name=True,
        classes=tuple("0123456789"),
    ),
    "cifar10": _TorchvisionSet("CIFAR10", "cifar-10-batches-py", (0, 3, 1, 2)),
    "cifar100": _TorchvisionSet("CIFAR100", "cifar-100-python", (0, 3, 1, 2)),
}


def read_torchvision(request: Request) -> ImageData:
    """One set of `TORCHVISION_SETS`, in torchvision's own folder layout."""
    row = TORCHVISION_SETS[request.name]
    root = request.folder(may_create=request.download)
    module = require_module("torchvision.datasets", install="torchvision")
    by_name, is_train = {"split": request.split}, {"train": request.split == "train"}
    split = by_name if row.splits_by_name else is_train
    try:
        dataset = getattr(module, row.class_name)(
            str(root), download=request.download, **split
        )
    except ImportError as error:
        raise DataError(f"{request.name}: {error}: pip install scipy") from error
    except Exception as error:  # readers of damaged files raise almost anything
        raise _explain(request, row, root, error) from error
    pixels = torch.as_tensor(dataset.data)
    pixels = pixels.permute(row.to_nchw) if row.to_nchw else pixels[:, None]
    labels = torch.as_tensor(getattr(dataset, row.labels)).long()
    return ImageData(
        images=pixels.contiguous(),
        labels=labels,
        classes=row.classes or tuple(dataset.classes),
        name=request.name,
    )


def _explain(
    request: Request, row: _TorchvisionSet, root: Path, error: Exception
) -> DataError:
    name, where = request.name, f"{row.files} below {str(root)!r}"
    detail = " ".join(str(error).split())[:200] or type(error).__name__
    if request.download:
        return DataError(
            f"{name}: cannot download or read {where} ({detail}): check the connection "
            "and the folder, or fetch the files by hand"
        )
    if "not found" not in str(error).lower():
        return DataError(f"{name}: cannot read {where} ({detail}): fetch it again")
    if any(root.glob("train*.npz")):
        return DataError(
            f"{name}: no {where}, but npz files: read them with --set data.name=npz "
            "(with evaluate --dataset npz)"
        )
    return DataError(
        f"{name}: files missing or damaged, looked for {where}: check --data-root, or "
        "fetch them with --download (never done unasked)"
    )
