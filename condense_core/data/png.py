"""One image as a PNG file.

Shape legend: C H W image.
"""

import io
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def to_png(image_CHW: Tensor, *, largest: int | None = None) -> bytes:
    """The bytes of a PNG file.

    Args:
        image_CHW: As for `picture`.
        largest: Shrink so that no side is longer than this.
    """
    image = picture(image_CHW)
    if largest is not None:
        image.thumbnail((largest, largest))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def picture(image_CHW: Tensor) -> "Image":
    """An image of PIL.

    Args:
        image_CHW: Float in [0, 1] or uint8; any number of channels but 1 and 3 is
            shown as the mean of all.
    """
    from PIL import Image

    image_CHW = image_CHW.detach().cpu()
    if image_CHW.is_floating_point():
        image_CHW = image_CHW.clamp(0, 1).mul(255).round()
    if image_CHW.shape[0] not in (1, 3):
        image_CHW = image_CHW.float().mean(0, keepdim=True).round()
    pixels_HWC = image_CHW.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    if pixels_HWC.shape[2] == 1:
        return Image.fromarray(pixels_HWC[:, :, 0])
    return Image.fromarray(pixels_HWC)
