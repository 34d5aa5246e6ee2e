"""The smallest form of an artefact, for memories and messages that count bytes.

An artefact file names and describes every tensor, two to four kilobytes that a reader
of the format can derive from the sizes in its metadata. Here they are left out: JSON of
what must be known, then the raw tensors in the order of their names, compressed
together. It decodes to the same images, bit for bit.
"""

import json
import math
import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

from condense_core.artefact.checks import (
    MAX_FILE_BYTES,
    REQUIRED_METADATA,
    check_metadata,
    content_digest,
    read_spec,
)
from condense_core.artefact.dataset import CondensedDataset
from condense_core.artefact.precision import encoded_layout
from condense_core.errors import ArtefactError
from condense_core.synthesiser import SynthesiserSpec

COMPRESSION_LEVEL = 9
_LENGTH_BYTES = 4
# Deflate adds at most five bytes to a block of 16 KB that cannot be compressed.
_DEFLATE_BLOCK, _DEFLATE_BYTES = 16_000, 5
_HEADER_SLACK = 64  # headers of equal sizes compress to slightly different lengths


def pack(condensed: CondensedDataset) -> bytes:
    """An artefact without its provenance, compressed."""
    header = _header({key: condensed.metadata[key] for key in REQUIRED_METADATA})
    tensors = condensed.tensors
    raw = (_raw(tensors[name]) for name in sorted(tensors))
    return zlib.compress(b"".join([header, *raw]), COMPRESSION_LEVEL)


def unpack(data: bytes, *, device: str | torch.device = "cpu") -> CondensedDataset:
    """The artefact of `pack`.

    Nothing is allocated by a claimed size: sizes are checked against the bytes first.

    Raises:
        ArtefactError: The bytes are damaged, too many, of another version or of
            unsupported sizes.
    """
    content = _decompress(data)
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    try:
        header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    except (ValueError, RecursionError) as error:
        raise ArtefactError(
            "the packed artefact has no readable header: copy or make it again"
        ) from error
    metadata = check_metadata(header)
    layout = encoded_layout(read_spec(metadata), metadata["precision"])
    sizes = {
        name: math.prod(shape) * dtype.itemsize
        for name, (shape, dtype) in layout.items()
    }
    offset = _LENGTH_BYTES + length
    if len(content) != offset + sum(sizes.values()):
        raise ArtefactError(
            f"the packed artefact has {len(content) - offset} bytes of weights, its "
            f"sizes need {sum(sizes.values())}: copy or make it again"
        )
    tensors: dict[str, Tensor] = {}
    for name in sorted(layout):
        shape, dtype = layout[name]
        part = bytearray(content[offset : offset + sizes[name]])
        tensors[name] = torch.frombuffer(part, dtype=dtype).view(shape)
        offset += sizes[name]
    metadata["digest"] = content_digest(tensors, metadata)
    return CondensedDataset(tensors, metadata, device=device)


def packed_size(spec: SynthesiserSpec, precision: str, classes: Iterable[str]) -> int:
    """Upper bound of `pack` for these sizes, before anything is trained.

    Weights are taken as incompressible; trained ones shrink by some percent. So are
    class names, so that the bound depends on their lengths alone.
    """
    channels = spec.image_shape[0]
    header = _header(
        {
            "format_version": 0,
            "architecture": spec.to_dict(),
            "precision": precision,
            "classes": [],
            "label_type": "hard",
            "normalisation": {"mean": [math.pi] * channels, "std": [math.e] * channels},
        }
    )
    layout = encoded_layout(spec, precision).values()
    weights = sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout)
    blocks = weights // _DEFLATE_BLOCK + 1
    compressed = len(zlib.compress(header, COMPRESSION_LEVEL))
    names = len(json.dumps(list(classes)))
    return compressed + names + weights + blocks * _DEFLATE_BYTES + _HEADER_SLACK


def _header(metadata: dict[str, object]) -> bytes:
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode()
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _raw(tensor: Tensor) -> bytes:
    data: bytes = (
        tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    )
    return data


def _decompress(data: bytes) -> bytes:
    unzip = zlib.decompressobj()
    try:
        content = unzip.decompress(data, MAX_FILE_BYTES)
    except zlib.error as error:
        raise ArtefactError(
            f"the packed artefact is damaged ({error}): copy or make it again"
        ) from error
    if not unzip.eof:
        raise ArtefactError(
            f"the packed artefact is truncated or larger than {MAX_FILE_BYTES} bytes: "
            "copy or make it again"
        )
    return content
