"""A Gaussian, or a mixture of a few, for each class.

Shape legend: N images, B batch, K classes of an experience, J mixture components, M
directions, D = C * H * W pixels, R rows.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from continual_lib.controls.base import ExperienceMemory, Part, too_small
from continual_lib.controls.packing import pack_rows, unpack_rows


class PcaGaussianMemory(ExperienceMemory):
    """A Gaussian a class: mean and principal directions, 8 bits, fresh samples.

    A direction is stored times its standard deviation, so that its scale holds both.
    As many directions are kept as the budget allows.

    Args:
        mem_bytes: Bound of the stored bytes.
        seed: Of k-means and of the search for directions.
        components: J, Gaussians a class (found by k-means).
    """

    def __init__(self, *, mem_bytes: int, seed: int = 0, components: int = 1) -> None:
        super().__init__(mem_bytes=mem_bytes, seed=seed)
        self.components = components

    def _directions(self, part: Part, share: int, gaussians: int) -> int:
        row, weights = math.prod(part.image_shape) + 2, 2 * gaussians
        rows = (share - weights) // (gaussians * row)
        if rows < 1:
            raise too_small(share, gaussians * row + weights)
        return rows - 1

    def _fit(self, empty: Part, groups: list[Tensor], share: int) -> Part:
        generator = self._generator("fit")
        count = self._directions(empty, share, len(groups) * self.components)
        rows, weights = [], []
        for images in groups:
            flat_ND = images.flatten(1).cpu()
            assigned_N = kmeans(flat_ND, self.components, generator)
            for component in range(self.components):
                members_ND = flat_ND[assigned_N == component]
                weights.append(len(members_ND) / len(flat_ND))
                rows.append(gaussian_rows(members_ND, count, generator))
        steps, scale_R = pack_rows(torch.cat(rows))
        return empty.filled(
            {"rows": steps, "scale": scale_R, "weights": torch.tensor(weights).half()}
        )

    def _shrink(self, part: Part, share: int) -> Part:
        gaussians = len(part.tensors["weights"])
        count = self._directions(part, share, gaussians)
        steps = part.tensors["rows"].unflatten(0, (gaussians, -1))[:, : count + 1]
        scale = part.tensors["scale"].unflatten(0, (gaussians, -1))[:, : count + 1]
        return part.filled(
            {
                "rows": steps.flatten(0, 1),
                "scale": scale.flatten(),
                "weights": part.tensors["weights"],
            }
        )

    def _decode(self, part: Part) -> tuple[Tensor, Tensor]:
        rows = unpack_rows(part.tensors["rows"], part.tensors["scale"])
        classes = len(part.pairs)
        weights_KJ = part.tensors["weights"].float().view(classes, -1)
        return rows.view(*weights_KJ.shape, -1, rows.shape[1]), weights_KJ

    def _draw(
        self,
        part: Part,
        ready: Any,
        position: int,
        count: int,
        generator: torch.Generator,
    ) -> Tensor:
        rows_KJMD, weights_KJ = ready
        chosen_B = torch.multinomial(
            weights_KJ[position], count, replacement=True, generator=generator
        )
        images = []
        for component, number in enumerate(chosen_B.bincount().tolist()):
            mean_D, directions_MD = rows_KJMD[position, component].split(
                [1, rows_KJMD.shape[2] - 1]
            )
            noise_BM = torch.randn(number, len(directions_MD), generator=generator)
            images.append(mean_D + noise_BM @ directions_MD)
        return (
            torch.cat(images).clamp(part.low, part.high).unflatten(1, part.image_shape)
        )


def kmeans(
    flat_ND: Tensor, clusters: int, generator: torch.Generator, *, iterations: int = 25
) -> Tensor:
    """Cluster of every row (N,), by Lloyd's iterations; an empty one is drawn anew."""
    if clusters == 1:
        return torch.zeros(len(flat_ND), dtype=torch.long)
    start = torch.randperm(len(flat_ND), generator=generator)[:clusters]
    centres = flat_ND[start].clone()
    for _ in range(iterations):
        assigned_N = torch.cdist(flat_ND, centres).argmin(dim=1)
        for cluster in range(clusters):
            members = flat_ND[assigned_N == cluster]
            if len(members) == 0:
                drawn = torch.randint(len(flat_ND), (1,), generator=generator)
                members = flat_ND[drawn]
            centres[cluster] = members.mean(dim=0)
    return torch.cdist(flat_ND, centres).argmin(dim=1)


def gaussian_rows(flat_ND: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Mean, then ``count`` principal directions times their deviations: (1 + M, D).

    Directions beyond the rank of the data are zero. Subspace iteration.
    """
    if len(flat_ND) == 0:  # an empty cluster, of weight 0
        return torch.zeros(1 + count, flat_ND.shape[1])
    mean_D = flat_ND.mean(dim=0)
    centred_ND = flat_ND - mean_D
    rank = min(count + 10, *flat_ND.shape)
    basis = torch.randn(flat_ND.shape[1], rank, generator=generator)
    for _ in range(8):
        basis = torch.linalg.qr(centred_ND.T @ (centred_ND @ basis)).Q
    _, singular, right = torch.linalg.svd(centred_ND @ basis, full_matrices=False)
    deviations = singular / math.sqrt(max(1, len(flat_ND) - 1))
    scaled = deviations[:count, None] * (right @ basis.T)[:count]
    missing = count - len(scaled)
    return torch.cat([mean_D[None], F.pad(scaled, (0, 0, 0, missing))])
