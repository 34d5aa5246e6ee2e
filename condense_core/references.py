"""Reference rows: real images under the recipe a condensed set is judged by."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from condense_core.config.strict import at_least
from condense_core.coresets import CORESETS, check_selection, select
from condense_core.data import ImageData, PixelStatistics
from condense_core.errors import ConfigError
from condense_core.evaluate import EvaluationReport, evaluate, require_network
from condense_core.seeding import derive_seed

FULL = "full"
REFERENCES = (*CORESETS, FULL)

OnRepeat = Callable[[int, float], None]


def evaluate_reference(
    name: str,
    train: ImageData,
    test: ImageData,
    *,
    images_per_class: int,
    statistics: PixelStatistics,
    device: torch.device,
    seed: int = 0,
    repeats: int = 20,
    selection_width: int | None = None,
    selection_steps: int | None = None,
    full_max_steps: int | None = None,
    on_repeat: OnRepeat | None = None,
    completed: Sequence[float] = (),
    **settings: Any,
) -> EvaluationReport:
    """Evaluate networks trained on real images chosen by a reference method.

    ``random`` draws a new subset for every repeat, so that its spread includes the luck
    of the draw; the deterministic methods select once.

    Args:
        name: One of `REFERENCES`.
        train: Real images to choose from.
        test: Test images.
        images_per_class: Images to choose of each class; ignored by ``full``.
        statistics: Normalisation, the same for every row of a table.
        device: Where to train.
        seed: Of selection and training.
        repeats: Networks.
        selection_width: Channels of the network whose features select.
        selection_steps: Cap on its training steps.
        full_max_steps: Cap on the training steps of ``full``; recorded in the report.
        on_repeat: Called with (repeat, accuracy).
        completed: Accuracies of repeats already done.
        **settings: Recipe, network, width, flip and, but for ``full``, max_steps, as
            for `evaluate`.

    Raises:
        ConfigError: Unknown name or setting, or too few selection steps.
        DataError: A class has too few images.
    """
    settings = {
        "seed": seed,
        "device": device,
        "statistics": statistics,
        "on_repeat": on_repeat,
        **settings,
    }
    if name == FULL:
        return evaluate(
            train,
            test,
            repeats=repeats,
            max_steps=full_max_steps,
            completed=completed,
            **settings,
        )
    if name not in CORESETS:
        raise ConfigError(
            f"unknown reference {name!r}: choose from {', '.join(REFERENCES)}"
        )

    # Before minutes of choosing, not after.
    network, width = settings.get("network", "convnet"), settings.get("width")
    require_network(network, width, train)
    at_least("repeats", repeats, 1)
    check_selection(name, train, images_per_class, max_steps=selection_steps)

    def subset(repeat: int) -> ImageData:
        return select(
            name,
            train,
            images_per_class,
            seed=derive_seed(seed, "select", repeat),
            network_width=selection_width,
            max_steps=selection_steps,
            statistics=statistics,
            device=device,
        )

    if name != "random":
        return evaluate(
            subset(0), test, repeats=repeats, completed=completed, **settings
        )
    accuracies = list(completed)[:repeats]
    seconds = 0.0
    for repeat in range(min(len(accuracies), repeats - 1), repeats):
        report = evaluate(
            subset(repeat),
            test,
            repeats=repeat + 1,
            completed=accuracies,
            **settings,
        )
        accuracies = list(report.accuracies)
        seconds += report.seconds
    return replace(report, seconds=seconds)
