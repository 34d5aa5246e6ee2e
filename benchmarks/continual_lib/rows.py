"""What can be run: data sets and rows of the table, with their names in the report."""

import re
from dataclasses import dataclass

DATASETS = {
    "mnist": "Split-MNIST",
    "fashionmnist": "Split-FashionMNIST",
    "cifar10": "Split-CIFAR10",
    "digits": "Split-digits",
}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        meaning: What ``--list`` says.
        label: What the report calls it.
        bounded: Whether it takes a budget of bytes.
        can_balance: Whether it also runs with the suffix `BALANCED`.
    """

    meaning: str
    label: str
    bounded: bool = True
    can_balance: bool = False


REPLAY_N = "replay-200"  # stands for replay-N of any N
ROWS = {
    "naive": Row("no memory", "no memory", bounded=False),
    "joint": Row(
        "all experiences at once: the upper bound", "joint training", bounded=False
    ),
    REPLAY_N: Row(
        "ReplayPlugin with 200 exemplars; replay-N for any other number",
        "`ReplayPlugin({count})`",
        bounded=False,
    ),
    "replay-bytes": Row(
        "ReplayPlugin with the exemplars that fit the budget",
        "`ReplayPlugin`, same bytes",
        can_balance=True,
    ),
    "class-balanced": Row(
        "ReplayPlugin with a ClassBalancedBuffer, in the budget",
        "class-balanced replay",
        can_balance=True,
    ),
    "gdumb": Row("GDumb, 30 epochs on the memory", "GDumb"),
    "er-ace": Row("ER-ACE", "ER-ACE", can_balance=True),
    "der++": Row(
        "DER++, alpha = beta = 0.5; its logits come on top of the budget",
        "DER++",
        can_balance=True,
    ),
    "generative-replay": Row(
        "Avalanche's GenerativeReplay (28x28 only)",
        "Avalanche's `GenerativeReplay`",
        bounded=False,
        can_balance=True,
    ),
    "pca-gaussian": Row(
        "control: a Gaussian a class, 8 bits, in our plugin", "PCA-Gaussian, 8 bits"
    ),
    "pca-mixture-4": Row(
        "control: a mixture of four Gaussians a class, 8 bits",
        "PCA-Gaussian, mixture of 4, 8 bits",
    ),
    "pca-mixture-8": Row(
        "control: a mixture of eight Gaussians a class, 8 bits",
        "PCA-Gaussian, mixture of 8, 8 bits",
    ),
    "vae-decoder": Row(
        "control: decoder of a class-conditional VAE, 8 bits", "VAE decoder, 8 bits"
    ),
    "pca-gaussian-detail": Row(
        "pca-gaussian with the detail of the minibatch, as ours has",
        "PCA-Gaussian, 8 bits, with borrowed detail",
    ),
    "vae-decoder-detail": Row(
        "vae-decoder with the detail of the minibatch, as ours has",
        "VAE decoder, 8 bits, with borrowed detail",
    ),
    "pixels": Row(
        "the exemplars of replay-bytes in our plugin: batches balanced as ours",
        "exemplars in our plugin (balanced batches)",
    ),
    "jpeg": Row("herded exemplars as JPEG, in our plugin", "herded exemplars as JPEG"),
    "ours-experience": Row(
        "a condensed set for each experience", "**ours**, one set an experience"
    ),
    "ours-smooth": Row(
        "ours-experience without detail from the minibatch",
        "**ours**, without borrowed detail",
    ),
    "ours-detail": Row(
        "ours-experience with detail from the minibatch",
        "**ours**, with borrowed detail",
    ),
    "ours-shared": Row(
        "one condensed set, condensed anew after each experience",
        "**ours**, one shared set",
    ),
    "ours-refined": Row(
        "ours-experience, then 150 updates of the paper's losses an experience",
        "**ours**, refined by the paper's losses",
    ),
}
# Suffix of an exemplar row that replays 4 x the minibatch, as ours does at the end. A
# memory smaller than that is replayed whole; "pixels" draws with replacement instead.
BALANCED = "-balanced"


def bare(name: str) -> str:
    """A row's name without the suffix of its balanced variant."""
    return name if name in ROWS else name.removesuffix(BALANCED)


def exemplars_of(name: str) -> int | None:
    """The N of replay-N; None for another row."""
    found = re.fullmatch(r"replay-(\d+)", bare(name))
    return int(found[1]) if found else None


def key_of(name: str) -> str:
    """The key in `ROWS` of a row, balanced or not, of any number of exemplars."""
    return bare(name) if exemplars_of(name) is None else REPLAY_N


def label_of(name: str) -> str:
    """What the report calls a row; a row it does not know keeps its name."""
    row = ROWS.get(key_of(name))
    label = row.label.format(count=exemplars_of(name)) if row else bare(name)
    return label if bare(name) == name else f"{label}, balanced batches"


def parse_rows(text: str, dataset: str) -> list[str]:
    """Row names from a comma-separated list; empty means all that fit the data set.

    Raises:
        SystemExit: There is no such row.
    """
    names = [name for name in text.split(",") if name] or [
        *(n for n in ROWS if n != "generative-replay" or dataset.endswith("mnist")),
        "replay-bytes" + BALANCED,
    ]
    for name in names:
        row = ROWS.get(key_of(name))
        if row is None or (name != bare(name) and not row.can_balance):
            raise SystemExit(f"unknown row {name!r}: see --list")
    return names


def list_rows() -> str:
    """What ``--list`` prints."""
    lines = [f"{name:18} {row.meaning}" for name, row in ROWS.items()]
    balanced = ", ".join(name for name, row in ROWS.items() if row.can_balance)
    return "\n".join([*lines, f"also with {BALANCED}: {balanced}"])
