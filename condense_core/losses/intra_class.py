"""Intra-class diversity loss, Eq. 3 of Zhang et al. 2023.

``L_intra = -log( e<f, c(y)> / ( sum_{i=1}^{K-1} e<f, f_i> + e<f, c(y)> ) )`` with
``e = exp(. / tau)``: every other sample of the class is a negative, the class centre is
the positive.

Raw dot products inside exp overflow for any feature of usual length, so both sides are
normalised to unit length, as contrastive losses do. The centre is an argument: the
class mean of *real* features under the same phi by default, or the class embedding
c(y) of the generator, as in the paper (its space is that of another network).

Shape legend: Y classes, K synthetic images of each class, D feature dimension.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def intra_class_loss(
    features_YKD: Tensor, centres_YD: Tensor | None, *, tau: float = 0.1
) -> Tensor:
    """Push samples of a class apart while the class centre holds them.

    Args:
        features_YKD: Pooled last-layer features of the synthetic images.
        centres_YD: Class centres; None leaves the centre term out (Figure 4b), and the
            loss is then log-sum-exp of the similarities alone.
        tau: Temperature, above 0.

    Returns:
        Scalar mean over images; zero for one image per class, which has no negative.

    Example:
        >>> features = torch.eye(2).unsqueeze(0)  # one class, orthogonal samples
        >>> centre = torch.tensor([[1.0, 1.0]])
        >>> round(intra_class_loss(features, centre, tau=1.0).item(), 4)
        0.4008
    """
    if features_YKD.shape[1] == 1:
        return features_YKD.sum() * 0.0
    # Divided by tau, what bf16 rounds off a similarity would be ten times as large.
    with torch.autocast(features_YKD.device.type, enabled=False):
        return _contrast(features_YKD, centres_YD, tau)


def _contrast(features_YKD: Tensor, centres_YD: Tensor | None, tau: float) -> Tensor:
    classes, images, _ = features_YKD.shape
    unit_YKD = F.normalize(features_YKD, dim=2)
    similarity_YKK = unit_YKD @ unit_YKD.transpose(1, 2) / tau
    itself = torch.eye(images, dtype=torch.bool, device=unit_YKD.device)
    negatives_YKK = similarity_YKK.masked_fill(itself, -torch.inf)
    if centres_YD is None:
        return torch.logsumexp(negatives_YKK, dim=2).mean()
    unit_centres_YD = F.normalize(centres_YD, dim=1)
    positive_YK = torch.einsum("ykd,yd->yk", unit_YKD, unit_centres_YD) / tau
    everything = torch.cat([negatives_YKK, positive_YK.unsqueeze(2)], dim=2)
    assert everything.shape == (classes, images, images + 1)
    return (torch.logsumexp(everything, dim=2) - positive_YK).mean()
