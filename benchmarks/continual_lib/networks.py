"""The classifiers that learn the stream."""

from torch import nn

from condense_core.networks import build_network
from condense_core.seeding import seeded_initialisation
from continual_lib.streams import CLASSES, Data

SIZES = {"mlp": {"width": 400, "depth": 2}, "convnet": {"width": 32}}
NETWORKS = (*SIZES, "slim_resnet18")


def build_model(network: str, data: Data, seed: int) -> nn.Module:
    """One of `NETWORKS`, initialised by the seed alone."""
    if network in SIZES:
        return build_network(
            network,
            image_shape=data.image_shape,
            num_classes=CLASSES,
            seed=seed,
            **SIZES[network],
        )
    from avalanche.models import SlimResNet18

    with seeded_initialisation(seed, "network", network):
        return SlimResNet18(CLASSES)
