"""Memories the condensed one is compared with, in the same plugin at the same bytes.

Each fits the protocol of `avalanche_plugin.memory.ReplayMemory` and keeps its stored
bytes within ``mem_bytes`` after every `observe`. Bytes are those of `tensors`: 8-bit
numbers, their scales, JPEG files. Class ids and the range of the data, a few bytes an
experience, are left out for all of them, as labels are for exemplar replay.

Shape legend: N images, B batch, K classes of an experience, J mixture components, M
directions, D = C * H * W pixels, Z latent, R rows.
"""

import io
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from condense_core.generator import ConditionalGenerator, default_blocks
from condense_core.seeding import make_generator, seeded_initialisation

Pair = tuple[int, int]  # (label, task)
ENCODER_UNITS = 400  # of the VAE's, which is not stored; as many as in ours
_LEVELS = 127
_SMALLEST_SCALE = 2.0**-24  # of fp16


def pack_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as int8 and one fp16 scale for each entry of the first dimension."""
    largest_R = rows.abs().flatten(1).amax(dim=1)
    scale_R = (largest_R / _LEVELS).clamp_min(_SMALLEST_SCALE).half()
    steps = rows / scale_R.float().view(-1, *[1] * (rows.ndim - 1))
    return steps.round().clamp(-_LEVELS, _LEVELS).to(torch.int8), scale_R


def unpack_rows(steps: Tensor, scale_R: Tensor) -> Tensor:
    """`pack_rows` undone, in fp32."""
    return steps.float() * scale_R.float().view(-1, *[1] * (steps.ndim - 1))


@dataclass(frozen=True)
class Part:
    """What is kept of one experience.

    Attributes:
        pairs: The K classes, as (label, task).
        image_shape: (C, H, W).
        low: Smallest value of the images; ``high`` is the largest.
        tensors: All that is stored and counted.
    """

    pairs: tuple[Pair, ...]
    image_shape: tuple[int, int, int]
    low: float
    high: float
    tensors: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to_unit(self, images: Tensor) -> Tensor:
        """From the range of the data to [0, 1]."""
        return (images - self.low) / max(self.high - self.low, 1e-6)

    def from_unit(self, images: Tensor) -> Tensor:
        return images * (self.high - self.low) + self.low


class ExperienceMemory(ABC):
    """One `Part` for each experience, all within one budget of bytes.

    Args:
        mem_bytes: Bound of `nbytes`. An experience gets an equal share of it: of all
            experiences if their number is known, else of those seen so far, and then
            older parts shrink.
        seed: Of everything drawn while observing.
    """

    def __init__(self, *, mem_bytes: int, seed: int = 0) -> None:
        self.mem_bytes = mem_bytes
        self.seed = seed
        self.parts: list[Part] = []
        self._ready: dict[int, Any] = {}  # decoded parts, not stored

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def classes(self) -> tuple[Pair, ...]:
        return tuple(dict.fromkeys(pair for part in self.parts for pair in part.pairs))

    def observe(
        self,
        images: Tensor,
        labels: Tensor,
        tasks: Tensor,
        *,
        expected: int | None = None,
    ) -> str:
        """Remember one experience.

        Args:
            images: Float (N, C, H, W).
            labels: Int64 (N,).
            tasks: Int64 (N,).
            expected: Number of experiences of the stream, if known.

        Raises:
            ValueError: The share of an experience is too small.
        """
        seen = len(self.parts) + 1
        share = self.mem_bytes // max(expected or 0, seen)
        for index, part in enumerate(self.parts):
            if part.nbytes > share:
                self.parts[index] = self._shrink(part, share)
        images = images.detach().float()
        groups: dict[Pair, Tensor] = {}
        for label, task in torch.stack([labels, tasks], dim=1).unique(dim=0).tolist():
            groups[label, task] = images[(labels == label) & (tasks == task)]
        empty = Part(
            pairs=tuple(groups),
            image_shape=tuple(images.shape[1:]),
            low=float(images.min()),
            high=float(images.max()),
            tensors={},
        )
        self.parts.append(self._fit(empty, list(groups.values()), share))
        self._ready.clear()
        assert self.nbytes <= self.mem_bytes
        kept = self.parts[-1].nbytes
        return f"{type(self).__name__}: {len(groups)} classes in {kept:,} bytes"

    @torch.no_grad()
    def sample(
        self, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw ``count`` images (B, C, H, W), labels (B,) and tasks (B,).

        All classes are drawn equally often; the remainder goes to random classes.
        """
        pairs = self.classes
        each, rest = divmod(count, len(pairs))
        counts = torch.full((len(pairs),), each)
        counts[torch.randperm(len(pairs), generator=generator)[:rest]] += 1
        images, labels, tasks = [], [], []
        for pair, number in zip(pairs, counts.tolist(), strict=True):
            if number == 0:
                continue
            index = self._holder(pair, generator)
            part = self.parts[index]
            if index not in self._ready:
                self._ready[index] = self._decode(part)
            position = part.pairs.index(pair)
            images.append(
                self._draw(part, self._ready[index], position, number, generator)
            )
            labels.append(torch.full((number,), pair[0]))
            tasks.append(torch.full((number,), pair[1]))
        return torch.cat(images), torch.cat(labels), torch.cat(tasks)

    def _holder(self, pair: Pair, generator: torch.Generator) -> int:
        holders = [i for i, part in enumerate(self.parts) if pair in part.pairs]
        if len(holders) == 1:
            return holders[0]
        return holders[int(torch.randint(len(holders), (1,), generator=generator))]

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [vars(part) for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.parts = [Part(**fields) for fields in state["parts"]]
        self._ready.clear()

    def _generator(self, purpose: str) -> torch.Generator:
        return make_generator(self.seed, type(self).__name__, purpose, len(self.parts))

    @abstractmethod
    def _fit(self, empty: Part, groups: list[Tensor], share: int) -> Part:
        """Fill ``empty`` with ``share`` bytes from K classes' images (N, C, H, W)."""

    @abstractmethod
    def _shrink(self, part: Part, share: int) -> Part:
        """The same part in at most ``share`` bytes."""

    @abstractmethod
    def _decode(self, part: Part) -> Any:
        """What `_draw` needs, computed once."""

    @abstractmethod
    def _draw(
        self,
        part: Part,
        ready: Any,
        position: int,
        count: int,
        generator: torch.Generator,
    ) -> Tensor:
        """``count`` images (B, C, H, W) of the class at ``position``."""


def _filled(part: Part, tensors: dict[str, Tensor]) -> Part:
    tensors = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
    return Part(part.pairs, part.image_shape, part.low, part.high, tensors)


def _too_small(share: int, needed: int) -> ValueError:
    return ValueError(
        f"{share} bytes an experience are too few: this memory needs {needed}"
    )


class PcaGaussianMemory(ExperienceMemory):
    """A Gaussian a class: mean and principal directions, 8 bits, fresh samples.

    A direction is stored times its standard deviation, so that its scale holds both.
    As many directions are kept as the budget allows.

    Args:
        mem_bytes: Bound of the stored bytes.
        seed: Of k-means and of the search for directions.
        components: J, Gaussians a class (found by k-means).
    """

    def __init__(self, *, mem_bytes: int, seed: int = 0, components: int = 1) -> None:
        super().__init__(mem_bytes=mem_bytes, seed=seed)
        self.components = components

    def _directions(self, part: Part, share: int, gaussians: int) -> int:
        row, weights = math.prod(part.image_shape) + 2, 2 * gaussians
        rows = (share - weights) // (gaussians * row)
        if rows < 1:
            raise _too_small(share, gaussians * row + weights)
        return rows - 1

    def _fit(self, empty: Part, groups: list[Tensor], share: int) -> Part:
        generator = self._generator("fit")
        count = self._directions(empty, share, len(groups) * self.components)
        rows, weights = [], []
        for images in groups:
            flat_ND = images.flatten(1).cpu()
            assigned_N = kmeans(flat_ND, self.components, generator)
            for component in range(self.components):
                members_ND = flat_ND[assigned_N == component]
                weights.append(len(members_ND) / len(flat_ND))
                rows.append(gaussian_rows(members_ND, count, generator))
        steps, scale_R = pack_rows(torch.cat(rows))
        return _filled(
            empty,
            {"rows": steps, "scale": scale_R, "weights": torch.tensor(weights).half()},
        )

    def _shrink(self, part: Part, share: int) -> Part:
        gaussians = len(part.tensors["weights"])
        count = self._directions(part, share, gaussians)
        steps = part.tensors["rows"].unflatten(0, (gaussians, -1))[:, : count + 1]
        scale = part.tensors["scale"].unflatten(0, (gaussians, -1))[:, : count + 1]
        return _filled(
            part,
            {
                "rows": steps.flatten(0, 1),
                "scale": scale.flatten(),
                "weights": part.tensors["weights"],
            },
        )

    def _decode(self, part: Part) -> tuple[Tensor, Tensor]:
        rows = unpack_rows(part.tensors["rows"], part.tensors["scale"])
        classes = len(part.pairs)
        weights_KJ = part.tensors["weights"].float().view(classes, -1)
        return rows.view(*weights_KJ.shape, -1, rows.shape[1]), weights_KJ

    def _draw(
        self,
        part: Part,
        ready: Any,
        position: int,
        count: int,
        generator: torch.Generator,
    ) -> Tensor:
        rows_KJMD, weights_KJ = ready
        chosen_B = torch.multinomial(
            weights_KJ[position], count, replacement=True, generator=generator
        )
        images = []
        for component, number in enumerate(chosen_B.bincount().tolist()):
            mean_D, directions_MD = rows_KJMD[position, component].split(
                [1, rows_KJMD.shape[2] - 1]
            )
            noise_BM = torch.randn(number, len(directions_MD), generator=generator)
            images.append(mean_D + noise_BM @ directions_MD)
        return (
            torch.cat(images).clamp(part.low, part.high).unflatten(1, part.image_shape)
        )


def kmeans(
    flat_ND: Tensor, clusters: int, generator: torch.Generator, *, iterations: int = 25
) -> Tensor:
    """Cluster of every row (N,), by Lloyd's iterations; an empty one is drawn anew."""
    if clusters == 1:
        return torch.zeros(len(flat_ND), dtype=torch.long)
    start = torch.randperm(len(flat_ND), generator=generator)[:clusters]
    centres = flat_ND[start].clone()
    for _ in range(iterations):
        assigned_N = torch.cdist(flat_ND, centres).argmin(dim=1)
        for cluster in range(clusters):
            members = flat_ND[assigned_N == cluster]
            if len(members) == 0:
                drawn = torch.randint(len(flat_ND), (1,), generator=generator)
                members = flat_ND[drawn]
            centres[cluster] = members.mean(dim=0)
    return torch.cdist(flat_ND, centres).argmin(dim=1)


def gaussian_rows(flat_ND: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Mean, then ``count`` principal directions times their deviations: (1 + M, D).

    Directions beyond the rank of the data are zero. Subspace iteration.
    """
    if len(flat_ND) == 0:  # an empty cluster, of weight 0
        return torch.zeros(1 + count, flat_ND.shape[1])
    mean_D = flat_ND.mean(dim=0)
    centred_ND = flat_ND - mean_D
    rank = min(count + 10, *flat_ND.shape)
    basis = torch.randn(flat_ND.shape[1], rank, generator=generator)
    for _ in range(8):
        basis = torch.linalg.qr(centred_ND.T @ (centred_ND @ basis)).Q
    _, singular, right = torch.linalg.svd(centred_ND @ basis, full_matrices=False)
    deviations = singular / math.sqrt(max(1, len(flat_ND) - 1))
    scaled = deviations[:count, None] * (right @ basis.T)[:count]
    missing = count - len(scaled)
    return torch.cat([mean_D[None], F.pad(scaled, (0, 0, 0, missing))])


class VaeDecoderMemory(ExperienceMemory):
    """The decoder of a plain class-conditional VAE for each experience, 8 bits.

    Prior N(0, I), beta 1, Bernoulli likelihood; the encoder is an MLP that is thrown
    away. The decoder is our own generator with one block less than its default, the
    class entering one-hot; its width is the largest that fits the budget.

    Args:
        mem_bytes: Bound of the stored bytes.
        seed: Of initialisation and training.
        steps: Updates, with Adam and a cosine schedule.
        batch_size: Images an update.
        lr: First learning rate.
        latent_dim: Z.
    """

    def __init__(
        self,
        *,
        mem_bytes: int,
        seed: int = 0,
        steps: int = 1000,
        batch_size: int = 128,
        lr: float = 3e-3,
        latent_dim: int = 8,
    ) -> None:
        super().__init__(mem_bytes=mem_bytes, seed=seed)
        self.steps, self.batch_size, self.lr = steps, batch_size, lr
        self.latent_dim = latent_dim

    def _build(self, part: Part, channels: int) -> ConditionalGenerator:
        _, height, width = part.image_shape
        return ConditionalGenerator(
            image_shape=part.image_shape,
            latent_dim=self.latent_dim,
            embedding_dim=len(part.pairs),
            projected_dim=len(part.pairs),
            channels=channels,
            blocks=max(1, default_blocks(height, width) - 1),
        )

    def _stored_bytes(self, part: Part, channels: int) -> int:
        with torch.device("meta"):
            state = self._build(part, channels).state_dict()
        return sum(tensor.nbytes for tensor in pack_state(state).values())

    def _width(self, part: Part, share: int) -> int:
        channels = 0
        while self._stored_bytes(part, channels + 1) <= share:
            channels += 1
        if channels == 0:
            raise _too_small(share, self._stored_bytes(part, 1))
        return channels

    def _fit(self, empty: Part, groups: list[Tensor], share: int) -> Part:
        channels = self._width(empty, share)
        with seeded_initialisation(self.seed, "vae", len(self.parts)):
            decoder = self._build(empty, channels)
            inputs = math.prod(empty.image_shape) + len(groups)
            encoder = nn.Sequential(
                nn.Linear(inputs, ENCODER_UNITS),
                nn.ReLU(),
                nn.Linear(ENCODER_UNITS, ENCODER_UNITS),
                nn.ReLU(),
                nn.Linear(ENCODER_UNITS, 2 * self.latent_dim),
            )
        images_NCHW = empty.to_unit(torch.cat(groups)).clamp(0, 1)
        labels_N = torch.cat(
            [torch.full((len(group),), k) for k, group in enumerate(groups)]
        )
        classes_NK = F.one_hot(labels_N, len(groups)).float()
        with torch.enable_grad():
            self._train(encoder, decoder, images_NCHW, classes_NK)
        return _filled(empty, pack_state(decoder.state_dict()))

    def _train(
        self, encoder: nn.Module, decoder: nn.Module, images: Tensor, classes: Tensor
    ) -> None:
        device, generator = images.device, self._generator("train")
        encoder.to(device), decoder.to(device)
        parameters = [*encoder.parameters(), *decoder.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        for _ in range(self.steps):
            index = torch.randint(len(images), (self.batch_size,), generator=generator)
            images_BCHW = images[index.to(device)]
            classes_BK = classes[index].to(device)
            joined = torch.cat([2 * images_BCHW.flatten(1) - 1, classes_BK], dim=1)
            mean_BZ, log_variance_BZ = encoder(joined).chunk(2, dim=1)
            noise_BZ = torch.randn(mean_BZ.shape, generator=generator).to(device)
            codes_BZ = mean_BZ + noise_BZ * (log_variance_BZ / 2).exp()
            images_hat = decoder(codes_BZ, classes_BK)
            nll = F.binary_cross_entropy(images_hat, images_BCHW, reduction="sum")
            kl = (mean_BZ**2 + log_variance_BZ.exp() - log_variance_BZ - 1).sum() / 2
            optimiser.zero_grad()
            ((nll + kl) / self.batch_size).backward()
            optimiser.step()
            schedule.step()

    def _shrink(self, part: Part, share: int) -> Part:
        """A narrower decoder, trained on samples of the old one."""
        generator, decoder = self._generator("shrink"), self._decode(part)
        with torch.no_grad():
            groups = [
                self._draw(part, decoder, position, 1000, generator)
                for position in range(len(part.pairs))
            ]
        return self._fit(part, groups, share)

    def _decode(self, part: Part) -> ConditionalGenerator:
        channels = len(part.tensors["stem_norm.weight"])
        with torch.device("meta"):
            decoder = self._build(part, channels)
        state = unpack_state(part.tensors)
        for name, value in decoder.state_dict().items():
            if name not in state:  # batch norm's step counters
                state[name] = torch.zeros(value.shape, dtype=value.dtype)
        decoder.load_state_dict(state, assign=True)
        return decoder.eval()

    def _draw(
        self,
        part: Part,
        ready: Any,
        position: int,
        count: int,
        generator: torch.Generator,
    ) -> Tensor:
        codes_BZ = torch.randn(count, self.latent_dim, generator=generator)
        classes_BK = torch.zeros(count, len(part.pairs))
        classes_BK[:, position] = 1
        return part.from_unit(ready(codes_BZ, classes_BK))


def pack_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels in int8 with a scale a row, vectors in fp16."""
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        if value.ndim > 1:
            tensors[name], tensors[name + ".scale"] = pack_rows(value.detach())
        else:
            tensors[name] = value.detach().half()
    return tensors


def unpack_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`pack_state` undone, in fp32."""
    state = {}
    for name, value in tensors.items():
        scale_R = tensors.get(name + ".scale")
        if not name.endswith(".scale"):
            state[name] = (
                value.float() if scale_R is None else unpack_rows(value, scale_R)
            )
    return state


class PixelExemplarMemory(ExperienceMemory):
    """Exemplars as plain 8-bit pixels, as many of each class.

    The same as `ReplayPlugin` would keep, but drawn as ours are: class-balanced.

    Args:
        mem_bytes: Bound of the stored bytes.
        seed: Of the choice of candidates.
        candidates: Images of a class to choose from, drawn at random.
        herded: Whether to choose by herding; else at random.
    """

    def __init__(
        self,
        *,
        mem_bytes: int,
        seed: int = 0,
        candidates: int = 2000,
        herded: bool = True,
    ) -> None:
        super().__init__(mem_bytes=mem_bytes, seed=seed)
        self.candidates, self.herded = candidates, herded

    def _fit(self, empty: Part, groups: list[Tensor], share: int) -> Part:
        generator, tensors = self._generator("candidates"), {}
        each = share // len(groups)
        most = each // self._least_bytes(empty.image_shape)
        for position, images in enumerate(groups):
            some = torch.randperm(len(images), generator=generator)[: self.candidates]
            images_NCHW = images[some.to(images.device)].cpu()
            order = torch.arange(min(most, len(images_NCHW)))
            if self.herded:
                order = herd(images_NCHW.flatten(1), len(order))
            pixels = (empty.to_unit(images_NCHW[order]) * 255).round().to(torch.uint8)
            tensors[str(position)] = self._largest(pixels, each)
        return _filled(empty, tensors)

    def _shrink(self, part: Part, share: int) -> Part:
        each = share // len(part.pairs)
        tensors = {
            name: self._largest(self._pixels(stored, part), each)
            for name, stored in part.tensors.items()
        }
        return _filled(part, tensors)

    def _largest(self, pixels_NCHW: Tensor, budget: int) -> Tensor:
        """The first images that fit, encoded: by bisection on their number."""
        low, high = 0, len(pixels_NCHW)
        while low < high:
            middle = (low + high + 1) // 2
            if self._encode(pixels_NCHW[:middle]).nbytes <= budget:
                low = middle
            else:
                high = middle - 1
        if low == 0:
            raise _too_small(budget, self._encode(pixels_NCHW[:1]).nbytes)
        return self._encode(pixels_NCHW[:low])

    def _least_bytes(self, image_shape: tuple[int, int, int]) -> int:
        return math.prod(image_shape)

    def _encode(self, pixels_NCHW: Tensor) -> Tensor:
        return pixels_NCHW

    def _pixels(self, stored: Tensor, part: Part) -> Tensor:
        return stored

    def _decode(self, part: Part) -> list[Tensor]:
        return [
            self._pixels(part.tensors[str(k)], part) for k in range(len(part.pairs))
        ]

    def _draw(
        self,
        part: Part,
        ready: Any,
        position: int,
        count: int,
        generator: torch.Generator,
    ) -> Tensor:
        pixels_NCHW = ready[position]
        drawn_B = torch.randint(len(pixels_NCHW), (count,), generator=generator)
        return part.from_unit(pixels_NCHW[drawn_B].float() / 255)


class JpegExemplarMemory(PixelExemplarMemory):
    """Herded exemplars, all of a class as tiles of one JPEG strip.

    A file of its own for a tiny image would be mostly headers. Tiles lie on the grid
    of the codec's blocks, so that they do not bleed into each other (but for the
    subsampled colour of the outermost pixels, which the decoder interpolates).

    Args:
        mem_bytes: Bound of the stored bytes (of the files).
        seed: Of the choice of candidates.
        candidates: Images of a class that herding may choose from.
        quality: Of JPEG.
    """

    def __init__(
        self,
        *,
        mem_bytes: int,
        seed: int = 0,
        candidates: int = 2000,
        quality: int = 75,
    ) -> None:
        super().__init__(mem_bytes=mem_bytes, seed=seed, candidates=candidates)
        self.quality = quality

    def _least_bytes(self, image_shape: tuple[int, int, int]) -> int:
        return max(1, math.prod(image_shape) // 50)  # below what a real image takes

    def _encode(self, pixels_NCHW: Tensor) -> Tensor:
        channels, height, width = pixels_NCHW.shape[1:]
        down, right = (-side % _grid(channels) for side in (height, width))
        tiles = F.pad(pixels_NCHW.float(), (0, right, 0, down), mode="replicate")
        most = 65500 // tiles.shape[2]  # the format's limit
        strip = tiles[:most].transpose(0, 1).flatten(1, 2).permute(1, 2, 0)
        array = strip.squeeze(2).to(torch.uint8).numpy()
        file = io.BytesIO()
        Image.fromarray(array).save(file, "JPEG", quality=self.quality, optimize=True)
        return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)

    def _pixels(self, stored: Tensor, part: Part) -> Tensor:
        channels, height, width = part.image_shape
        image = Image.open(io.BytesIO(stored.numpy().tobytes()))
        strip = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        strip = strip.view(image.height, image.width, channels).permute(2, 0, 1)
        tile = height + -height % _grid(channels)
        tiles = strip.unflatten(1, (-1, tile)).transpose(0, 1)
        return tiles[:, :, :height, :width].contiguous()


def _grid(channels: int) -> int:
    if channels not in (1, 3):
        raise ValueError(f"JPEG stores 1 or 3 channels, the images have {channels}")
    return 8 if channels == 1 else 16  # colour is subsampled


def herd(flat_ND: Tensor, count: int) -> Tensor:
    """Indices (count,) whose running mean stays nearest to the mean of all images."""
    mean_D, half_norm_N = flat_ND.mean(dim=0), flat_ND.square().sum(dim=1) / 2
    total_D, chosen = torch.zeros_like(mean_D), []
    penalty_N = half_norm_N.clone()
    for number in range(1, count + 1):
        best = int((flat_ND @ (number * mean_D - total_D) - penalty_N).argmax())
        chosen.append(best)
        total_D += flat_ND[best]
        penalty_N[best] = math.inf
    return torch.tensor(chosen, dtype=torch.long)
