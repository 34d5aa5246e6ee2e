"""Images as one PNG or JPEG file a class, encoded by Pillow.

A file of its own for a tiny image would be mostly headers, so that the images of a
class are tiles of one strip. In JPEG, tiles lie on the grid of the codec's blocks, so
that they do not bleed into each other (but for the subsampled colour of the outermost
pixels).

Shape legend: N images, C H W image.
"""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

JPEG_QUALITY = 75
LONGEST = 65_500  # pixels of a side, a limit of JPEG


def encode(images_NCHW: Tensor, kind: str) -> bytes:
    """One file of all images.

    Args:
        images_NCHW: uint8, grey or RGB.
        kind: ``png`` or ``jpeg``.
    """
    tiles = _on_grid(images_NCHW, kind)
    strip = tiles.transpose(0, 1).flatten(1, 2)  # (C, N * H, W)
    if strip.shape[1] > LONGEST:
        raise SystemExit(f"{len(images_NCHW)} images are too many for one file")
    pixels = strip.permute(1, 2, 0).squeeze(2).contiguous().numpy()
    file = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if kind == "jpeg" else {}
    Image.fromarray(pixels).save(file, kind.upper(), optimize=True, **options)
    return file.getvalue()


def decode(content: bytes, kind: str, image_shape: tuple[int, int, int]) -> Tensor:
    """Images (N, C, H, W), uint8, of a file of `encode`."""
    channels, height, width = image_shape
    strip = torch.from_numpy(np.array(Image.open(io.BytesIO(content))))
    strip = strip.view(strip.shape[0], strip.shape[1], channels).permute(2, 0, 1)
    grid = _grid(channels, kind)
    tall = height + -height % grid
    tiles = strip.unflatten(1, (-1, tall)).transpose(0, 1)
    return tiles[:, :, :height, :width].contiguous()


def most_in_one_file(image_shape: tuple[int, ...], kind: str) -> int:
    """How many images (C, H, W) fit into one file of `encode`."""
    channels, height, _ = image_shape
    return LONGEST // (height + -height % _grid(channels, kind))


def _on_grid(images_NCHW: Tensor, kind: str) -> Tensor:
    channels, height, width = images_NCHW.shape[1:]
    grid = _grid(channels, kind)
    padded = F.pad(
        images_NCHW.float(), (0, -width % grid, 0, -height % grid), mode="replicate"
    )
    return padded.to(torch.uint8)


def _grid(channels: int, kind: str) -> int:
    """Side of the codec's blocks: 16 where colour is subsampled."""
    if kind == "png":
        return 1
    return 16 if channels == 3 else 8
