"""One cell: train a row on the whole stream and measure it."""

import platform
import random
import time
import warnings
from dataclasses import asdict
from importlib import metadata
from typing import Any

import numpy as np
import torch

from condense_core.versions import library_versions
from continual_lib.measure import (
    Stopwatch,
    correct_by_class,
    peak_memory,
    reset_peak_memory,
    summarise,
)
from continual_lib.networks import build_model
from continual_lib.results import Cell, Config
from continual_lib.strategies import build_learner
from continual_lib.streams import CLASSES, Data, class_order, split

warnings.filterwarnings("ignore", message="no QP solver")  # at import of Avalanche


def run_cell(
    cell: Cell, config: Config, data: Data, device: str = "cpu"
) -> dict[str, Any]:
    """Train one row on the whole stream; the content of its JSON file."""
    # Avalanche warns of its own deprecations and switches the filter on as it does.
    with warnings.catch_warnings(record=True) as caught:
        result = _run_cell(cell, config, data, device)
    for warning in caught:
        if "avalanche/" not in warning.filename:
            warnings.warn_explicit(
                warning.message, None, warning.filename, warning.lineno
            )
    return result


def _run_cell(cell: Cell, config: Config, data: Data, device: str) -> dict[str, Any]:
    torch.manual_seed(cell.seed)
    random.seed(cell.seed)
    np.random.seed(cell.seed)  # noqa: NPY002 - Avalanche draws from it
    order = class_order(cell.seed)
    stream = split(data, config.experiences, order).train_stream
    model = build_model(config.network, data, cell.seed)
    reset_peak_memory()
    start = time.perf_counter()
    learner = build_learner(cell, config, data, model, device)
    watch = learner.plugin and Stopwatch(learner.plugin, "after_training_exp")
    correct, stored, evaluating = [], [], 0.0
    for stage in [stream] if cell.row == "joint" else list(stream):
        learner.strategy.train(stage, num_workers=0)
        stored.append(learner.stored())
        paused = time.perf_counter()
        correct.append(correct_by_class(learner.strategy.model, data.test, device))
        evaluating += time.perf_counter() - paused

    size = CLASSES // config.experiences
    groups = [order[first : first + size] for first in range(0, CLASSES, size)]
    totals = torch.tensor(data.test.targets).bincount(minlength=CLASSES)
    return {
        **asdict(cell),
        "config": asdict(config),
        **summarise(torch.stack(correct), totals, groups),
        "class_order": order,
        "stored_bytes": max(stored),
        "stored_bytes_after": stored,
        "seconds": time.perf_counter() - start - evaluating,
        "seconds_condensing": watch.seconds if watch else 0.0,
        "peak_rss_bytes": peak_memory(),
        "threads": torch.get_num_threads(),
        "device": device,
        "machine": platform.machine(),
        "versions": library_versions()
        | {"avalanche": metadata.version("avalanche-lib")},
    }
