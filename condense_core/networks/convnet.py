"""ConvNet, the network nearly all dataset-condensation results are reported with.

Shape legend: B batch, C channels, H height, W width, Y classes.
"""

from torch import Tensor, nn

from condense_core.errors import ConfigError
from condense_core.networks.base import (
    FeatureNetwork,
    ImageShape,
    first_padding,
    padded_size,
    require_two_pixels,
)
from condense_core.networks.norm import InstanceNorm
from condense_core.networks.pool import AveragePool

DEFAULT_WIDTH = 128


def max_depth(image_shape: ImageShape) -> int:
    """The most blocks an image allows: as many as leave at least one pixel.

    Equivalently, the last norm still sees two pixels a side (see `require_two_pixels`).
    """
    return min(padded_size(image_shape)).bit_length() - 1


def default_depth(image_shape: ImageShape) -> int:
    """The literature's depth: 3 blocks up to 32 px, 4 for 64 px, 5 for 128 px.

    In general ``floor(log2(side)) - 2`` of the shorter side (a last map of 4 to 7 px),
    at least 3 and at most `max_depth` (8 px: 3 blocks, 4 px: 2 blocks).
    """
    side = min(padded_size(image_shape))
    return min(max(3, side.bit_length() - 3), max_depth(image_shape))


class ConvNet(FeatureNetwork):
    """Blocks of [3x3 convolution, instance norm, ReLU, 2x2 average pool], then linear.

    ConvNet-3 of width 128 has 320,010 parameters on CIFAR-10. It is the network of
    `Gidaris and Komodakis, 2018 <https://arxiv.org/abs/1804.09458>`_ as used in
    `dataset condensation <https://arxiv.org/abs/2006.05929>`_.

    Args:
        image_shape: (C, H, W); H and W may differ.
        num_classes: Number of logits.
        width: Channels of every block. Default: 128.
        depth: Number of blocks. Default: `default_depth`.

    Raises:
        ConfigError: If the image is too small for ``depth`` blocks.
    """

    def __init__(
        self,
        *,
        image_shape: ImageShape,
        num_classes: int,
        width: int | None = None,
        depth: int | None = None,
    ) -> None:
        super().__init__()
        require_two_pixels("convnet", image_shape)
        width = DEFAULT_WIDTH if width is None else width
        depth = default_depth(image_shape) if depth is None else depth
        most = max_depth(image_shape)
        if not 1 <= depth <= most:
            raise ConfigError(
                f"convnet depth {depth} does not fit images of shape {image_shape}: "
                f"use 1 to {most}"
            )

        self.width = self.feature_dim = width
        self.blocks = nn.ModuleList()
        for index in range(depth):
            first = index == 0
            padding = first_padding(image_shape, kernel_size=3) if first else 1
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(
                        image_shape[0] if first else width, width, 3, padding=padding
                    ),
                    InstanceNorm(width),
                    nn.ReLU(inplace=True),
                    AveragePool(),
                )
            )
        height, columns = (side >> depth for side in padded_size(image_shape))
        self.classifier = nn.Linear(width * height * columns, num_classes)

    def classify(self, last_feature: Tensor) -> Tensor:
        """Logits (B, Y): flatten, then linear."""
        logits: Tensor = self.classifier(last_feature.flatten(1))
        return logits
