"""Real Flower messages and apps in this process; only the training is cut short."""

from importlib.util import find_spec

import pytest
import torch

from condense_core import CondensedDataset, PixelStatistics
from condense_core.seeding import seeded_initialisation
from condense_core.synthesiser import (
    GeneratorSynthesiser,
    SynthesiserSpec,
    build_synthesiser,
)

collect_ignore_glob = ["test_*.py"]  # without Flower
if find_spec("flwr") is not None:
    from flower_strategy.local_data import load_global
    from flower_strategy.local_grid import LocalGrid, identify_this_process
    from flower_strategy.payload import Contribution, Limits
    from flower_strategy.settings import DataSettings, ModelSettings, ServerSettings
    from flower_strategy.strategy import CondensationStrategy

    collect_ignore_glob = []

CLASSES = ("ant", "bee", "cat", "dog")
SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True, scope="session")
def messages_can_be_built():
    identify_this_process()


@pytest.fixture
def limits():
    return Limits(
        image_shape=SHAPE, classes=CLASSES, max_bytes=150_000, max_class_count=10**6
    )


@pytest.fixture
def contribute():
    """A contribution of an untrained generator."""

    def make(
        client="a", class_ids=(0, 2), counts=None, *, seed=0, precision="fp16", **sizes
    ):
        spec = SynthesiserSpec(
            kind="generator",
            image_shape=SHAPE,
            num_classes=len(class_ids),
            images_per_class=4,
            latent_dim=3,
            embedding_dim=len(class_ids),
            projected_dim=2,
            channels=4,
            code_map="per_class",
            **sizes,
        )
        with seeded_initialisation(seed, "test"):
            synthesiser = build_synthesiser(spec, seed=seed)
        assert isinstance(synthesiser, GeneratorSynthesiser)
        synthesiser.class_embedding.copy_(torch.eye(len(class_ids)))
        return Contribution(
            client=client,
            condensed=CondensedDataset.from_synthesiser(
                synthesiser,
                classes=[CLASSES[label] for label in class_ids],
                statistics=PixelStatistics((0.5,), (0.25,)),
                precision=precision,
            ),
            class_ids=tuple(class_ids),
            counts=tuple(counts or [20] * len(class_ids)),
        )

    return make


@pytest.fixture
def run_config():
    """Digits, condensed by two steps."""
    return {
        "dataset": "digits",
        "partition": "iid",
        "overrides": "pretrain.steps=2 loop.restarts=1 loop.network_updates=1 "
        "loop.generator_updates=1 network.width=4",
        "upload-bytes": 9_000,
        "network-width": 4,
        "device": "cpu",
        "synthetic-images": 100,
        "train-steps": 3,
        "augment": "none",
        "wait-seconds": 0.0,
        "merged-images-per-class": 3,
    }


@pytest.fixture
def strategy_of():
    """A strategy over digits for a run configuration."""

    def make(run_config):
        test = load_global(DataSettings.read(run_config), "test")
        return CondensationStrategy(
            ServerSettings.read(run_config),
            ModelSettings.read(run_config),
            image_shape=test.image_shape,
            classes=test.classes,
            test=test,
        )

    return make


@pytest.fixture
def grid_of():
    """Simulated clients in this process."""
    from flower_strategy.client_app import app

    def make(run_config, clients=3, kind=None):
        nodes = [{"partition-id": i, "num-partitions": clients} for i in range(clients)]
        return (kind or LocalGrid)(app, nodes, run_config)

    return make
