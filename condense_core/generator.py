"""The class-conditional generator G (Zhang et al. 2023, sec. 3.2 and 4.2).

Shape legend: B batch, Z latent dimension, E class embedding dimension, P projected
class dimension, C H W image.
"""

import math

import torch
from torch import Tensor, nn

from condense_core.compute.mode import full_precision

SMALLEST_SIDE, LARGEST_SIDE = 8, 128  # pixels; networks have the same limits
BASE_SIDE = 4  # resolution of the first block for square powers of two


def default_blocks(height: int, width: int) -> int:
    """Blocks that lift a base of about 4 px to the image.

    One for 8 px, three for 28 or 32 px and four for 64 px, as in the paper, five for
    128 px.
    """
    return max(1, math.ceil(math.log2(max(height, width) / BASE_SIDE)))


class GeneratorBlock(nn.Sequential):
    """Two activation-convolution-batchnorm layers and an upsampling (sec. 4.2)."""

    def __init__(self, channels: int) -> None:
        """All convolutions are 3 x 3 and keep ``channels``."""
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.Upsample(scale_factor=2, mode="nearest"),
        )


class ConditionalGenerator(nn.Module):
    """x = G(z, c(y)): code and projected class embedding, concatenated, to an image.

    The paper fixes blocks and the projection "to make it balance with z"; it leaves
    open the width, the base resolution and the output layer. We start from a base of
    about 4 x 4, upsample by nearest neighbour (the convention of BigGAN-like
    generators at this size), crop the centre where the image is no multiple of the
    base (28 px comes from 32) and end in a sigmoid, so that images are in [0, 1].

    Attributes:
        image_shape: (C, H, W) of the output.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        embedding_dim: int,
        projected_dim: int,
        channels: int = 64,
        blocks: int | None = None,
    ) -> None:
        """Build G.

        Args:
            image_shape: (C, H, W); C is 1 or 3, sides are 8 to 128 px and need not be
                equal.
            latent_dim: Z.
            embedding_dim: E, the size of the stored class embedding.
            projected_dim: P, the size after the projection layer.
            channels: Width of every convolution.
            blocks: Number of upsampling blocks; None takes `default_blocks`.
        """
        super().__init__()
        _, height, width = image_shape
        blocks = default_blocks(height, width) if blocks is None else blocks
        self.image_shape = image_shape
        self.channels = channels
        self.base_size = (math.ceil(height / 2**blocks), math.ceil(width / 2**blocks))
        if self.base_size == (1, 1):
            # Batch norm cannot train on the single value a channel that one class and
            # one code would give; the crop takes the surplus off.
            self.base_size = (2, 2)
        base_pixels = self.base_size[0] * self.base_size[1]

        self.project = nn.Linear(embedding_dim, projected_dim)
        self.stem = nn.Linear(latent_dim + projected_dim, channels * base_pixels)
        self.stem_norm = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*(GeneratorBlock(channels) for _ in range(blocks)))
        self.to_image = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, image_shape[0], 3, padding=1)
        )

    def forward(self, codes_BZ: Tensor, embeddings_BE: Tensor) -> Tensor:
        """Generate images in [0, 1] of shape (B, C, H, W)."""
        latent = torch.cat([codes_BZ, self.project(embeddings_BE)], dim=1)
        base = self.stem(latent).view(-1, self.channels, *self.base_size)
        image = self.to_image(self.blocks(self.stem_norm(base)))
        return torch.sigmoid(full_precision(self._crop(image)))

    def _crop(self, images_BCHW: Tensor) -> Tensor:
        _, height, width = self.image_shape
        top = (images_BCHW.shape[2] - height) // 2
        left = (images_BCHW.shape[3] - width) // 2
        return images_BCHW[:, :, top : top + height, left : left + width]
