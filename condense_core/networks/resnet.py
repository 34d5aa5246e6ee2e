"""ResNet18 for small images, as in the condensation literature's cross-network table.

Shape legend: B batch, C channels, H height, W width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from condense_core.networks.base import (
    FeatureNetwork,
    ImageShape,
    require_no_depth,
    require_two_pixels,
    scaled_widths,
)
from condense_core.networks.norm import InstanceNorm

WIDTHS = (64, 128, 256, 512)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance norm, added to a shortcut."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = InstanceNorm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = InstanceNorm(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False),
                InstanceNorm(after),
            )

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Maps (B, after, H / stride, W / stride)."""
        hidden_BCHW = F.relu(self.norm1(self.conv1(maps_BCHW)), inplace=True)
        return F.relu(self.norm2(self.conv2(hidden_BCHW)) + self.shortcut(maps_BCHW))


class ResNet18(FeatureNetwork):
    """A 3x3 stem, four stages of two residual blocks, spatial mean, linear.

    Instance norm for the reason given in `VGG11`. Five features: the stem's and each
    stage's. A stage halves the map (32x32: 32, 16, 8, 4), unless its norms would then
    see less than two pixels a side.

    Args:
        image_shape: (C, H, W), at least 2 px a side.
        num_classes: Number of logits.
        width: Channels of the stem; the stages scale with it. Default: 64.
        depth: Must be None: the depth is fixed.

    Raises:
        ConfigError: If ``depth`` is given, or the image is too small.
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
        require_no_depth("resnet18", depth)
        require_two_pixels("resnet18", image_shape)
        widths = scaled_widths(WIDTHS, width=width, default=WIDTHS[0])
        self.width, self.feature_dim = widths[0], widths[-1]
        stem = nn.Sequential(
            nn.Conv2d(image_shape[0], widths[0], 3, padding=1, bias=False),
            InstanceNorm(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.ModuleList([stem])
        before, side = widths[0], min(image_shape[1:])
        for index, after in enumerate(widths):
            stride = 2 if index and side >= 3 else 1
            side = -(-side // stride)  # a padded, strided convolution rounds up
            self.blocks.append(
                nn.Sequential(
                    ResidualBlock(before, after, stride=stride),
                    ResidualBlock(after, after, stride=1),
                )
            )
            before = after
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def classify(self, last_feature: Tensor) -> Tensor:
        """Logits (B, Y): spatial mean, then linear."""
        logits: Tensor = self.classifier(self.embed(last_feature))
        return logits
