"""The multi-layer perceptron of the condensation literature's cross-network table.

Shape legend: B batch, C channels, H height, W width, Y classes.
"""

from math import prod

from torch import Tensor, nn

from condense_core.networks.base import FeatureNetwork, ImageShape

DEFAULT_WIDTH = 128
DEFAULT_DEPTH = 2


class MLP(FeatureNetwork):
    """Hidden layers of [linear, ReLU] on the flattened image, then linear.

    Args:
        image_shape: (C, H, W).
        num_classes: Number of logits.
        width: Units of every hidden layer. Default: 128.
        depth: Number of hidden layers. Default: 2.
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
        width = DEFAULT_WIDTH if width is None else width
        depth = DEFAULT_DEPTH if depth is None else depth
        self.width = self.feature_dim = width
        first = nn.Sequential(
            nn.Flatten(), nn.Linear(prod(image_shape), width), nn.ReLU(inplace=True)
        )
        self.blocks = nn.ModuleList([first])
        for _ in range(1, depth):
            self.blocks.append(
                nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True))
            )
        self.classifier = nn.Linear(width, num_classes)

    def classify(self, last_feature: Tensor) -> Tensor:
        """Logits (B, Y)."""
        logits: Tensor = self.classifier(last_feature)
        return logits
