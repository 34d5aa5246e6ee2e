"""Fine detail that generated images lack, borrowed from real images of the minibatch.

A small generator draws smooth images. A network trained on smooth images of old classes
and sharp images of new ones learns to tell old from new by sharpness. It then takes
every sharp image for a new class, and all test images are sharp. So a generated image
x^ gets the detail of a random real image r of the same minibatch,

    x = x^ + (r - blur(r)),

and sharpness no longer depends on the class. It costs no bytes and is not in the paper.

Shape legend: B generated images, N real images, C H W image.
"""

import torch
from torch import Tensor

from condense_core.networks.blur import gaussian_blur

WIDEST = 8.0  # pixels; a blur this wide leaves next to nothing
BISECTIONS = 12  # of the interval from 0 to WIDEST: exact to 0.002 px
MATCHED_ON = 256  # real images are enough to find the width


def matching_sigma(real_NCHW: Tensor, energy: float) -> float:
    """Standard deviation of the blur that removes ``energy`` from real images.

    Args:
        real_NCHW: At least one image, in any range.
        energy: Mean square per pixel, in squared units of the images.

    Returns:
        Pixels, from 0 to `WIDEST`; 0 if there is no energy to remove.
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
    rng: torch.Generator,
) -> Tensor:
    """Generated images, each with the fine detail of a random real image.

    Args:
        generated_BCHW: In the units of ``real_NCHW`` and on the same device.
        real_NCHW: At least one image.
        sigma: Of the blur, in pixels; what it removes is detail. 0 adds nothing.
        rng: On the CPU.

    Returns:
        (B, C, H, W), clamped per channel to the range of both inputs.
    """
    if sigma <= 0.0:
        return generated_BCHW
    detail_NCHW = real_NCHW - gaussian_blur(real_NCHW, sigma)
    lender_B = torch.randint(len(real_NCHW), (len(generated_BCHW),), generator=rng)
    images = generated_BCHW + detail_NCHW[lender_B.to(real_NCHW.device)]
    both = torch.cat([generated_BCHW, real_NCHW]).transpose(0, 1).flatten(1)
    low_C, high_C = both.aminmax(dim=1)
    return images.clamp(low_C.view(-1, 1, 1), high_C.view(-1, 1, 1))
