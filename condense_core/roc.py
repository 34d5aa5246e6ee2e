"""How well scores tell members from non-members: AUC, its interval, TPR at 1 % FPR.

Shape legend: M scores of members, L of non-members, R resamples, G distinct scores.
"""

import torch
from torch import Tensor

RESAMPLES = 1000  # of the bootstrap
_CELLS = 2**22  # of its largest temporary


def roc_auc(members_M: Tensor, non_members_L: Tensor) -> float:
    """Chance that a member scores above a non-member; a tie counts half.

    Example:
        >>> roc_auc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]))
        0.875
    """
    ranks, groups = _ranks(members_M, non_members_L)
    return float(_auc_of_ranks(ranks[0][None], ranks[1][None], groups))


def auc_interval(
    members_M: Tensor, non_members_L: Tensor, *, generator: torch.Generator
) -> tuple[float, float]:
    """A 95 % percentile interval of `roc_auc`, both sides resampled `RESAMPLES` times.

    Args:
        members_M: Scores of members.
        non_members_L: Scores of non-members.
        generator: Of the resampling, on the CPU.
    """
    ranks, groups = _ranks(members_M, non_members_L)
    chunk = max(1, _CELLS // groups)
    found = []
    for first in range(0, RESAMPLES, chunk):
        rows = min(chunk, RESAMPLES - first)
        sides = [
            side[torch.randint(len(side), (rows, len(side)), generator=generator)]
            for side in ranks
        ]
        found.append(_auc_of_ranks(sides[0], sides[1], groups))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.cat(found).quantile(ends).tolist()
    return low, high


def tpr_at_one_percent_fpr(members_M: Tensor, non_members_L: Tensor) -> float:
    """Share of members above the threshold that one non-member in a hundred passes."""
    allowed = len(non_members_L) // 100
    threshold = non_members_L.sort(descending=True).values[allowed]
    return float((members_M > threshold).double().mean())


def _ranks(members_M: Tensor, non_members_L: Tensor) -> tuple[list[Tensor], int]:
    """Both sides as positions among all G distinct scores, and G."""
    values_G, ranks = torch.cat([members_M, non_members_L]).unique(return_inverse=True)
    return list(ranks.split([len(members_M), len(non_members_L)])), len(values_G)


def _auc_of_ranks(members_RM: Tensor, non_members_RL: Tensor, groups: int) -> Tensor:
    """AUC of each row (R,), float64: Mann and Whitney's U over the pairs."""

    def counts_RG(ranks: Tensor) -> Tensor:
        empty = torch.zeros(len(ranks), groups, dtype=torch.float64)
        return empty.scatter_add_(1, ranks, torch.ones_like(ranks, dtype=empty.dtype))

    others_RG = counts_RG(non_members_RL)
    beaten_RG = others_RG.cumsum(1) - others_RG / 2
    pairs = members_RM.shape[1] * non_members_RL.shape[1]
    return (counts_RG(members_RM) * beaten_RG).sum(1) / pairs
