"""What differential privacy costs: accuracy against epsilon on scikit-learn's digits.

All training images are at one client. For each epsilon several noise draws, for each
several networks; the test images are used once.

    python benchmarks/private_digits.py --out docs/results/private-digits.json
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

from condense_core import ImageData, evaluate
from condense_core.config import FormatConfig
from condense_core.coresets import select_random
from condense_core.data.sources import load_source
from condense_core.runlog import atomic_write_text
from flower_strategy.privacy import PrivacyConfig, release
from flower_strategy.private_condense import condense_privately

FORMAT = FormatConfig(images_per_class=10, latent_dim=16, projected_dim=16, channels=32)
FRESH_IMAGES = 500
STEPS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epsilons", default="1,4,10,inf")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    train, test = (
        load_source("digits", split=split, data_root=None)
        for split in ("train", "test")
    )

    def accuracies(images, statistics) -> list[float]:
        report = evaluate(
            images,
            test,
            width=32,
            repeats=arguments.repeats,
            max_steps=STEPS,
            flip=False,
            device="cpu",
            statistics=statistics,
        )
        return list(report.accuracies)

    rows: dict[str, list[float]] = {}
    statistics = None
    for text in arguments.epsilons.split(","):
        config = PrivacyConfig(epsilon=float(text))
        fixed, fresh = [], []
        for draw in range(arguments.draws):
            # A seed makes the numbers repeatable here; with one, nobody is protected.
            noisy = release(
                train,
                config,
                classes=train.classes,
                test_generator=torch.Generator().manual_seed(draw),
            )
            condensed, _ = condense_privately(noisy, FORMAT, seed=draw)
            statistics = condensed.statistics
            fixed += accuracies(condensed, statistics)
            fresh += accuracies(condensed.sample(FRESH_IMAGES, fresh=True), statistics)
        name = "no noise" if math.isinf(config.epsilon) else f"epsilon {text}"
        rows[f"{name}, codebook"] = fixed
        rows[f"{name}, {FRESH_IMAGES} fresh images"] = fresh
        _print(rows, f"{name}, {FRESH_IMAGES} fresh images")
    rows["random real images, 10 a class"] = _random(train, accuracies, statistics)
    rows["all real images"] = accuracies(train, statistics)
    for name in list(rows)[-2:]:
        _print(rows, name)
    if arguments.out is not None:
        atomic_write_text(arguments.out, json.dumps(rows, indent=2) + "\n")


def _random(train: ImageData, accuracies, statistics) -> list[float]:
    found = []
    for seed in range(3):
        found += accuracies(
            train.subset(select_random(train, 10, seed=seed)), statistics
        )
    return found


def _print(rows: dict[str, list[float]], name: str) -> None:
    values = rows[name]
    print(f"{name:32} {np.mean(values):.1f} ± {np.std(values):.1f}", flush=True)


if __name__ == "__main__":
    main()
