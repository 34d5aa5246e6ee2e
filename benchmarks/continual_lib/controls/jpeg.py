"""Exemplars as JPEG.

Shape legend: N images, C H W image.
"""

import io
import math

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from continual_lib.controls.base import Part
from continual_lib.controls.pixels import PixelExemplarMemory


class JpegExemplarMemory(PixelExemplarMemory):
    """Herded exemplars, all of a class as tiles of one JPEG strip.

    A file of its own for a tiny image would be mostly headers. Tiles lie on the grid
    of the codec's blocks, so that they do not bleed into each other (but for the
    subsampled colour of the outermost pixels, which the decoder interpolates).

    Args:
        mem_bytes: Bound of the stored bytes (of the files).
        seed: Of the choice of candidates.
        candidates: Images of a class that herding may choose from.
        quality: Of JPEG.
    """

    def __init__(
        self,
        *,
        mem_bytes: int,
        seed: int = 0,
        candidates: int = 2000,
        quality: int = 75,
    ) -> None:
        super().__init__(mem_bytes=mem_bytes, seed=seed, candidates=candidates)
        self.quality = quality

    def _least_bytes(self, image_shape: tuple[int, int, int]) -> int:
        return max(1, math.prod(image_shape) // 50)  # below what a real image takes

    def _encode(self, pixels_NCHW: Tensor) -> Tensor:
        channels, height, width = pixels_NCHW.shape[1:]
        down, right = (-side % _grid(channels) for side in (height, width))
        tiles = F.pad(pixels_NCHW.float(), (0, right, 0, down), mode="replicate")
        most = 65500 // tiles.shape[2]  # the format's limit
        strip = tiles[:most].transpose(0, 1).flatten(1, 2).permute(1, 2, 0)
        array = strip.squeeze(2).to(torch.uint8).numpy()
        file = io.BytesIO()
        Image.fromarray(array).save(file, "JPEG", quality=self.quality, optimize=True)
        return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)

    def _pixels(self, stored: Tensor, part: Part) -> Tensor:
        channels, height, width = part.image_shape
        image = Image.open(io.BytesIO(stored.numpy().tobytes()))
        strip = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        strip = strip.view(image.height, image.width, channels).permute(2, 0, 1)
        tile = height + -height % _grid(channels)
        tiles = strip.unflatten(1, (-1, tile)).transpose(0, 1)
        return tiles[:, :, :height, :width].contiguous()


def _grid(channels: int) -> int:
    if channels not in (1, 3):
        raise ValueError(f"JPEG stores 1 or 3 channels, the images have {channels}")
    return 8 if channels == 1 else 16  # colour is subsampled
