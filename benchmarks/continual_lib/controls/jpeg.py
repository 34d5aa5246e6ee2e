"""Exemplars as JPEG.

Shape legend: N images, C H W image.
"""

import math

import torch
from image_files import decode, encode, most_in_one_file
from torch import Tensor

from continual_lib.controls.base import Part
from continual_lib.controls.pixels import PixelExemplarMemory


class JpegExemplarMemory(PixelExemplarMemory):
    """Herded exemplars, all of a class as tiles of one JPEG file (`image_files`)."""

    def _least_bytes(self, image_shape: tuple[int, int, int]) -> int:
        return max(1, math.prod(image_shape) // 50)  # below what a real image takes

    def _encode(self, pixels_NCHW: Tensor) -> Tensor:
        most = most_in_one_file(pixels_NCHW.shape[1:], "jpeg")
        content = encode(pixels_NCHW[:most].to(torch.uint8), "jpeg")
        return torch.frombuffer(bytearray(content), dtype=torch.uint8)

    def _pixels(self, stored: Tensor, part: Part) -> Tensor:
        return decode(stored.numpy().tobytes(), "jpeg", part.image_shape)
