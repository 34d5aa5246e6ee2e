"""From the clients' generators to one training set, or one artefact.

Shape legend: N images, Y classes, C H W image.
"""

from collections.abc import Sequence

import torch

from condense_core import CondensedDataset, ImageData, PixelStatistics
from condense_core.data import to_bytes
from condense_core.generator import default_blocks
from condense_core.seeding import make_generator, seeded_initialisation
from condense_core.synthesiser import (
    PixelSynthesiser,
    SynthesiserSpec,
    build_synthesiser,
)
from flower_strategy.payload import Contribution

SAMPLES = 512  # generated at once, if memory allows
ACTIVATIONS = 2**26  # values of one layer, over all images generated at once
ImageCounts = dict[tuple[int, int], int]  # (contribution, global class) -> images
Dropped = frozenset[tuple[str, int]]  # (client, global class) pairs to leave out


def image_counts(
    contributions: Sequence[Contribution],
    total: int,
    *,
    max_share: float = 1.0,
    class_balance: float = 0.0,
    dropped: Dropped = frozenset(),
) -> ImageCounts:
    """How many images to draw from each client and class, by true counts.

    Within a class each client gets images in proportion to its real ones, capped at
    ``max_share`` of the class when other clients also have it (equal parts if the cap
    cannot be met). So with ``max_share`` below 1 a client cannot take over a class that
    others have by claiming many images; it can if nobody else has the class, and by
    default it can take over the whole training set. A class of n images is weighted
    n^(1 - ``class_balance``).

    Args:
        contributions: At least one.
        total: Images of all classes together, approximately: counts are rounded, but
            never to zero.
        max_share: Largest part of a class that one client may fill.
        class_balance: 0 weights classes by their counts; 1 gives all the same number.
        dropped: (client, class) pairs that are left out.
    """
    real: dict[int, dict[int, float]] = {}
    for index, contribution in enumerate(contributions):
        for label, count in zip(
            contribution.class_ids, contribution.counts, strict=True
        ):
            if (contribution.client, label) not in dropped:
                real.setdefault(label, {})[index] = float(count)
    for label, counts in real.items():
        counts = _capped(counts, max_share)
        rarity = sum(counts.values()) ** -class_balance
        real[label] = {index: count * rarity for index, count in counts.items()}
    everything = sum(sum(counts.values()) for counts in real.values())
    return {
        (index, label): max(1, round(total * count / everything))
        for label in sorted(real)
        for index, count in real[label].items()
    }


@torch.no_grad()
def synthesise(
    contributions: Sequence[Contribution],
    counts: ImageCounts,
    *,
    classes: tuple[str, ...],
    seed: int,
    device: str | torch.device = "cpu",
) -> ImageData:
    """Draw fresh images from every generator: one data set over all classes."""
    images, labels = [], []
    for index, contribution in enumerate(contributions):
        wanted = [
            local
            for local, label in enumerate(contribution.class_ids)
            for _ in range(counts.get((index, label), 0))
        ]
        if not wanted:
            continue
        global_ids = torch.tensor(contribution.class_ids, device=device)
        rng = make_generator(seed, "synthesise", contribution.client)
        stored = contribution.condensed
        condensed = CondensedDataset(stored.tensors, stored.metadata, device=device)
        for part in torch.tensor(wanted).split(images_at_once(stored.spec)):
            drawn, local_labels = condensed.sample(
                len(part), classes=part.tolist(), fresh=True, generator=rng
            )
            images.append(to_bytes(drawn))
            labels.append(global_ids[local_labels])
    return ImageData(
        images=torch.cat(images),
        labels=torch.cat(labels),
        classes=classes,
        name="federation",
    )


def images_at_once(spec: SynthesiserSpec) -> int:
    """How many images to generate at a time in bounded memory.

    The client chooses the channels of its generator, and the last layer has that many
    at the full size of an image.
    """
    height, width = spec.image_shape[1:]
    blocks = default_blocks(height, width)
    step = 1 << blocks  # sides are generated as multiples of this, then cropped
    pixels = (-(-height // step) * step) * (-(-width // step) * step)
    return max(1, min(SAMPLES, ACTIVATIONS // (spec.channels * pixels)))


def merge(
    contributions: Sequence[Contribution],
    images_per_class: int,
    *,
    classes: tuple[str, ...],
    statistics: PixelStatistics,
    seed: int,
    max_share: float = 1.0,
    dropped: Dropped = frozenset(),
) -> CondensedDataset:
    """One artefact for all clients: images of each class by the clients' true counts.

    Generators of different sizes and classes share no weights, so their images are
    merged instead, in the pixels format. Classes that no client has are left out.

    Args:
        contributions: At least one.
        images_per_class: K.
        classes: All class names.
        statistics: Normalisation the global model was trained with.
        seed: For drawing the images.
        max_share: As for `image_counts`.
        dropped: As for `image_counts`.
    """
    fine = image_counts(contributions, 1_000_000, max_share=max_share, dropped=dropped)
    labels = sorted({label for _, label in fine})
    exact: ImageCounts = {}
    for label in labels:
        holders = {i: n for (i, held), n in fine.items() if held == label}
        exact |= {
            (i, label): n for i, n in _apportion(holders, images_per_class).items()
        }
    data = synthesise(contributions, exact, classes=classes, seed=seed)
    images_YKCHW = torch.stack(
        [data.images[data.labels == label] for label in labels]
    ).float()
    spec = SynthesiserSpec(
        kind="pixels",
        image_shape=data.image_shape,
        num_classes=len(labels),
        images_per_class=images_per_class,
    )
    with seeded_initialisation(seed, "merge"):
        pixels = build_synthesiser(spec)
    assert isinstance(pixels, PixelSynthesiser)
    pixels.set_images(images_YKCHW / 255)
    return CondensedDataset.from_synthesiser(
        pixels,
        classes=[classes[label] for label in labels],
        statistics=statistics,
        clients={
            c.client: dict(zip(map(str, c.class_ids), c.counts, strict=True))
            for c in contributions
        },
    )


def _capped(counts: dict[int, float], max_share: float) -> dict[int, float]:
    """Counts of one class, each capped at ``max_share`` of the capped total.

    With k clients at the cap c, and the counts of the others summing to R, c is
    ``max_share`` of k c + R. With too few clients for the cap, all get the same count.
    """
    if len(counts) == 1 or max_share >= 1.0:
        return counts
    descending = sorted(counts.values(), reverse=True)
    cap = descending[-1]
    for capped, largest in enumerate(descending):
        room = 1.0 - capped * max_share
        if room <= 0.0:
            break
        limit = max_share * sum(descending[capped:]) / room
        if largest <= limit:
            cap = limit
            break
    return {i: min(count, cap) for i, count in counts.items()}


def _apportion(counts: dict[int, int], total: int) -> dict[int, int]:
    """Whole numbers in the ratio of ``counts`` that add up to ``total``."""
    everything = sum(counts.values())
    floors = {i: total * n // everything for i, n in counts.items()}
    short = total - sum(floors.values())
    by_remainder = sorted(counts, key=lambda i: (-(total * counts[i] % everything), i))
    for i in by_remainder[:short]:
        floors[i] += 1
    return floors
