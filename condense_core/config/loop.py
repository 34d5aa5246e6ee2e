"""Sections of a configuration: the loss, Algorithm 1 and how both are computed."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from condense_core.config.strict import at_least, non_negative, positive
from condense_core.errors import ConfigError


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
    """Centre of Eq. 3: real class mean under phi, the generator's c(y) as in the paper,
    or none (Fig. 4b)."""
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
    at_once: int = 1
    """Students of one generator update; their gradients are averaged."""
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
    worst errors dominate the cross entropy; the Brier score is bounded."""
    normalise: bool = False
    """Whether the gradient of each student has unit length at the images. Lengths
    differ a hundredfold with age, and a few students would dominate. Its length is
    then ``loss.unrolled``."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in (
            "students",
            "at_once",
            "window",
            "max_age",
            "real_batch",
            "width",
        ):
            at_least(f"unrolled.{name}", getattr(self, name), 1)
        if self.at_once > self.students:
            raise ConfigError(
                f"unrolled.at_once is {self.at_once}, but there are {self.students} "
                "students: raise unrolled.students"
            )
        positive("unrolled.learning_rate", self.learning_rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """How the loop computes; changes numbers by rounding alone."""

    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Of convolutions and matrix products; ``auto`` is tf32 on CUDA, else fp32."""
    compile: Literal["auto", "none", "default", "graphs"] = "auto"
    """``graphs`` replays the students of ``loss.unrolled`` as a CUDA graph; ``auto`` is
    that on one GPU, else none. ``default`` compiles generator and phi with
    `torch.compile`: a minute or more before the first step, which short runs do not win
    back."""


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
