"""The plain reference of `engine.py`: the same step as peers' code computes it.

Four habits of plain implementations, and nothing else, tell it from the library:
features of the association are computed again at every step although phi has not
changed, every class passes through phi on its own, every sample is augmented on its
own, and phi has PyTorch's pooling. The draws are the library's, so that the result is
too.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense_core.augment import (
    OPERATIONS,
    ROTATE_DEGREES,
    SCALE,
    AugmentParameters,
    SiameseAugment,
)
from condense_core.compute.parts import Part
from condense_core.loop_state import LoopState
from condense_core.networks.pool import AveragePool
from condense_core.seeding import make_generator


def _scale(image_1CHW: Tensor, uniform_1U: Tensor) -> Tensor:
    low, high = 1.0 / SCALE, SCALE
    factor_y, factor_x = (uniform_1U[0, :2] * (high - low) + low).unbind()
    zero = torch.zeros_like(factor_x)
    return _warp(image_1CHW, [factor_x, zero, zero, zero, factor_y, zero])


def _rotate(image_1CHW: Tensor, uniform_1U: Tensor) -> Tensor:
    angle = (uniform_1U[0, 0] - 0.5) * 2.0 * math.radians(ROTATE_DEGREES)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    zero = torch.zeros_like(angle)
    return _warp(image_1CHW, [cosine, -sine, zero, sine, cosine, zero])


def _warp(image_1CHW: Tensor, matrix: list[Tensor]) -> Tensor:
    """Of square images, with PyTorch's own grid."""
    theta = torch.stack(matrix).view(1, 2, 3)
    grid = F.affine_grid(theta, list(image_1CHW.shape), align_corners=False)
    return F.grid_sample(image_1CHW, grid, align_corners=False)


def _beside(images_BCHW: Tensor, drawn: AugmentParameters) -> AugmentParameters:
    """Parameters where the images are: those of many steps are drawn on the CPU."""
    uniforms = tuple(values.to(images_BCHW.device) for values in drawn.uniforms)
    return AugmentParameters(drawn.operations, uniforms)


ONE_IMAGE = {**OPERATIONS, "scale": _scale, "rotate": _rotate}


class PerSampleAugment:
    """`SiameseAugment` with a list over samples in place of a batch."""

    def __init__(self, batched: SiameseAugment) -> None:
        self.draw = batched.draw

    def apply(self, images_BCHW: Tensor, parameters: AugmentParameters) -> Tensor:
        augmented = []
        for index in range(len(images_BCHW)):
            image = images_BCHW[index : index + 1]
            for name, uniforms in zip(
                parameters.operations, parameters.uniforms, strict=True
            ):
                row = index % len(uniforms)
                image = ONE_IMAGE[name](image, uniforms[row : row + 1])
            augmented.append(image)
        return torch.cat(augmented)

    def augment(
        self,
        images_BCHW: Tensor,
        generator: torch.Generator,
        *,
        part: Part | None = None,  # one process: always the whole
    ) -> Tensor:
        drawn = self.draw(len(images_BCHW), generator, images_BCHW.device)
        return self.apply(images_BCHW, drawn)

    def apply_each(
        self, images_BCHW: Tensor, drawn: Sequence[AugmentParameters]
    ) -> list[Tensor]:
        return [self.apply(images_BCHW, _beside(images_BCHW, one)) for one in drawn]


class PlainState(LoopState):
    """A `LoopState` whose steps are computed the plain way.

    To be run with ``loop.reuse_association=false``.
    """

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.augment = PerSampleAugment(self.augment)
        if self.students is not None:
            self.students._augment = self.augment
        self._drawn_at = -1

    def initialise_network(self, restart: int) -> None:
        super().initialise_network(restart)
        network = self.network
        for block in list(network.modules()):
            for name, layer in block.named_children():
                if isinstance(layer, AveragePool):
                    setattr(block, name, nn.AvgPool2d(2))
        network.layer_features = _class_by_class(
            network.layer_features, self.synthesiser.spec.num_classes
        )

    def associate(self, sampler, teacher, rng):
        # The library draws once for an outer iteration; here the same images again.
        if self._drawn_at != self.outer:
            self._drawn_at = self.outer
        else:
            first = self.outer * self.config.loop.generator_updates
            rng = make_generator(self.config.seed, "step", first)
        return super().associate(sampler, teacher, rng)


def _class_by_class(
    layer_features: Callable[[Tensor], list[Tensor]], classes: int
) -> Callable[[Tensor], list[Tensor]]:
    def loop(images_BCHW: Tensor) -> list[Tensor]:
        parts = [layer_features(part) for part in images_BCHW.chunk(classes)]
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    return loop
