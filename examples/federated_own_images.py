"""Federated condensation of images that your own code reads, here in one process.

    python examples/federated_own_images.py

Replace `load`. For a real federation put it and `app` into a module that every site can
import, and name that as ``clientapp`` in a copy of examples/flower_app.
"""

import torch
from flwr.app import Context
from sklearn.datasets import load_digits

from condense_core import ImageData
from flower_strategy import (
    CondensationStrategy,
    LocalGrid,
    ModelSettings,
    ServerSettings,
    build_client_app,
)

CLASSES = tuple("0123456789")  # of all sites, in label order
SITES = [{"client-name": "north"}, {"client-name": "south"}]  # Flower's --node-config


def load(context: Context) -> tuple[ImageData, ImageData | None]:
    """A site's images to learn from, and held-out ones to test on, if it has any."""
    digits = load_digits()
    images = torch.tensor(digits.images * 255 / 16).byte()[:, None]  # (N, 1, 8, 8)
    labels = torch.tensor(digits.target)  # places in CLASSES
    north = context.node_config["client-name"] == "north"
    mine = labels < 6 if north else labels > 3
    return ImageData(images=images[mine], labels=labels[mine], classes=CLASSES), None


app = build_client_app(load)


def main(**run_config: str | int | float) -> None:
    strategy = CondensationStrategy(
        ServerSettings.read({"flip": False, **run_config}),  # digits are not mirrored
        ModelSettings.read(run_config),
        image_shape=(1, 8, 8),
        classes=CLASSES,
    )
    result = strategy.start(LocalGrid(app, SITES, run_config))
    for name, sent in result.state.contributions.items():
        print(f"{name}: classes {sent.class_ids}, {sent.nbytes:,} bytes")


if __name__ == "__main__":
    main(overrides="pretrain.steps=500")  # a short training
