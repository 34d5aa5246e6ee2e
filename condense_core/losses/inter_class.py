"""Inter-class discrimination loss, Eq. 4 of Zhang et al. 2023.

``L_inter = sum_{A != B} max(tau_m - |mean f_A - mean f_B|, 0)``: a hinge on the
distance of the mean features of every two classes.

Two readings are ours. The sum runs over ordered pairs, Y (Y - 1) of them, which would
make the weight of the term grow with the square of the number of classes; we take the
mean, as the code of its source (Yu et al. 2019) does. A margin in absolute units means
nothing for features whose scale changes as phi trains; ``relative`` margins are
multiples of the mean distance between the *real* class means under the same phi.

Shape legend: Y classes, K synthetic images of each class, D feature dimension.
"""

import torch
from torch import Tensor


def inter_class_loss(
    features_YKD: Tensor,
    *,
    margin: float = 1.0,
    real_means_YD: Tensor | None = None,
) -> Tensor:
    """Keep the mean features of different classes at least a margin apart.

    Args:
        features_YKD: Pooled last-layer features of the synthetic images.
        margin: tau_m; a distance, or a multiple of one if ``real_means_YD`` is given.
        real_means_YD: Real class means, which make the margin relative.

    Returns:
        Scalar mean over class pairs; zero for a single class and wherever all pairs
        are further apart than the margin.

    Example:
        >>> features = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]])
        >>> inter_class_loss(features, margin=6.0).item()
        1.0
        >>> inter_class_loss(features, margin=5.0).item()
        0.0
    """
    if len(features_YKD) == 1:
        return features_YKD.sum() * 0.0
    threshold: Tensor | float = margin
    if real_means_YD is not None:
        threshold = margin * _pair_distances(real_means_YD).mean()
    distances = _pair_distances(features_YKD.mean(dim=1))
    return torch.relu(threshold - distances).mean()


def _pair_distances(means_YD: Tensor) -> Tensor:
    """Distances of the unordered pairs: (Y (Y-1) / 2,); finite gradient at zero."""
    first, second = torch.triu_indices(
        len(means_YD), len(means_YD), offset=1, device=means_YD.device
    )
    squared = (means_YD[first] - means_YD[second]).square().sum(dim=1)
    return (squared + 1e-12).sqrt()
