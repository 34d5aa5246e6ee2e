"""A whole configuration: sections, files and overrides."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from condense_core.config.loop import (
    ComputeConfig,
    LoopConfig,
    LossConfig,
    OptimiserConfig,
    TrajectoryConfig,
    UnrolledConfig,
)
from condense_core.config.start import (
    Architecture,
    DataConfig,
    FormatConfig,
    NetworkConfig,
    PretrainConfig,
    TeacherConfig,
)
from condense_core.config.strict import (
    at_least,
    build,
    merge,
    nearest,
    plain,
    positive,
)
from condense_core.config.yaml_text import read_yaml
from condense_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """The evaluation that ends a run."""

    recipe: str = "paper-300"
    """Training recipe, see `condense_core.evaluate.RECIPES`."""
    network: Architecture = "convnet"
    """Architecture trained on the condensed set."""
    width: int | None = 128
    """Its channels."""
    repeats: int = 5
    """Networks trained, each from its own initialisation."""
    ensemble: Literal["auto", "vmap", "loop"] = "auto"
    """Whether they are trained one after another or side by side; ``auto`` is the loop
    on the CPU, elsewhere the faster of the two in a short trial."""
    baselines: tuple[
        Literal["random", "herding", "kcenter", "forgetting", "full"], ...
    ] = ("random", "full")
    """References under the same recipe."""
    full_max_steps: int | None = None
    """Cap on the optimiser steps of ``full``; None trains the recipe's epochs."""
    probe_every: int = 0
    """Generator updates between probes of the synthetic set; 0 for none. A probe
    trains a small network and tests it on *training* images; it selects nothing."""

    def __post_init__(self) -> None:
        """Check ranges."""
        at_least("evaluate.repeats", self.repeats, 1)
        at_least("evaluate.width", self.width, 1)
        at_least("evaluate.probe_every", self.probe_every, 0)
        at_least("evaluate.full_max_steps", self.full_max_steps, 1)
        from condense_core.training import resolve_recipe

        resolve_recipe(self.recipe)


# Options of the density that fresh codes are drawn from, and what they are without one.
CODE_DENSITY = {"code_map": "shared", "code_components": 1, "dispersion": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class CondenseConfig:
    """Everything that determines a run.

    Example:
        >>> config = CondenseConfig.preset("digits")
        >>> config.with_overrides(["loss.tau=0.2"]).loss.tau
        0.2
    """

    seed: int = 0
    augment: str = "color_crop_cutout_flip_scale_rotate"
    """Siamese augmentation while condensing, or ``none``."""
    time_budget: float | None = None
    """Seconds a run may take, evaluation included. Sets ``loop.restarts`` and
    ``loop.network_updates`` from a few timed steps before it starts; None leaves them,
    and so does a configuration without a loop (``loop.restarts: 0``).
    A ``config.yaml`` holds the result: clear this to repeat exactly such a run."""
    max_synthetic_batch: int = 2048
    """Images made at once when the generator's batch norms are measured anew after the
    loop; bounds the memory that takes."""
    data: DataConfig = field(default_factory=DataConfig)
    format: FormatConfig = field(default_factory=FormatConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    unrolled: UnrolledConfig = field(default_factory=UnrolledConfig)
    trajectory: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        """Check what needs more than one section."""
        if self.compute.compile == "default" and self.loss.gradient:
            raise ConfigError(
                "compute.compile=default cannot differentiate phi twice, which "
                "loss.gradient needs: use compute.compile=none"
            )
        at_least("seed", self.seed, 0)
        at_least("max_synthetic_batch", self.max_synthetic_batch, 1)
        if self.time_budget is not None:
            positive("time_budget", self.time_budget)
        if self.pretrain.method == "variational" and self.format.codes != "learned":
            raise ConfigError(
                f"pretrain.method=variational places the codes itself, which "
                f"format.codes={self.format.codes} rules out: use format.codes=learned"
            )
        for name, default in CODE_DENSITY.items():
            value = getattr(self.format, name)
            if value != default and self.pretrain.method != "variational":
                raise ConfigError(
                    f"format.{name}={value} says how codes are drawn, which only "
                    "pretrain.method=variational learns: use that, or leave it "
                    f"at {default}"
                )
        if self.format.kind == "pixels" and self.pretrain.method in (
            "adversarial",
            "variational",
        ):
            raise ConfigError(
                f"pretrain.method={self.pretrain.method} trains a generator, which "
                "format.kind=pixels has not: use pretrain.method=reconstruction"
            )
        if self.format.embedding == "online" and self.loop.classes_per_step is not None:
            raise ConfigError(
                "format.embedding=online is standardised over all classes, of which "
                f"loop.classes_per_step={self.loop.classes_per_step} sees some: use "
                "loop.classes_per_step=null or format.embedding=class_mean"
            )
        from condense_core.augment import SiameseAugment

        SiameseAugment.from_text(self.augment)

    @classmethod
    def preset(cls, name: str) -> Self:
        """A configuration by name.

        Raises:
            ConfigError: No such preset; names the nearest.
        """
        from condense_core.config.presets import PRESETS, choices

        if name not in PRESETS:
            raise ConfigError(
                f"unknown preset {name!r}{nearest(name, PRESETS)}: choose {choices()}, "
                "or name a .yaml file"
            )
        return cls.from_dict(PRESETS[name]())

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a YAML file; missing keys take their defaults.

        A top-level ``preset: NAME`` key starts from that preset instead.

        Raises:
            ConfigError: The file is missing or no YAML mapping, a key is unknown, or a
                value is of the wrong type or out of range.
        """
        try:
            values = read_yaml(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"cannot read {path} ({error.strerror}): name a .yaml file or a preset"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            line = " ".join(str(error).split())
            raise ConfigError(f"{path} is not valid YAML: {line}") from error
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path} holds no key: value pairs")
        values = dict(values)
        base = values.pop("preset", None)
        if base is not None and not isinstance(base, str):
            raise ConfigError(f"{path}: preset is {base!r:.40}: give the name of one")
        start = cls.preset(base).to_dict() if base is not None else {}
        return cls.from_dict(merge(start, values))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from nested mappings, strictly.

        Raises:
            ConfigError: As `from_yaml`.
        """
        built: Self = build(cls, _with_class_list(values), path="")
        return built

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, tuples as lists: the inverse of `from_dict`."""
        values: dict[str, Any] = plain(dataclasses.asdict(self))
        return values

    def to_yaml(self) -> str:
        """The resolved configuration as YAML text."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def with_overrides(self, assignments: Sequence[str]) -> Self:
        """Apply ``key.path=value`` texts; values are YAML.

        Raises:
            ConfigError: An assignment has no ``=``, or as `from_dict`.
        """
        values = self.to_dict()
        for assignment in assignments:
            path, separator, text = assignment.partition("=")
            if not separator:
                raise ConfigError(
                    f"--set {assignment!r} has no '=': write key.path=value"
                )
            try:
                value = read_yaml(text)
            except yaml.YAMLError as error:
                raise ConfigError(f"--set {assignment!r}: not a YAML value") from error
            override: Any = value
            for key in reversed(path.strip().split(".")):
                override = {key: override}
            values = merge(values, override)
        return type(self).from_dict(values)


def _with_class_list(values: Any) -> Any:
    """``values``, with the content of a class file in the place of its name."""
    data = values.get("data") if isinstance(values, Mapping) else None
    name = data.get("classes") if isinstance(data, Mapping) else None
    if not isinstance(name, str):
        return values
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"data.classes: cannot read {name!r} ({error}): name a text file with one "
            "class a line, or write a list, as in --set data.classes=[cat,dog]"
        ) from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"data.classes: {name!r} names no class: write one a line")
    return merge(values, {"data": {"classes": found}})
