"""Networks by name, each offering features of every block (`FeatureNetwork`)."""

from collections.abc import Callable

from condense_core.errors import ConfigError
from condense_core.networks.alexnet import AlexNet
from condense_core.networks.base import FeatureNetwork
from condense_core.networks.convnet import ConvNet
from condense_core.networks.mlp import MLP
from condense_core.networks.resnet import ResNet18
from condense_core.networks.vgg import VGG11
from condense_core.seeding import seeded_initialisation

__all__ = [
    "MLP",
    "NETWORKS",
    "VGG11",
    "AlexNet",
    "ConvNet",
    "FeatureNetwork",
    "ResNet18",
    "build_network",
]

NETWORKS: dict[str, Callable[..., FeatureNetwork]] = {
    "convnet": ConvNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "resnet18": ResNet18,
    "mlp": MLP,
}


def build_network(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    width: int | None = None,
    depth: int | None = None,
    low_pass: float = 0.0,
    seed: int,
) -> FeatureNetwork:
    """Build a freshly initialised network on the CPU.

    The parameters depend on the arguments alone; global random state is left as is.

    Args:
        name: A key of `NETWORKS`.
        image_shape: (C, H, W) of the normalised images it will see.
        num_classes: Number of logits.
        width: Channels of the first block (of every block in ``convnet`` and ``mlp``);
            the published width when left out.
        depth: Number of blocks of ``convnet`` or ``mlp``; by image size when left out.
        low_pass: Blur in front of it, see `FeatureNetwork`; at least 0.
        seed: Seed of the initialisation.

    Returns:
        The network, in training mode.

    Raises:
        ConfigError: If the name is unknown, or a size is out of range.

    Example:
        >>> net = build_network(
        ...     "convnet", image_shape=(3, 32, 32), num_classes=10, seed=0
        ... )
        >>> sum(p.numel() for p in net.parameters())
        320010
    """
    if name not in NETWORKS:
        raise ConfigError(
            f"unknown network '{name}': choose one of {', '.join(NETWORKS)}"
        )
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ConfigError(
            f"image shape {tuple(image_shape)} is not (channels, height, width): "
            "give three positive integers"
        )
    sizes = {"num_classes": num_classes, "width": width, "depth": depth}
    for key, value in sizes.items():
        if value is not None and value < 1:
            raise ConfigError(
                f"network {key} is {value}: give an integer of at least 1"
            )

    if low_pass < 0.0:
        raise ConfigError(f"network low_pass is {low_pass}: give at least 0")

    with seeded_initialisation(seed, "network", name):
        network = NETWORKS[name](
            image_shape=tuple(image_shape),
            num_classes=num_classes,
            width=width,
            depth=depth,
        )
    network.low_pass = low_pass
    return network
