"""What training a network on real data tells about each image.

Shape legend: N data set, E epochs, D feature, B batch, Y classes, C channels,
H height, W width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from condense_core.compute.devices import resolve_device
from condense_core.config.strict import at_least
from condense_core.data import ImageData, PixelStatistics
from condense_core.networks import build_network
from condense_core.seeding import derive_seed
from condense_core.training import Recipe, planned_steps, pooled_features, train_network

EPOCHS = 20


def selection_recipe(epochs: int) -> Recipe:
    """How the network that selects is trained: without augmentation."""
    return Recipe("coreset", epochs=epochs)


@dataclass(frozen=True, slots=True)
class Observation:
    """What a network trained on the real data tells about each image.

    Attributes:
        features: Embeddings (N, D) after training.
        forgetting: Forgetting events (N,) (see `count_forgetting`).
    """

    features: Tensor
    forgetting: Tensor


def observe_training(
    data: ImageData,
    *,
    seed: int,
    network: str = "convnet",
    network_width: int | None = None,
    epochs: int = EPOCHS,
    max_steps: int | None = None,
    statistics: PixelStatistics | None = None,
    device: str | torch.device = "auto",
) -> Observation:
    """Train a network on the real data and record what the selections need.

    Predictions are those made during training, at each image's turn in its epoch, as in
    Toneva et al.; an unfinished last epoch is left out.

    Args:
        data: The real data.
        seed: Seed of initialisation and shuffling.
        network: A key of `condense_core.networks.NETWORKS`.
        network_width: Its width; the published one when left out.
        epochs: Passes over the data, without augmentation.
        max_steps: Cap on the optimiser steps.
        statistics: Normalisation; by default the data's own.
        device: ``"auto"`` or a torch device.

    Returns:
        The observation, on the CPU.

    Raises:
        ConfigError: If the network or device is unknown, or a number is out of range.
        RunError: If the device is absent.
    """
    at_least("selection epochs", epochs, 1)
    at_least("selection steps", max_steps, 1)
    recipe = selection_recipe(epochs)
    statistics = statistics or data.statistics()
    data = data.to(resolve_device(device))
    seed = derive_seed(seed, "coreset")
    trained = build_network(
        network,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        width=network_width,
        seed=seed,
    ).to(data.images.device)
    epoch_steps = planned_steps(len(data), selection_recipe(1))
    full_epochs = planned_steps(len(data), recipe, max_steps) // epoch_steps
    correct_EN = torch.zeros(
        full_epochs + 1, len(data), dtype=torch.bool, device=data.images.device
    )

    def record(step: int, index_B: Tensor, logits_BY: Tensor) -> None:
        hits_B = logits_BY.argmax(1) == data.labels[index_B]
        correct_EN[step // epoch_steps, index_B] = hits_B

    train_network(
        trained,
        data.images,
        data.labels,
        recipe=recipe,
        statistics=statistics,
        seed=seed,
        max_steps=max_steps,
        on_step=record,
    )
    return Observation(
        features=pooled_features(trained.eval(), data.images, statistics).cpu(),
        forgetting=count_forgetting(correct_EN[:full_epochs]).cpu(),
    )


def count_forgetting(correct_EN: Tensor) -> Tensor:
    """Count how often each image went from classified correctly to incorrectly.

    Args:
        correct_EN: Whether each image was classified correctly in each epoch, bool.

    Returns:
        Events int64 (N,). An image never classified correctly counts as forgotten in
        every epoch, E, more than any other, as in Toneva et al.
    """
    forgotten_N = (correct_EN[:-1] & ~correct_EN[1:]).sum(0)
    return forgotten_N.where(correct_EN.any(0), len(correct_EN))
