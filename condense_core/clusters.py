"""k-means, for images to start from and for the regions of a class in latent space.

Shape legend: K centres, N points, P dimensions of a point.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CLUSTER_ITERATIONS = 20


def cluster_centres(
    points_NP: Tensor, count: int, *, generator: torch.Generator
) -> Tensor:
    """k-means (Lloyd) from a k-means++ start: (count, P).

    Written in matrix products so that it is deterministic on the device of the points.
    With fewer points than centres some centres coincide.
    """
    centres = _spread_start(points_NP, count, generator)
    for _ in range(CLUSTER_ITERATIONS if count > 1 else 1):
        nearest = torch.cdist(points_NP, centres).argmin(dim=1)
        member_KN = F.one_hot(nearest, count).T.to(points_NP.dtype)
        sizes = member_KN.sum(dim=1, keepdim=True)
        means = member_KN @ points_NP / sizes.clamp_min(1.0)
        centres = torch.where(sizes > 0, means, centres)
    return centres


def _spread_start(points_NP: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: each start is drawn with odds of its squared distance to the rest."""
    draws = torch.rand(count, generator=generator).to(points_NP.device)
    chosen = [
        points_NP[(draws[0] * len(points_NP)).long().clamp_max(len(points_NP) - 1)]
    ]
    distance_N = (points_NP - chosen[0]).square().sum(dim=1)
    for draw in draws[1:]:
        cumulative = distance_N.double().cumsum(0)
        index = torch.searchsorted(cumulative, draw.double() * cumulative[-1])
        chosen.append(points_NP[index.clamp_max(len(points_NP) - 1)])
        newest = (points_NP - chosen[-1]).square().sum(dim=1)
        distance_N = torch.minimum(distance_N, newest)
    return torch.stack(chosen)
