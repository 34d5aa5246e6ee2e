"""Batched augmentation against a list over samples.

The list version transforms one image at a time with its own drawn parameters, as the
transforms of a per-sample data set do; the result is the same.

    python benchmarks/augment.py --images 256 --shape 1 28 28
"""

import torch
from plain import PerSampleAugment
from timing import finish, interleaved, parser, start

from condense_core.augment import OPERATIONS, SiameseAugment
from condense_core.seeding import make_generator


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=256)
    options.add_argument("--shape", type=int, nargs=3, default=[1, 28, 28])
    arguments = options.parse_args()
    device = start(arguments)
    rng = make_generator(0, "benchmark-augment")
    images = torch.randn(arguments.images, *arguments.shape, generator=rng).to(device)

    rows = {}
    for name in OPERATIONS:
        batched = SiameseAugment((name,))
        alone = PerSampleAugment(batched)
        drawn = batched.draw(len(images), rng, device)
        difference = batched.apply(images, drawn) - alone.apply(images, drawn)
        seconds = interleaved(
            {
                "batched": lambda b=batched, d=drawn: b.apply(images, d),
                "list": lambda a=alone, d=drawn: a.apply(images, d),
            },
            rounds=arguments.rounds,
            device=device,
        )
        rows[name] = {
            "batched_seconds": seconds["batched"],
            "list_seconds": seconds["list"],
            "ratio_list_over_batched": seconds["list"] / seconds["batched"],
            "largest_difference": difference.abs().max().item(),
        }
    # Each call draws one of the operations, all equally often.
    total = {
        way: sum(row[f"{way}_seconds"] for row in rows.values())
        for way in ("batched", "list")
    }
    finish(
        arguments,
        device,
        {
            "reference": "a list over samples, the same parameters",
            "operations": rows,
            "ratio_list_over_batched": total["list"] / total["batched"],
        },
    )


if __name__ == "__main__":
    main()
