"""What is measured of a run: hits of each class, accuracies, seconds, memory.

Shape legend: E experiences, Y classes.
"""

import re
import resource
import sys
import time
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from continual_lib.streams import CLASSES, Pixels


class Stopwatch:
    """Wraps a callback of a plugin and adds up its seconds."""

    def __init__(self, plugin: Any, callback: str) -> None:
        self.seconds = 0.0
        self._wrapped = getattr(plugin, callback)
        setattr(plugin, callback, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._wrapped(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start


@torch.no_grad()
def correct_by_class(model: nn.Module, test: Pixels, device: str) -> Tensor:
    """Rightly classified test images of each class (Y,), among all classes."""
    was_training = model.training
    model.eval()
    hits = []
    for images, labels in zip(
        test.images_NCHW.split(512), torch.tensor(test.targets).split(512), strict=True
    ):
        predicted = model(images.to(device).float() / 255).argmax(dim=1).cpu()
        hits.append(labels[predicted == labels])
    model.train(was_training)
    return torch.cat(hits).bincount(minlength=CLASSES)


def summarise(correct_EY: Tensor, totals_Y: Tensor, groups: list[list[int]]) -> dict:
    """Accuracies and forgetting from the hits of each class after each experience."""
    after = [
        [float(row[group].sum() / totals_Y[group].sum()) for group in groups]
        for row in correct_EY
    ]
    seen = accumulate(groups)  # the classes up to and with each experience
    last, complete = after[-1], len(after) == len(groups)  # joint: only one training
    lost = [row[index] - last[index] for index, row in enumerate(after[:-1])]
    return {
        "accuracy": float(correct_EY[-1].sum() / totals_Y.sum()),
        "accuracy_seen": [
            float(row[classes].sum() / totals_Y[classes].sum())
            for row, classes in zip(correct_EY, seen, strict=True)
        ]
        if complete
        else None,
        "accuracy_by_experience": after,
        "forgetting": float(np.mean(lost)) if complete else None,
    }


def reset_peak_memory() -> None:
    with suppress(OSError):  # not Linux: the peak is then that of all rows so far
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])
    except (OSError, TypeError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
