"""Evaluation networks side by side (vmap) against one after another (loop).

Trains a few steps on random images; the speed does not depend on what they show.

    python benchmarks/ensemble.py --shape 3 32 32 --ipc 10 --width 128 --networks 20
"""

import torch
from timing import finish, interleaved, parser, start

from condense_core.data import PixelStatistics
from condense_core.ensemble import train_ensemble
from condense_core.networks import build_network
from condense_core.training import resolve_recipe, train_network


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shape", type=int, nargs=3, default=[1, 28, 28])
    options.add_argument("--classes", type=int, default=10)
    options.add_argument("--ipc", type=int, default=10)
    options.add_argument("--network", default="convnet")
    options.add_argument("--width", type=int, default=128)
    options.add_argument("--networks", type=int, default=20)
    options.add_argument("--recipe", default="dsa-1000")
    options.add_argument("--steps", type=int, default=5)
    arguments = options.parse_args()
    device = start(arguments)

    rng = torch.Generator().manual_seed(0)
    count = arguments.classes * arguments.ipc
    images = torch.rand(count, *arguments.shape, generator=rng).to(device)
    labels = torch.arange(count, device=device) % arguments.classes
    channels = arguments.shape[0]
    training = {
        "recipe": resolve_recipe(arguments.recipe),
        "statistics": PixelStatistics((0.5,) * channels, (0.25,) * channels),
        "max_steps": arguments.steps,
    }
    seeds = range(arguments.networks)

    def build() -> list:
        return [
            build_network(
                arguments.network,
                image_shape=tuple(arguments.shape),
                num_classes=arguments.classes,
                width=arguments.width,
                seed=seed,
            ).to(device)
            for seed in seeds
        ]

    def loop() -> list:
        networks = build()
        for network, seed in zip(networks, seeds, strict=True):
            train_network(network, images, labels, seed=seed, **training)
        return networks

    def together() -> list:
        networks = build()
        train_ensemble(networks, images, labels, seeds=seeds, **training)
        return networks

    pairs = [
        (one, other)
        for left, right in zip(loop(), together(), strict=True)
        for one, other in zip(left.parameters(), right.parameters(), strict=True)
    ]
    difference = max((a - b).detach().abs().max().item() for a, b in pairs)
    seconds = interleaved(
        {"build": build, "loop": loop, "vmap": together},
        rounds=arguments.rounds,
        device=device,
    )
    # Initialisation is the same for both ways and is no part of a step.
    loop_seconds = seconds["loop"] - seconds["build"]
    vmap_seconds = seconds["vmap"] - seconds["build"]
    finish(
        arguments,
        device,
        {
            "reference": "train_network, one network after another",
            "loop_seconds_per_step": loop_seconds / arguments.steps,
            "vmap_seconds_per_step": vmap_seconds / arguments.steps,
            "ratio_loop_over_vmap": loop_seconds / vmap_seconds,
            "largest_weight_difference": difference,
        },
    )


if __name__ == "__main__":
    main()
