"""The sampler that serves real images to the training loop.

Shape legend: B batch, Y classes, C H W image.
"""

import torch
from torch import Tensor

from condense_core.compute.parts import Part
from condense_core.data import ImageData, require_images
from condense_core.data.convert import to_unit
from condense_core.data.mapped import expecting, gather


class ClassSampler:
    """Random images per class or over the whole set, drawn on the device.

    The images stay on the device as uint8, sorted by class, so that a draw is one
    gather and never waits for the host.

    Args:
        data: Every class needs at least one image.
        device: Where the images live and the batches appear.

    Raises:
        DataError: a class has no image.
    """

    def __init__(self, data: ImageData, device: torch.device | str) -> None:
        """Sort the images by class and move them to ``device``."""
        require_images(data)
        if not bool((data.labels.diff() >= 0).all()):
            data = data.subset(data.labels.argsort(stable=True))
        data = data.to(device)
        self.images, self.labels, self.classes = data.images, data.labels, data.classes
        self.device = self.images.device
        self.counts = data.counts
        self.offsets = self.counts.cumsum(0) - self.counts
        self._bounds = [0, *(self.offsets + self.counts).tolist()]

    def sample(
        self,
        per_class: int,
        generator: torch.Generator,
        classes: Tensor | None = None,
        *,
        part: Part | None = None,
    ) -> Tensor:
        """Draw images of each class, uniformly and with replacement.

        Args:
            per_class: Images per class, at least 1.
            generator: On the sampler's device, or elsewhere at the price of a copy.
            classes: int64 (Y_sel,) in 0..Y-1; all classes when None.
            part: Rows of the result to return; the draw is that of the whole.

        Returns:
            float32 (Y_sel, per_class, C, H, W) in [0, 1].
        """
        offsets, counts = self.offsets, self.counts
        if classes is not None:
            classes = classes.to(self.device)
            offsets, counts = offsets[classes], counts[classes]
        size = (counts.shape[0], per_class)
        draw = torch.rand(size, generator=generator, device=generator.device)
        draw = draw.to(self.device, non_blocking=True)
        if part is not None:
            draw, offsets, counts = (v[part.rows] for v in (draw, offsets, counts))
        # Rounding can make draw * count equal to count, which is the next class.
        within = (draw * counts[:, None]).long().clamp(max=counts[:, None] - 1)
        return to_unit(gather(self.images, offsets[:, None] + within))

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw images uniformly over the set, with replacement.

        Returns:
            Images float32 (B, C, H, W) in [0, 1] and labels int64 (B,).
        """
        total = self.images.shape[0]
        index = torch.randint(
            total, (size,), generator=generator, device=generator.device
        ).to(self.device, non_blocking=True)
        return to_unit(gather(self.images, index)), self.labels[index]

    def all_of(self, label: int) -> Tensor:
        """Every image of one class: uint8 (n, C, H, W), a view."""
        first, last = self._bounds[label], self._bounds[label + 1]
        return expecting(self.images[first:last])
