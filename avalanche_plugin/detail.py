"""Fine detail that generated images lack, lent by the real images beside them.

A small generator draws smooth images. A network that is shown smooth images of the old
classes beside sharp ones of the new learns to tell old from new by sharpness, and then
calls every sharp image new, that is, every image it is tested on. So a generated image
x^ gets the detail of a random real image r of the same minibatch,

    x = x^ + (r - blur(r)),

which then says nothing about the class. Costs no bytes; not in the paper.

Shape legend: B generated images, N real images, C H W image.
"""

import torch
from torch import Tensor

from condense_core.networks.blur import gaussian_blur

WIDEST = 8.0  # pixels; a blur this wide leaves next to nothing
BISECTIONS = 12  # of the interval 0 to WIDEST: to 0.002 px
MATCHED_ON = 256  # real images that are enough to find a width


def matching_sigma(real_NCHW: Tensor, energy: float) -> float:
    """Deviation of the blur that takes ``energy`` away from real images.

    Args:
        real_NCHW: At least one image, in any range.
        energy: Mean square of a pixel, in the units of the images, squared.

    Returns:
        Pixels in 0 to `WIDEST`; 0 if there is no energy to take away.
    """
    if energy <= 0.0:
        return 0.0
    images = real_NCHW[:MATCHED_ON].float()
    low, high = 0.0, WIDEST
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        taken = (images - gaussian_blur(images, middle)).square().mean()
        low, high = (middle, high) if taken < energy else (low, middle)
    return (low + high) / 2


def lend_detail(
    generated_BCHW: Tensor,
    real_NCHW: Tensor,
    sigma: float,
    generator: torch.Generator,
) -> Tensor:
    """Generated images with the fine detail of real ones, each with a random one's.

    Args:
        generated_BCHW: In the space of ``real_NCHW``, on its device.
        real_NCHW: At least one image.
        sigma: What is finer than this many pixels is detail; 0 lends nothing.
        generator: On the CPU.

    Returns:
        (B, C, H, W), in each channel within the values that occur in either.
    """
    if sigma <= 0.0:
        return generated_BCHW
    detail_NCHW = real_NCHW - gaussian_blur(real_NCHW, sigma)
    lender_B = torch.randint(
        len(real_NCHW), (len(generated_BCHW),), generator=generator
    )
    images = generated_BCHW + detail_NCHW[lender_B.to(real_NCHW.device)]
    both = torch.cat([generated_BCHW, real_NCHW]).transpose(0, 1).flatten(1)
    low_C, high_C = both.aminmax(dim=1)
    return images.clamp(low_C.view(-1, 1, 1), high_C.view(-1, 1, 1))
