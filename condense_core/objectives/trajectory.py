"""Trajectory matching: students of the synthetic set should go where experts went.

Not in the paper. An expert is a network trained on real images, its weights kept
along the way. A student starts from weights of an expert, takes a few steps of SGD on
the synthetic images, and is judged by its distance to where the expert was later,

    |theta_student - theta_later|^2 / |theta_start - theta_later|^2

(MTT, Cazenavette et al. 2022, Eq. 2). With ``through_steps`` the loss is differentiated
through all steps, as there. Without, each step's gradient is differentiated at weights
held fixed, one step after the other, in memory that does not grow with their number
(TESLA, Cui et al. 2023).

Shape legend: B batch, C H W image.
"""

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from condense_core.augment import SiameseAugment
from condense_core.config import TrajectoryConfig
from condense_core.data import PixelStatistics
from condense_core.data.class_sampler import ClassSampler
from condense_core.networks import FeatureNetwork, build_network
from condense_core.objectives.known_gradient import WithGradient
from condense_core.seeding import derive_seed, make_generator

Weights = dict[str, Tensor]
Expert = list[Weights]  # at every snapshot, the first being the initial weights


def train_expert(
    index: int,
    sampler: ClassSampler,
    config: TrajectoryConfig,
    *,
    statistics: PixelStatistics,
    augment: SiameseAugment,
    seed: int,
) -> Expert:
    """Train one expert on the real images by plain SGD, as in MTT.

    Args:
        index: Number of the expert.
        sampler: The real images.
        config: Sizes and rates.
        statistics: Normalisation.
        augment: Drawn image by image.
        seed: Of initialisation and batches.

    Returns:
        Weights before training and after every ``snapshot_steps`` steps.
    """
    shape = sampler.images.shape
    network = _network(
        config, (shape[1], shape[2], shape[3]), len(sampler.counts), seed, index
    ).to(sampler.device)
    optimiser = torch.optim.SGD(network.parameters(), lr=config.expert_rate)
    snapshots = [_copy(network)]
    for step in range(config.snapshots * config.snapshot_steps):
        rng = make_generator(seed, "expert", index, step)
        images, labels = sampler.batch(config.expert_batch, rng)
        images = augment.augment(statistics.normalise(images), rng)
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimiser.step()
        if (step + 1) % config.snapshot_steps == 0:
            snapshots.append(_copy(network))
    return snapshots


class TrajectoryMatcher:
    """The loss; it has no state of its own, so that a step depends on its number."""

    def __init__(
        self,
        config: TrajectoryConfig,
        experts: list[Expert],
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        augment: SiameseAugment,
        seed: int,
        device: torch.device,
    ) -> None:
        """Keep the experts.

        Args:
            config: As they were trained with.
            experts: From `train_expert`.
            image_shape: (C, H, W).
            num_classes: Logits.
            augment: Drawn per image at every step of a student.
            seed: Of every draw.
            device: Where students live.
        """
        self.config, self._experts = config, experts
        self._augment, self._seed = augment, seed
        self._network = _network(config, image_shape, num_classes, seed, 0).to(device)

    def loss(self, step: int, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Distance of a student to an expert, relative to where both began.

        Args:
            step: Generator update, seeds every draw.
            images_BCHW: Normalised synthetic images, with gradient.
            labels_B: Their classes.
        """
        rng = make_generator(self._seed, "trajectory", step)
        expert = self._experts[_below(len(self._experts), rng)]
        first = _below(self.config.latest_start + 1, rng)
        start, target = expert[first], expert[first + self.config.gap]
        if not self.config.through_steps:
            return self._step_by_step(step, images_BCHW, labels_B, start, target)
        weights = start
        for n in range(self.config.student_steps):
            gradient = self._gradient(weights, images_BCHW, labels_B, (step, n))
            weights = self._next(weights, gradient)
        return square_distance(weights, target) / square_distance(start, target)

    def _step_by_step(
        self,
        step: int,
        images_BCHW: Tensor,
        labels_B: Tensor,
        start: Weights,
        target: Weights,
    ) -> Tensor:
        """The same value; its gradient takes the weights of every step as given."""
        leaf = images_BCHW.detach().requires_grad_()
        path = [start]
        for n in range(self.config.student_steps):
            gradient = self._gradient(path[-1], leaf, labels_B, (step, n), graph=False)
            path.append(self._next(path[-1], gradient))
        scale = square_distance(start, target)
        # d loss / d (gradient of any step): theta is the start less rate * their sum.
        outer = {
            name: -2.0 * self.config.student_rate * (last - target[name]) / scale
            for name, last in path[-1].items()
        }
        at_images = torch.zeros_like(leaf)
        for n, weights in enumerate(path[:-1]):
            gradient = self._gradient(weights, leaf, labels_B, (step, n))
            product = sum((outer[name] * g).sum() for name, g in gradient.items())
            assert isinstance(product, Tensor)
            (part,) = torch.autograd.grad(product, leaf)
            at_images += part
        value = square_distance(path[-1], target) / scale
        loss: Tensor = WithGradient.apply(images_BCHW, value, at_images)
        return loss

    def _gradient(
        self,
        weights: Weights,
        images_BCHW: Tensor,
        labels_B: Tensor,
        turn: tuple[int, int],
        *,
        graph: bool = True,
    ) -> Weights:
        """Gradient of the cross entropy on augmented images, at some weights."""
        rng = make_generator(self._seed, "trajectory-augment", *turn)
        images = self._augment.augment(images_BCHW, rng)
        leaves = {
            name: value if value.requires_grad else value.detach().requires_grad_()
            for name, value in weights.items()
        }
        loss = F.cross_entropy(
            functional_call(self._network, leaves, (images,)), labels_B
        )
        gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=graph)
        return dict(zip(leaves, gradients, strict=True))

    def _next(self, weights: Weights, gradient: Weights) -> Weights:
        rate = self.config.student_rate
        return {name: value - rate * gradient[name] for name, value in weights.items()}


def square_distance(first: Weights, second: Weights) -> Tensor:
    """Of all weights together."""
    total = sum((first[name] - second[name]).square().sum() for name in first)
    assert isinstance(total, Tensor)
    return total


def _network(
    config: TrajectoryConfig,
    image_shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    index: int,
) -> FeatureNetwork:
    return build_network(
        "convnet",
        image_shape=image_shape,
        num_classes=num_classes,
        width=config.width,
        depth=config.depth,
        seed=derive_seed(seed, "expert", index),
    )


def _copy(network: FeatureNetwork) -> Weights:
    return {k: v.detach().clone() for k, v in network.named_parameters()}


def _below(bound: int, rng: torch.Generator) -> int:
    return int(torch.randint(bound, (1,), generator=rng))
