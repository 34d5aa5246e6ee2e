"""Differentiable siamese augmentation (Zhao & Bilen 2021, DSA), vectorised.

*Siamese* means that parameters are drawn once and applied to the real and to the
synthetic images alike, so that the two stay comparable. Drawing and applying are
therefore separate: `SiameseAugment.draw` returns a plain value, `apply` is a
differentiable pure function of it. All operations act on *normalised* images and work
on the whole batch at once; the original loops over samples to build affine matrices.

Shape legend: B batch, C channels, H height, W width, P parameter rows (1 or B).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from condense_core.compute.parts import Part
from condense_core.errors import ConfigError

# Strengths of the DSA reference protocol; results in the literature are tied to them.
BRIGHTNESS = 1.0
SATURATION = 2.0
CONTRAST = 0.5
CROP_FRACTION = 0.125
CUTOUT_FRACTION = 0.5
SCALE = 1.2
ROTATE_DEGREES = 15.0


def color(images_BCHW: Tensor, uniform_PU: Tensor) -> Tensor:
    """Brightness, then saturation, then contrast."""
    brightness, saturation, contrast = _columns(uniform_PU, 3)
    images = images_BCHW + (brightness - 0.5) * BRIGHTNESS
    if images.shape[1] > 1:  # one channel is its own grey
        grey = images.mean(dim=1, keepdim=True)
        images = (images - grey) * (saturation * SATURATION) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + CONTRAST) + mean


def crop(images_BCHW: Tensor, uniform_PU: Tensor) -> Tensor:
    """Shift by whole pixels, up to an eighth of each side, filling with zeros."""
    for column, dim in ((0, 2), (1, 3)):
        size = images_BCHW.shape[dim]
        reach = int(size * CROP_FRACTION + 0.5)
        shift_P = torch.floor(uniform_PU[:, column] * (2 * reach + 1)) - reach
        images_BCHW = _shift(images_BCHW, shift_P.long(), dim)
    return images_BCHW


def cutout(images_BCHW: Tensor, uniform_PU: Tensor) -> Tensor:
    """Zero a rectangle of half of each side, centred anywhere in the image."""
    height, width = images_BCHW.shape[-2:]
    rows_PH = _cut_span(uniform_PU[:, 0], height)
    columns_PW = _cut_span(uniform_PU[:, 1], width)
    hole = rows_PH[:, None, :, None] & columns_PW[:, None, None, :]
    return images_BCHW * ~hole


def flip(images_BCHW: Tensor, uniform_PU: Tensor) -> Tensor:
    """Mirror left to right with probability one half."""
    mirrored = (uniform_PU[:, 0] < 0.5).view(-1, 1, 1, 1)
    return torch.where(mirrored, images_BCHW.flip(3), images_BCHW)


def scale(images_BCHW: Tensor, uniform_PU: Tensor) -> Tensor:
    """Stretch each axis by its own factor between 1/1.2 and 1.2."""
    low, high = 1.0 / SCALE, SCALE
    factor_y = uniform_PU[:, 0] * (high - low) + low
    factor_x = uniform_PU[:, 1] * (high - low) + low
    zero = torch.zeros_like(factor_x)
    return _warp(images_BCHW, (factor_x, zero, zero, zero, factor_y, zero))


def rotate(images_BCHW: Tensor, uniform_PU: Tensor) -> Tensor:
    """Rotate about the centre by up to 15 degrees either way."""
    height, width = images_BCHW.shape[-2:]
    angle = (uniform_PU[:, 0] - 0.5) * 2.0 * math.radians(ROTATE_DEGREES)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    # Grid coordinates are relative to each side: undo that, or oblongs would shear.
    aspect = height / width
    zero = torch.zeros_like(angle)
    return _warp(
        images_BCHW,
        (cosine, -sine * aspect, zero, sine / aspect, cosine, zero),
    )


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": color,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
}
_UNIFORMS = 3  # the most any one operation uses


@dataclass(frozen=True, slots=True)
class AugmentParameters:
    """One draw: the operations in order, each with uniforms in [0, 1) of (P, 3)."""

    operations: tuple[str, ...]
    uniforms: tuple[Tensor, ...]

    def of(self, part: Part) -> "AugmentParameters":
        """Those of some rows of the batch they were drawn for."""
        return AugmentParameters(
            self.operations, tuple(uniform[part.rows] for uniform in self.uniforms)
        )


@dataclass(frozen=True, slots=True)
class SiameseAugment:
    """A set of operations to draw from.

    Attributes:
        operations: Names from `OPERATIONS`; empty means the identity.
    """

    operations: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.operations:
            if name not in OPERATIONS:
                raise ConfigError(
                    f"unknown augmentation {name!r}: choose from "
                    f"{', '.join(OPERATIONS)}"
                )

    @classmethod
    def from_text(cls, text: str | None, *, flip: bool = True) -> "SiameseAugment":
        """Parse ``"color_crop_cutout"``; None, "" or "none" give the identity.

        Args:
            text: Operation names joined by underscores.
            flip: False leaves ``flip`` out, for data in which left and right differ
                (digits, letters).

        Raises:
            ConfigError: An operation is unknown.
        """
        names = [] if text in (None, "", "none") else str(text).split("_")
        return cls(tuple(name for name in names if flip or name != "flip"))

    def draw(
        self, rows: int, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> AugmentParameters:
        """Draw parameters once.

        Args:
            rows: 1 for one transformation of whole batches (siamese use with batches
                of different sizes) or B for one transformation a sample.
            generator: A CPU generator, so that the draws are the same on every device
                and cost no device synchronisation.
            device: Where the parameters are applied.
        """
        names = self.operations
        if len(names) > 1:
            pick = int(torch.randint(len(names), (1,), generator=generator))
            names = (names[pick],)
        uniforms = tuple(
            torch.rand(rows, _UNIFORMS, generator=generator).to(
                device, non_blocking=True
            )
            for _ in names
        )
        return AugmentParameters(names, uniforms)

    def apply(self, images_BCHW: Tensor, parameters: AugmentParameters) -> Tensor:
        """Apply drawn parameters; differentiable in the images.

        Args:
            images_BCHW: Normalised images.
            parameters: From `draw`, with 1 or B rows.

        Returns:
            Images of the same shape.
        """
        for name, uniform in zip(
            parameters.operations, parameters.uniforms, strict=True
        ):
            images_BCHW = OPERATIONS[name](images_BCHW, uniform)
        return images_BCHW

    def augment(
        self,
        images_BCHW: Tensor,
        generator: torch.Generator,
        *,
        part: Part | None = None,
    ) -> Tensor:
        """Draw one transformation a sample and apply it.

        With ``part``, the images are those rows of a larger batch and get what they
        would get in it.
        """
        whole = len(images_BCHW) if part is None else part.whole
        drawn = self.draw(whole, generator, images_BCHW.device)
        return self.apply(images_BCHW, drawn if part is None else drawn.of(part))

    def apply_each(
        self, images: Tensor, drawn: Sequence[AugmentParameters]
    ) -> list[Tensor]:
        """Apply several draws, each to images of its own or all to the same.

        Draws of the same operation are applied together: as many kernels for all of
        them as for one.

        Args:
            images: Normalised (R, B, C, H, W), or (B, C, H, W) for every draw.
            drawn: R draws of B rows; on the CPU, to travel in one piece.

        Returns:
            R batches (B, C, H, W).
        """
        shared = images.ndim == 4
        batch = images.shape[-4]
        by_operations: dict[tuple[str, ...], list[int]] = {}
        for row, parameters in enumerate(drawn):
            by_operations.setdefault(parameters.operations, []).append(row)
        result: list[Tensor] = [images] * len(drawn)
        for operations, rows in by_operations.items():
            uniforms = zip(*(drawn[row].uniforms for row in rows), strict=True)
            together = AugmentParameters(
                operations,
                tuple(
                    torch.cat(part).to(images.device, non_blocking=True)
                    for part in uniforms
                ),
            )
            chosen = torch.cat([images if shared else images[row] for row in rows])
            transformed = self.apply(chosen, together).split(batch)
            for row, transformed_BCHW in zip(rows, transformed, strict=True):
                result[row] = transformed_BCHW
        return result


def _columns(uniform_PU: Tensor, count: int) -> tuple[Tensor, ...]:
    return tuple(uniform_PU[:, i].view(-1, 1, 1, 1) for i in range(count))


def _cut_span(uniform_P: Tensor, size: int) -> Tensor:
    """True inside the cut along one side: (P, size)."""
    extent = int(size * CUTOUT_FRACTION + 0.5)
    centre_P = torch.floor(uniform_P * (size + 1 - extent % 2))
    first_P1 = (centre_P - extent // 2).unsqueeze(1)
    position = torch.arange(size, device=uniform_P.device)
    return (position >= first_P1) & (position < first_P1 + extent)


def _shift(images_BCHW: Tensor, shift_P: Tensor, dim: int) -> Tensor:
    """Entry i along ``dim`` becomes entry i + shift; zeros from outside."""
    size = images_BCHW.shape[dim]
    source_PS = torch.arange(size, device=shift_P.device) + shift_P.unsqueeze(1)
    inside_PS = (source_PS >= 0) & (source_PS < size)
    along = [-1, 1, 1, 1]
    along[dim] = size
    source = source_PS.clamp(0, size - 1).view(along).expand_as(images_BCHW)
    return images_BCHW.gather(dim, source) * inside_PS.view(along)


def _warp(images_BCHW: Tensor, matrix: tuple[Tensor, ...]) -> Tensor:
    """Resample by a 2 x 3 matrix a row, given as six (P,) columns; zeros outside."""
    batch, _, height, width = images_BCHW.shape
    theta_P23 = torch.stack(matrix, dim=1).view(-1, 2, 3).to(images_BCHW.dtype)
    pixels_3L = _pixel_centres(height, width, images_BCHW)
    # As `F.affine_grid`, but with x and y as planes: its inner products over pairs
    # take most of the time of a warp on a CPU.
    planes_P2L = torch.bmm(theta_P23, pixels_3L.expand(len(theta_P23), -1, -1))
    grid_PHW2 = planes_P2L.view(-1, 2, height, width).permute(0, 2, 3, 1)
    return F.grid_sample(
        images_BCHW,
        grid_PHW2.expand(batch, -1, -1, -1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )


def _pixel_centres(height: int, width: int, like: Tensor) -> Tensor:
    """x, y and 1 of every pixel, rows first, as (3, H * W); the image spans [-1, 1]."""
    y, x = (
        torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) * (n - 1) / n
        for n in (height, width)
    )
    ones = torch.ones(height * width, dtype=like.dtype, device=like.device)
    return torch.stack((x.repeat(height), y.repeat_interleave(width), ones))
