"""The condensed data set: sample it, save it, load it, count its bytes.

One ``.safetensors`` file holds the tensors and, as JSON in its metadata, everything
needed to rebuild and to judge them: architecture by sizes, class names, normalisation,
configuration, data fingerprint, versions and a digest. No code and no pickle is ever
read. A `CondensedDataset` always holds the *stored* tensors and shows the images they
decode to, so a round trip through a file cannot change an image.

Shape legend: Y classes, K images per class, B batch, Z latent, C H W image.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import safetensors
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from condense_core.artefact.checks import (
    FORMAT_VERSION,
    MAX_FILE_BYTES,
    METADATA_KEY,
    check_layout,
    content_digest,
    read_metadata,
    read_spec,
)
from condense_core.artefact.precision import decode, encode
from condense_core.compute.devices import resolve_device
from condense_core.data import PixelStatistics, to_bytes, to_unit, valid_text
from condense_core.errors import ArtefactError
from condense_core.runlog import atomic_write_bytes
from condense_core.seeding import make_generator, seeded_initialisation
from condense_core.synthesiser import (
    SYNTHESIS_BATCH,
    GeneratorSynthesiser,
    Synthesiser,
    SynthesiserSpec,
    build_synthesiser,
)


class CondensedDataset:
    """A data set condensed into codebook, class embedding and generator.

    Attributes:
        spec: Sizes of the architecture.
        metadata: Everything else the file says, JSON-ready.

    Example:
        >>> from condense_core.synthesiser import SynthesiserSpec
        >>> spec = SynthesiserSpec(
        ...     kind="generator",
        ...     image_shape=(1, 8, 8),
        ...     num_classes=2,
        ...     images_per_class=3,
        ...     latent_dim=4,
        ...     embedding_dim=2,
        ...     projected_dim=4,
        ...     channels=4,
        ... )
        >>> condensed = CondensedDataset.from_synthesiser(
        ...     build_synthesiser(spec),
        ...     classes=("cat", "dog"),
        ...     statistics=PixelStatistics((0.5,), (0.5,)),
        ...     precision="fp16",
        ... )
        >>> images, labels = condensed.images()
        >>> images.shape, labels.tolist()
        (torch.Size([6, 1, 8, 8]), [0, 0, 0, 1, 1, 1])
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, Any],
        *,
        device: str | torch.device = "cpu",
    ) -> None:
        """Rebuild from stored tensors; use `load` or `from_synthesiser` instead.

        Raises:
            ArtefactError: Metadata or tensors are unsupported or inconsistent.
        """
        self.metadata = dict(metadata)
        self.spec = read_spec(self.metadata)
        self._tensors = dict(tensors)
        check_layout(self._tensors, self.spec, self.precision)
        self._synthesiser = _blank(self.spec)
        self._synthesiser.load_state_dict(decode(self._tensors), strict=False)
        self._synthesiser.to(resolve_device(device)).eval()
        self._nbytes: int | None = None
        self._fixed: Tensor | None = None  # the fixed set as bytes, once asked for
        self._calls = 0  # of `sample` without a generator

    @classmethod
    def from_synthesiser(
        cls,
        synthesiser: Synthesiser,
        *,
        classes: Sequence[str],
        statistics: PixelStatistics,
        precision: str = "fp16",
        max_batch: int = SYNTHESIS_BATCH,
        **metadata: Any,
    ) -> Self:
        """Freeze a trained synthesiser.

        Weights are rounded to the stored precision first and batch-norm statistics
        recalibrated over codebook x classes afterwards, so that they fit the weights
        the file really holds. With several components a class they stay those of
        training: the codebook would visit few components, and each as often.

        Args:
            synthesiser: Left unchanged.
            classes: Names in label order.
            statistics: Normalisation of the real data.
            precision: fp32, fp16 or int8.
            max_batch: Images generated at once.
            **metadata: Further JSON-ready values to keep: config, data, versions.
        """
        spec = synthesiser.spec
        device = next(synthesiser.parameters()).device
        rounded = _blank(spec).to(device)
        tensors = encode(synthesiser.state_dict(), precision)
        rounded.load_state_dict(decode(tensors), strict=False)
        if isinstance(rounded, GeneratorSynthesiser) and not spec.code_components:
            rounded.recalibrate(max_batch=max_batch)
            running = {k: v for k, v in rounded.state_dict().items() if "running_" in k}
            tensors |= encode(running, precision)
        content = {
            "format_version": FORMAT_VERSION,
            "architecture": spec.to_dict(),
            "precision": precision,
            "classes": [valid_text(str(name)) for name in classes],
            "label_type": "hard",
            "normalisation": {
                "mean": list(statistics.mean),
                "std": list(statistics.std),
            },
            **metadata,
        }
        content["digest"] = content_digest(tensors, content)
        return cls(tensors, content, device=device)

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Read and check an artefact file.

        Raises:
            ArtefactError: The file is missing, truncated, tampered with, too large, of
                a future version, or its tensors do not fit the architecture it names.
        """
        path = Path(path)
        try:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise ArtefactError(
                    f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} an "
                    "artefact may have: is it a condensed data set?"
                )
            data = path.read_bytes()
        except OSError as error:
            raise ArtefactError(f"cannot read {path}: {error.strerror}") from error
        try:
            return cls.from_bytes(data, device=device)
        except ArtefactError as error:
            raise ArtefactError(f"{path}: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes, *, device: str | torch.device = "cpu") -> Self:
        """As `load`, from the content of a file."""
        try:
            metadata = read_metadata(data)
            tensors = load_safetensors(data)
        except (safetensors.SafetensorError, KeyError) as error:
            # KeyError: a type of tensor that the file format has and torch has not.
            line = " ".join(str(error).split())
            raise ArtefactError(
                f"not a complete safetensors file ({line}): copy or make it again"
            ) from error
        condensed = cls(tensors, metadata, device=device)
        content = {k: v for k, v in metadata.items() if k != "digest"}
        if metadata.get("digest") != content_digest(tensors, content):
            raise ArtefactError(
                "the digest does not match the content: the file was changed after it "
                "was written; copy or make it again"
            )
        return condensed

    def save(self, path: str | Path) -> None:
        """Write one file, atomically.

        Raises:
            RunError: The disk is full or the folder cannot be written.
            ArtefactError: It is larger than what `load` takes.
        """
        content = self.to_bytes()
        if len(content) > MAX_FILE_BYTES:
            raise ArtefactError(
                f"{path} would have {len(content)} bytes, more than the "
                f"{MAX_FILE_BYTES} an artefact may have: store fewer images, or with "
                "less precision"
            )
        atomic_write_bytes(path, content)

    def to_bytes(self) -> bytes:
        """The content of the file; the same for the same tensors and metadata."""
        text = json.dumps(self.metadata, sort_keys=True, ensure_ascii=False)
        content: bytes = save_safetensors(self._tensors, {METADATA_KEY: text})
        return content

    def images(self) -> tuple[Tensor, Tensor]:
        """The fixed set {G(z_k, c_y)}: every code under every class.

        Values are on the 8-bit grid (multiples of 1/255), so that exported PNG files
        and arrays are this very set.

        Returns:
            Images (Y * K, C, H, W), float in [0, 1], class-ordered; labels (Y * K,).
        """
        pixels = self._as_bytes()
        class_ids = torch.arange(self.spec.num_classes, device=pixels.device)
        return to_unit(pixels), class_ids.repeat_interleave(self.images_per_class)

    @torch.no_grad()
    def sample(
        self,
        count: int,
        *,
        classes: Sequence[int | str] | None = None,
        fresh: bool = False,
        dispersed: bool = True,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw images, balanced over classes.

        Args:
            count: Number of images. What the classes cannot share evenly goes to
                random ones.
            classes: Labels or names to draw from; None is all. A list of ``count`` of
                them, with repeats, is drawn exactly.
            fresh: Draw new codes from a Gaussian of the codebook's mean and deviation
                instead of using the codebook. Such images are new ones: never count
                them as images per class.
            dispersed: Whether fresh images get the noise of ``format.dispersion``, if
                the artefact has it.
            generator: Of the draws, on the CPU. None draws other images at every call,
                and the same again from a file that is loaded again.

        Returns:
            Images (count, C, H, W) on the 8-bit grid, and labels (count,).

        Raises:
            ArtefactError: A class does not exist, or the pixel format is asked for
                fresh codes.
        """
        every = range(self.spec.num_classes)
        pool = [self._label(c) for c in (every if classes is None else classes)]
        if not pool or count < 1:
            raise ArtefactError(
                f"cannot draw {count} images of {len(pool)} classes: ask for at least "
                "one of each"
            )
        rng = generator
        if rng is None:
            # The first draw keeps the seed that filed numbers were measured with.
            call = (self._calls,) if self._calls else ()
            rng = make_generator(0, "sample", *call)
            self._calls += 1
        order, among = torch.randperm(count, generator=rng), torch.tensor(pool)
        if count % len(pool):  # which classes have one more is drawn too
            among = among[torch.randperm(len(pool), generator=rng)]
        labels = among[order % len(pool)]
        device = self._synthesiser.class_embedding.device
        if not fresh:
            code_ids = torch.randint(self.images_per_class, (count,), generator=rng)
            rows = (labels * self.images_per_class + code_ids).to(device)
            return to_unit(self._as_bytes()[rows]), labels.to(device)
        if not isinstance(self._synthesiser, GeneratorSynthesiser):
            raise ArtefactError("pixels have no codes to draw anew: use fresh=False")
        labels = labels.to(device)
        images = self._synthesiser.draw(labels, rng, dispersed=dispersed)
        return to_unit(to_bytes(images)), labels

    def _label(self, chosen: int | str) -> int:
        """Position of a class by label or name."""
        if isinstance(chosen, str) and chosen in self.classes:
            return self.classes.index(chosen)
        if not isinstance(chosen, str) and 0 <= chosen < self.spec.num_classes:
            return int(chosen)
        raise ArtefactError(
            f"class {chosen!r} does not exist: choose 0 to {self.spec.num_classes - 1} "
            "or one of the names in `classes`"
        )

    def synthesiser(self, device: str | torch.device = "cpu") -> Synthesiser:
        """A trainable copy of what makes the images, decoded to fp32."""
        copy = _blank(self.spec)
        copy.load_state_dict(self._synthesiser.state_dict())
        return copy.to(resolve_device(device))

    def __len__(self) -> int:
        """Images of the fixed set."""
        return self.spec.num_classes * self.images_per_class

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image (C, H, W) of the fixed set, in [0, 1], and its label.

        So that a `torch.utils.data.DataLoader` takes the artefact as it is.

        Raises:
            IndexError: There is no such image.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        return to_unit(self._as_bytes()[index]), index // self.images_per_class

    def __repr__(self) -> str:
        """Sizes, in a line."""
        channels, height, width = self.image_shape
        return (
            f"{type(self).__name__}({self.spec.kind}, {self.spec.num_classes} classes "
            f"x {self.images_per_class} images of {channels}x{height}x{width}, "
            f"{self.nbytes:,} bytes in {self.precision})"
        )

    @torch.no_grad()
    def _as_bytes(self) -> Tensor:
        """The images of the fixed set as uint8, made once."""
        if self._fixed is None:
            device = self._synthesiser.class_embedding.device
            code_ids = torch.arange(self.images_per_class, device=device)
            class_ids = torch.arange(self.spec.num_classes, device=device)
            per_chunk = max(1, SYNTHESIS_BATCH // self.images_per_class)
            chunks = [
                to_bytes(self._synthesiser(ids, code_ids).flatten(0, 1))
                for ids in class_ids.split(per_chunk)
            ]
            self._fixed = torch.cat(chunks)
        return self._fixed

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors by name, as in the file."""
        return dict(self._tensors)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(self.metadata["classes"])

    @property
    def images_per_class(self) -> int:
        """K."""
        return self.spec.images_per_class

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.spec.image_shape

    @property
    def statistics(self) -> PixelStatistics:
        """Normalisation of the real data, to apply before training on the images."""
        values = self.metadata["normalisation"]
        return PixelStatistics(tuple(values["mean"]), tuple(values["std"]))

    @property
    def precision(self) -> str:
        """fp32, fp16 or int8."""
        return str(self.metadata["precision"])

    @property
    def digest(self) -> str:
        """SHA-256 of tensors and metadata."""
        return str(self.metadata["digest"])

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        if self._nbytes is None:
            self._nbytes = len(self.to_bytes())
        return self._nbytes

    @property
    def bits_per_class(self) -> float:
        """8 x bytes / classes, everything included (Yin et al. 2025, DD-RUO)."""
        return 8 * self.nbytes / self.spec.num_classes

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the same number of images as raw 8-bit pixels."""
        images = self.spec.num_classes * self.images_per_class
        return images * math.prod(self.image_shape)

    def bytes_by_part(self) -> dict[str, int]:
        """Stored bytes: codebook, class embedding, generator (or pixels), metadata."""
        parts: dict[str, int] = {}
        for name in sorted(self._tensors):  # a file gives them in random order
            tensor, part = self._tensors[name], name.split(".")[0]
            parts[part] = parts.get(part, 0) + tensor.numel() * tensor.element_size()
        parts["metadata"] = self.nbytes - sum(parts.values())
        return parts


def _blank(spec: SynthesiserSpec) -> Synthesiser:
    """A synthesiser to load weights into; the caller's randomness is not touched."""
    with seeded_initialisation(0, "artefact"):
        return build_synthesiser(spec)
