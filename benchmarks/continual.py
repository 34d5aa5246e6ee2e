"""Class-incremental learning with bounded memory: ours, exemplars and two controls.

Five experiences of two classes through Avalanche; a seed decides the order of the
classes, the initialisation and the batches. One JSON file for each data set, row,
budget and seed; a file that exists is not computed again, so a run can be resumed.

    python benchmarks/continual.py --dataset mnist --data-root DATA --seeds 3 \
        --mem-bytes 156800,533000 --out runs/continual
    python benchmarks/continual_report.py runs/continual \
        --out-table docs/continual_table.md --out-plot docs/images/continual.png
"""

import argparse
import json
import platform
import random
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from condense_core.evaluate import library_versions
from condense_core.networks import build_network
from condense_core.runlog import atomic_write_text
from condense_core.seeding import make_generator, seeded_initialisation
from condense_core.sources import load_source

warnings.filterwarnings("ignore", message="no QP solver")  # at import of Avalanche

DATASETS = ("mnist", "fashionmnist", "cifar10", "digits")
NETWORKS = ("mlp", "convnet", "slim_resnet18")
ROWS = {
    "naive": "no memory",
    "joint": "all experiences at once: the upper bound",
    "replay-200": "ReplayPlugin with 200 exemplars; replay-N for any other number",
    "replay-bytes": "ReplayPlugin with the exemplars that fit the budget",
    "class-balanced": "ReplayPlugin with a ClassBalancedBuffer, in the budget",
    "gdumb": "GDumb, 30 epochs on the memory",
    "er-ace": "ER-ACE",
    "der++": "DER++, alpha = beta = 0.5; its logits come on top of the budget",
    "generative-replay": "Avalanche's GenerativeReplay (28x28 only)",
    "pca-gaussian": "control: a Gaussian a class, 8 bits, in our plugin",
    "pca-mixture-4": "control: a mixture of four Gaussians a class, 8 bits",
    "pca-mixture-8": "control: a mixture of eight Gaussians a class, 8 bits",
    "vae-decoder": "control: decoder of a class-conditional VAE, 8 bits",
    "pixels": "the exemplars of replay-bytes in our plugin: batches balanced as ours",
    "jpeg": "herded exemplars as JPEG, in our plugin",
    "ours-experience": "a condensed set for each experience",
    "ours-shared": "one condensed set, condensed anew after each experience",
    "ours-fixed": "ours-experience, replaying fixed codes",
}
# Suffix of an exemplar row that replays 4 x the minibatch, as ours does at the end. A
# memory smaller than that is replayed whole; "pixels" draws with replacement instead.
BALANCED = "-balanced"
CAN_BALANCE = ("replay-bytes", "class-balanced", "er-ace", "der++", "generative-replay")
UNBOUNDED = ("naive", "joint", "generative-replay")  # rows that take no budget
BATCH, GDUMB_EPOCHS, CLASSES = 128, 30, 10


@dataclass(frozen=True)
class Config:
    """What the numbers of one folder have in common; written into every file."""

    network: str
    epochs: int
    experiences: int = 5
    batch_size: int = BATCH
    lr: float = 1e-3
    limit: int | None = None  # training images a class, for quick tests
    vae_steps: int = 1000
    vae_latent: int = 8


@dataclass(frozen=True)
class Cell:
    """One run. ``mem_bytes`` is None for a row that takes no budget."""

    dataset: str
    row: str
    mem_bytes: int | None
    seed: int

    @property
    def file_name(self) -> str:
        budget = "any" if self.mem_bytes is None else self.mem_bytes
        return f"{self.dataset}_{self.row}_{budget}_seed{self.seed}.json"


def bare(row: str) -> str:
    """A row's name without the suffix of its balanced variant."""
    return row if row in ROWS else row.removesuffix(BALANCED)


class Pixels(Dataset):
    """Images in memory, as Avalanche wants them: (float image in [0, 1], int label)."""

    def __init__(self, images_NCHW: Tensor, labels_N: Tensor) -> None:
        self.images_NCHW = images_NCHW
        self.targets = labels_N.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images_NCHW[index].float() / 255, self.targets[index]


@dataclass(frozen=True)
class Data:
    """Both splits, 8 bits."""

    train: Pixels
    test: Pixels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return tuple(self.train.images_NCHW.shape[1:])

    @property
    def image_bytes(self) -> int:
        return self.train.images_NCHW[0].numel()


def load_data(name: str, data_root: Path | None, limit: int | None) -> Data:
    """Read both splits; ``limit`` keeps that many training images of each class."""
    train = load_source(name, split="train", data_root=data_root)
    test = load_source(name, split="test", data_root=data_root)
    kept = torch.arange(len(train.labels))
    if limit is not None:
        members = [
            (train.labels == label).nonzero()[:limit] for label in range(CLASSES)
        ]
        kept = torch.cat(members).flatten().sort().values
    return Data(
        Pixels(train.images[kept], train.labels[kept]), Pixels(test.images, test.labels)
    )


def class_order(seed: int) -> list[int]:
    generator = make_generator(seed, "continual", "class order")
    return torch.randperm(CLASSES, generator=generator).tolist()


def build_model(config: Config, data: Data, seed: int) -> nn.Module:
    if config.network == "slim_resnet18":
        from avalanche.models import SlimResNet18

        with seeded_initialisation(seed, "network", config.network):
            return SlimResNet18(CLASSES)
    sizes = {"mlp": {"width": 400, "depth": 2}, "convnet": {"width": 32}}
    return build_network(
        config.network,
        image_shape=data.image_shape,
        num_classes=CLASSES,
        seed=seed,
        **sizes[config.network],
    )


@dataclass
class Learner:
    """A strategy and how to measure its memory.

    Attributes:
        strategy: Of Avalanche.
        stored: Bytes of the memory now.
        plugin: Ours, if it takes part.
    """

    strategy: Any
    stored: Callable[[], int]
    plugin: Any = None


def build_learner(
    cell: Cell, config: Config, data: Data, model: nn.Module, device: str
) -> Learner:
    """The strategy of a row.

    Raises:
        ValueError: An unknown row, or one that this data set does not allow.
    """
    common = {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=config.lr),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": config.batch_size,
        "train_epochs": config.epochs,
        "eval_mb_size": 512,
        "device": device,
        "evaluator": _silent(),
    }
    from avalanche.training.supervised import JointTraining, Naive

    row = bare(cell.row)
    if row == "naive":
        return Learner(Naive(**common), lambda: 0)
    if row == "joint":
        return Learner(JointTraining(**common), lambda: 0)
    if row == "generative-replay":
        return _generative_replay(cell, config, data, common)
    memory = _plugin_of(row, cell, config)
    if memory is not None:
        strategy = Naive(**common, plugins=[memory])
        return Learner(strategy, lambda: memory.nbytes, memory)
    return _exemplars(row, cell, config, data, common)


def _silent() -> Any:
    from avalanche.training.plugins import EvaluationPlugin

    return EvaluationPlugin(loggers=[])


def _plugin_of(row: str, cell: Cell, config: Config) -> Any:
    """Our plugin with our memory or a control's; None for another row."""
    ours = {
        "ours-experience": {"policy": "experience"},
        "ours-shared": {"policy": "shared"},
        "ours-fixed": {"policy": "experience", "replay": "fixed"},
    }
    controls = _controls(cell, config)
    if row not in ours and row not in controls:
        return None
    from avalanche_plugin import GenerativeReplayPlugin

    options = ours[row] if row in ours else {"memory": controls[row]()}
    return GenerativeReplayPlugin(mem_bytes=cell.mem_bytes, seed=cell.seed, **options)


def _controls(cell: Cell, config: Config) -> dict[str, Callable[[], Any]]:
    from continual_controls import (
        JpegExemplarMemory,
        PcaGaussianMemory,
        PixelExemplarMemory,
        VaeDecoderMemory,
    )

    size = {"mem_bytes": cell.mem_bytes, "seed": cell.seed}
    return {
        "pca-gaussian": lambda: PcaGaussianMemory(**size),
        "pca-mixture-4": lambda: PcaGaussianMemory(**size, components=4),
        "pca-mixture-8": lambda: PcaGaussianMemory(**size, components=8),
        "vae-decoder": lambda: VaeDecoderMemory(
            **size, steps=config.vae_steps, latent_dim=config.vae_latent
        ),
        "pixels": lambda: PixelExemplarMemory(**size, herded=False),
        "jpeg": lambda: JpegExemplarMemory(**size),
    }


def _exemplars(
    row: str, cell: Cell, config: Config, data: Data, common: dict[str, Any]
) -> Learner:
    from avalanche.training.plugins import ReplayPlugin
    from avalanche.training.storage_policy import ClassBalancedBuffer
    from avalanche.training.supervised import DER, ER_ACE, GDumb, Naive

    fixed = re.fullmatch(r"replay-(\d+)", row)
    count = int(fixed[1]) if fixed else (cell.mem_bytes or 0) // data.image_bytes
    if count < config.experiences:
        raise ValueError(f"{row}: {cell.mem_bytes} bytes hold only {count} images")
    replayed = config.batch_size
    if cell.row != row:
        replayed *= config.experiences - 1
    # DER and ER_ACE replay nothing at all while the buffer is smaller than the batch.
    common_size = {"mem_size": count, "batch_size_mem": min(replayed, count)}

    if fixed or row == "replay-bytes":
        plugin = ReplayPlugin(mem_size=count, batch_size_mem=replayed)
        strategy = Naive(**common, plugins=[plugin])
        policy = plugin.storage_policy
    elif row == "class-balanced":
        policy = ClassBalancedBuffer(max_size=count)
        plugin = ReplayPlugin(count, batch_size_mem=replayed, storage_policy=policy)
        strategy = Naive(**common, plugins=[plugin])
    elif row == "gdumb":
        strategy = GDumb(**(common | {"train_epochs": GDUMB_EPOCHS}), mem_size=count)
        policy = next(p for p in strategy.plugins if hasattr(p, "storage_policy"))
        policy = policy.storage_policy
    elif row == "er-ace":
        strategy = ER_ACE(**common, **common_size)
        policy = strategy.storage_policy
    elif row == "der++":
        strategy = DER(**common, **common_size, alpha=0.5, beta=0.5)
        policy = strategy.storage_policy
    else:
        raise ValueError(f"unknown row {cell.row!r}: see --list")
    logits = 4 * CLASSES if row == "der++" else 0
    return Learner(strategy, lambda: len(policy.buffer) * (data.image_bytes + logits))


def _generative_replay(
    cell: Cell, config: Config, data: Data, common: dict[str, Any]
) -> Learner:
    from avalanche.training.supervised import GenerativeReplay

    if data.image_shape != (1, 28, 28):
        raise ValueError(f"{cell.row} takes 1x28x28 images, not {data.image_shape}")
    size = BATCH * (config.experiences - 1) if cell.row != bare(cell.row) else None
    strategy = GenerativeReplay(**common, replay_size=size)
    strategy.generator_strategy.evaluator.loggers = []  # it has progress bars
    state = strategy.generator_strategy.model.state_dict()
    return Learner(strategy, lambda: sum(tensor.nbytes for tensor in state.values()))


class Stopwatch:
    """Wraps a callback of a plugin and adds up its seconds."""

    def __init__(self, plugin: Any, callback: str) -> None:
        self.seconds = 0.0
        self._wrapped = getattr(plugin, callback)
        setattr(plugin, callback, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._wrapped(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start


@torch.no_grad()
def correct_by_class(model: nn.Module, test: Pixels, device: str) -> Tensor:
    """Rightly classified test images of each class (Y,), among all classes."""
    was_training = model.training
    model.eval()
    hits = []
    for images, labels in zip(
        test.images_NCHW.split(512), torch.tensor(test.targets).split(512), strict=True
    ):
        predicted = model(images.to(device).float() / 255).argmax(dim=1).cpu()
        hits.append(labels[predicted == labels])
    model.train(was_training)
    return torch.cat(hits).bincount(minlength=CLASSES)


def summarise(correct_EY: Tensor, totals_Y: Tensor, groups: list[list[int]]) -> dict:
    """Accuracies and forgetting from the hits of each class after each experience."""
    after = [
        [float(row[group].sum() / totals_Y[group].sum()) for group in groups]
        for row in correct_EY
    ]
    order = [label for group in groups for label in group]
    seen = [order[: order.index(group[-1]) + 1] for group in groups]
    last, complete = after[-1], len(after) == len(groups)  # joint: only one training
    lost = [row[index] - last[index] for index, row in enumerate(after[:-1])]
    return {
        "accuracy": float(correct_EY[-1].sum() / totals_Y.sum()),
        "accuracy_seen": [
            float(row[classes].sum() / totals_Y[classes].sum())
            for row, classes in zip(correct_EY, seen, strict=True)
        ]
        if complete
        else None,
        "accuracy_by_experience": after,
        "forgetting": float(np.mean(lost)) if complete else None,
    }


def run_cell(cell: Cell, config: Config, data: Data, device: str = "cpu") -> dict:
    """Train one row on the whole stream; the content of its JSON file."""
    # Avalanche warns of its own deprecations and switches the filter on as it does.
    with warnings.catch_warnings(record=True) as caught:
        result = _run_cell(cell, config, data, device)
    for warning in caught:
        if "avalanche/" not in warning.filename:
            warnings.warn_explicit(
                warning.message, None, warning.filename, warning.lineno
            )
    return result


def _run_cell(cell: Cell, config: Config, data: Data, device: str) -> dict:
    from avalanche.benchmarks import nc_benchmark

    torch.manual_seed(cell.seed)
    random.seed(cell.seed)
    np.random.seed(cell.seed)  # noqa: NPY002 - Avalanche draws from it
    order = class_order(cell.seed)
    benchmark = nc_benchmark(
        data.train,
        data.test,
        n_experiences=config.experiences,
        task_labels=False,
        fixed_class_order=order,
    )
    model = build_model(config, data, cell.seed)
    _reset_peak_memory()
    start = time.perf_counter()
    learner = build_learner(cell, config, data, model, device)
    watch = learner.plugin and Stopwatch(learner.plugin, "after_training_exp")
    stages = list(benchmark.train_stream)
    if cell.row == "joint":
        stages = [benchmark.train_stream]
    correct, stored, evaluating = [], [], 0.0
    for stage in stages:
        learner.strategy.train(stage, num_workers=0)
        stored.append(learner.stored())
        paused = time.perf_counter()
        correct.append(correct_by_class(learner.strategy.model, data.test, device))
        evaluating += time.perf_counter() - paused

    per_experience = CLASSES // config.experiences
    groups = [list(g) for g in np.array_split(order, CLASSES // per_experience)]
    groups = [[int(label) for label in group] for group in groups]
    totals = torch.tensor(data.test.targets).bincount(minlength=CLASSES)
    return {
        **asdict(cell),
        "config": asdict(config),
        **summarise(torch.stack(correct), totals, groups),
        "class_order": order,
        "stored_bytes": max(stored),
        "stored_bytes_after": stored,
        "seconds": time.perf_counter() - start - evaluating,
        "seconds_condensing": watch.seconds if watch else 0.0,
        "peak_rss_bytes": _peak_memory(),
        "threads": torch.get_num_threads(),
        "device": device,
        "machine": platform.machine(),
        "versions": library_versions()
        | {"avalanche": metadata.version("avalanche-lib")},
    }


def _reset_peak_memory() -> None:
    with suppress(OSError):  # not Linux: the peak is then that of all rows so far
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])
    except (OSError, TypeError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def is_done(path: Path, config: Config) -> bool:
    """Whether the cell was computed before.

    Raises:
        SystemExit: It was, but with other settings.
    """
    if not path.exists():
        return False
    settings = json.loads(path.read_text())["config"]
    if settings != asdict(config):
        sys.exit(f"{path} was made with {settings}: choose another --out")
    return True


def cells_of(
    dataset: str, rows: list[str], budgets: list[int], seeds: list[int]
) -> list[Cell]:
    """All runs, seed by seed; a row that takes no budget is run once a seed."""
    cells = []
    for seed in seeds:
        for row in rows:
            free = bare(row) in UNBOUNDED or re.fullmatch(r"replay-\d+", bare(row))
            cells += [
                Cell(dataset, row, b, seed) for b in ([None] if free else budgets)
            ]
    return cells


def parse_rows(text: str, dataset: str) -> list[str]:
    """Row names from a comma-separated list; empty means all that fit the data set."""
    rows = [row for row in text.split(",") if row] or [
        *(r for r in ROWS if r != "generative-replay" or dataset.endswith("mnist")),
        "replay-bytes" + BALANCED,
    ]
    for row in rows:
        name = bare(row)
        known = name in ROWS or re.fullmatch(r"replay-\d+", name)
        if not known or (row != name and name not in CAN_BALANCE):
            raise SystemExit(f"unknown row {row!r}: see --list")
    return rows


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
    parser.add_argument("--vae-steps", type=int, default=1000)
    parser.add_argument("--vae-latent", type=int, default=8)
    parser.add_argument("--limit", type=int, help="training images a class")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    if arguments.list:
        for name, meaning in ROWS.items():
            print(f"{name:18} {meaning}")
        print(f"also with {BALANCED}: {', '.join(CAN_BALANCE)}")
        return
    rows = parse_rows(arguments.rows, arguments.dataset)
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
    for cell in cells_of(arguments.dataset, rows, budgets, list(seeds)):
        path = arguments.out / cell.file_name
        if is_done(path, config):
            continue
        result = run_cell(cell, config, data, arguments.device)
        atomic_write_text(path, json.dumps(result, indent=2) + "\n")
        print(
            f"{cell.row:22} seed {cell.seed}  {100 * result['accuracy']:5.1f} %  "
            f"{result['stored_bytes']:>9,} bytes  {result['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
