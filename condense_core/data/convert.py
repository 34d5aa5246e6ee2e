"""From what users have (arrays, PIL images, any labels) to uint8 pixels and 0..Y-1.

Shape legend: N data set, Y classes, C H W image.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from condense_core.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_CHUNK = 4096  # images converted together: bounds the temporary memory
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, the weights Pillow uses


def to_unit(images: Tensor) -> Tensor:
    """uint8 pixels of any shape as float32 in [0, 1]."""
    return images.to(torch.float32, copy=True).div_(255)  # one temporary, not two


def to_bytes(images: Tensor) -> Tensor:
    """Float pixels of any shape as uint8, rounded; values outside [0, 1] saturate."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def quantise(images: Tensor, *, name: str) -> Tensor:
    """uint8 as it is, float in [0, 1] rounded to uint8; any shape.

    Raises:
        DataError: another type, NaN or infinite pixels, or values outside [0, 1].
    """
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise DataError(
            f"{name}: pixels of type {images.dtype} are neither uint8 in 0..255 nor "
            "float in [0, 1]: convert them, for example images.to(torch.uint8)"
        )
    if images.numel() == 0:
        return images.to(torch.uint8)
    low, high = (float(v) for v in images.aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = "NaN" if np.isnan(low) or np.isnan(high) else "infinite"
        raise DataError(f"{name}: {bad} pixels found: remove or repair these images")
    if low < 0 or high > 1:
        remedy = "divide them by 255" if low >= 0 else "leave out the normalisation"
        raise DataError(
            f"{name}: float pixels range from {low:.4g} to {high:.4g}, outside [0, 1]: "
            f"{remedy}"
        )
    return torch.cat([to_bytes(chunk.float()) for chunk in torch.split(images, _CHUNK)])


def fit_images(
    images: Tensor, *, size: tuple[int, int] | None, channels: int | None
) -> Tensor:
    """Resize (antialiased bilinear) and convert between grey and RGB.

    Args:
        images: uint8 (N, C, H, W) with C 1 or 3.
        size: (H, W), or None to keep it. The aspect ratio is not preserved.
        channels: 1 or 3, or None to keep them.

    Returns:
        uint8 (N, channels, *size); ``images`` itself where nothing changes.
    """
    size = size or (images.shape[2], images.shape[3])
    channels = channels or images.shape[1]
    if images.shape[1:] == (channels, *size):
        return images
    fitted = images.new_empty(len(images), channels, *size)
    luma = torch.tensor(_LUMA, device=images.device).reshape(1, 3, 1, 1)
    for source, target in zip(
        torch.split(images, _CHUNK), torch.split(fitted, _CHUNK), strict=True
    ):
        chunk = to_unit(source)
        if channels == 1 and chunk.shape[1] == 3:
            chunk = (chunk * luma).sum(1, keepdim=True)
        if chunk.shape[2:] != size:
            chunk = interpolate(chunk, size=size, mode="bilinear", antialias=True)
        target.copy_(to_bytes(chunk))  # one grey channel broadcasts to three
    return fitted


def index_labels(
    values: NDArray[Any],
    *,
    name: str,
    classes: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as int64 0..Y-1, and the class names that go with them.

    Args:
        values: (N,) integers or strings.
        name: Of the data set, for messages.
        classes: The full, ordered list of class names; kept even where a class has
            no label, so that a test split lines up with its training split.
        known: Names by label value, of which only those that occur are kept.

    Raises:
        DataError: ``values`` are not a list of class labels, or ``classes`` do not fit.
    """
    if values.size == 0:
        raise DataError(f"{name}: empty data set, no labels: give at least one image")
    if values.ndim != 1 or values.dtype.kind not in "iubU":
        raise DataError(
            f"{name}: labels of shape {values.shape} and type {values.dtype} are not "
            "one integer per image: use labels.argmax(1) for one-hot labels"
        )
    found, inverse = np.unique(values, return_inverse=True)
    index = torch.from_numpy(inverse.astype(np.int64))
    if classes is not None:
        positions = _positions(found, classes)
        if positions is None:
            raise DataError(
                f"{name}: labels {found[0]}..{found[-1]} ({len(found)} values) do not "
                f"fit {len(classes)} class names: give one name per label"
            )
        return torch.tensor(positions)[index], tuple(classes)
    if known is not None and _counts_into(found, known):
        return index, tuple(str(known[value]) for value in found)
    return index, tuple(str(value) for value in found)


def _positions(found: NDArray[Any], classes: Sequence[str]) -> list[int] | None:
    """Position in ``classes`` of each sorted label value; None if they do not fit."""
    if found.dtype.kind == "U":
        position = {text: index for index, text in enumerate(classes)}
        known = all(text in position for text in found)
        return [position[text] for text in found] if known else None
    if _counts_into(found, classes):
        return [int(value) for value in found]
    # One name per value, such as labels counted from 1: in sorted order.
    return list(range(len(classes))) if len(found) == len(classes) else None


def _counts_into(found: NDArray[Any], names: Sequence[str]) -> bool:
    is_number = found.dtype.kind != "U"
    return is_number and bool(found[0] >= 0 and found[-1] < len(names))


def read_samples(source: Any, *, name: str) -> tuple[Tensor, NDArray[Any]]:
    """Every sample of a map-style data set: uint8 (N, C, H, W) and labels (N,).

    Raises:
        DataError: not a map-style data set, or its images differ in shape.
    """
    if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        raise DataError(
            f"{name}: a {type(source).__name__} is not a map-style data set: give one "
            "with len() and indexing, or a pair (images, labels)"
        )
    if len(source) == 0:
        raise DataError(f"{name}: empty data set, no images: give at least one image")
    images, labels = torch.empty(0), []
    for index in range(len(source)):
        sample = source[index]
        if not isinstance(sample, tuple | list) or len(sample) < 2:
            raise DataError(
                f"{name}: sample {index} is a {type(sample).__name__}: it must be a "
                "tuple (image, label)"
            )
        image = _sample_pixels(sample[0], name=f"{name}, sample {index}")
        if index == 0:
            images = torch.empty((len(source), *image.shape), dtype=torch.uint8)
        if image.shape != images.shape[1:]:
            raise DataError(
                f"{name}: sample {index} has shape {tuple(image.shape)}, sample 0 has "
                f"{tuple(images.shape[1:])}: resize and convert in the transform"
            )
        images[index] = image
        label = sample[1]
        label = label.item() if getattr(label, "ndim", None) == 0 else label
        if not isinstance(label, int | str):
            raise DataError(
                f"{name}: the label of sample {index} is a {type(label).__name__}: it "
                "must be one integer or name, such as label.argmax() for one-hot labels"
            )
        labels.append(label)
    return images, np.asarray(labels)


def _sample_pixels(image: Any, *, name: str) -> Tensor:
    """One PIL image, array or tensor as uint8 (C, H, W)."""
    if hasattr(image, "getbands"):
        pixels = torch.from_numpy(pil_pixels(image).copy())
    elif isinstance(image, np.ndarray):
        channels_last = image.ndim == 3 and image.shape[2] in (1, 3)
        pixels = torch.from_numpy(image.copy())
        pixels = pixels.permute(2, 0, 1) if channels_last else pixels
    elif isinstance(image, Tensor):
        pixels = image.detach().cpu()
    else:
        raise DataError(
            f"{name}: the image is a {type(image).__name__}: give a PIL image, an "
            "array or a tensor"
        )
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3:
        raise DataError(
            f"{name}: the image has shape {tuple(pixels.shape)}: give (C, H, W)"
        )
    return quantise(pixels, name=name)


def pil_pixels(
    image: "Image", *, size: tuple[int, int] | None = None, channels: int | None = None
) -> NDArray[np.uint8]:
    """Pixels of a PIL image as uint8 (C, H, W): C is 1 for grey modes, 3 for others.

    Args:
        image: Turned as its EXIF data say; palettes are looked up, alpha is dropped,
            16 bits become 8.
        size: (H, W) to resize to (antialiased bilinear).
        channels: 1 or 3 to convert.

    Raises:
        DataError: the pixels are 32-bit floats.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow would saturate, not rescale, 16-bit grey.
        grey = np.asarray(image, dtype=np.int64).clip(0, 65535) // 257
        image = Image.fromarray(grey.astype(np.uint8))
    if image.mode == "F":
        raise DataError("32-bit float pixels have no fixed range: save it with 8 bits")
    if image.mode == "P":
        image = image.convert("RGBA")  # the one mode that holds a transparent palette
    grey_mode = image.mode in ("1", "L", "LA")
    to_grey = channels == 1 or (channels is None and grey_mode)
    image = image.convert("L" if to_grey else "RGB")
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
