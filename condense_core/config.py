"""Configuration: frozen dataclasses, strict YAML, ``--set key.path=value``.

Every option of a run is a field here with its unit and its source; the classes check
ranges themselves, so an invalid configuration cannot exist. Presets are in
`condense_core.presets`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from condense_core._strict import (
    at_least,
    build,
    merge,
    nearest,
    non_negative,
    plain,
    positive,
)
from condense_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the real images come from."""

    name: str = "digits"
    """Source: digits, mnist, fashionmnist, svhn, cifar10, cifar100, imagefolder, npz,
    imagenet64."""
    image_size: tuple[int, int] | None = None
    """(height, width) in pixels to resize to; None keeps the size of the source."""
    channels: Literal[1, 3] | None = None
    """Convert to grey or RGB; None keeps the source's."""
    classes: tuple[str, ...] | None = None
    """Names of the classes to condense, in label order; None is all. Instead of the
    list, the name of a text file with one name a line."""
    flip: bool = True
    """Whether a mirrored image keeps its meaning; False for digits and letters."""

    def __post_init__(self) -> None:
        """Check the class list."""
        if self.classes is not None and not self.classes:
            raise ConfigError("data.classes is empty: name a class, or leave it out")


@dataclass(frozen=True, kw_only=True, slots=True)
class FormatConfig:
    """What the data set is condensed into."""

    kind: Literal["generator", "pixels"] = "generator"
    """``pixels`` learns the images themselves: the reference format."""
    images_per_class: int = 1
    """K, the number of codes (sec. 3.2)."""
    codes: Literal["learned", "uniform", "truncated"] = "learned"
    """Rows of Table 7."""
    truncation: float = 0.5
    """Bound of ``truncated`` codes, in standard deviations."""
    generator: Literal["learned", "fixed"] = "learned"
    """``fixed`` leaves it as pre-trained, so that codes alone are learnt (sec. 4.5)."""
    latent_dim: int = 64
    """C of the paper's Z in R^(K x C)."""
    embedding: Literal["class_mean", "online", "one_hot"] = "class_mean"
    """Class embedding, rows of Table 6."""
    projected_dim: int = 64
    """Size of the class embedding after its projection."""
    channels: int = 64
    """Width of every convolution of the generator."""
    code_map: Literal["shared", "per_class"] = "shared"
    """Where codes lie in latent space: ``per_class`` moves the shared codes to each
    class's own region, z -> mean_y + factor_y z, fitted by ``variational``
    pre-training; not in the paper."""
    dispersion: bool = False
    """Whether fresh images get the noise that ``variational`` pre-training found around
    the generator's, one number a class; not in the paper."""
    blocks: int | None = None
    """Upsampling blocks; None: 3 for 28 and 32 px, 4 for 64 px (sec. 4.2)."""
    precision: Literal["fp32", "fp16", "int8"] = "fp16"
    """How the artefact stores weights."""

    def __post_init__(self) -> None:
        """Check ranges."""
        at_least("format.images_per_class", self.images_per_class, 1)
        at_least("format.latent_dim", self.latent_dim, 1)
        at_least("format.projected_dim", self.projected_dim, 1)
        at_least("format.channels", self.channels, 1)
        positive("format.truncation", self.truncation)
        if self.blocks is not None and not 1 <= self.blocks <= 7:
            raise ConfigError(
                f"format.blocks is {self.blocks}: choose 1 to 7, seven give 128 px"
            )
        if self.generator == "fixed" and self.codes != "learned":
            raise ConfigError(
                f"format.generator=fixed and format.codes={self.codes} leave nothing "
                "to learn: set one of them to learned"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """The matching network phi, and the students of the unrolled objective."""

    name: str = "convnet"
    """convnet, alexnet, vgg11, resnet18 or mlp."""
    width: int | None = 128
    """Channels; the field evaluates at 128."""
    depth: int | None = None
    """Blocks; None: 3 up to 32 px, 4 for 64 px."""
    low_pass: float = 0.0
    """Deviation of a Gaussian blur in front of phi, as a share of the image's shorter
    side; 0 is none. Not in the paper."""

    def __post_init__(self) -> None:
        """Check ranges."""
        at_least("network.width", self.width, 1)
        at_least("network.depth", self.depth, 1)
        non_negative("network.low_pass", self.low_pass)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig:
    """A network trained on the real data, for class embeddings and soft labels."""

    width: int | None = 128
    """Channels of its ConvNet; also the size of the stored class embedding."""
    steps: int = 1000
    """Training steps of 256 images."""
    path: str | None = None
    """File of ``condense teacher`` to use instead of training one in the run."""
    mean_images: int | None = None
    """Images of each class, at most, whose mean feature is its embedding; None is all,
    one more pass over the data."""

    def __post_init__(self) -> None:
        """Check ranges."""
        at_least("teacher.width", self.width, 1)
        at_least("teacher.steps", self.steps, 1)
        at_least("teacher.mean_images", self.mean_images, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """How generator and codebook start (sec. 4.2)."""

    method: Literal["reconstruction", "adversarial", "variational", "none"] = (
        "reconstruction"
    )
    """``adversarial`` is the paper's; ``reconstruction`` fits ``targets``;
    ``variational`` makes G the decoder of the whole data set, for fresh codes."""
    targets: Literal["centres", "medoids", "images"] = "centres"
    """K cluster centres of each class (nobody's image), the real images nearest to K
    cluster centres in the teacher's features, or K random real images."""
    steps: int = 1000
    """Generator updates."""
    learning_rate: float = 2e-3
    """Adam's step size."""
    batch_size: int = 256
    """Images a step, at most."""
    kl_weight: float = 0.1
    """Of ``variational``: weight of the divergence from N(0, I). 1 is the bound on the
    likelihood; less keeps more of each image in its code."""

    def __post_init__(self) -> None:
        """Check ranges."""
        at_least("pretrain.steps", self.steps, 1)
        at_least("pretrain.batch_size", self.batch_size, 1)
        positive("pretrain.learning_rate", self.learning_rate)
        non_negative("pretrain.kl_weight", self.kl_weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights and shapes of the terms of L_con; a weight of 0 switches a term off."""

    adversarial: float = 0.01
    """L_adv, Eq. 1."""
    classification: float = 0.1
    """L_c, sec. 3.2."""
    matching: float = 1.0
    """L_f, Eq. 2."""
    intra: float = 0.01
    """L_intra, Eq. 3."""
    inter: float = 0.1
    """L_inter, Eq. 4."""
    gradient: float = 0.0
    """Distance of the gradients of real and synthetic images in phi's weights; not in
    the paper."""
    unrolled: float = 0.0
    """Loss on real images of a student trained on the synthetic ones; not in the
    paper."""
    trajectory: float = 0.0
    """Distance of a student of the synthetic images to where a network trained on real
    ones went from the same weights; not in the paper."""
    adversarial_space: Literal["feature", "pixel"] = "feature"
    """``pixel`` judges images: l_real of Table 8."""
    saturating: bool = False
    """The literal log(1 - D) of Eq. 1 for the generator."""
    classifier: Literal["phi", "auxiliary"] = "phi"
    """Head of L_c: phi's own, or one trained on real and synthetic features."""
    soft_labels: bool = False
    """Targets of L_c from the teacher instead of hard labels (ImageNet, sec. 4.2)."""
    soft_temperature: float = 4.0
    """Softens the teacher's labels."""
    matching_mode: Literal["class_mean", "per_sample"] = "class_mean"
    """``per_sample`` is Eq. 2 as written."""
    layer_weights: tuple[float, ...] | None = None
    """One factor for each layer of phi in L_f; None is all ones."""
    intra_centre: Literal["online", "class_embedding", "none"] = "online"
    """Centre of Eq. 3: real class mean under phi, the literal c(y), or none (Fig. 4b).
    """
    tau: float = 0.1
    """Temperature of Eq. 3, on unit vectors."""
    margin: float = 1.0
    """tau_m of Eq. 4."""
    margin_relative: bool = True
    """Margin in multiples of the mean distance of real class means."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in LOSS_TERMS:
            non_negative(f"loss.{name}", getattr(self, name))
        positive("loss.tau", self.tau)
        positive("loss.soft_temperature", self.soft_temperature)
        non_negative("loss.margin", self.margin)
        for weight in self.layer_weights or ():
            non_negative("loss.layer_weights", weight)
        if not any(getattr(self, name) for name in LOSS_TERMS):
            raise ConfigError("all loss weights are 0: set at least one loss.* above 0")


LOSS_TERMS = (
    "adversarial",
    "classification",
    "matching",
    "intra",
    "inter",
    "gradient",
    "unrolled",
    "trajectory",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Algorithm 1. The total of generator updates is restarts x N x M."""

    restarts: int = 20
    """Times phi is initialised anew; 0 leaves the pre-trained generator as it is."""
    network_updates: int = 100
    """N: outer iterations for one phi, each ending in an update of phi."""
    generator_updates: int = 5
    """M: updates of (Z, G) between two updates of phi."""
    network_steps: int = 1
    """Optimiser steps of one update of phi on real images."""
    network_batch: int = 256
    """Real images of one such step."""
    association: int = 256
    """Real images of each class that a step is matched to."""
    reuse_association: bool = True
    """Keep association and real features while phi is frozen, instead of sampling
    anew at each of the M updates: the same expectation at a fraction of the cost."""
    classes_per_step: int | None = None
    """Classes a generator update touches; None is all."""
    codes_per_step: int | None = None
    """Codes a generator update uses; None is all K."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for spec in dataclasses.fields(self):
            if spec.name != "reuse_association":
                least = 0 if spec.name == "restarts" else 1
                at_least(f"loop.{spec.name}", getattr(self, spec.name), least)

    @property
    def total(self) -> int:
        """Generator updates of a whole run."""
        return self.restarts * self.network_updates * self.generator_updates


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserConfig:
    """Optimisers of codebook, generator, discriminator and phi."""

    name: Literal["image_space", "adam", "sgd"] = "image_space"
    """For codebook and generator; the paper uses SGD. ``image_space`` takes the step
    in the images and fits the generator to them."""
    codebook_lr: float = 1e-2
    """Sec. 4.2."""
    generator_lr: float = 1e-3
    """Sec. 4.2."""
    network_lr: float = 1e-2
    """Of phi, SGD, sec. 4.2."""
    discriminator_lr: float = 2e-4
    """Adam, betas (0.5, 0.999); not given in the paper."""
    pixel_lr: float = 5e-2
    """Adam, on the logits of images: of the pixels format and of ``image_space``."""
    fit_steps: int = 2
    """Fitting steps of ``image_space`` after each update."""
    momentum: float = 0.9
    """Of every SGD here."""
    decay: Literal["linear", "none"] = "linear"
    """Linear to zero over the run (sec. 4.2)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("codebook", "generator", "network", "discriminator", "pixel"):
            positive(f"optimiser.{name}_lr", getattr(self, f"{name}_lr"))
        at_least("optimiser.fit_steps", self.fit_steps, 1)
        if not 0 <= self.momentum < 1:
            raise ConfigError(
                f"optimiser.momentum is {self.momentum}: choose a value in [0, 1)"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class UnrolledConfig:
    """Students of the unrolled objective (backpropagation through training)."""

    students: int = 10
    """Size of the pool."""
    window: int = 10
    """Training steps that are differentiated through."""
    max_age: int = 100
    """Training steps after which a student is replaced by a new one."""
    real_batch: int = 256
    """Real images of the outer loss, the same number of each class."""
    width: int | None = 32
    """Channels of a student's ConvNet."""
    learning_rate: float = 1e-2
    """Of the student, as in evaluation."""
    outer_loss: Literal["cross_entropy", "brier"] = "brier"
    """Of a student on real images. Old students are overconfident, and their few
    worst errors rule the cross entropy; the Brier score is bounded."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("students", "window", "max_age", "real_batch", "width"):
            at_least(f"unrolled.{name}", getattr(self, name), 1)
        positive("unrolled.learning_rate", self.learning_rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """How the loop computes; changes numbers by rounding alone."""

    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Of convolutions and matrix products; ``auto`` is tf32 on CUDA, else fp32."""
    compile: Literal["none", "default"] = "none"
    """``default`` compiles generator and phi with `torch.compile`: a minute or more
    before the first step, which short runs do not win back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrajectoryConfig:
    """Experts and students of trajectory matching."""

    experts: int = 20
    """Networks trained on the real images, once, before the loop."""
    snapshots: int = 20
    """Times the weights of an expert are kept, besides the initial ones."""
    snapshot_steps: int = 100
    """Steps of an expert between two of them."""
    expert_batch: int = 256
    """Real images of such a step."""
    expert_rate: float = 1e-2
    """Of plain SGD, as in MTT."""
    latest_start: int = 10
    """Last snapshot that a student starts from."""
    gap: int = 1
    """Snapshots from there to its target."""
    student_steps: int = 10
    """Steps of a student on the synthetic images."""
    student_rate: float = 2e-2
    """Of plain SGD; MTT learns it."""
    through_steps: bool = True
    """Differentiate through all steps at once (MTT), or each at given weights, in
    memory that does not grow with their number (TESLA)."""
    width: int | None = 32
    """Channels of experts and students, which are ConvNets."""
    depth: int | None = None
    """Their blocks, as ``network.depth``. Norms over maps of 2 x 2 pixels make the loss
    too rough to descend: 2 for images of 8 pixels."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for spec in dataclasses.fields(self):
            if spec.name.endswith("rate"):
                positive(f"trajectory.{spec.name}", getattr(self, spec.name))
            elif spec.name != "through_steps":
                least = 0 if spec.name == "latest_start" else 1
                at_least(f"trajectory.{spec.name}", getattr(self, spec.name), least)
        if self.latest_start + self.gap > self.snapshots:
            raise ConfigError(
                f"trajectory.latest_start is {self.latest_start} and gap {self.gap}, "
                f"but there are {self.snapshots} snapshots: raise trajectory.snapshots "
                f"to {self.latest_start + self.gap}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """The evaluation that ends a run."""

    recipe: str = "paper-300"
    """Training recipe, see `condense_core.evaluate.RECIPES`."""
    network: str = "convnet"
    """Architecture trained on the condensed set."""
    width: int | None = 128
    """Its channels."""
    repeats: int = 5
    """Networks trained, each from its own initialisation."""
    ensemble: Literal["auto", "vmap", "loop"] = "auto"
    """Whether they are trained one after another or side by side; ``auto`` is the loop
    on the CPU, elsewhere the faster of the two in a short trial."""
    baselines: tuple[str, ...] = ("random", "full")
    """References under the same recipe: random, herding, kcenter, forgetting, full."""
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
    ``loop.network_updates`` from a few timed steps before it starts; None leaves them.
    A ``config.yaml`` holds the result: clear this to repeat exactly such a run."""
    max_synthetic_batch: int = 2048
    """Images synthesised at once outside the inner loop; bounds memory."""
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
        if self.compute.compile != "none" and self.loss.gradient:
            raise ConfigError(
                "compute.compile=default cannot differentiate phi twice, which "
                "loss.gradient needs: use compute.compile=none"
            )
        at_least("seed", self.seed, 0)
        at_least("max_synthetic_batch", self.max_synthetic_batch, 1)
        if self.time_budget is not None:
            positive("time_budget", self.time_budget)
        from condense_core.augment import SiameseAugment

        SiameseAugment.from_text(self.augment)

    @classmethod
    def preset(cls, name: str) -> Self:
        """A configuration by name.

        Raises:
            ConfigError: No such preset; names the nearest.
        """
        from condense_core.presets import PRESETS

        if name not in PRESETS:
            raise ConfigError(
                f"unknown preset {name!r}{nearest(name, PRESETS)}: choose from "
                f"{', '.join(PRESETS)}, or name a .yaml file"
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
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            line = " ".join(str(error).split())
            raise ConfigError(f"{path} is not valid YAML: {line}") from error
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path} holds no key: value pairs")
        values = dict(values)
        base = values.pop("preset", None)
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
                value = yaml.safe_load(text)
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
