"""VGG11 for small images, as in the condensation literature's cross-network table.

Shape legend: B batch, C channels, H height, W width, Y classes.
"""

from torch import Tensor, nn

from condense_core.networks.base import (
    FeatureNetwork,
    ImageShape,
    first_padding,
    padded_size,
    require_no_depth,
    require_two_pixels,
    scaled_widths,
)
from condense_core.networks.norm import InstanceNorm

WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
POOLED = (True, True, False, True, False, True, False, True)


class VGG11(FeatureNetwork):
    """Eight blocks of [3x3 convolution, instance norm, ReLU (, 2x2 max pool)], linear.

    Instance norm, as in the cross-network tables of DSA and later work (the first
    condensation paper used batch norm): batch statistics of a few synthetic images
    differ from those of real test images, so that a batch-normalised network measures
    this mismatch more than the set. 32x32 input ends in a 1x1 map; larger maps are
    averaged, and a pool after which the next norm would see less than two pixels a
    side is left out.

    Args:
        image_shape: (C, H, W), at least 2 px a side.
        num_classes: Number of logits.
        width: Channels of the first block; the others scale with it. Default: 64.
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
        require_no_depth("vgg11", depth)
        require_two_pixels("vgg11", image_shape)
        widths = scaled_widths(WIDTHS, width=width, default=WIDTHS[0])
        self.width, self.feature_dim = widths[0], widths[-1]
        self.blocks = nn.ModuleList()
        before, side = image_shape[0], min(padded_size(image_shape))
        for index, (after, pooled) in enumerate(zip(widths, POOLED, strict=True)):
            first, last = index == 0, index == len(widths) - 1
            padding = first_padding(image_shape, kernel_size=3) if first else 1
            block = nn.Sequential(
                nn.Conv2d(before, after, 3, padding=padding),
                InstanceNorm(after),
                nn.ReLU(inplace=True),
            )
            if pooled and side >= (2 if last else 4):
                block.append(nn.MaxPool2d(2))
                side //= 2
            self.blocks.append(block)
            before = after
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def classify(self, last_feature: Tensor) -> Tensor:
        """Logits (B, Y): spatial mean, then linear."""
        logits: Tensor = self.classifier(self.embed(last_feature))
        return logits
