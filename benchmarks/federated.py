"""Federated learning by accuracy and bytes: ours, FedAvg, FedProx, images.

A seed decides the partition, the initialisation and the batches. One JSON file for each
data set, partition, row, budget and seed; a file that exists is not computed again.

    python benchmarks/federated.py --dataset fashionmnist --data-root DATA \
        --partitions dirichlet-0.1 --seeds 3 --upload-bytes 60000 --out runs/federated
    python benchmarks/federated_report.py runs/federated \
        --out-table docs/federated-results.md --out-plot docs/images/federated.png
"""

import argparse
import time
from pathlib import Path

import torch
from federated_lib.rows import ROWS
from federated_lib.setting import Cell, Setting, is_done, load_federation, save

from condense_core.compute.allocator import keep_freed_memory


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the rows")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--partitions", default="dirichlet-0.1")
    parser.add_argument("--upload-bytes", default="60000", help="several by commas")
    parser.add_argument("--rounds", type=int, default=20, help="of rows with rounds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--train-steps", type=int, default=Setting.train_steps)
    parser.add_argument("--overrides", default="", help="of our clients' presets")
    parser.add_argument("--out", type=Path, default=Path("runs/federated"))
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    if arguments.list:
        print("\n".join(f"{name:22} {row.label}" for name, row in ROWS.items()))
        return
    names = arguments.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise SystemExit(f"unknown row {unknown[0]!r}: see --list")
    keep_freed_memory()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    setting = Setting(train_steps=arguments.train_steps, overrides=arguments.overrides)
    arguments.out.mkdir(parents=True, exist_ok=True)
    budgets = [int(text) for text in arguments.upload_bytes.split(",")]
    cells = [
        Cell(
            dataset=arguments.dataset,
            partition=partition,
            row=name,
            upload_bytes=budget,
            seed=seed,
        )
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for partition in arguments.partitions.split(",")
        for name in names
        for budget in (budgets if ROWS[name].bounded else [0])
    ]
    for cell in cells:
        rounds = arguments.rounds if ROWS[cell.row].several else 1
        if is_done(arguments.out / cell.file_name, setting, rounds):
            continue
        federation = load_federation(cell, setting, arguments.data_root)
        started = time.perf_counter()
        outcome = ROWS[cell.row].run(
            cell, setting, federation, arguments.data_root, arguments.rounds
        )
        seconds = time.perf_counter() - started
        server = setting.server_for(federation)
        save(arguments.out, cell, setting, server, outcome, seconds)
        last = outcome.points[-1]
        print(
            f"{cell.row:22} {cell.partition:14} seed {cell.seed} "
            f"{last.accuracy:6.2f} %  {last.bytes_up:>11,} up {last.bytes_down:>11,} "
            f"down  {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
