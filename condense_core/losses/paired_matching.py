"""Eq. 2 of Zhang et al. 2023 where the association of an image is one image, its own.

``L_f = sum_l |f_l(x~) - f_l(x)|^2`` with x~ what the generator makes of the code of x.
Nothing is averaged over a class, and so nothing pulls its images together; as a loss of
reconstruction it is that of `deep feature consistent autoencoders
<https://arxiv.org/abs/1610.00291>`_.

Shape legend: B pairs, ``...`` any feature shape.
"""

from collections.abc import Sequence

from torch import Tensor

LEAST_VARIANCE = 1e-8  # of a layer: a dead one has none


def paired_matching_loss(
    synthetic_layers: Sequence[Tensor], real_layers: Sequence[Tensor]
) -> Tensor:
    """Squared distance of every synthetic image's features to its real one's.

    The error of a layer is a share of the variance of its real features, so that deep
    and shallow ones count alike whatever the scale of the network.

    Args:
        synthetic_layers: One tensor (B, ...) a layer.
        real_layers: Likewise, no gradient.

    Returns:
        Scalar: zero where the features agree, one a layer where all synthetic features
        are the mean of the real ones.

    Example:
        >>> import torch
        >>> real = torch.tensor([[0.0], [2.0]])
        >>> paired_matching_loss([torch.ones(2, 1)], [real]).item()
        1.0
        >>> paired_matching_loss([real], [real]).item()
        0.0
    """
    total = synthetic_layers[0].new_zeros(())
    for synthetic, real in zip(synthetic_layers, real_layers, strict=True):
        error = (synthetic - real).square().mean()
        total = total + error / real.var(correction=0).clamp_min(LEAST_VARIANCE)
    return total
