"""Which generator fits into a number of bytes.

The sizes of a generator are chosen from a ladder and not by a formula: each rung is an
architecture that was tried, and a larger budget never picks a worse one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from condense_core.config import CondenseConfig
from condense_core.errors import ConfigError
from condense_core.generator import default_blocks
from condense_core.synthesiser import SynthesiserSpec

# (channels, latent dimension, codes, most components of a class in latent space) from
# the largest: the decoder shrinks to 16 channels, then components to one a code.
LADDER = (
    (32, 32, 64, 256),
    (32, 24, 64, 256),
    (28, 24, 64, 256),
    (24, 24, 64, 256),
    (20, 24, 64, 256),
    (18, 24, 64, 256),
    (16, 24, 64, 256),
    (16, 20, 64, 256),
    (16, 16, 64, 256),
    (16, 16, 64, 128),
    (16, 16, 64, 64),
    (14, 16, 64, 64),
    (14, 14, 64, 64),
    (12, 16, 64, 64),
    (12, 12, 64, 64),
    (10, 12, 64, 64),
    (8, 12, 32, 32),
    (8, 8, 32, 32),
    (6, 8, 16, 16),
    (4, 6, 16, 16),
    (4, 4, 8, 8),
    (2, 4, 8, 8),
)


class BudgetError(ConfigError):
    """A budget is too small for any generator.

    Attributes:
        minimum: Bytes of the smallest.
    """

    def __init__(self, message: str, minimum: int) -> None:
        super().__init__(message)
        self.minimum = minimum


def fit(
    config: CondenseConfig,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    budget: int,
    size_of: Callable[[SynthesiserSpec, str], int],
    class_counts: Sequence[int] | None = None,
) -> CondenseConfig:
    """The configuration with the largest generator that fits.

    fp16 is taken where the largest rung fits so; below that more weights of int8 serve
    better than fewer of fp16.

    Args:
        config: Everything but the sizes in ``format``.
        image_shape: (C, H, W).
        num_classes: Classes of this one generator.
        budget: Bytes that ``size_of`` may reach.
        size_of: Bytes of a generator of given sizes and precision, as its holder keeps
            or sends it: an upper bound, known before anything is trained.
        class_counts: Images of each class, as for `SynthesiserSpec.from_config`.

    Raises:
        BudgetError: Not even the smallest fits; says the minimum.
    """
    choices: list[tuple[Literal["fp16", "int8"], tuple[int, int, int, int]]] = [
        ("fp16", LADDER[0]),
        *(("int8", rung) for rung in LADDER),
    ]
    size = 0
    for precision, (channels, latent_dim, codes, components) in choices:
        sizes = replace(
            config.format,
            channels=channels,
            latent_dim=latent_dim,
            images_per_class=codes,
            code_components=min(config.format.code_components, components),
            blocks=blocks_for(image_shape),
            precision=precision,
        )
        spec = SynthesiserSpec.from_config(
            sizes,
            image_shape=image_shape,
            num_classes=num_classes,
            embedding_dim=num_classes,
            class_counts=class_counts,
        )
        size = size_of(spec, precision)
        if size <= budget:
            return replace(config, format=sizes)
    raise BudgetError(
        f"{budget} bytes hold no generator of {num_classes} classes of "
        f"{'x'.join(map(str, image_shape))} images: give it at least {size}",
        minimum=size,
    )


def blocks_for(image_shape: tuple[int, int, int]) -> int:
    """Upsampling blocks: one fewer than the paper's, from a base of about 8 px.

    The first block costs as many bytes as any other; a wider base costs bytes too, but
    only one multiplication for each of them, and trains in half the time.
    """
    return max(1, default_blocks(*image_shape[1:]) - 1)
