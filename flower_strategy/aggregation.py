"""From the clients' generators to one training set and one global model.

Shape legend: N images, Y classes, C H W image.
"""

from collections.abc import Sequence

import torch

from condense_core import CondensedDataset, ImageData, PixelStatistics
from condense_core.compute.devices import resolve_device
from condense_core.data import to_bytes
from condense_core.generator import default_blocks
from condense_core.networks import FeatureNetwork, build_network
from condense_core.seeding import derive_seed, make_generator, seeded_initialisation
from condense_core.synthesiser import (
    PixelSynthesiser,
    SynthesiserSpec,
    build_synthesiser,
)
from condense_core.training import Recipe, train_network
from flower_strategy.payload import Contribution
from flower_strategy.settings import ModelSettings, ServerSettings

TRAIN_BATCH = 128
SAMPLES = 512  # generated at once, if memory allows
ACTIVATIONS = 2**26  # numbers of one layer of a generator, of all images at once
Shares = dict[tuple[int, int], int]  # (contribution, global class) -> images


def shares_of(
    contributions: Sequence[Contribution],
    total: int,
    *,
    max_share: float = 1.0,
    class_balance: float = 0.0,
    dropped: frozenset[tuple[str, int]] = frozenset(),
) -> Shares:
    """How many images to draw of which class from whom, by their true counts.

    Within a class every client counts as many as its real images, but no more than
    ``max_share`` of the class where others have it too, or the same as these where so
    few have it that this cannot be: claiming a great many images does not take a class
    over. A class of n images gets a share in the ratio of
    n^(1 - ``class_balance``).

    Args:
        contributions: At least one.
        total: Images of all classes together, about: shares are rounded, none to zero.
        max_share: Largest share of a client within a class.
        class_balance: From 0, classes by their counts, to 1, as many images of each.
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
    shares: Shares,
    *,
    classes: tuple[str, ...],
    seed: int,
    device: str | torch.device = "cpu",
) -> ImageData:
    """Fresh images of every client's classes, as one data set over all classes."""
    images, labels = [], []
    for index, contribution in enumerate(contributions):
        wanted = [
            local
            for local, label in enumerate(contribution.class_ids)
            for _ in range(shares.get((index, label), 0))
        ]
        if not wanted:
            continue
        global_ids = torch.tensor(contribution.class_ids, device=device)
        draw = make_generator(seed, "synthesise", contribution.client)
        stored = contribution.condensed
        condensed = CondensedDataset(stored.tensors, stored.metadata, device=device)
        for part in torch.tensor(wanted).split(images_at_once(stored.spec)):
            drawn, local_labels = condensed.sample(
                len(part), classes=part.tolist(), fresh=True, generator=draw
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
    """How many images a generator makes at a time, in bounded memory.

    A client chooses its generator's channels, and a layer has them at the full size of
    an image.
    """
    height, width = spec.image_shape[1:]
    blocks = default_blocks(height, width)
    step = 1 << blocks  # sides are made in whole steps, then cut
    pixels = (-(-height // step) * step) * (-(-width // step) * step)
    return max(1, min(SAMPLES, ACTIVATIONS // (spec.channels * pixels)))


def initial_model(
    model: ModelSettings, image_shape: tuple[int, int, int], num_classes: int
) -> FeatureNetwork:
    """The global model before the first round; depends on the settings alone."""
    return build_network(
        model.network,
        image_shape=image_shape,
        num_classes=num_classes,
        width=model.network_width,
        low_pass=model.low_pass,
        seed=derive_seed(model.seed, "global-model"),
    )


def train_global(
    network: FeatureNetwork,
    data: ImageData,
    statistics: PixelStatistics,
    settings: ServerSettings,
    *,
    seed: int,
    device: str | torch.device = "auto",
) -> None:
    """Train the global model in place on synthetic images; left on the device."""
    place = resolve_device(device)
    data = data.to(place)
    augment = None if settings.augment == "none" else settings.augment
    train_network(
        network.to(place),
        data.images,
        data.labels,
        recipe=Recipe(
            "federated",
            epochs=settings.train_steps,
            augment=augment,
            learning_rate=settings.learning_rate,
            batch_size=TRAIN_BATCH,
            label_smoothing=settings.label_smoothing,
        ),
        statistics=statistics,
        seed=seed,
        flip=settings.flip,
        max_steps=settings.train_steps,
    )


def merge(
    contributions: Sequence[Contribution],
    images_per_class: int,
    *,
    classes: tuple[str, ...],
    statistics: PixelStatistics,
    seed: int,
    max_share: float = 1.0,
    dropped: frozenset[tuple[str, int]] = frozenset(),
) -> CondensedDataset:
    """One artefact of all clients: images of every class by the clients' true counts.

    Generators of different sizes, over different classes, have no common weights; what
    can be merged is what they draw. The artefact is of the pixels format. Classes
    nobody has are left out.

    Args:
        contributions: At least one.
        images_per_class: K.
        classes: All class names.
        statistics: Normalisation the global model was trained with.
        seed: Of the draws.
        max_share: As for `shares_of`.
        dropped: As for `shares_of`.
    """
    shares = shares_of(
        contributions, 1_000_000, max_share=max_share, dropped=dropped
    )  # as good as fractions
    labels = sorted({label for _, label in shares})
    exact: Shares = {}
    for label in labels:
        holders = {i: n for (i, held), n in shares.items() if held == label}
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
    """Counts of one class, each at most ``max_share`` of what they come to together.

    With k clients at the cap c and the others' counts adding up to R, c is
    ``max_share`` of k c + R. So few clients that no counts can be so small a share
    each have the same.
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
