"""A Gaussian blur: what is left of an image without its finest detail.

Shape legend: N images, C channels, H height, W width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_blur(images_NCHW: Tensor, sigma: float) -> Tensor:
    """Images under a Gaussian of deviation ``sigma`` pixels, mirrored at the edges.

    Args:
        images_NCHW: Floats.
        sigma: Above 0. The Gaussian is cut at three deviations, and at the size of the
            image, beyond which there is nothing to mirror.
    """
    channels = images_NCHW.shape[1]
    radius = min(math.ceil(3.0 * sigma), min(images_NCHW.shape[-2:]) - 1)
    places = torch.arange(-radius, radius + 1, device=images_NCHW.device)
    weights = (-places.square() / (2.0 * sigma**2)).exp().to(images_NCHW.dtype)
    kernel = (weights / weights.sum()).expand(channels, 1, 1, -1)
    padded = F.pad(images_NCHW, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel, groups=channels)
    return F.conv2d(rows, kernel.transpose(2, 3), groups=channels)
