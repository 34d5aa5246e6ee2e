"""Sections of a configuration: data, format, networks and the starting point."""

from dataclasses import dataclass
from typing import Literal

from condense_core.config.strict import at_least, non_negative, positive
from condense_core.errors import ConfigError

Architecture = Literal["convnet", "alexnet", "vgg11", "resnet18", "mlp"]


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
        """Check sizes and the class list."""
        if self.classes is not None and not self.classes:
            raise ConfigError("data.classes is empty: name a class, or leave it out")
        if self.image_size is not None and min(self.image_size) < 1:
            raise ConfigError(
                f"data.image_size is {list(self.image_size)}: give (height, width) in "
                "pixels, as [32, 32]"
            )


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
    code_components: int = 1
    """Gaussians in the region of a class, at most: several with ``per_class`` draw
    fresh images that lie closer to the real ones. Not in the paper."""
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
        at_least("format.code_components", self.code_components, 1)
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
        if self.code_components > 1 and self.code_map != "per_class":
            raise ConfigError(
                f"format.code_components={self.code_components} are Gaussians of a "
                "class: set format.code_map=per_class"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """The matching network phi."""

    name: Architecture = "convnet"
    """Architecture."""
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
    feature_weight: float = 0.0
    """Of ``variational``: weight of Eq. 2 between each image and what G makes of its
    code, in the features of the teacher or, where a client of a federation goes on, of
    the global model. Not in the paper."""

    def __post_init__(self) -> None:
        """Check ranges."""
        at_least("pretrain.steps", self.steps, 1)
        at_least("pretrain.batch_size", self.batch_size, 1)
        positive("pretrain.learning_rate", self.learning_rate)
        non_negative("pretrain.kl_weight", self.kl_weight)
        non_negative("pretrain.feature_weight", self.feature_weight)
