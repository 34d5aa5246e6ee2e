"""Training a network on labelled images: THE loop of every evaluation and teacher.

The protocol of the dataset-condensation literature (`DC
<https://arxiv.org/abs/2006.05929>`_, `DSA <https://arxiv.org/abs/2102.08259>`_): SGD,
cross entropy, and a learning rate divided by ten at half time. Two habits of the
reference code are kept, because published numbers contain them: the drop in learning
rate also clears the momentum (it builds a new optimiser), and the smaller last batch of
an epoch is used. Two are not: it runs one epoch more than it says, and drops the rate
two epochs after half time.

Shape legend: B batch, N data set, Y classes, C channels, H height, W width.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from condense_core.augment import SiameseAugment
from condense_core.data import PixelStatistics, to_unit
from condense_core.data.mapped import chunks, gather
from condense_core.errors import ConfigError
from condense_core.networks import FeatureNetwork
from condense_core.seeding import make_generator

LEARNING_RATE_DROP = 0.1
# Of SGD, on every network in the field's protocol, phi and students among them.
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an evaluation network is trained.

    Attributes:
        name: Written in reports.
        epochs: Passes over the training set.
        augment: Operations of `SiameseAugment` joined by ``_``; None for none.
        learning_rate: Of the first half; the second half uses a tenth.
        momentum: Of SGD.
        weight_decay: Of SGD, on all parameters.
        batch_size: Images a step; a smaller set is one batch.
        label_smoothing: Share of a label that is spread over all classes, in [0, 1].
    """

    name: str
    epochs: int
    augment: str | None = None
    learning_rate: float = 0.01
    momentum: float = MOMENTUM
    weight_decay: float = WEIGHT_DECAY
    batch_size: int = 256
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ConfigError: If ``epochs`` or ``batch_size`` is not positive, or
                ``label_smoothing`` out of range.
        """
        for key, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if value < 1:
                raise ConfigError(f"recipe {key} is {value}: give at least 1")
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ConfigError(
                f"recipe label_smoothing is {self.label_smoothing}: choose a value "
                "from 0 to 1"
            )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("paper-300", epochs=300),
        Recipe("dsa-1000", epochs=1000, augment="color_crop_cutout_flip_scale_rotate"),
    )
}


def train_network(
    network: FeatureNetwork,
    images_NCHW: Tensor,
    labels_N: Tensor,
    *,
    recipe: Recipe,
    statistics: PixelStatistics,
    seed: int,
    flip: bool = True,
    max_steps: int | None = None,
    on_step: Callable[[int, Tensor, Tensor], None] | None = None,
    resume: Mapping[str, Any] | None = None,
    keep: Callable[[int, Callable[[], dict[str, Any]]], None] | None = None,
) -> None:
    """Train a network in place, on the device where it and the data are.

    Args:
        network: The network; left in training mode.
        images_NCHW: Images, uint8 or float in [0, 1]; normalised batch by batch.
        labels_N: Labels, int64.
        recipe: Optimiser, schedule and augmentation.
        statistics: Normalisation of the images.
        seed: Seed of shuffling and augmentation.
        flip: Whether augmentation may mirror images.
        max_steps: Cap on the optimiser steps; the schedule is scaled to it.
        on_step: Called before each update with the step, the indices (B,) of its
            images and their logits (B, Y), on the device.
        resume: A state that ``keep`` was given; training goes on from it as if it had
            never stopped.
        keep: Called after each update with the number of steps done and a function
            that returns the state; decides itself whether to ask for it.
    """
    total = planned_steps(len(images_NCHW), recipe, max_steps)
    augment = SiameseAugment.from_text(recipe.augment, flip=flip)
    start = 0 if resume is None else int(resume["step"])
    batches = _batches(
        images_NCHW, labels_N, recipe.batch_size, statistics, seed, start
    )
    optimiser = sgd(network.parameters(), recipe, recipe.learning_rate)
    if resume is not None:
        network.load_state_dict(resume["network"])
        optimiser.load_state_dict(resume["optimiser"])
    network.train()
    for step, (index_B, images_BCHW, labels_B) in enumerate(
        islice(batches, total - start), start
    ):
        if step == (total + 1) // 2:
            # A new optimiser, as in the reference code: the momentum starts at zero.
            lower = recipe.learning_rate * LEARNING_RATE_DROP
            optimiser = sgd(network.parameters(), recipe, lower)
        if augment.operations:
            generator = make_generator(seed, "augment", step)
            images_BCHW = augment.augment(images_BCHW, generator)
        logits_BY = network(images_BCHW)
        loss = F.cross_entropy(
            logits_BY, labels_B, label_smoothing=recipe.label_smoothing
        )
        optimiser.zero_grad()
        loss.backward()
        if on_step is not None:
            on_step(step, index_B, logits_BY.detach())
        optimiser.step()
        if keep is not None:
            state = partial(_state, step + 1, network, optimiser)
            keep(step + 1, state)


def accuracy(
    network: FeatureNetwork,
    images_NCHW: Tensor,
    labels_N: Tensor,
    statistics: PixelStatistics,
    *,
    batch_size: int = 256,
) -> float:
    """Share of correctly classified images, in percent.

    Args:
        network: The network, on the device of the data; its mode is restored.
        images_NCHW: Images, uint8 or float in [0, 1].
        labels_N: Labels, int64.
        statistics: Normalisation of the images.
        batch_size: Images a forward pass.
    """
    was_training = network.training
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=labels_N.device)
    with torch.inference_mode():
        for images, labels_B in zip(
            chunks(images_NCHW, batch_size),
            torch.split(labels_N, batch_size),
            strict=True,
        ):
            logits_BY = network(statistics.normalise(unit(images)))
            correct += (logits_BY.argmax(1) == labels_B).sum()
    network.train(was_training)
    return 100.0 * correct.item() / len(labels_N)


@torch.no_grad()
def pooled_features(
    network: FeatureNetwork,
    images_NCHW: Tensor,
    statistics: PixelStatistics,
    *,
    batch_size: int = 256,
) -> Tensor:
    """Pooled last-layer features (N, D), as phi has them in the paper.

    Args:
        network: In eval mode, on the device of the images.
        images_NCHW: Images, uint8 or float in [0, 1].
        statistics: Normalisation of the images.
        batch_size: Images a forward pass.
    """
    return torch.cat(
        [
            network.embed(network.layer_features(statistics.normalise(unit(part)))[-1])
            for part in chunks(images_NCHW, batch_size)
        ]
    )


def _state(
    step: int, network: FeatureNetwork, optimiser: torch.optim.Optimizer
) -> dict[str, Any]:
    return {
        "step": step,
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
    }


def planned_steps(images: int, recipe: Recipe, max_steps: int | None = None) -> int:
    """Optimiser steps a recipe takes on a number of images, under an optional cap."""
    steps = recipe.epochs * -(-images // recipe.batch_size)
    return steps if max_steps is None else min(steps, max_steps)


def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """Order (N,) of an epoch; drawn on the CPU, so that it is the same everywhere."""
    return torch.randperm(images, generator=make_generator(seed, "shuffle", epoch))


def _batches(
    images_NCHW: Tensor,
    labels_N: Tensor,
    batch_size: int,
    statistics: PixelStatistics,
    seed: int,
    start: int,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless (index, normalised images, labels) from step ``start``, by epochs."""
    if len(images_NCHW) <= batch_size:
        # One batch: its order does not matter to the mean loss, so prepare it once.
        index_N = torch.arange(len(images_NCHW), device=images_NCHW.device)
        whole = index_N, statistics.normalise(unit(images_NCHW)), labels_N
        while True:
            yield whole
    first_epoch, skipped = divmod(start, -(-len(images_NCHW) // batch_size))
    for epoch in count(first_epoch):
        order_N = epoch_order(len(images_NCHW), seed, epoch)
        order_N = order_N.to(images_NCHW.device, non_blocking=True)
        passed = skipped if epoch == first_epoch else 0
        for index_B in torch.split(order_N, batch_size)[passed:]:
            images_BCHW = statistics.normalise(unit(gather(images_NCHW, index_B)))
            yield index_B, images_BCHW, labels_N[index_B]


def sgd(
    parameters: Iterable[Tensor], recipe: Recipe, learning_rate: float
) -> torch.optim.SGD:
    """The optimiser of a recipe."""
    parameters = list(parameters)
    return torch.optim.SGD(
        parameters,
        lr=learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        # One kernel for all parameters: a step on ten images is mostly overhead.
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )


def unit(images: Tensor) -> Tensor:
    """Images as float in [0, 1], from uint8 or from that already."""
    return to_unit(images) if images.dtype == torch.uint8 else images


def resolve_recipe(recipe: str | Recipe) -> Recipe:
    """A recipe by name, or the given one.

    Raises:
        ConfigError: If no recipe has this name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise ConfigError(
            f"unknown recipe '{recipe}': choose one of {', '.join(RECIPES)}"
        )
    return RECIPES[recipe]
