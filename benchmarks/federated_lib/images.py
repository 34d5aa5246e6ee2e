"""Rows whose clients send images, real or condensed, within the bytes of ours.

The server trains on them as it trains on what generators draw, but with augmentation,
without which it would learn few images by heart.
"""

import time
from bisect import bisect_right
from collections.abc import Callable
from functools import partial

import torch
from image_files import decode, encode
from torch import Tensor

from condense_core import CondenseConfig, ImageData, condense
from condense_core.coresets import select_herding
from condense_core.data import to_bytes
from condense_core.networks import build_network
from condense_core.seeding import derive_seed, make_generator
from condense_core.training import Recipe, accuracy, train_network
from federated_lib.setting import (
    Cell,
    Federation,
    Outcome,
    Point,
    Setting,
    model_of,
)
from flower_strategy.condensing import keep_classes
from flower_strategy.global_model import initial_model, train_global

# From a share, bytes and a seed: images, labels, and the bytes they take.
Choose = Callable[[ImageData, int, int], tuple[Tensor, Tensor, int]]
LEAST_IMAGES = 10  # of a class, as for our clients
PIXEL_UPDATES = 300
HERDING_STEPS = 200
FILE_IMAGES = 1000  # of one strip, whose length the codec limits


def send_images(
    choose: Choose, cell: Cell, setting: Setting, federation: Federation
) -> Outcome:
    """Every client sends as many images as fit; the server trains on their union."""
    outcome, images, labels, sent = Outcome(), [], [], 0
    for index, share in enumerate(federation.shares):
        started = time.perf_counter()
        seed = derive_seed(cell.seed, "images", index)
        chosen, chosen_labels, size = choose(share, cell.upload_bytes, seed)
        outcome.client_seconds.append(time.perf_counter() - started)
        images.append(chosen)
        labels.append(chosen_labels)
        sent += size
    union = ImageData(
        images=torch.cat(images),
        labels=torch.cat(labels),
        classes=federation.train.classes,
    )
    found = train_and_test(
        union, cell, setting, federation, augment=setting.image_augment
    )
    outcome.points = [Point(rounds=1, accuracy=found, bytes_up=sent, bytes_down=0)]
    return outcome


def train_and_test(
    data: ImageData,
    cell: Cell,
    setting: Setting,
    federation: Federation,
    *,
    augment: str = "none",
) -> float:
    """The server's training on some images, then its accuracy in percent."""
    network = initial_model(model_of(cell, setting), data.image_shape, data.num_classes)
    statistics = data.statistics()
    train_global(
        network,
        data,
        statistics,
        setting.server_for(federation, augment),
        seed=derive_seed(cell.seed, "train", 1),
        device="cpu",
    )
    return accuracy(network, federation.test.images, federation.test.labels, statistics)


def choose_random(
    share: ImageData, upload_bytes: int, seed: int
) -> tuple[Tensor, Tensor, int]:
    """Random images as raw pixels, so classes in the client's own proportions."""
    count = min(len(share), upload_bytes // share.images[0].numel())
    order = torch.randperm(len(share), generator=make_generator(seed, "random"))
    images = share.images[order[:count]]
    return images, share.labels[order[:count]], images.nbytes


def choose_files(
    share: ImageData, upload_bytes: int, seed: int, *, kind: str
) -> tuple[Tensor, Tensor, int]:
    """The same in PNG or JPEG files, one or more a class: as many as fit."""
    order = torch.randperm(len(share), generator=make_generator(seed, "random"))

    def files(count: int) -> list[tuple[int, bytes]]:
        images, labels = share.images[order[:count]], share.labels[order[:count]]
        return [
            (label, encode(part, kind))
            for label in labels.unique().tolist()
            for part in images[labels == label].split(FILE_IMAGES)
        ]

    def size(count: int) -> int:
        return sum(len(content) for _, content in files(count))

    # The first too large, less one: a file hardly shrinks by another image.
    most = bisect_right(range(len(share) + 1), upload_bytes, key=size) - 1
    images, labels = [], []
    for label, content in files(most):
        images.append(decode(content, kind, share.image_shape))
        labels.append(torch.full((len(images[-1]),), label))
    return torch.cat(images), torch.cat(labels), size(most)


def choose_herded(
    share: ImageData, upload_bytes: int, seed: int
) -> tuple[Tensor, Tensor, int]:
    """Herded images, as many of each class, in the features of a local network."""
    kept, class_ids, counts = keep_classes(share, LEAST_IMAGES)
    per_class = upload_bytes // share.images[0].numel() // kept.num_classes
    network = build_network(
        "convnet",
        image_shape=kept.image_shape,
        num_classes=kept.num_classes,
        width=32,
        seed=seed,
    )
    statistics = kept.statistics()
    train_network(
        network,
        kept.images,
        kept.labels,
        recipe=Recipe("herding", epochs=HERDING_STEPS),
        statistics=statistics,
        seed=seed,
        max_steps=HERDING_STEPS,
    )
    features = _features(network.eval(), kept, statistics)
    index = select_herding(kept, min(per_class, min(counts)), features_ND=features)
    images = kept.images[index]
    return images, torch.tensor(class_ids)[kept.labels[index]], images.nbytes


def choose_condensed(
    share: ImageData, upload_bytes: int, seed: int, *, dataset: str
) -> tuple[Tensor, Tensor, int]:
    """Images condensed in the pixels format: what earlier work sends."""
    kept, class_ids, counts = keep_classes(share, LEAST_IMAGES)
    per_class = upload_bytes // share.images[0].numel() // kept.num_classes
    per_class = max(1, min(per_class, min(counts)))
    preset = "digits" if dataset == "digits" else f"{dataset}-ipc50-cpu"
    config = CondenseConfig.preset(preset).with_overrides(
        [
            f"seed={seed % 2**31}",
            f"format.images_per_class={per_class}",
            "format.kind=pixels",
            "pretrain.targets=images",
            f"loop.restarts={max(1, PIXEL_UPDATES // 40)}",
            "loop.network_updates=4",
            "loop.generator_updates=10",
            f"loop.codes_per_step={min(per_class, 10)}",
            "optimiser.name=adam",
            "optimiser.pixel_lr=0.02",
            "evaluate.probe_every=0",
        ]
    )
    images, labels = condense(kept, config, device="cpu", progress=False).images()
    pixels = to_bytes(images)
    return pixels, torch.tensor(class_ids)[labels], pixels.nbytes


@torch.inference_mode()
def _features(network, data: ImageData, statistics) -> Tensor:
    parts = []
    for part in data.images.split(512):
        layers = network.layer_features(statistics.normalise(part.float() / 255))
        parts.append(network.embed(layers[-1]))
    return torch.cat(parts)


def condensed_of(dataset: str) -> Choose:
    return partial(choose_condensed, dataset=dataset)
