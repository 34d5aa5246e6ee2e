"""Adversarial loss in feature space, Eq. 1 of Zhang et al. 2023.

``min_G max_D  E[log D(phi(x), c(y))] + E[log(1 - D(phi(x~), c(y)))]`` with
D = sigmoid(logit). Written with softplus, log D = -softplus(-logit) and
log(1 - D) = -softplus(logit), which never overflow.

The second term of Eq. 1 hardly moves G while D wins; the generator therefore gets the
non-saturating form -log D(phi(x~), c(y)) by default, and the literal one on request.

Shape legend: B batch.
"""

from torch import Tensor
from torch.nn import functional as F


def discriminator_loss(real_logits_B: Tensor, synthetic_logits_B: Tensor) -> Tensor:
    """What D minimises: Eq. 1 with its sign turned.

    Args:
        real_logits_B: D on real features; any batch size.
        synthetic_logits_B: D on synthetic features; any batch size.

    Returns:
        Scalar, 2 log 2 for an undecided D.

    Example:
        >>> import torch
        >>> round(discriminator_loss(torch.zeros(4), torch.zeros(2)).item(), 4)
        1.3863
    """
    return F.softplus(-real_logits_B).mean() + F.softplus(synthetic_logits_B).mean()


def generator_loss(synthetic_logits_B: Tensor, *, saturating: bool = False) -> Tensor:
    """What G minimises.

    Args:
        synthetic_logits_B: D on synthetic features.
        saturating: True for the literal E[log(1 - D)] of Eq. 1.

    Returns:
        Scalar; log 2 for an undecided D (-log 2 when saturating).
    """
    if saturating:
        return -F.softplus(synthetic_logits_B).mean()
    return F.softplus(-synthetic_logits_B).mean()
