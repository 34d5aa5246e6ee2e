"""Networks trained side by side: one kernel for all of them instead of one for each.

An evaluation trains many small networks on few images, and one such network leaves a
GPU mostly idle. `train_ensemble` stacks their weights and trains them together with
`torch.func` (`model ensembling
<https://pytorch.org/tutorials/intermediate/ensembling.html>`_). Every network keeps the
initialisation, the shuffling and the augmentation that its own seed gives it in
`condense_core.training.train_network`; only the order of floating-point sums differs.

Shape legend: R networks, B batch, N data set, C channels, H height, W width.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from condense_core.augment import SiameseAugment
from condense_core.data import PixelStatistics
from condense_core.errors import ConfigError
from condense_core.networks import FeatureNetwork
from condense_core.seeding import make_generator
from condense_core.training import (
    LEARNING_RATE_DROP,
    Recipe,
    epoch_order,
    planned_steps,
    sgd,
    train_network,
    unit,
)

EnsembleMode = Literal["auto", "vmap", "loop"]
ENSEMBLE_MODES: tuple[str, ...] = get_args(EnsembleMode)

TRIAL_STEPS = 4  # of each way, timed by ``auto`` after as many to warm up


def trained_networks(
    build: Callable[[int], FeatureNetwork],
    seeds: dict[int, int],
    images_NCHW: Tensor,
    labels_N: Tensor,
    *,
    mode: EnsembleMode,
    **training: Any,
) -> Iterator[tuple[int, FeatureNetwork]]:
    """Train one network a repeat, in blocks, and hand them out in order.

    A block that does not fit into the memory of the device is halved and starts again;
    no result depends on it.

    Args:
        build: A fresh network for a repeat, on the device of the data.
        seeds: For each repeat, in order, the seed of shuffling and augmentation.
        images_NCHW: Images, as for `train_network`.
        labels_N: Labels.
        mode: ``loop`` trains one after another, ``vmap`` all together, ``auto`` as
            `resolve_mode` says.
        **training: Recipe, statistics, flip and max_steps, as for `train_network`.

    Yields:
        Repeat and its trained network.

    Raises:
        ConfigError: ``vmap`` is asked for and the network cannot be stacked.
        torch.OutOfMemoryError: Not even one network fits.
    """
    pending = list(seeds)
    mode = resolve_mode(mode, build, seeds, images_NCHW, labels_N, **training)
    size = max(1, len(pending)) if mode == "vmap" else 1
    while pending:
        block = pending[:size]
        networks = [build(repeat) for repeat in block]
        own = [seeds[repeat] for repeat in block]
        try:
            if size == 1:
                train_network(
                    networks[0], images_NCHW, labels_N, seed=own[0], **training
                )
            else:
                train_ensemble(networks, images_NCHW, labels_N, seeds=own, **training)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = -(-len(block) // 2)
            continue
        yield from zip(block, networks, strict=True)
        pending = pending[size:]


def train_ensemble(
    networks: Sequence[FeatureNetwork],
    images_NCHW: Tensor,
    labels_N: Tensor,
    *,
    recipe: Recipe,
    statistics: PixelStatistics,
    seeds: Sequence[int],
    flip: bool = True,
    max_steps: int | None = None,
) -> None:
    """Train networks of one architecture in place, side by side.

    Equal to `train_network` of each with its own seed, within float noise.

    Args:
        networks: The networks, on the device of the data; left in training mode.
        images_NCHW: Images, uint8 or float in [0, 1].
        labels_N: Labels, int64.
        recipe: Optimiser, schedule and augmentation.
        statistics: Normalisation of the images.
        seeds: One seed a network, of its shuffling and augmentation.
        flip: Whether augmentation may mirror images.
        max_steps: Cap on the optimiser steps; the schedule is scaled to it.

    Raises:
        ConfigError: The networks cannot be stacked; names the module.
    """
    _require_stackable(networks[0])
    total = planned_steps(len(images_NCHW), recipe, max_steps)
    augment = SiameseAugment.from_text(recipe.augment, flip=flip)
    batches = _batches(images_NCHW, labels_N, recipe.batch_size, statistics, seeds)
    for network in networks:
        network.train()
    stacked, _ = stack_module_state(list(networks))
    weights = {name: value.detach() for name, value in stacked.items()}
    skeleton = copy.deepcopy(networks[0]).to("meta")

    def loss(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(skeleton, weights, (images,))
        return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)

    optimiser = sgd(weights.values(), recipe, recipe.learning_rate)
    for step, (images, labels) in enumerate(islice(batches, total)):
        if step == (total + 1) // 2:
            # A new optimiser, as in `train_network`: the momentum starts at zero.
            lower = recipe.learning_rate * LEARNING_RATE_DROP
            optimiser = sgd(weights.values(), recipe, lower)
        if augment.operations:
            draws = [make_generator(seed, "augment", step) for seed in seeds]
            drawn = [augment.draw(images.shape[-4], rng) for rng in draws]
            images = torch.stack(augment.apply_each(images, drawn))
        # What all networks share has no dimension of its own.
        dims = 0, 0 if images.ndim == 5 else None, 0 if labels.ndim == 2 else None
        gradients = vmap(grad(loss), in_dims=dims)(weights, images, labels)
        for name, weight in weights.items():
            weight.grad = gradients[name]
        optimiser.step()

    for index, network in enumerate(networks):
        trained = {name: value[index] for name, value in weights.items()}
        network.load_state_dict(trained)


def resolve_mode(
    mode: EnsembleMode,
    build: Callable[[int], FeatureNetwork],
    seeds: dict[int, int],
    images_NCHW: Tensor,
    labels_N: Tensor,
    **training: Any,
) -> Literal["vmap", "loop"]:
    """``vmap`` or ``loop``; times a few steps of both where that is to be decided.

    On the CPU ``auto`` is the loop without a trial: there a seed stands for the same
    bits, which must not hang on how busy the machine was during the trial, and one
    network fills the cores already.

    Args:
        mode: What was asked for.
        build: As for `trained_networks`.
        seeds: Likewise.
        images_NCHW: Likewise.
        labels_N: Likewise.
        **training: Likewise.

    Raises:
        ConfigError: ``mode`` is unknown, or ``vmap`` and the network cannot be stacked.
    """
    if mode not in ENSEMBLE_MODES:
        raise ConfigError(
            f"ensemble is {mode!r}: choose from {', '.join(ENSEMBLE_MODES)}"
        )
    if mode == "loop" or not seeds:
        return "loop"
    if mode == "vmap":
        _require_stackable(build(next(iter(seeds))))
        return "vmap"
    on_cpu = images_NCHW.device.type == "cpu"
    if on_cpu or len(seeds) == 1 or unstackable(build(next(iter(seeds)))):
        return "loop"
    times = trial_seconds(build, seeds, images_NCHW, labels_N, **training)
    return "vmap" if times["vmap"] < times["loop"] else "loop"


def trial_seconds(
    build: Callable[[int], FeatureNetwork],
    seeds: dict[int, int],
    images_NCHW: Tensor,
    labels_N: Tensor,
    **training: Any,
) -> dict[str, float]:
    """Seconds that `TRIAL_STEPS` steps of all networks take, by ``vmap`` and ``loop``.

    Infinite for ``vmap`` where the networks do not fit into memory together. The loop
    is timed on one network and multiplied.
    """
    short = training | {"max_steps": TRIAL_STEPS}

    def loop() -> None:
        first = next(iter(seeds))
        train_network(build(first), images_NCHW, labels_N, seed=seeds[first], **short)

    def together() -> None:
        networks = [build(repeat) for repeat in seeds]
        own = list(seeds.values())
        train_ensemble(networks, images_NCHW, labels_N, seeds=own, **short)

    times = {"loop": len(seeds) * _seconds(loop, images_NCHW.device)}
    try:
        times["vmap"] = _seconds(together, images_NCHW.device)
    except torch.OutOfMemoryError:
        times["vmap"] = float("inf")
    return times


def unstackable(network: nn.Module) -> str | None:
    """What keeps a network out of an ensemble, or None.

    The running statistics of batch norm are buffers that a forward pass changes in
    place, which `vmap` cannot, and dropout draws from the global generator.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            return f"dropout '{name}'"
    return next((f"buffer '{name}'" for name, _ in network.named_buffers()), None)


def _batches(
    images_NCHW: Tensor,
    labels_N: Tensor,
    batch_size: int,
    statistics: PixelStatistics,
    seeds: Sequence[int],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless normalised images (R, B, C, H, W) and labels (R, B).

    Without the first dimension where one batch holds the whole set: then all networks
    see the same.
    """
    if len(images_NCHW) <= batch_size:
        whole = statistics.normalise(unit(images_NCHW)), labels_N
        while True:
            yield whole
    for epoch in count():
        orders = [epoch_order(len(images_NCHW), seed, epoch) for seed in seeds]
        order_RN = torch.stack(orders).to(images_NCHW.device, non_blocking=True)
        for index_RB in order_RN.split(batch_size, dim=1):
            images = statistics.normalise(unit(images_NCHW[index_RB]))
            yield images, labels_N[index_RB]


def _require_stackable(network: nn.Module) -> None:
    obstacle = unstackable(network)
    if obstacle is not None:
        raise ConfigError(
            f"a {type(network).__name__} with {obstacle} cannot be trained side by "
            "side: use ensemble=loop, or a network with instance norm"
        )


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    work()  # kernels are chosen and memory is reserved at the first call
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
