"""How many updates fit a budget of time.

The schedule of the learning rate depends on the number of updates, so a budget is
settled before the first of them: `schedule` writes it into ``loop.restarts`` and
``loop.network_updates``.
"""

from dataclasses import replace
from pathlib import Path

import torch

from condense_core.config import CondenseConfig
from condense_core.data import ImageData
from condense_core.errors import ConfigError
from condense_core.runs.estimate import Estimate, in_words, measure

KEPT_FREE = 0.1  # of a budget, for what the few timed steps did not see


def schedule(
    train: ImageData,
    test: ImageData | None,
    config: CondenseConfig,
    *,
    out: Path | None,
    device: torch.device,
    world: int = 1,
) -> tuple[CondenseConfig, Estimate | None]:
    """Estimate a run and, with ``time_budget``, set its number of updates.

    A run that already started in ``out`` keeps the numbers it was given: the same
    command resumes it.

    Args:
        train: Training images.
        test: Test images, if the run ends in an evaluation.
        config: As the user wrote it.
        out: Run directory, if any.
        device: Where the run will be.
        world: Processes that will share it.

    Returns:
        The resolved configuration, and the estimate unless the run is resumed.

    Raises:
        ConfigError: The budget does not even hold what is not the loop.
    """
    earlier = _started_with(out, config)
    if earlier is not None:
        return earlier, None
    estimate = measure(train, test, config, device=device, world=world)
    if config.time_budget is None or not config.loop.total:
        return config, estimate
    config = fill_budget(config, estimate)
    loop = config.loop
    return config, replace(estimate, outers=loop.restarts * loop.network_updates)


def fill_budget(config: CondenseConfig, estimate: Estimate) -> CondenseConfig:
    """``config`` with as many outer iterations as fit its ``time_budget``.

    Restarts of phi keep about their length; a tenth of the budget is kept free.

    Raises:
        ConfigError: Not one fits.
    """
    assert config.time_budget is not None
    spent = sum(estimate.fixed.values())
    left = config.time_budget * (1 - KEPT_FREE) - spent
    if left < estimate.outer:
        least = (spent + estimate.outer) / (1 - KEPT_FREE)
        phases = ", ".join(
            f"{name} {in_words(seconds)}" for name, seconds in estimate.fixed.items()
        )
        raise ConfigError(
            f"time_budget is {config.time_budget:g} s, but all except condensing takes "
            f"about {in_words(spent)} ({phases}): give at least {least:.0f} s, or "
            "lower teacher.steps, pretrain.steps, evaluate.repeats or "
            "evaluate.baselines"
        )
    outers = int(left / estimate.outer)
    restarts = max(1, round(outers / config.loop.network_updates))
    loop = replace(
        config.loop, restarts=restarts, network_updates=max(1, outers // restarts)
    )
    return replace(config, loop=loop)


def _started_with(out: Path | None, config: CondenseConfig) -> CondenseConfig | None:
    """The configuration in a run directory, if only a budget can have changed it."""
    if out is None or not (out / "config.yaml").is_file():
        return None
    old = CondenseConfig.from_yaml(out / "config.yaml")
    if config.time_budget is None:
        return old if old == config else None
    same_counts = replace(
        old.loop,
        restarts=config.loop.restarts,
        network_updates=config.loop.network_updates,
    )
    return old if replace(old, loop=same_counts) == config else None
