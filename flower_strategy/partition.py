"""Split a data set over clients: IID, Dirichlet over labels, or k classes per client.

The indices are those of flwr-datasets 0.6 for the same seed, so results are comparable
with those of its users. That package and its dependencies take half a gigabyte, whereas
splitting labels needs only NumPy. Images are not looked at.

Shape legend: N images, Y classes that occur, P partitions (clients).
"""

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from condense_core.errors import ConfigError, DataError

Indices = NDArray[np.int64]

MAX_DRAWS = 11  # as in flwr-datasets: a first draw and ten more
MIN_SIZE = 10  # images of the smallest Dirichlet partition, as in flwr-datasets
SCHEMES = "iid, dirichlet-ALPHA as in dirichlet-0.1, or classes-K as in classes-2"


def partition(
    labels: ArrayLike, num_partitions: int, scheme: str, seed: int = 42
) -> list[Indices]:
    """Split by a scheme given as text, as in a configuration file.

    Args:
        labels: Integers (N,).
        num_partitions: P.
        scheme: ``iid``, ``dirichlet-0.1`` or ``classes-2``.
        seed: For every random draw.

    Returns:
        P arrays of positions in 0..N-1, int64.

    Raises:
        ConfigError: The scheme is unknown, or does not fit the labels.
        DataError: The labels are not a list of integers.

    Example:
        >>> [part.tolist() for part in partition([0, 0, 1, 1], 2, "classes-1", seed=3)]
        [[2, 3], [0, 1]]
    """
    kind, separator, text = scheme.partition("-")
    if kind == "iid" and not separator:
        return iid(len(_checked(labels)), num_partitions, seed=seed)
    if kind == "dirichlet":
        alpha = _number(float, text, scheme)
        return dirichlet(labels, num_partitions, alpha, seed=seed)
    if kind == "classes":
        k = _number(int, text, scheme)
        return classes_per_client(labels, num_partitions, k, seed=seed)
    raise ConfigError(f"unknown partition scheme {scheme!r}: choose {SCHEMES}")


def iid(num_images: int, num_partitions: int, *, seed: int = 42) -> list[Indices]:
    """Shuffle the images, then cut them into parts of equal size.

    As ``FederatedDataset`` does by default: ``Dataset.shuffle(seed)`` and then
    ``IidPartitioner``.

    Args:
        num_images: N.
        num_partitions: P; the first N mod P partitions have one more image.
        seed: For the shuffle.

    Raises:
        ConfigError: There are more partitions than images, or less than one.
    """
    _check_count(num_images, num_partitions)
    order = np.random.default_rng(seed).permutation(
        np.arange(num_images, dtype=np.int64)
    )
    return list(np.array_split(order, num_partitions))


def dirichlet(
    labels: ArrayLike,
    num_partitions: int,
    alpha: float,
    *,
    seed: int = 42,
) -> list[Indices]:
    """Divide each class by fractions drawn from a symmetric Dirichlet distribution.

    The split of Hsu et al. 2019 in the form of Li et al. 2021 (NIID-Bench), as in
    ``DirichletPartitioner`` by default. With a small ``alpha`` most clients lack most
    classes. Everything is drawn again until each partition has `MIN_SIZE` images, at
    most `MAX_DRAWS` times.

    Args:
        labels: Integers (N,).
        num_partitions: P.
        alpha: Concentration, above 0.
        seed: For fractions and order.

    Raises:
        ConfigError: A number is out of range, or a partition was always too small.
        DataError: The labels are not a list of integers.
    """
    targets = _checked(labels)
    _check_count(len(targets), num_partitions)
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ConfigError(f"alpha is {alpha}: choose a number above 0, such as 0.1")
    if MIN_SIZE * num_partitions > len(targets):
        raise ConfigError(
            f"{num_partitions} clients cannot have {MIN_SIZE} of {len(targets)} images "
            "each: lower the number of clients"
        )
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(targets == label) for label in np.unique(targets)]
    for _ in range(MAX_DRAWS):
        parts: list[list[Indices]] = [[] for _ in range(num_partitions)]
        for member in members:
            fractions = rng.dirichlet(np.full(num_partitions, float(alpha)))
            bounds = (np.cumsum(fractions) * len(member)).astype(np.int64)[:-1]
            for part, piece in zip(parts, np.split(member, bounds), strict=True):
                part.append(piece)
        if min(sum(map(len, part)) for part in parts) >= MIN_SIZE:
            return _shuffled([np.concatenate(part) for part in parts], rng)
    raise ConfigError(
        f"none of {MAX_DRAWS} Dirichlet draws with alpha {alpha} gave each of "
        f"{num_partitions} clients {MIN_SIZE} images: raise alpha, or lower the number "
        "of clients"
    )


def classes_per_client(
    labels: ArrayLike, num_partitions: int, k: int, *, seed: int = 42
) -> list[Indices]:
    """Exactly ``k`` classes per client; clients with the same class share it evenly.

    ``PathologicalPartitioner`` with its default ``class_assignment_mode="random"``:
    every client draws its classes independently. With few clients some classes may not
    be drawn at all; their images are left out, and a warning names them.

    Args:
        labels: Integers (N,).
        num_partitions: P.
        k: Classes per client, 1 to Y.
        seed: For classes and order.

    Raises:
        ConfigError: ``k`` is out of range, or a class has fewer images than clients.
        DataError: The labels are not a list of integers.
    """
    targets = _checked(labels)
    _check_count(len(targets), num_partitions)
    present, counts = np.unique(targets, return_counts=True)
    if not 1 <= k <= len(present):
        raise ConfigError(
            f"{k} classes per client are not possible with {len(present)} classes: "
            f"choose 1 to {len(present)}"
        )
    rng = np.random.default_rng(seed)
    owned = np.stack(
        [
            np.isin(present, rng.choice(present, size=k, replace=False))
            for _ in range(num_partitions)
        ]
    )
    owners = owned.sum(axis=0)
    parts: list[list[Indices]] = [[] for _ in range(num_partitions)]
    for column, label in enumerate(present.tolist()):
        if owners[column] > counts[column]:
            raise ConfigError(
                f"class {label} has {counts[column]} images for {owners[column]} "
                "clients: lower the number of clients or of classes per client"
            )
        if not owners[column]:
            continue
        pieces = np.array_split(np.flatnonzero(targets == label), owners[column])
        for client, piece in zip(
            np.flatnonzero(owned[:, column]).tolist(), pieces, strict=True
        ):
            parts[client].append(piece)
    if not owners.all():
        warnings.warn(
            f"no client has the classes {present[owners == 0].tolist()}: their images "
            "are left out; use more clients or classes per client",
            stacklevel=2,
        )
    return _shuffled([np.concatenate(part) for part in parts], rng)


def _shuffled(parts: list[Indices], rng: np.random.Generator) -> list[Indices]:
    """Shuffle each part, which is sorted by class until then."""
    for part in parts:
        rng.shuffle(part)
    return parts


def _checked(labels: ArrayLike) -> NDArray[Any]:
    targets = np.asarray(labels)
    if targets.ndim != 1 or targets.size == 0 or targets.dtype.kind not in "iu":
        raise DataError(
            f"labels of shape {targets.shape} and type {targets.dtype} cannot be "
            "split: give one integer per image"
        )
    return targets


def _check_count(num_images: int, num_partitions: int) -> None:
    if not 1 <= num_partitions <= num_images:
        raise ConfigError(
            f"{num_images} images cannot be split over {num_partitions} clients: "
            f"choose 1 to {num_images} clients"
        )


def _number(kind: type[float] | type[int], text: str, scheme: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(
            f"partition scheme {scheme!r} has no number: choose {SCHEMES}"
        ) from None
