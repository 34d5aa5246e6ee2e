"""Encode and decode what a client sends: pure functions, no app and no state.

A contribution is an `ArrayRecord` with the tensors of a condensed set, named as in the
artefact format, and a `ConfigRecord` with one JSON text: sizes, class ids, true counts.
It contains no code, no pickle and no file. The receiver derives from the sizes which
arrays there must be, and accepts exactly those.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from condense_core import ArtefactError, CondensedDataset
from condense_core.artefact.checks import FORMAT_VERSION, content_digest, read_spec
from condense_core.artefact.compact import pack, unpack
from condense_core.artefact.precision import encoded_layout
from condense_core.generator import default_blocks
from condense_core.seeding import make_generator
from condense_core.synthesiser import GeneratorSynthesiser, SynthesiserSpec
from flower_strategy.npy import HEADER_BYTES, PayloadError, read_array, write_array

PAYLOAD_VERSION = 1
ARRAYS, SPEC, METRICS = "condensed", "spec", "metrics"  # records that go up
GLOBAL, CONFIG, GENERATOR = "arrays", "config", "generator"  # records that go down
MAX_SPEC_BYTES = 100_000
MAX_SECONDS = 1e9
LARGEST_WEIGHT = 1e4  # trained ones stay below 1e2
PRIVACY_BYTES = 512  # upper bound for the report of the private mode
CHECKED_IMAGES = 16  # per class, drawn once to see whether the generator works
CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_ARRAY_BYTES = 128  # header before the values in NumPy's format
_KEYS = {
    "version",
    "client",
    "architecture",
    "precision",
    "class_ids",
    "counts",
    "normalisation",
    "privacy",
}


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """A client's condensed set and where it comes from.

    Attributes:
        client: The name the client gives itself, the same in every run.
        condensed: Its labels 0..y-1 stand for ``class_ids``.
        class_ids: Global labels, ascending.
        counts: Number of real images of each class.
        privacy: Report of the differentially private mode, or None.
        nbytes: Bytes of arrays and text, as sent.
        seconds: Time the client says it took.
    """

    client: str
    condensed: CondensedDataset
    class_ids: tuple[int, ...]
    counts: tuple[int, ...]
    privacy: dict[str, Any] | None = None
    nbytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the server accepts.

    Attributes:
        image_shape: (C, H, W) of every image.
        classes: Global class names.
        max_bytes: Largest size of a contribution; checked before decoding.
        max_class_count: Largest number of real images of one class.
    """

    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    max_bytes: int
    max_class_count: int


def encode(contribution: Contribution) -> RecordDict:
    """A contribution as the content of a message."""
    condensed = contribution.condensed
    arrays = {
        name: write_array(tensor.numpy()) for name, tensor in condensed.tensors.items()
    }
    spec = {
        "version": PAYLOAD_VERSION,
        "client": contribution.client,
        "architecture": condensed.spec.to_dict(),
        "precision": condensed.precision,
        "class_ids": list(contribution.class_ids),
        "counts": list(contribution.counts),
        "normalisation": condensed.metadata["normalisation"],
        "privacy": contribution.privacy,
    }
    return RecordDict(
        {
            ARRAYS: ArrayRecord(arrays),
            SPEC: ConfigRecord({"json": json.dumps(spec, separators=(",", ":"))}),
            METRICS: MetricRecord(
                {
                    "num-examples": sum(contribution.counts),
                    "seconds": float(contribution.seconds),
                }
            ),
        }
    )


def decode(content: RecordDict, limits: Limits) -> Contribution:
    """Check and decode the contribution in a message.

    Raises:
        PayloadError: It is refused; the text says why.
    """
    nbytes = content_bytes(content)
    if nbytes > limits.max_bytes:
        raise PayloadError(f"{nbytes} bytes, more than the {limits.max_bytes} allowed")
    spec = _read_json(content)
    class_ids = _whole_numbers(spec, "class_ids", 0, len(limits.classes) - 1)
    counts = _whole_numbers(spec, "counts", 1, limits.max_class_count)
    if list(class_ids) != sorted(set(class_ids)) or len(class_ids) != len(counts):
        raise PayloadError("class ids must be ascending, with one count for each")
    client = spec["client"]
    if not isinstance(client, str) or not CLIENT_NAME.fullmatch(client):
        raise PayloadError(f"client name {client!r:.40} is not allowed")
    condensed = _read_condensed(content[ARRAYS], spec, class_ids, limits)
    _check_images(condensed)
    return Contribution(
        client=client,
        condensed=condensed,
        class_ids=class_ids,
        counts=counts,
        privacy=_read_privacy(spec["privacy"]),
        nbytes=nbytes,
        seconds=_read_seconds(content),
    )


def content_bytes(content: RecordDict) -> int:
    """Bytes of all arrays and texts in a message, whatever they are."""
    total = sum(
        len(array.data)
        for record in content.array_records.values()
        for array in record.values()
    )
    for settings in content.config_records.values():
        for key, value in settings.items():
            raw = value if isinstance(value, bytes) else str(value).encode()
            total += len(key) + len(raw)
    # Eight bytes per number.
    return total + sum(
        len(key) + 8 * (len(value) if isinstance(value, list) else 1)
        for metrics in content.metric_records.values()
        for key, value in metrics.items()
    )


def pack_generator(condensed: CondensedDataset) -> ArrayRecord:
    """A generator for its own client: to keep, or to get back after a restart."""
    packed = torch.frombuffer(bytearray(pack(condensed)), dtype=torch.uint8)
    return ArrayRecord({"packed": Array(packed)})


def unpack_generator(record: ArrayRecord) -> CondensedDataset:
    """The generator of `pack_generator`.

    Raises:
        ArtefactError: The bytes are damaged.
    """
    return unpack(record["packed"].numpy().tobytes())


def payload_size(
    spec: SynthesiserSpec, precision: str, *, private: bool = False
) -> int:
    """Bytes of a contribution, from its sizes alone: before anything is trained.

    An upper bound; exact except for the name and the digits of counts and
    normalisation.

    Args:
        spec: Sizes of the generator.
        precision: fp32, fp16 or int8.
        private: Whether it includes the report of the differentially private mode.
    """
    layout = encoded_layout(spec, precision)
    arrays = sum(
        int(np.prod(shape)) * dtype.itemsize + _ARRAY_BYTES
        for shape, dtype in layout.values()
    )
    text = len(json.dumps(spec.to_dict()))
    report = PRIVACY_BYTES if private else 0
    return arrays + text + 32 * spec.num_classes + 512 + report


def _read_json(content: RecordDict) -> dict[str, Any]:
    if set(content.keys()) != {ARRAYS, SPEC, METRICS}:
        raise PayloadError(f"records are {sorted(content.keys())!r:.80}")
    if (
        ARRAYS not in content.array_records
        or SPEC not in content.config_records
        or METRICS not in content.metric_records
    ):
        raise PayloadError("records are of other types than expected")
    text = content.config_records[SPEC].get("json")
    if not isinstance(text, str) or len(text) > MAX_SPEC_BYTES:
        raise PayloadError("it has no specification, or one that is too long")
    try:
        spec = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PayloadError("its specification is not JSON") from error
    if not isinstance(spec, dict) or set(spec) != _KEYS:
        raise PayloadError("its specification has other keys than expected")
    if spec["version"] != PAYLOAD_VERSION:
        raise PayloadError(
            f"payload version {spec['version']!r:.20} is not {PAYLOAD_VERSION}"
        )
    return spec


def _whole_numbers(
    spec: dict[str, Any], key: str, least: int, most: int
) -> tuple[int, ...]:
    values = spec[key]
    if not isinstance(values, list) or not values:
        raise PayloadError(f"{key} is not a list of whole numbers")
    for value in values:
        if type(value) is not int or not least <= value <= most:
            raise PayloadError(
                f"{key} holds {value!r:.40}, not a whole number {least} to {most}"
            )
    return tuple(values)


def _read_condensed(
    arrays: Any, spec: dict[str, Any], class_ids: tuple[int, ...], limits: Limits
) -> CondensedDataset:
    metadata = {
        "format_version": FORMAT_VERSION,
        "architecture": spec["architecture"],
        "precision": spec["precision"],
        "classes": [limits.classes[label] for label in class_ids],
        "label_type": "hard",
        "normalisation": spec["normalisation"],
    }
    try:
        sizes = read_spec(metadata)
    except ArtefactError as error:
        raise PayloadError(str(error)) from error
    if sizes.kind != "generator" or sizes.image_shape != limits.image_shape:
        raise PayloadError(
            f"a {sizes.kind} of {sizes.image_shape} images, expected a generator of "
            f"{limits.image_shape}"
        )
    # Upsampling costs no bytes, and each needless block makes the images four times as
    # large before they are cropped.
    most = default_blocks(*sizes.image_shape[1:])
    if sizes.blocks is not None and sizes.blocks > most:
        raise PayloadError(
            f"a generator of {sizes.blocks} blocks, {most} are enough for images of "
            f"{limits.image_shape}"
        )
    # Compare bytes first: nothing of a claimed size is allocated before they agree.
    layout = encoded_layout(sizes, spec["precision"])
    need = sum(int(np.prod(shape)) * kind.itemsize for shape, kind in layout.values())
    sent = sum(len(array.data) for array in arrays.values())
    if arrays.keys() != layout.keys():
        unknown = sorted(arrays.keys() ^ layout.keys())
        raise PayloadError(f"arrays {unknown!r:.80} are missing or not expected")
    if not need <= sent <= need + HEADER_BYTES * len(layout):
        raise PayloadError(f"{sent} bytes of arrays, its sizes need {need}")
    tensors = {
        name: torch.from_numpy(
            read_array(
                arrays[name],
                name,
                shape=shape,
                dtype=_numpy_type(kind),
                largest=LARGEST_WEIGHT,
            ).copy()  # the message is read-only, a tensor must not be
        )
        for name, (shape, kind) in layout.items()
    }
    metadata["digest"] = content_digest(tensors, metadata)
    try:
        return CondensedDataset(tensors, metadata)
    except ArtefactError as error:
        raise PayloadError(str(error)) from error


@torch.no_grad()
def _check_images(condensed: CondensedDataset) -> None:
    """Finite weights may still generate nothing useful: look at a few images.

    They are fresh ones, as the server trains on, before noise that would hide that
    they are constant. Its digest decides which, so that nobody can prepare them.
    """
    synthesiser = condensed.synthesiser().eval()
    assert isinstance(synthesiser, GeneratorSynthesiser)
    rng = make_generator(0, "checked-images", condensed.digest)
    for label, name in enumerate(condensed.classes):
        if condensed.spec.dispersion and not 0 <= synthesiser.dispersion[label] <= 1:
            raise PayloadError(f"the dispersion of class {name!r:.40} is not 0 to 1")
        labels = torch.full((CHECKED_IMAGES,), label)
        images = synthesiser.draw(labels, rng, dispersed=False)
        if not torch.isfinite(images).all():
            raise PayloadError(f"its images of class {name!r:.40} are not finite")
        contrast = images.flatten(1).std(dim=1).median()  # of a typical image
        if images.amin() < 0 or images.amax() > 1 or contrast < 1e-4:
            raise PayloadError(
                f"its images of class {name!r:.40} are constant or out of range"
            )


def _read_privacy(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    numbers = isinstance(value, dict) and len(value) <= 16
    if not numbers or not all(
        isinstance(item, int | float | str) and len(str(item)) <= 80
        for item in value.values()
    ):
        raise PayloadError("its privacy report is not readable")
    return dict(value)


def _read_seconds(content: RecordDict) -> float:
    seconds = content.metric_records[METRICS].get("seconds")
    plausible = isinstance(seconds, float) and 0.0 <= seconds < MAX_SECONDS
    if not plausible:
        raise PayloadError(f"its time {seconds!r:.40} is not a number of seconds")
    return float(cast(float, seconds))


def _numpy_type(kind: torch.dtype) -> np.dtype[np.generic]:
    empty: NDArray[np.generic] = torch.empty(0, dtype=kind).numpy()
    return empty.dtype
