"""What each of our choices is worth, on data everybody has.

Condenses the 8x8 digits with one setting changed at a time and evaluates every set by
the same recipe: optimiser of (Z, G), starting point, objective, format. Writes JSON
after every row and prints a table. About an hour on two cores for three seeds.

    python benchmarks/digits_choices.py --ipc 1 --seeds 3 --out choices-ipc1.json
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from condense_core import CondenseConfig, condense, evaluate
from condense_core.data.sources import load_source
from condense_core.versions import library_versions

PAPER_LOSSES = ["loss.unrolled=0", "loss.matching=1", "loss.classification=0.1"]
ROWS: dict[str, list[str]] = {
    "preset": [],
    "optimiser: Adam": ["optimiser.name=adam"],
    "optimiser: SGD (paper)": ["optimiser.name=sgd"],
    "start: real images": ["pretrain.targets=images"],
    "start: medoids": ["pretrain.targets=medoids"],
    "start: adversarial (paper)": ["pretrain.method=adversarial"],
    "start: none": ["pretrain.method=none"],
    "objective: the paper's five losses": PAPER_LOSSES,
    "... and SGD": [*PAPER_LOSSES, "optimiser.name=sgd"],
    "objective: per-sample matching": [*PAPER_LOSSES, "loss.matching_mode=per_sample"],
    "objective: gradient matching": [*PAPER_LOSSES, "loss.gradient=1"],
    "students scored by cross entropy": ["unrolled.outer_loss=cross_entropy"],
    "format: pixels": ["format.kind=pixels"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="networks a set")
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    train = load_source("digits", split="train", data_root=None)
    test = load_source("digits", split="test", data_root=None)
    base = ["evaluate.probe_every=0", f"format.images_per_class={arguments.ipc}"]
    preset = "digits-ipc1" if arguments.ipc == 1 else "digits"
    rows = {}
    for name in arguments.rows:
        accuracies, start = [], time.perf_counter()
        for seed in range(arguments.seeds):
            config = CondenseConfig.preset(preset).with_overrides(
                [*base, *ROWS[name], f"seed={seed}"]
            )
            report = evaluate(
                condense(train, config),
                test,
                recipe=config.evaluate.recipe,
                width=config.evaluate.width,
                repeats=arguments.repeats,
                seed=seed,
                flip=config.data.flip,
            )
            accuracies.extend(report.accuracies)
        rows[name] = {
            "overrides": ROWS[name],
            "accuracy_mean": float(np.mean(accuracies)),
            "accuracy_std": float(np.std(accuracies)),
            "accuracies": accuracies,
            "seconds": time.perf_counter() - start,
        }
        print(
            f"{name:36} {rows[name]['accuracy_mean']:6.2f} ± "
            f"{rows[name]['accuracy_std']:.2f}   {rows[name]['seconds']:.0f} s",
            flush=True,
        )
        if arguments.out is not None:
            content = {
                "ipc": arguments.ipc,
                "seeds": arguments.seeds,
                "repeats": arguments.repeats,
                "rows": rows,
                "threads": torch.get_num_threads(),
                "machine": platform.machine(),
                "versions": library_versions(),
            }
            arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
