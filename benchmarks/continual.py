"""Class-incremental learning with bounded memory: ours, exemplars and two controls.

Five experiences of two classes through Avalanche; a seed decides the order of the
classes, the initialisation and the batches. One JSON file for each data set, row,
budget and seed; a file that exists is not computed again, so a run can be resumed.

    python benchmarks/continual.py --dataset mnist --data-root DATA --seeds 3 \
        --mem-bytes 156800,533000 --out runs/continual
    python benchmarks/continual_report.py runs/continual \
        --out-table docs/continual-results.md --out-plot docs/images/continual.png
"""

import argparse
from pathlib import Path

import torch
from continual_lib.networks import NETWORKS
from continual_lib.results import Config, cells_of, is_done, save
from continual_lib.rows import DATASETS, list_rows, parse_rows
from continual_lib.run import run_cell
from continual_lib.streams import load_data

from condense_core.compute.allocator import keep_freed_memory


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the rows")
    parser.add_argument("--dataset", choices=DATASETS, default="mnist")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--rows", default="", help="comma-separated; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--mem-bytes", default="", help="budgets, comma-separated; overrides --mem-size"
    )
    parser.add_argument("--mem-size", type=int, default=200, help="budget in images")
    parser.add_argument("--out", type=Path, default=Path("runs/continual"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--vae-steps", type=int, default=Config.vae_steps)
    parser.add_argument("--vae-latent", type=int, default=Config.vae_latent)
    parser.add_argument("--limit", type=int, help="training images per class")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    if arguments.list:
        print(list_rows())
        return
    rows = parse_rows(arguments.rows, arguments.dataset)
    keep_freed_memory()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    data = load_data(arguments.dataset, arguments.data_root, arguments.limit)
    config = Config(
        network=arguments.network
        or ("convnet" if arguments.dataset == "cifar10" else "mlp"),
        epochs=arguments.epochs,
        limit=arguments.limit,
        vae_steps=arguments.vae_steps,
        vae_latent=arguments.vae_latent,
    )
    budgets = [int(b) for b in arguments.mem_bytes.split(",") if b]
    budgets = budgets or [arguments.mem_size * data.image_bytes]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for cell in cells_of(arguments.dataset, rows, budgets, seeds):
        path = arguments.out / cell.file_name
        if is_done(path, config):
            continue
        result = run_cell(cell, config, data, arguments.device)
        save(path, result)
        print(
            f"{cell.row:22} seed {cell.seed}  {100 * result['accuracy']:5.1f} %  "
            f"{result['stored_bytes']:>9,} bytes  {result['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
