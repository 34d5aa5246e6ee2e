"""What a client's generator is worth, setting by setting, without a federation.

One client has the images of the training split, but for 10,000. Its generator is
condensed under each setting, networks are trained on fresh images as a server trains,
and judged on the images held out: no test image is seen. One JSON file for each data
set and setting; a file that exists is not made again.

    python benchmarks/one_client.py fashionmnist --data-root DATA
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from condense_core import ImageData
from condense_core.compute.allocator import keep_freed_memory
from condense_core.config.presets import flips
from condense_core.data.sources import load_source
from condense_core.runlog import atomic_write_text
from condense_core.seeding import derive_seed, make_generator
from condense_core.training import accuracy
from condense_core.versions import library_versions
from flower_strategy.aggregation import image_counts, synthesise
from flower_strategy.condensing import condense_locally
from flower_strategy.global_model import initial_model, train_global
from flower_strategy.payload import content_bytes, encode
from flower_strategy.settings import ClientSettings, ModelSettings, ServerSettings

IMAGES = "images"  # the row of the client's images themselves
ROWS = {
    IMAGES: "",
    "gaussians-1": "format.code_components=1",
    "gaussians-8": "format.code_components=8",
    "gaussians-64": "format.code_components=64",
    "gaussians-256": "",
    "latents-48": "format.latent_dim=48",
    "steps-4000": "pretrain.steps=4000",
    "divergence-third": "pretrain.kl_weight=0.033",
    "paired": "pretrain.feature_weight=30",
}
HELD_OUT = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--images", type=int, help="of the client (default: all)")
    parser.add_argument(
        "--overrides", default="", help="of every row, as to shorten it"
    )
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/one-client"))
    options = parser.parse_args()
    rows = options.rows.split(",")
    if unknown := [row for row in rows if row not in ROWS]:
        raise SystemExit(f"unknown row {unknown[0]!r}: choose from {', '.join(ROWS)}")
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    train = load_source(options.dataset, split="train", data_root=options.data_root)
    order = torch.randperm(
        len(train), generator=make_generator(options.seed, "one-client")
    )
    held_out = train.subset(order[:HELD_OUT])
    client = train.subset(order[HELD_OUT:][: options.images])
    options.out.mkdir(parents=True, exist_ok=True)
    for row in rows:
        path = options.out / f"{options.dataset}_{row}_seed{options.seed}.json"
        # Our blur is for generated images; real ones are trained on as they are.
        blur = 0.0 if row == IMAGES else ModelSettings().low_pass
        model = ModelSettings(seed=options.seed, device="cpu", low_pass=blur)
        server = ServerSettings(flip=flips(options.dataset))
        question = {
            "row": row,
            "overrides": f"{ROWS[row]} {options.overrides}".strip(),
            "networks": options.networks,
            "client_images": len(client),
            "held_out_images": len(held_out),
            "model": asdict(model),
            "server": asdict(server),
            "seed": options.seed,
        }
        if not path.exists():
            answer = measure(row, client, held_out, options, model, server)
            atomic_write_text(path, json.dumps(question | answer, indent=2) + "\n")
        result = json.loads(path.read_text())
        known = result | {"networks": len(result["accuracies"])}
        if other := [key for key, value in question.items() if known[key] != value]:
            raise SystemExit(f"{path} has another {other[0]}: choose another --out")
        show(row, result)


def measure(
    row: str,
    client: ImageData,
    held_out: ImageData,
    options: argparse.Namespace,
    model: ModelSettings,
    server: ServerSettings,
) -> dict:
    """Condense under a setting, train networks, judge them on held-out images."""
    started, contribution, size = time.perf_counter(), None, client.images.nbytes
    if row != IMAGES:
        # Sizes as the preset has them: a limit would trade Gaussians for channels.
        overrides = f"{ROWS[row]} {options.overrides}"
        settings = ClientSettings(upload_bytes=0, overrides=overrides)
        contribution = condense_locally("all", client, settings, model)
        size = content_bytes(encode(contribution))
    condensing = time.perf_counter() - started

    def judged(network: int) -> float:
        data = client
        if contribution is not None:
            counts = image_counts([contribution], server.synthetic_images)
            data = synthesise(
                [contribution], counts, classes=client.classes, seed=network
            )
        trained = initial_model(
            replace(model, seed=network), client.image_shape, client.num_classes
        )
        statistics = client.statistics()
        seed = derive_seed(network, "train", 1)
        train_global(trained, data, statistics, server, seed=seed, device="cpu")
        return accuracy(trained, held_out.images, held_out.labels, statistics)

    return {
        "accuracies": [judged(network) for network in range(options.networks)],
        "bytes": size,
        "seconds_condensing": condensing,
        "threads": options.threads,
        "versions": library_versions(),
    }


def show(row: str, result: dict) -> None:
    found = result["accuracies"]
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    print(
        f"{row:18} {statistics.mean(found):.1f}{spread} % "
        f"({len(found)} networks, {result['bytes']:,} bytes, "
        f"{result['seconds_condensing']:.0f} s)",
        flush=True,
    )


if __name__ == "__main__":
    main()
