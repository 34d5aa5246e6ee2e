"""What an artefact file must be like, checked before anything is built from it.

Bytes may come from strangers: nothing here allocates by a claimed size, runs code or
reads a pickle, and every failure is an `ArtefactError` of one line.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from condense_core.artefact.precision import PRECISIONS, encoded_layout
from condense_core.errors import ArtefactError
from condense_core.generator import LARGEST_SIDE
from condense_core.synthesiser import SynthesiserSpec

FORMAT_VERSION = 1
METADATA_KEY = "gencondense"  # one key: safetensors writes several in random order
MAX_FILE_BYTES = 2**30
MAX_DECODED_BYTES = 2**33  # of the images as 8-bit pixels
REQUIRED_METADATA = (
    "format_version",
    "architecture",
    "precision",
    "classes",
    "label_type",
    "normalisation",
)

MAX_COMPONENTS = 1_000_000  # of all classes together
# Upper bounds of every size an artefact may claim, checked before anything is built.
_LIMITS = {
    "num_classes": 100_000,
    "images_per_class": 100_000,
    "latent_dim": 65_536,
    "embedding_dim": 100_000,
    "projected_dim": 65_536,
    "channels": 4_096,
    "blocks": 8,
}


def read_metadata(data: bytes) -> dict[str, Any]:
    """The JSON metadata of a safetensors file, before any tensor is looked at."""
    if len(data) < 8:
        raise ArtefactError(f"the file has only {len(data)} bytes: make it again")
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        text = header["__metadata__"][METADATA_KEY]
        metadata = json.loads(text)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtefactError(
            "it holds no readable metadata of a condensed data set: truncated, or "
            "another kind of file"
        ) from error
    return check_metadata(metadata)


def check_metadata(metadata: Any) -> dict[str, Any]:
    """The metadata itself, once its version is known and it has the keys of that.

    Raises:
        ArtefactError: It is no mapping, is of another version or lacks a key.
    """
    if not isinstance(metadata, dict):
        raise ArtefactError("its metadata is not a mapping: make the file again")
    version = metadata.get("format_version")
    if version != FORMAT_VERSION:
        raise ArtefactError(
            f"format version {version!r:.40} is not supported (this is version "
            f"{FORMAT_VERSION}): update gencondense, or make the file again"
        )
    missing = [key for key in REQUIRED_METADATA if key not in metadata]
    if missing:
        raise ArtefactError(f"its metadata lacks {missing[0]!r}: make the file again")
    return metadata


def read_spec(metadata: Mapping[str, Any]) -> SynthesiserSpec:
    """Sizes from the metadata, each within its bounds."""
    try:
        values = dict(metadata["architecture"])
        values["image_shape"] = tuple(values["image_shape"])
        values["code_components"] = tuple(values.get("code_components", ()))
        spec = SynthesiserSpec(**values)
        classes, normalisation = metadata["classes"], metadata["normalisation"]
        numbers = [*normalisation["mean"], *normalisation["std"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"its metadata is incomplete ({error!r:.80})") from error
    check_sizes(spec)
    if spec.kind not in ("generator", "pixels"):
        raise ArtefactError(f"kind {spec.kind!r:.40} is not supported")
    if spec.codes not in ("learned", "uniform", "truncated"):
        raise ArtefactError(f"codes {spec.codes!r:.40} is not supported")
    if spec.code_map not in ("shared", "per_class"):
        raise ArtefactError(f"code map {spec.code_map!r:.40} is not supported")
    _check_components(spec)
    if type(spec.dispersion) is not bool:
        raise ArtefactError(f"dispersion {spec.dispersion!r:.40} is not supported")
    if not isinstance(spec.truncation, float) or not spec.truncation > 0:
        raise ArtefactError(f"truncation {spec.truncation!r:.40} is not supported")
    if metadata.get("precision") not in PRECISIONS:
        raise ArtefactError(
            f"precision {metadata.get('precision')!r:.40} is not supported"
        )
    if not isinstance(classes, list) or len(classes) != spec.num_classes:
        raise ArtefactError(f"it names {classes!r:.60}, not {spec.num_classes} classes")
    for name in classes:
        if not isinstance(name, str) or not is_text(name):
            raise ArtefactError(f"class name {name!a:.60} is not text")
    channels = spec.image_shape[0]
    fits = len(normalisation["mean"]) == len(normalisation["std"]) == channels
    finite = all(isinstance(n, float) and math.isfinite(n) for n in numbers)
    if not fits or not finite or min(normalisation["std"]) <= 0:
        raise ArtefactError(f"normalisation {normalisation!r:.80} is not usable")
    return spec


def check_sizes(spec: SynthesiserSpec) -> None:
    """Refuse sizes beyond what an artefact may claim.

    Raises:
        ArtefactError: Names the size and its bounds.
    """
    for name, limit in _LIMITS.items():
        value = getattr(spec, name)
        if value is None and name == "blocks":
            continue
        if type(value) is not int or not 1 <= value <= limit:
            raise ArtefactError(f"{name} is {value!r:.40}: it must be 1 to {limit}")
    shape = spec.image_shape
    sides_fit = len(shape) == 3 and all(
        type(side) is int and 1 <= side <= LARGEST_SIDE for side in shape
    )
    if not sides_fit or shape[0] not in (1, 3):
        raise ArtefactError(f"image shape {shape!r:.80} is not supported")
    decoded = spec.num_classes * spec.images_per_class * math.prod(shape)
    if decoded > MAX_DECODED_BYTES:
        raise ArtefactError(
            f"its images take {decoded} bytes, more than the {MAX_DECODED_BYTES} an "
            "artefact may decode to"
        )


def _check_components(spec: SynthesiserSpec) -> None:
    components = spec.code_components
    if not components:
        return
    counts = all(type(n) is int and 1 <= n <= MAX_COMPONENTS for n in components)
    if not counts or sum(components) > MAX_COMPONENTS:
        raise ArtefactError(
            f"code_components is {components!r:.80}: each must be 1 or more, and all "
            f"at most {MAX_COMPONENTS}"
        )
    if len(components) != spec.num_classes:
        raise ArtefactError(
            f"code_components has {len(components)} entries, not {spec.num_classes}"
        )
    if spec.code_map != "per_class":
        raise ArtefactError(
            "code_components are regions of a class: they need code map 'per_class', "
            f"not {spec.code_map!r}"
        )


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8: JSON may hold half a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def check_layout(
    tensors: Mapping[str, Tensor], spec: SynthesiserSpec, precision: str
) -> None:
    """Names, shapes, dtypes and finiteness, before the architecture is built."""
    expected = encoded_layout(spec, precision)
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())[0]
        raise ArtefactError(f"tensor {odd!r:.80} is missing or not expected")
    for name, (shape, dtype) in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise ArtefactError(
                f"tensor {name} is {tensor.dtype} {tuple(tensor.shape)}, expected "
                f"{dtype} {shape}"
            )
        if dtype != torch.int8 and not torch.isfinite(tensor).all():
            raise ArtefactError(f"tensor {name} holds NaN or infinite values")


def content_digest(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> str:
    """SHA-256 over sorted tensors (name, dtype, shape, bytes) and metadata."""
    sha = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
