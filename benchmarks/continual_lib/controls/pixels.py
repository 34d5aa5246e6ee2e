"""Exemplars as 8-bit pixels, and herding.

Shape legend: N images, B batch, C H W image, D = C * H * W pixels.
"""

import math
from typing import Any

import torch
from torch import Tensor

from continual_lib.controls.base import ExperienceMemory, Part, too_small


class PixelExemplarMemory(ExperienceMemory):
    """Exemplars as plain 8-bit pixels, as many of each class.

    The same as `ReplayPlugin` would keep, but drawn as ours are: class-balanced.

    Args:
        mem_bytes: Bound of the stored bytes.
        seed: Of the choice of candidates.
        candidates: Images of a class to choose from, drawn at random.
        herded: Whether to choose by herding; else at random.
    """

    def __init__(
        self,
        *,
        mem_bytes: int,
        seed: int = 0,
        candidates: int = 2000,
        herded: bool = True,
    ) -> None:
        super().__init__(mem_bytes=mem_bytes, seed=seed)
        self.candidates, self.herded = candidates, herded

    def _fit(self, empty: Part, groups: list[Tensor], share: int) -> Part:
        generator, tensors = self._generator("candidates"), {}
        each = share // len(groups)
        most = each // self._least_bytes(empty.image_shape)
        for position, images in enumerate(groups):
            some = torch.randperm(len(images), generator=generator)[: self.candidates]
            images_NCHW = images[some.to(images.device)].cpu()
            order = torch.arange(min(most, len(images_NCHW)))
            if self.herded:
                order = herd(images_NCHW.flatten(1), len(order))
            pixels = (empty.to_unit(images_NCHW[order]) * 255).round().to(torch.uint8)
            tensors[str(position)] = self._largest(pixels, each)
        return empty.filled(tensors)

    def _shrink(self, part: Part, share: int) -> Part:
        each = share // len(part.pairs)
        tensors = {
            name: self._largest(self._pixels(stored, part), each)
            for name, stored in part.tensors.items()
        }
        return part.filled(tensors)

    def _largest(self, pixels_NCHW: Tensor, budget: int) -> Tensor:
        """The first images that fit, encoded: by bisection on their number."""
        low, high = 0, len(pixels_NCHW)
        while low < high:
            middle = (low + high + 1) // 2
            if self._encode(pixels_NCHW[:middle]).nbytes <= budget:
                low = middle
            else:
                high = middle - 1
        if low == 0:
            raise too_small(budget, self._encode(pixels_NCHW[:1]).nbytes)
        return self._encode(pixels_NCHW[:low])

    def _least_bytes(self, image_shape: tuple[int, int, int]) -> int:
        return math.prod(image_shape)

    def _encode(self, pixels_NCHW: Tensor) -> Tensor:
        return pixels_NCHW

    def _pixels(self, stored: Tensor, part: Part) -> Tensor:
        return stored

    def _decode(self, part: Part) -> list[Tensor]:
        return [self._pixels(stored, part) for stored in part.tensors.values()]

    def _draw(
        self,
        part: Part,
        ready: Any,
        position: int,
        count: int,
        generator: torch.Generator,
    ) -> Tensor:
        pixels_NCHW = ready[position]
        drawn_B = torch.randint(len(pixels_NCHW), (count,), generator=generator)
        return part.from_unit(pixels_NCHW[drawn_B].float() / 255)


def herd(flat_ND: Tensor, count: int) -> Tensor:
    """Indices (count,) whose running mean stays nearest to the mean of all images."""
    mean_D, half_norm_N = flat_ND.mean(dim=0), flat_ND.square().sum(dim=1) / 2
    total_D, chosen = torch.zeros_like(mean_D), []
    penalty_N = half_norm_N.clone()
    for number in range(1, count + 1):
        best = int((flat_ND @ (number * mean_D - total_D) - penalty_N).argmax())
        chosen.append(best)
        total_D += flat_ND[best]
        penalty_N[best] = math.inf
    return torch.tensor(chosen, dtype=torch.long)
