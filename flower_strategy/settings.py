"""Settings of the apps, read from Flower's ``run_config``.

A key is the name of a field with dashes: ``upload_bytes`` is ``upload-bytes`` in
``[tool.flwr.app.config]`` and in ``--run-config``. Each app reads the keys it needs.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from condense_core.augment import SiameseAugment
from condense_core.compute.allocator import keep_freed_memory
from condense_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Base class: reads a run configuration and checks ranges.

    Raises:
        ConfigError: A value is out of range, or its type is not that of the field.
    """

    SOURCE: ClassVar[str] = "run config"

    @classmethod
    def read(cls, run_config: Mapping[str, Any]) -> Self:
        """Read the fields of this class; a missing key takes its default."""
        values = {}
        for field in dataclasses.fields(cls):
            key = _key(field.name)
            if key not in run_config:
                continue
            value, kind = run_config[key], type(field.default)
            if kind is float and type(value) is int:
                value = float(value)
            if type(value) is not kind:
                raise ConfigError(
                    f"{cls.SOURCE} {key} is {value!r}: give a {kind.__name__}, as in "
                    f"{key}={_toml(field.default)}"
                )
            values[field.name] = value
        return cls(**values)

    def to_run_config(self) -> dict[str, Any]:
        """All fields under their keys; what `read` reads."""
        return {_key(name): value for name, value in dataclasses.asdict(self).items()}

    def require(self, **least: float) -> None:
        """Check that fields are at least the given values."""
        for name, bound in least.items():
            value = getattr(self, name)
            if not value >= bound:
                raise ConfigError(
                    f"{self.SOURCE} {_key(name)} is {value}: give at least {bound}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSettings(Settings):
    """Which images to use, and what all participants agree on about them."""

    dataset: str = "digits"
    """Name of a data set, which is split among simulated clients. If sites have their
    own folders it only names the server's test images, ``""`` for none."""
    data_root: str = ""
    """Folder of the data set."""
    partition: str = "dirichlet-0.1"
    """``iid``, ``dirichlet-ALPHA`` or ``classes-K``."""
    partition_seed: int = 42
    """Seed of the partition; 42 is the default of flwr-datasets."""
    classes: str = ""
    """Comma-separated class names in label order; needed if no data set names them."""
    height: int = 0
    """Images are resized to this height; 0 keeps it."""
    width: int = 0
    """Likewise the width."""
    channels: int = 0
    """Images are converted to 1 or 3 channels; 0 keeps them."""

    def __post_init__(self) -> None:
        """Check ranges."""
        self.require(partition_seed=0, height=0, width=0, channels=0)
        if (self.height > 0) != (self.width > 0):
            raise ConfigError(
                f"run config height is {self.height} and width {self.width}: give both "
                "or neither"
            )

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(H, W) to resize to."""
        return (self.height, self.width) if self.height else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Global class names in label order, if given."""
        return tuple(name.strip() for name in self.classes.split(",") if name.strip())


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings(Settings):
    """The global model."""

    network: str = "convnet"
    """A key of `condense_core.networks.NETWORKS`."""
    network_width: int = 32
    """Channels of its first block."""
    low_pass: float = 0.035
    """Deviation of a Gaussian blur in front of it, as a fraction of the image's shorter
    side: about one pixel of 28. Finer detail is what generators reproduce worst, and a
    network trained on their images would judge real ones by it. 0 is no blur."""
    seed: int = 0
    """Of all random draws, by server and clients; a client adds its own name."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads per process; 0 lets PyTorch choose."""

    def __post_init__(self) -> None:
        """Check ranges."""
        self.require(network_width=1, low_pass=0, seed=0, threads=0)

    def prepare_process(self) -> None:
        """Set the threads of this process, and let it keep freed memory."""
        keep_freed_memory()
        if self.threads:
            torch.set_num_threads(self.threads)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientSettings(Settings):
    """How a client condenses."""

    preset: str = "federated"
    """Preset of the first condensation."""
    refine_preset: str = "federated-round"
    """Preset of later rounds, which continue from the client's last generator."""
    overrides: str = ""
    """``key.path=value`` pairs separated by spaces, applied to both presets."""
    upload_bytes: int = 60_000
    """Most bytes of a contribution; the largest generator that fits is chosen. 0 takes
    sizes and precision from the preset."""
    min_class_count: int = 10
    """Classes with fewer images are dropped before anything is computed: the mean of a
    class with one image is that image."""
    dp_epsilon: float = 0.0
    """Budget of the differentially private mode; 0 is off. Every run spends it again.
    """
    dp_delta: float = 1e-5
    """Its delta; keep it well below one over the number of images."""
    dp_clip: float = 0.2
    """Its clipping norm: an image's features are scaled down to it."""

    def __post_init__(self) -> None:
        """Check ranges."""
        self.require(upload_bytes=0, min_class_count=1, dp_epsilon=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings(Settings):
    """How the server collects and trains."""

    num_server_rounds: int = 1
    """1 is one shot: clients receive only settings."""
    fraction_train: float = 1.0
    """Fraction of the connected clients asked per round."""
    min_clients: int = 2
    """Contributions that a round needs."""
    min_available_clients: int = 0
    """Clients to wait for before a round; 0 does not say how many there are: then
    ``min_clients`` are needed, and ``settle_seconds`` count. Clients that connect later
    take part from the next round, which one shot does not have."""
    settle_seconds: float = 10.0
    """The first round starts only when no further client has connected for so long."""
    wait_seconds: float = 120.0
    """How long to wait in all. Then the round starts if ``min_clients`` are connected;
    with fewer, the run ends."""
    round_seconds: float = 3600.0
    """Deadline of a round; clients that are late count as missing. Testing by clients
    has the same deadline again."""
    synthetic_images: int = 20_000
    """Images drawn from all generators together, per round of training."""
    train_steps: int = 1_000
    """Optimiser steps of 128 images on them."""
    learning_rate: float = 0.1
    """Of SGD; a tenth of it in the second half."""
    label_smoothing: float = 0.1
    """Part of a label spread over all classes: a generated image may look like another
    class than the one it was drawn for."""
    augment: str = "none"
    """Augmentation of the global model's training, as in `CondenseConfig.augment`."""
    flip: bool = True
    """Whether augmentation may mirror images; set false for digits."""
    max_upload_bytes: int = 4_000_000
    """A larger contribution is refused unread."""
    max_class_count: int = 10_000_000
    """A client that claims more images of one class is refused."""
    max_share: float = 1.0
    """Largest part of a class that one client may fill if others have it too."""
    class_balance: float = 0.5
    """How images are divided among classes: 0 by the clients' counts, 1 equally. If
    clients are missing, their classes look rarer than they are."""
    robust_threshold: float = 0.0
    """A client's class is dropped if it is more than this many deviations from the
    median of its peers; 0 is off. See `flower_strategy.robust`."""
    evaluate_clients: bool = False
    """Also test the global model on the clients' held-out images."""
    save_to: str = ""
    """Folder for rounds, result and merged artefact; ``""`` writes nothing. Give an
    absolute path: a server app does not run where ``flwr run`` is called."""
    resume_from: str = ""
    """Folder of an interrupted run to continue. It may be the same as ``save-to``, and
    then need not exist yet."""
    merged_images_per_class: int = 50
    """Images of each class in the merged artefact."""

    def __post_init__(self) -> None:
        """Check ranges."""
        self.require(
            num_server_rounds=1,
            min_clients=1,
            min_available_clients=0,
            settle_seconds=0.0,
            wait_seconds=0.0,
            round_seconds=1.0,
            synthetic_images=1,
            train_steps=1,
            learning_rate=0.0,
            max_upload_bytes=1,
            max_class_count=1,
            robust_threshold=0.0,
            merged_images_per_class=1,
        )
        SiameseAugment.from_text(self.augment)
        for name in ("label_smoothing", "class_balance"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(
                    f"run config {_key(name)} is {getattr(self, name)}: choose a value "
                    "from 0 to 1"
                )
        for name in ("fraction_train", "max_share"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ConfigError(
                    f"run config {_key(name)} is {getattr(self, name)}: choose a value "
                    "above 0 and at most 1"
                )


def _toml(value: Any) -> str:
    return json.dumps(value).replace("Infinity", "inf")


def _key(name: str) -> str:
    return name.replace("_", "-")
