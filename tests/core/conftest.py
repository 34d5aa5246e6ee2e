"""Fixtures of the core tests: a run that takes a fraction of a second, its data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from condense_core import training
from condense_core.artefact import CondensedDataset
from condense_core.config import CondenseConfig
from condense_core.data import ImageData, PixelStatistics
from condense_core.seeding import make_generator, seeded_initialisation
from condense_core.synthesiser import (
    PixelSynthesiser,
    SynthesiserSpec,
    build_synthesiser,
)


@pytest.fixture(autouse=True)
def tiny_recipe(monkeypatch):
    """A recipe of two epochs: evaluating takes milliseconds."""
    recipe = training.Recipe("tiny", epochs=2)
    monkeypatch.setitem(training.RECIPES, "tiny", recipe)
    return recipe


@pytest.fixture
def tiny_config() -> CondenseConfig:
    """Twelve generator updates that use every part of the loop."""
    return CondenseConfig.from_dict(
        {
            "data": {"name": "npz", "flip": False},
            "format": {
                "images_per_class": 2,
                "latent_dim": 4,
                "projected_dim": 4,
                "channels": 4,
                "precision": "fp32",
            },
            "network": {"width": 4},
            "teacher": {"width": 4, "steps": 2},
            "pretrain": {"steps": 3, "batch_size": 6},
            "loss": {"unrolled": 0.5},
            "loop": {
                "restarts": 2,
                "network_updates": 3,
                "generator_updates": 2,
                "network_batch": 8,
                "association": 4,
            },
            "unrolled": {
                "students": 2,
                "window": 2,
                "max_age": 4,
                "real_batch": 6,
                "width": 4,
            },
            "trajectory": {
                "experts": 2,
                "snapshots": 2,
                "snapshot_steps": 1,
                "expert_batch": 6,
                "latest_start": 1,
                "student_steps": 2,
                "width": 4,
            },
            "evaluate": {
                "recipe": "tiny",
                "width": 4,
                "repeats": 1,
                "full_max_steps": 3,
            },
        }
    )


@pytest.fixture
def tiny_data(tiny_images) -> ImageData:
    images, labels = tiny_images
    return ImageData(
        images=images, labels=labels, classes=("left", "middle", "right"), name="tiny"
    )


@pytest.fixture
def npz_root(tmp_path, tiny_images) -> Path:
    """A data root of the ``npz`` source: train and test images of three classes."""
    images, labels = tiny_images
    root = tmp_path / "data"
    root.mkdir()
    for split in ("train", "test"):
        np.savez(
            root / f"{split}.npz",
            images=images[:, 0].numpy(),
            labels=labels.numpy(),
            classes=np.array(["left", "middle", "right"]),
        )
    return root


@pytest.fixture
def make_condensed() -> Callable[..., CondensedDataset]:
    """Artefacts with weights of every size, so that rounding them shows."""

    def make(
        *,
        kind: str = "generator",
        precision: str = "fp16",
        image_shape: tuple[int, int, int] = (1, 8, 8),
        classes: tuple[str, ...] = ("left", "middle", "right"),
        images_per_class: int = 2,
        seed: int = 0,
        metadata: dict[str, Any] | None = None,
        **sizes: Any,
    ) -> CondensedDataset:
        spec = SynthesiserSpec(
            kind=kind,
            image_shape=image_shape,
            num_classes=len(classes),
            images_per_class=images_per_class,
            **{"latent_dim": 4, "embedding_dim": 3, "projected_dim": 4, "channels": 4}
            | sizes,
        )
        with seeded_initialisation(seed, "test"):
            synthesiser = build_synthesiser(spec, seed=seed)
        draw = make_generator(seed, "test-values")
        with torch.no_grad():
            synthesiser.class_embedding.normal_(generator=draw)
            if isinstance(synthesiser, PixelSynthesiser):
                synthesiser.pixels.normal_(generator=draw)
        channels = image_shape[0]
        return CondensedDataset.from_synthesiser(
            synthesiser,
            classes=classes,
            statistics=PixelStatistics((0.5,) * channels, (0.25,) * channels),
            precision=precision,
            **(metadata or {}),
        )

    return make
