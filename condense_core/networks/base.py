"""What every network offers the losses: one feature per block, an embedding, logits.

Shape legend: B batch, C channels, H height, W width, D feature, Y classes.
"""

from torch import Tensor, nn

from condense_core.errors import ConfigError
from condense_core.networks.blur import gaussian_blur

ImageShape = tuple[int, int, int]


class FeatureNetwork(nn.Module):
    """A classifier whose intermediate features can be matched layer by layer.

    A subclass sets the attributes and implements `classify`. Inputs are *normalised*
    images.

    Attributes:
        blocks: The layers, grouped into those whose outputs are features.
        width: Channels (units) of the first block.
        feature_dim: D, the size of `embed`'s output.
        low_pass: Deviation of a Gaussian blur in front of the first block, as a share
            of the image's shorter side; 0 is none. It has no parameters: weights fit a
            network with and without it.
    """

    blocks: nn.ModuleList
    width: int
    feature_dim: int
    low_pass: float = 0.0

    def layer_features(self, images_BCHW: Tensor) -> list[Tensor]:
        """The output of every block, in order.

        Args:
            images_BCHW: Normalised images.

        Returns:
            One tensor a block: (B, C', H', W') feature maps, or (B, D) in an MLP.
        """
        features: list[Tensor] = []
        if self.low_pass:
            pixels = self.low_pass * min(images_BCHW.shape[-2:])
            images_BCHW = gaussian_blur(images_BCHW, pixels)
        for block in self.blocks:
            features.append(block(features[-1] if features else images_BCHW))
        return features

    def embed(self, last_feature: Tensor) -> Tensor:
        """Pool the last entry of `layer_features` over space to (B, D)."""
        return (
            last_feature.flatten(2).mean(2) if last_feature.ndim > 2 else last_feature
        )

    def classify(self, last_feature: Tensor) -> Tensor:
        """Logits (B, Y) from the last entry of `layer_features`."""
        raise NotImplementedError

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, Y) of normalised images."""
        return self.classify(self.layer_features(images_BCHW)[-1])


def first_padding(image_shape: ImageShape, *, kernel_size: int) -> int:
    """Padding of the first convolution: "same", or 28x28 one-channel input made 32x32.

    The literature pads MNIST-like images to the 32x32 the networks were shaped for.
    """
    same = kernel_size // 2
    return same + 2 if image_shape == (1, 28, 28) else same


def padded_size(image_shape: ImageShape) -> tuple[int, int]:
    """Height and width after the first convolution (see `first_padding`)."""
    return (32, 32) if image_shape == (1, 28, 28) else image_shape[1:]


def scaled_widths(
    widths: tuple[int, ...], *, width: int | None, default: int
) -> tuple[int, ...]:
    """Scale a published list of widths so that ``default`` becomes ``width``."""
    if width is None:
        return widths
    return tuple(max(1, value * width // default) for value in widths)


def require_no_depth(name: str, depth: int | None) -> None:
    """Refuse a depth for a network that has only one.

    Raises:
        ConfigError: If ``depth`` is given.
    """
    if depth is not None:
        raise ConfigError(
            f"network '{name}' has a fixed depth but depth={depth} was given: "
            "leave it out, or use 'convnet' or 'mlp'"
        )


def require_two_pixels(name: str, image_shape: ImageShape) -> None:
    """Refuse images on which an instance norm would see a single pixel.

    Its output is then its shift alone, whatever the image.

    Raises:
        ConfigError: If a side is shorter than two pixels.
    """
    if min(image_shape[1:]) < 2:
        raise ConfigError(
            f"network '{name}' cannot use images of shape {image_shape}: give images "
            "of at least 2 px a side, or use 'mlp'"
        )
