"""Which generator draws how many images of which class, all classes alike."""

from collections.abc import Collection, Sequence

import torch

from avalanche_plugin.pixels import Key


def balanced_labels(
    keys: Sequence[Sequence[Key]],
    count: int,
    rng: torch.Generator,
    *,
    only: Collection[Key] | None = None,
) -> list[list[int]]:
    """The labels that each generator draws, so that classes are equally frequent.

    Args:
        keys: (label, task) of the classes of each generator. Generators that have the
            same class take turns.
        count: Number of images. If it is not a multiple of the number of classes, the
            classes that get one more are others each time.
        rng: On the CPU.
        only: The classes to draw, at least one that there is; None is all.

    Returns:
        For each generator one label per image, as its own labels count from 0.
    """
    holders: dict[Key, list[tuple[int, int]]] = {}
    for index, own_keys in enumerate(keys):
        for label, key in enumerate(own_keys):
            if only is not None and key not in only:
                continue
            holders.setdefault(key, []).append((index, label))
    of_class = list(holders.values())
    first = int(torch.randint(len(of_class), (1,), generator=rng))
    wanted: list[list[int]] = [[] for _ in keys]
    for i in range(count):
        candidates = of_class[(first + i) % len(of_class)]
        index, label = candidates[i // len(of_class) % len(candidates)]
        wanted[index].append(label)
    return wanted
