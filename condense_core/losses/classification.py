"""Classification loss L_c on features, part of L_GAN (Zhang et al. 2023, sec. 3.2).

Shape legend: B batch, Y classes.
"""

from torch import Tensor
from torch.nn import functional as F


def classification_loss(logits_BY: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy.

    Args:
        logits_BY: Class logits of a head on the features of real or synthetic images.
        targets: (B,) class ids, or (B, Y) probabilities: the soft labels of a trained
            network, which the paper uses where classes are not mutually exclusive
            (ImageNet, sec. 4.2).

    Returns:
        Scalar.
    """
    return F.cross_entropy(logits_BY, targets)
