"""The paper's tables as data: rows, columns, and which cells are worth most."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

RECIPES = ("paper-300", "dsa-1000")
NETWORKS = ("convnet", "alexnet", "vgg11", "resnet18", "mlp")
GENERATED = "generated"  # any folder of images made elsewhere

# The paper's objective, and a loop for it: on a CPU, presets may have one for another.
OBJECTIVE = (
    "loss.adversarial=1",
    "loss.classification=1",
    "loss.matching=1",
    "loss.intra=1",
    "loss.inter=1",
    "loss.gradient=0",
    "loss.unrolled=0",
    "loss.trajectory=0",
)
CPU_LOOP = (
    "loop.restarts=25",
    "loop.network_updates=4",
    "loop.generator_updates=10",
    "loop.association=64",
)
OTHER_EMBEDDING = "loss.intra_centre=online"  # c(y) is then no vector of phi's size


@dataclass(frozen=True)
class Row:
    """What a network is trained on.

    Attributes:
        label: What the report calls it.
        reference: Real images chosen so; None for a condensed set.
        paper: Whether it starts from the paper's own setting, not from our best.
        overrides: What it changes.
        cpu_overrides: What it changes besides where the presets are those of a CPU.
    """

    label: str
    reference: str | None = None
    paper: bool = False
    overrides: tuple[str, ...] = ()
    cpu_overrides: tuple[str, ...] = ()


ROWS = {
    "ours": Row("ours, best objective"),
    "ours-paper": Row("ours, the paper's objective", paper=True),
    "pixels": Row("pixels in our loop", overrides=("format.kind=pixels",)),
    "random": Row("random", "random"),
    "herding": Row("herding", "herding"),
    "kcenter": Row("k-center", "kcenter"),
    "forgetting": Row("forgetting", "forgetting"),
    "itgan": Row(
        "fixed generator, codes only (IT-GAN)",
        paper=True,
        overrides=("format.generator=fixed", "loss.intra=0", "loss.inter=0"),
    ),
    "full": Row("whole data set", "full"),
    "pretrained": Row(
        "generator pre-trained, not condensed",
        paper=True,
        overrides=("pretrain.method=adversarial", "loop.restarts=0"),
        cpu_overrides=("pretrain.steps=2000", "pretrain.learning_rate=2e-4"),
    ),
    GENERATED: Row("folder of generated images"),
    "embedding-one-hot": Row(
        "one-hot",
        paper=True,
        overrides=("format.embedding=one_hot", OTHER_EMBEDDING),
    ),
    "embedding-online": Row(
        "online feature", paper=True, overrides=("format.embedding=online",)
    ),
    "codes-uniform": Row(
        "uniform sample", paper=True, overrides=("format.codes=uniform",)
    ),
    "codes-truncated": Row(
        "random with threshold", paper=True, overrides=("format.codes=truncated",)
    ),
    "loss-real": Row(
        "l_real",
        paper=True,
        overrides=("loss.adversarial_space=pixel", "loss.intra=0", "loss.inter=0"),
    ),
    "loss-feature": Row(
        "l_feature", paper=True, overrides=("loss.intra=0", "loss.inter=0")
    ),
    "loss-intra": Row("l_feature, l_intra", paper=True, overrides=("loss.inter=0",)),
    "loss-inter": Row("l_feature, l_inter", paper=True, overrides=("loss.intra=0",)),
    "figure-dc": Row(
        "(a) gradient matching in pixels, as DC",
        overrides=(
            "format.kind=pixels",
            *(f"{weight.split('=')[0]}=0" for weight in OBJECTIVE),
            "loss.gradient=1",
        ),
    ),
    "figure-no-centre": Row(
        "(b) intra-class loss without centre",
        paper=True,
        overrides=("loss.intra_centre=none", "loss.inter=0"),
    ),
}


@dataclass(frozen=True)
class Column:
    """Data and test network of a column."""

    dataset: str
    ipc: int
    network: str = "convnet"

    @property
    def name(self) -> str:
        """As in published.yaml."""
        network = "" if self.network == "convnet" else f"-{self.network}"
        return f"{self.dataset}-ipc{self.ipc}{network}"


@dataclass(frozen=True)
class Cell:
    """One measurement; several tables may show it."""

    column: Column
    row: str
    recipe: str

    @property
    def name(self) -> str:
        """Unique; also the name of its file."""
        column = self.column
        parts = column.dataset, f"ipc{column.ipc}", self.row, column.network
        return "_".join((*parts, self.recipe))

    @classmethod
    def at(cls, column: Column, row: str, recipe: str) -> "Cell":
        """The cell shown there: the whole data set knows no images per class."""
        if row == "full":
            column, recipe = replace(column, ipc=10), RECIPES[0]
        return cls(column, row, recipe)

    @property
    def source(self) -> str:
        """What is condensed for it; cells of one source share the artefact."""
        return f"{self.column.dataset}_ipc{self.column.ipc}_{self.row}"


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        key: In published.yaml.
        title: In the report.
        rows: Of `ROWS`.
        columns: Data sets, images per class, networks.
        labels: Names of rows that have another one in this table.
    """

    key: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    labels: tuple[tuple[str, str], ...] = ()

    def label_of(self, row: str) -> str:
        """What the table calls a row."""
        return dict(self.labels).get(row) or ROWS[row].label


DATASETS = ("cifar10", "fashionmnist", "mnist", "cifar100", "svhn")
COUNTS = (10, 1, 50)
ABLATED = tuple(Column(name, 10) for name in DATASETS if name != "svhn")
DEMO = (Column("digits", 10), Column("digits", 1))  # minutes, needs no files

TABLES = {
    table.key: table
    for table in (
        Table(
            "table2",
            "Table 2: accuracy by data set and images per class",
            tuple(ROWS)[:9],
            tuple(Column(name, k) for name in DATASETS for k in COUNTS) + DEMO,
        ),
        Table(
            "table4",
            "Table 4: images of a generator that was not condensed",
            ("random", "pretrained", GENERATED, "ours"),
            tuple(Column("cifar10", k) for k in COUNTS) + DEMO[:1],
        ),
        Table(
            "table5",
            "Table 5: networks that were not condensed with",
            ("ours", "random", "herding"),
            tuple(
                Column("cifar10", k, network) for k in (50, 10) for network in NETWORKS
            )
            + tuple(Column("digits", 10, network) for network in NETWORKS),
        ),
        Table(
            "table6",
            "Table 6: class embeddings",
            ("embedding-one-hot", "embedding-online", "ours-paper"),
            ABLATED + DEMO[:1],
            (("ours-paper", "class feature"),),
        ),
        Table(
            "table7",
            "Table 7: codes",
            ("codes-uniform", "codes-truncated", "ours-paper"),
            ABLATED + DEMO[:1],
            (("ours-paper", "learnable codebook"),),
        ),
        Table(
            "table8",
            "Table 8: losses",
            ("loss-real", "loss-feature", "loss-intra", "loss-inter", "ours-paper"),
            ABLATED + DEMO[:1],
            (("ours-paper", "l_feature, l_intra, l_inter"),),
        ),
        Table(
            "figure4",
            "Figure 4: distribution of the condensed images",
            ("figure-dc", "figure-no-centre", "loss-intra", "ours-paper"),
            (Column("cifar10", 10), DEMO[0]),
            (
                ("loss-intra", "(c) intra-class loss with centre"),
                ("ours-paper", "(d) intra- and inter-class loss"),
            ),
        ),
    )
}

# What is worth most: Table 2 of one data set after the other, and the comparisons of
# CIFAR-10 as soon as the first three are there.
ORDER = (
    ("table2", "cifar10"),
    ("table2", "fashionmnist"),
    ("table2", "mnist"),
    ("table8", "cifar10"),
    ("figure4", "cifar10"),
    ("table5", "cifar10"),
    ("table4", "cifar10"),
    ("table7", "cifar10"),
    ("table6", "cifar10"),
    ("table2", "cifar100"),
    ("table2", "svhn"),
    *(
        (key, dataset)
        for key in ("table8", "table7", "table6")
        for dataset in ("mnist", "fashionmnist", "cifar100")
    ),
    *((key, "digits") for key in TABLES),
)


def cells_in_order(recipes: tuple[str, ...] = RECIPES) -> list[Cell]:
    """Every cell once, those worth most first."""
    return list(dict.fromkeys(_walk(recipes)))


def _walk(recipes: tuple[str, ...]) -> Iterator[Cell]:
    for key, dataset in ORDER:
        table = TABLES[key]
        # References take a minute: what comes after them is compared with them.
        rows = sorted(table.rows, key=_lateness)
        for column in (c for c in table.columns if c.dataset == dataset):
            for row in rows:
                for recipe in recipes:
                    yield Cell.at(column, row, recipe)


def _lateness(row: str) -> int:
    if row == "full":
        return 2
    return int(ROWS[row].reference is None)


def settings_of(cell: Cell, scale: str) -> tuple[str, tuple[str, ...]]:
    """Preset and overrides that a cell is condensed with.

    Args:
        cell: Of a row that is condensed.
        scale: ``cpu`` for the presets of minutes, ``full`` for those of a GPU.
    """
    dataset, ipc, row = cell.column.dataset, cell.column.ipc, ROWS[cell.row]
    if dataset == "digits":
        preset = "digits" if ipc == 10 else f"digits-ipc{ipc}"
        base = OBJECTIVE if row.paper else ()
        return preset, (*base, *row.overrides, *row.cpu_overrides)
    start = f"{dataset}-ipc{ipc}"
    if scale == "full":
        return f"{start}-paper" if row.paper else start, row.overrides
    base = (*OBJECTIVE, *CPU_LOOP) if row.paper else ()
    return f"{start}-cpu", (*base, *row.overrides, *row.cpu_overrides)
