"""The plain reference of `engine.py`: the same step as peers' code computes it.

Three habits of plain implementations, and nothing else, tell it from the library:
features of the association are computed again at every step although phi has not
changed, every class passes through phi on its own, and every sample is augmented on its
own. The draws are the library's, so that the result is too.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from condense_core.augment import AugmentParameters, SiameseAugment
from condense_core.loop_state import LoopState
from condense_core.parts import Part
from condense_core.seeding import make_generator


class PerSampleAugment:
    """`SiameseAugment` with a list over samples in place of a batch."""

    def __init__(self, batched: SiameseAugment) -> None:
        self._batched = batched
        self.draw = batched.draw

    def apply(self, images_BCHW: Tensor, parameters: AugmentParameters) -> Tensor:
        rows = [len(uniform) for uniform in parameters.uniforms]
        return torch.cat(
            [
                self._batched.apply(
                    image.unsqueeze(0),
                    AugmentParameters(
                        parameters.operations,
                        tuple(
                            uniform[index % count : index % count + 1]
                            for uniform, count in zip(
                                parameters.uniforms, rows, strict=True
                            )
                        ),
                    ),
                )
                for index, image in enumerate(images_BCHW)
            ]
        )

    def augment(
        self,
        images_BCHW: Tensor,
        generator: torch.Generator,
        *,
        part: Part | None = None,  # one process: always the whole
    ) -> Tensor:
        drawn = self.draw(len(images_BCHW), generator, images_BCHW.device)
        return self.apply(images_BCHW, drawn)


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

    def initialise_network(self, restart: int) -> nn.Module:
        network = super().initialise_network(restart)
        network.layer_features = _class_by_class(
            network.layer_features, self.synthesiser.spec.num_classes
        )
        return network

    def associate(self, sampler, teacher, draw):
        # The library draws once for an outer iteration; here the same images again.
        if self._drawn_at != self.outer:
            self._drawn_at = self.outer
        else:
            first = self.outer * self.config.loop.generator_updates
            draw = make_generator(self.config.seed, "step", first)
        return super().associate(sampler, teacher, draw)


def _class_by_class(
    layer_features: Callable[[Tensor], list[Tensor]], classes: int
) -> Callable[[Tensor], list[Tensor]]:
    def loop(images_BCHW: Tensor) -> list[Tensor]:
        parts = [layer_features(part) for part in images_BCHW.chunk(classes)]
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    return loop
