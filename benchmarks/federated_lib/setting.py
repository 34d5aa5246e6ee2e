"""What a table has in common, its cells, and one JSON file for each of them."""

import json
import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from condense_core import ImageData
from condense_core.config.presets import flips
from condense_core.data.sources import load_source
from condense_core.runlog import atomic_write_text
from condense_core.versions import library_versions
from flower_strategy.partition import partition
from flower_strategy.settings import ModelSettings, ServerSettings

OTHER_BLUR = "-other-blur"  # suffix: ours without, images with the blur
FIRST_PARTITION_SEED = 42  # of seed 0; the default of flwr-datasets


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The same for all cells of a folder; written into every file."""

    clients: int = 10
    network_width: int = 32
    train_steps: int = 1000
    image_augment: str = "color_crop_cutout_flip_scale_rotate"  # few images need it
    synthetic_images: int = 20_000
    batch_size: int = 64
    local_learning_rate: float = 0.01
    local_momentum: float = 0.9
    one_shot_epochs: int = 10
    proximal_mu: float = 0.1
    overrides: str = ""  # of the clients' presets

    def server_for(
        self, federation: "Federation", augment: str = "none"
    ) -> ServerSettings:
        return ServerSettings(
            augment=augment,
            train_steps=self.train_steps,
            synthetic_images=self.synthetic_images,
            flip=federation.flip,
        )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run."""

    dataset: str
    partition: str
    row: str
    upload_bytes: int
    seed: int

    @property
    def file_name(self) -> str:
        return (
            f"{self.dataset}_{self.partition}_{self.row}_{self.upload_bytes}"
            f"_seed{self.seed}.json"
        )


@dataclass(frozen=True, kw_only=True)
class Point:
    """The global model after some rounds, and what was sent until then by all."""

    rounds: int
    accuracy: float
    bytes_up: int
    bytes_down: int


@dataclass
class Outcome:
    """What a row measured."""

    points: list[Point] = field(default_factory=list)
    client_seconds: list[float] = field(default_factory=list)  # in all, one a client


@dataclass(frozen=True)
class Federation:
    """The data of a cell: test images, and the training images of each client."""

    name: str
    train: ImageData
    test: ImageData
    shares: list[ImageData]
    flip: bool

    @property
    def image_bytes(self) -> int:
        return self.train.images[0].numel()


def load_federation(cell: Cell, setting: Setting, data_root: Path | None) -> Federation:
    """Read both splits and divide the training images."""
    train = load_source(cell.dataset, split="train", data_root=data_root)
    test = load_source(cell.dataset, split="test", data_root=data_root)
    indices = partition(
        train.labels.numpy(),
        setting.clients,
        cell.partition,
        FIRST_PARTITION_SEED + cell.seed,
    )
    shares = [train.subset(torch.from_numpy(index)) for index in indices]
    return Federation(cell.dataset, train, test, shares, flips(cell.dataset))


def model_of(cell: Cell, setting: Setting) -> ModelSettings:
    """Architecture and seed of every row's global model.

    Models of generated images have our blur in front of them; so do those of rows that
    ask what it is worth elsewhere.
    """
    generated = cell.row.startswith(("ours", "centralised-condensed"))
    blurred = generated != cell.row.endswith(OTHER_BLUR)
    return ModelSettings(
        network_width=setting.network_width,
        low_pass=ModelSettings().low_pass if blurred else 0.0,
        seed=cell.seed,
        device="cpu",
    )


def is_done(path: Path, setting: Setting, rounds: int = 1) -> bool:
    """Whether a cell was computed before.

    Args:
        path: Its file.
        setting: That it should have.
        rounds: That it should have at least.

    Raises:
        SystemExit: It was, but with another setting or for fewer rounds.
    """
    if not path.exists():
        return False
    content = json.loads(path.read_text())
    found = content["setting"]
    if found != asdict(setting):
        sys.exit(f"{path} was made with {found}: choose another --out")
    last = content["points"][-1]["rounds"]
    if last < rounds:
        sys.exit(f"{path} ends after round {last}, not {rounds}: choose another --out")
    return True


def save(
    folder: Path,
    cell: Cell,
    setting: Setting,
    server: ServerSettings,
    outcome: Outcome,
    seconds: float,
) -> None:
    """Write a file that is whole or not there.

    ``server`` is written down and not compared: its defaults may change between runs.
    """
    content: dict[str, Any] = {
        **asdict(cell),
        "setting": asdict(setting),
        "server": asdict(server),
        **asdict(outcome),
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": library_versions(),
    }
    atomic_write_text(folder / cell.file_name, json.dumps(content, indent=2) + "\n")
