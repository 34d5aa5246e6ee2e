"""AlexNet for small images, as in the condensation literature's cross-network table.

Shape legend: B batch, C channels, H height, W width, Y classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from condense_core.networks.base import (
    FeatureNetwork,
    ImageShape,
    first_padding,
    padded_size,
    require_no_depth,
    scaled_widths,
)

WIDTHS = (128, 192, 256, 192, 192)
KERNELS = (5, 5, 3, 3, 3)
POOLED = (True, True, False, False, True)
LARGEST_MAP = 4


class AlexNet(FeatureNetwork):
    """Five blocks of [convolution, ReLU (, 2x2 max pool)], then linear; no norm.

    The variant of `dataset condensation <https://arxiv.org/abs/2006.05929>`_: 32x32
    input ends in a 4x4 map. A larger map (64x64 input) is averaged down to 4x4, and a
    pool that would leave nothing of a small map is left out.

    Args:
        image_shape: (C, H, W).
        num_classes: Number of logits.
        width: Channels of the first block; the others scale with it. Default: 128.
        depth: Must be None: the depth is fixed.

    Raises:
        ConfigError: If ``depth`` is given.
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
        require_no_depth("alexnet", depth)
        widths = scaled_widths(WIDTHS, width=width, default=WIDTHS[0])
        self.width, self.feature_dim = widths[0], widths[-1]
        self.blocks = nn.ModuleList()
        before, (height, columns) = image_shape[0], padded_size(image_shape)
        for after, kernel, pooled in zip(widths, KERNELS, POOLED, strict=True):
            padding = (
                kernel // 2
                if self.blocks
                else first_padding(image_shape, kernel_size=kernel)
            )
            block = nn.Sequential(
                nn.Conv2d(before, after, kernel, padding=padding), nn.ReLU(inplace=True)
            )
            if pooled and min(height, columns) >= 2:
                block.append(nn.MaxPool2d(2))
                height, columns = height // 2, columns // 2
            self.blocks.append(block)
            before = after
        self.map_size = (min(height, LARGEST_MAP), min(columns, LARGEST_MAP))
        self.classifier = nn.Linear(
            self.feature_dim * self.map_size[0] * self.map_size[1], num_classes
        )

    def classify(self, last_feature: Tensor) -> Tensor:
        """Logits (B, Y): average down to at most 4x4, flatten, then linear."""
        if last_feature.shape[2:] != self.map_size:
            last_feature = F.adaptive_avg_pool2d(last_feature, self.map_size)
        logits: Tensor = self.classifier(last_feature.flatten(1))
        return logits
