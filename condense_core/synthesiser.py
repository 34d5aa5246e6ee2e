"""Formats behind the loop: codebook + generator, or pixels.

A synthesiser maps (classes, codes) to images. The loop, the losses and the evaluation
see only this, so that the generator format and the pixel format differ in nothing else.

Shape legend: Y classes, K codes, Z latent, E embedding, T components of all classes
together, C H W image.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense_core.codebook import Codebook
from condense_core.config import FormatConfig
from condense_core.generator import ConditionalGenerator

# Of each component of a class in latent space, on average: with fewer, a component
# would describe single images.
IMAGES_PER_COMPONENT = 10
SYNTHESIS_BATCH = 2048  # images made at once outside the loop: bounds memory


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesiserSpec:
    """Architecture by sizes: all that is needed to rebuild a synthesiser, no code.

    ``code_components`` is the number of Gaussians of each class in latent space; empty
    is one each.
    """

    kind: str
    image_shape: tuple[int, int, int]
    num_classes: int
    images_per_class: int
    codes: str = "learned"
    truncation: float = 0.5
    latent_dim: int = 1
    embedding_dim: int = 1
    projected_dim: int = 1
    channels: int = 1
    blocks: int | None = None
    code_map: str = "shared"
    code_components: tuple[int, ...] = ()
    dispersion: bool = False

    @classmethod
    def from_config(
        cls,
        config: FormatConfig,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        embedding_dim: int,
        class_counts: Sequence[int] | None = None,
    ) -> "SynthesiserSpec":
        """Sizes from the configuration and the data.

        Args:
            config: Section ``format``.
            image_shape: (C, H, W).
            num_classes: Y.
            embedding_dim: E.
            class_counts: Images of each class, which several components need: a class
                gets no more than it can fill with `IMAGES_PER_COMPONENT` each. None:
                all can.
        """
        components: tuple[int, ...] = (config.code_components,) * num_classes
        if class_counts is not None:
            components = tuple(
                min(config.code_components, max(1, count // IMAGES_PER_COMPONENT))
                for count in class_counts
            )
        return cls(
            kind=config.kind,
            image_shape=image_shape,
            num_classes=num_classes,
            images_per_class=config.images_per_class,
            codes=config.codes,
            truncation=config.truncation,
            latent_dim=config.latent_dim,
            embedding_dim=embedding_dim,
            projected_dim=config.projected_dim,
            channels=config.channels,
            blocks=config.blocks,
            code_map=config.code_map,
            code_components=components if max(components) > 1 else (),
            dispersion=config.dispersion,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            **asdict(self),
            "image_shape": list(self.image_shape),
            "code_components": list(self.code_components),
        }


class Synthesiser(nn.Module):
    """Base of both formats.

    Attributes:
        spec: Sizes.
        class_embedding: (Y, E) class conditions c(y), set by the class embedding in
            use. A part of the generator format; for pixels only the discriminator
            reads it, and it is not stored.
    """

    class_embedding: Tensor

    def __init__(self, spec: SynthesiserSpec) -> None:
        """Keep the sizes; class embeddings start at zero."""
        super().__init__()
        self.spec = spec
        self.register_buffer(
            "class_embedding",
            torch.zeros(spec.num_classes, spec.embedding_dim),
            persistent=spec.kind == "generator",
        )

    def forward(self, class_ids_Y: Tensor, code_ids_K: Tensor) -> Tensor:
        """Images in [0, 1] of every given class and code: (Y, K, C, H, W)."""
        raise NotImplementedError


class GeneratorSynthesiser(Synthesiser):
    """The paper's format: codebook, class embedding and conditional generator.

    Attributes:
        codebook: `Codebook` with codes (K, Z).
        generator: `ConditionalGenerator`.
        code_factor: (Y, Z, Z) lower triangular, only with ``code_map="per_class"``:
            components of a class have their covariance in common.
        code_mean: (Y, Z), likewise, with one component a class.
        component_mean: (Z, T), with several: class after class.
        component_logit: (1, T), likewise: logarithms of shares, up to a constant for
            each class.
        component_class: (T,), whose component it is; not stored.
        component_end: (Y,), where the components of a class end; not stored.
        dispersion: (Y,), only with ``dispersion=True``; see `observe`.
    """

    code_factor: Tensor
    code_mean: Tensor
    component_mean: Tensor
    component_logit: Tensor
    component_class: Tensor
    component_end: Tensor
    dispersion: Tensor

    def __init__(self, spec: SynthesiserSpec, *, seed: int = 0) -> None:
        """Build with fresh weights; use `seeded_initialisation` for fixed ones."""
        super().__init__(spec)
        self.codebook = Codebook(
            images_per_class=spec.images_per_class,
            latent_dim=spec.latent_dim,
            kind=spec.codes,
            truncation=spec.truncation,
            seed=seed,
        )
        self.generator = ConditionalGenerator(
            image_shape=spec.image_shape,
            latent_dim=spec.latent_dim,
            embedding_dim=spec.embedding_dim,
            projected_dim=spec.projected_dim,
            channels=spec.channels,
            blocks=spec.blocks,
        )
        if spec.code_map == "per_class":
            classes, latent = spec.num_classes, spec.latent_dim
            factor = torch.zeros(classes, latent, latent)
            if not factor.is_meta:  # only the shape is asked for; see Codebook.draw
                factor.diagonal(dim1=1, dim2=2).fill_(1.0)
            if spec.code_components:
                self._add_components(spec)
            else:
                self.register_buffer("code_mean", torch.zeros(classes, latent))
            self.register_buffer("code_factor", factor)
        if spec.dispersion:
            self.register_buffer("dispersion", torch.zeros(spec.num_classes))

    def _add_components(self, spec: SynthesiserSpec) -> None:
        total = sum(spec.code_components)
        means = torch.zeros(spec.latent_dim, total)
        self.register_buffer("component_mean", means)
        self.register_buffer("component_logit", torch.zeros(1, total))
        counts = torch.tensor(spec.code_components)
        owners = torch.empty(0, dtype=torch.int64)
        if not means.is_meta:
            owners = torch.arange(spec.num_classes).repeat_interleave(counts)
        self.register_buffer("component_class", owners, persistent=False)
        self.register_buffer("component_end", counts.cumsum(0), persistent=False)

    def forward(self, class_ids_Y: Tensor, code_ids_K: Tensor) -> Tensor:
        """Images (Y, K, C, H, W): every given code under every given class."""
        return self.from_codes(class_ids_Y, self.codebook(code_ids_K))

    def from_codes(self, class_ids_Y: Tensor, codes_KZ: Tensor) -> Tensor:
        """As `forward`, with codes given directly instead of looked up.

        They are spread over the components of each class by their shares.
        """
        classes, codes = len(class_ids_Y), len(codes_KZ)
        places_K = (torch.arange(codes, device=codes_KZ.device) + 0.5) / codes
        images = self.generate(
            codes_KZ.repeat(classes, 1),
            class_ids_Y.repeat_interleave(codes),
            places_K.repeat(classes),
        )
        return images.view(classes, codes, *self.spec.image_shape)

    def generate(
        self, codes_BZ: Tensor, class_ids_B: Tensor, places_B: Tensor
    ) -> Tensor:
        """One image for each code and class: (B, C, H, W).

        Args:
            codes_BZ: Of the shared prior.
            class_ids_B: Classes.
            places_B: In [0, 1); where a class has several components they choose one,
                and uniform draws choose each by its share.
        """
        if self.spec.code_map == "per_class":
            moved_BZ1 = self.code_factor[class_ids_B] @ codes_BZ.unsqueeze(2)
            codes_BZ = self._code_means(class_ids_B, places_B) + moved_BZ1.squeeze(2)
        images: Tensor = self.generator(codes_BZ, self.class_embedding[class_ids_B])
        return images

    def _code_means(self, class_ids_B: Tensor, places_B: Tensor) -> Tensor:
        """Mean of the chosen component of each class: (B, Z)."""
        if not self.spec.code_components:
            return self.code_mean[class_ids_B]
        # Class y has the interval [y, y + 1), divided among its components.
        ends_T = self.component_shares().double().cumsum(dim=0)
        chosen_B = torch.searchsorted(
            ends_T, class_ids_B + places_B.double(), right=True
        )
        first_Y, last_Y = F.pad(self.component_end[:-1], (1, 0)), self.component_end - 1
        chosen_B = chosen_B.clamp(first_Y[class_ids_B], last_Y[class_ids_B])
        return self.component_mean.T[chosen_B]

    def component_shares(self) -> Tensor:
        """Share of each component in its class: (T,), summing to 1 for every class."""
        logit_T, owner_T = self.component_logit[0], self.component_class
        none_Y = logit_T.new_zeros(self.spec.num_classes)
        highest_Y = none_Y.scatter_reduce(
            0, owner_T, logit_T, "amax", include_self=False
        )
        odds_T = (logit_T - highest_Y[owner_T]).exp()
        return odds_T / none_Y.index_add(0, owner_T, odds_T)[owner_T]

    def draw(
        self, class_ids_B: Tensor, rng: torch.Generator, *, dispersed: bool
    ) -> Tensor:
        """Images of new codes: (B, C, H, W) in [0, 1].

        They are made in batches, on which an image does not depend in eval mode.

        Args:
            class_ids_B: Classes.
            rng: On the CPU. Codes come from a Gaussian of the codebook's mean and
                deviation, component by component.
            dispersed: Whether to scatter them, see `add_dispersion`, if the
                artefact says by how much.
        """
        codes, count = self.codebook.codes, len(class_ids_B)
        spread = codes.std(dim=0, unbiased=False) if len(codes) > 1 else 1.0
        noise_BZ = torch.randn(count, self.spec.latent_dim, generator=rng)
        places_B = torch.zeros(count)
        if self.spec.code_components:  # else the noise below stays what it was
            places_B.uniform_(generator=rng)
        drawn_BZ = codes.mean(dim=0) + spread * noise_BZ.to(codes.device)
        inputs = drawn_BZ, class_ids_B, places_B.to(codes.device)
        batches = zip(*(i.split(SYNTHESIS_BATCH) for i in inputs), strict=True)
        images = torch.cat([self.generate(*batch) for batch in batches])
        if dispersed and self.spec.dispersion:
            noise = torch.randn(images.shape, generator=rng).to(codes.device)
            images = self.add_dispersion(images, class_ids_B, noise)
        return images

    def add_dispersion(
        self, images_BCHW: Tensor, class_ids_B: Tensor, noise_BCHW: Tensor
    ) -> Tensor:
        """Images as data would scatter around what G draws.

        G is fitted by the cross entropy of grey values, so that x is the mean of a
        quasi-binomial variable of variance d_y x (1 - x) (McCullagh & Nelder 1989):
        none where G is sure, most at middle grey. Without it a network learns real
        images by their roughness.

        Args:
            images_BCHW: In [0, 1].
            class_ids_B: Their classes.
            noise_BCHW: Standard normal.
        """
        dispersion_B = self.dispersion[class_ids_B].view(-1, 1, 1, 1)
        variance_BCHW = dispersion_B * images_BCHW * (1.0 - images_BCHW)
        # A file from elsewhere may hold a dispersion below 0.
        deviation = variance_BCHW.clamp_min(0.0).sqrt()
        return (images_BCHW + deviation * noise_BCHW).clamp(0.0, 1.0)

    @torch.no_grad()
    def recalibrate(self, *, max_batch: int) -> None:
        """Set batch-norm statistics to those of codebook x classes.

        Afterwards, in eval mode, an image depends on its code and class alone and not
        on the batch it is generated in. Each layer's statistics depend on those
        before it; batches of whole classes are averaged when not all fit at once.

        Args:
            max_batch: Images generated at once.
        """
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average over the chunks
        device = self.class_embedding.device
        code_ids = torch.arange(self.spec.images_per_class, device=device)
        was_training = self.training
        self.train()
        per_chunk = max(1, max_batch // len(code_ids))
        # An interleaved order gives every chunk classes from all over the label range.
        chunks = max(1, -(-self.spec.num_classes // per_chunk))
        for chunk in range(chunks):
            class_ids = torch.arange(chunk, self.spec.num_classes, chunks).to(device)
            self(class_ids, code_ids)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.train(was_training)


class PixelSynthesiser(Synthesiser):
    """The format of earlier work: each image's pixels are the parameters.

    Attributes:
        pixels: (Y, K, C, H, W) logits, so that images stay in [0, 1].
    """

    def __init__(self, spec: SynthesiserSpec) -> None:
        """Start from grey images."""
        super().__init__(spec)
        shape = (spec.num_classes, spec.images_per_class, *spec.image_shape)
        self.pixels = nn.Parameter(torch.zeros(shape))

    def forward(self, class_ids_Y: Tensor, code_ids_K: Tensor) -> Tensor:
        """Images (Y, K, C, H, W)."""
        return torch.sigmoid(self.pixels[class_ids_Y][:, code_ids_K])

    @torch.no_grad()
    def set_images(self, images_YKCHW: Tensor) -> None:
        """Start from given images in [0, 1]."""
        self.pixels.copy_(to_logits(images_YKCHW))


def to_logits(images: Tensor) -> Tensor:
    """Logits of images in [0, 1], whose ends are pulled in to keep a gradient."""
    return torch.logit(images.clamp(0.01, 0.99))


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, images can be made in training mode; buffers are as before afterwards.

    Batch norms in training mode count every batch they see in their running statistics.
    Only images that G is trained on are to count.
    """
    before = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(module.buffers(), before, strict=True):
                buffer.copy_(value)


def build_synthesiser(spec: SynthesiserSpec, *, seed: int = 0) -> Synthesiser:
    """A synthesiser of the sizes in ``spec`` with fresh weights."""
    if spec.kind == "pixels":
        return PixelSynthesiser(spec)
    return GeneratorSynthesiser(spec, seed=seed)
