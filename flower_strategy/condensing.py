"""What a client computes, without messaging: its images in, a contribution out.

Shape legend: Y global classes, y classes the client keeps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from condense_core import (
    CondenseConfig,
    CondensedDataset,
    DataError,
    ImageData,
    condense,
)
from condense_core.artefact.budget import fit
from condense_core.refine import refine
from condense_core.seeding import derive_seed
from flower_strategy.payload import Contribution, payload_size
from flower_strategy.privacy import PrivacyConfig, release
from flower_strategy.private_condense import condense_privately
from flower_strategy.settings import ClientSettings, ModelSettings

HEAD = "classifier."  # of every network in `condense_core.networks`


def condense_locally(
    client: str,
    data: ImageData,
    settings: ClientSettings,
    model: ModelSettings,
    *,
    server_round: int = 1,
    previous: CondensedDataset | None = None,
    global_model: Mapping[str, Tensor] | None = None,
) -> Contribution:
    """Condense a client's images into what it sends.

    The first time, a generator is trained from scratch. In later rounds the client
    continues from its ``previous`` one, with the global model as the matching network
    phi; while no global model has been trained yet, it sends ``previous`` again.

    Args:
        client: Name of the client; part of the seed.
        data: Its images, labelled among all Y classes.
        settings: See `ClientSettings`.
        model: Architecture of the global model, seed and device.
        server_round: From 1; part of the seed.
        previous: The generator of an earlier round.
        global_model: Weights of the global model, once it is trained.

    Raises:
        DataError: No class has enough images.
        ConfigError: The settings do not fit, or no generator is small enough.
    """
    kept, class_ids, counts = keep_classes(data, settings.min_class_count)
    if previous is None or previous.classes != kept.classes:
        config = _config(settings.preset, settings, model, client, server_round)
        if settings.upload_bytes:
            config = _fitted(
                config,
                kept.image_shape,
                kept.num_classes,
                settings.upload_bytes,
                class_counts=counts,
            )
        condensed = condense(kept, config, device=model.device, progress=False)
    elif global_model is None:
        condensed = previous
    else:
        config = _config(settings.refine_preset, settings, model, client, server_round)
        config = config.with_overrides(
            [
                f"network.name={model.network}",
                f"network.width={model.network_width}",
                "network.depth=null",
                f"network.low_pass={model.low_pass}",
            ]
        )
        condensed = refine(
            previous,
            kept,
            config,
            network=select_classes(global_model, class_ids),
            device=model.device,
            progress=False,
        )
    return Contribution(
        client=client, condensed=condensed, class_ids=class_ids, counts=counts
    )


def condense_with_privacy(
    client: str,
    data: ImageData,
    settings: ClientSettings,
    model: ModelSettings,
) -> Contribution:
    """Condense a client's images from noised statistics alone.

    The counts are noised too, and they alone decide which classes are condensed.

    Args:
        client: As for `condense_locally`.
        data: Likewise; its class list is public.
        settings: ``dp_epsilon``, ``dp_delta`` and ``dp_clip`` set the budget.
        model: Seed and device.

    Raises:
        DataError: No class is left with this noise.
        ConfigError: As for `condense_locally`.
    """
    privacy = PrivacyConfig(
        epsilon=settings.dp_epsilon,
        delta=settings.dp_delta,
        clip=settings.dp_clip,
        min_class_count=float(settings.min_class_count),
    )
    statistics = release(data, privacy, classes=data.classes, device=model.device)
    config = _config(settings.preset, settings, model, client, server_round=1)
    if settings.upload_bytes and statistics.kept:  # if none is, the next step raises
        config = _fitted(
            config,
            data.image_shape,
            len(statistics.kept),
            settings.upload_bytes,
            class_counts=[0] * len(statistics.kept),  # no codes to cluster
            private=True,
        )
    condensed, report = condense_privately(
        statistics, config.format, seed=config.seed, device=model.device
    )
    counts = statistics.counts_Y[list(statistics.kept)].round().long()
    return Contribution(
        client=client,
        condensed=condensed,
        class_ids=statistics.kept,
        counts=tuple(counts.tolist()),
        privacy=report,
    )


def keep_classes(
    data: ImageData, least: int
) -> tuple[ImageData, tuple[int, ...], tuple[int, ...]]:
    """The classes with enough images, relabelled 0..y-1.

    Returns:
        The images, the global labels kept, and the number of images of each.

    Raises:
        DataError: No class has enough images.
    """
    counts_Y = data.counts
    class_ids = torch.nonzero(counts_Y >= least).flatten()
    if len(class_ids) == 0:
        raise DataError(
            f"no class has at least {least} images, the largest has "
            f"{int(counts_Y.max())}: lower min-class-count, or leave this client out"
        )
    places_Y = torch.full((data.num_classes,), -1)
    places_Y[class_ids] = torch.arange(len(class_ids))
    labels = places_Y[data.labels]
    kept = ImageData(
        images=data.images[labels >= 0],
        labels=labels[labels >= 0],
        classes=tuple(data.classes[i] for i in class_ids.tolist()),
        name=data.name,
    )
    return kept, tuple(class_ids.tolist()), tuple(counts_Y[class_ids].tolist())


def select_classes(
    global_model: Mapping[str, Tensor], class_ids: tuple[int, ...]
) -> dict[str, Tensor]:
    """Weights of a network over y classes, from those of one over Y."""
    rows = torch.tensor(class_ids)
    return {
        name: value[rows.to(value.device)] if name.startswith(HEAD) else value
        for name, value in global_model.items()
    }


def _fitted(
    config: CondenseConfig,
    image_shape: tuple[int, int, int],
    num_classes: int,
    budget: int,
    *,
    class_counts: Sequence[int],
    private: bool = False,
) -> CondenseConfig:
    return fit(
        config,
        image_shape=image_shape,
        num_classes=num_classes,
        budget=budget,
        size_of=partial(payload_size, private=private),
        class_counts=class_counts,
    )


def _config(
    preset: str,
    settings: ClientSettings,
    model: ModelSettings,
    client: str,
    server_round: int,
) -> CondenseConfig:
    config = CondenseConfig.preset(preset).with_overrides(settings.overrides.split())
    seed = derive_seed(model.seed, "client", client, server_round)
    return replace(config, seed=seed)
