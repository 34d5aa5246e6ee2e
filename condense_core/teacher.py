"""The teacher: a ConvNet trained on the real images.

It gives class embeddings (sec. 3.2), medoids to start from and, for sets of many
classes that do not exclude each other, the soft labels of the classification loss
(sec. 4.2, after neural feature regression). A run trains its own, or loads one that
``condense teacher`` trained once for many runs: with the same settings they are equal.

Shape legend: Y classes, C H W image.
"""

import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from condense_core.config import CondenseConfig
from condense_core.config.strict import nearest
from condense_core.data import ImageData, PixelStatistics, require_images
from condense_core.errors import ArtefactError, ConfigError, DataError, RunError
from condense_core.networks import FeatureNetwork, build_network
from condense_core.networks.convnet import DEFAULT_WIDTH
from condense_core.runlog import CHECKPOINT_SECONDS, RunLog, atomic_write_bytes
from condense_core.seeding import derive_seed
from condense_core.training import Recipe, train_network

AUGMENT = "color_crop_cutout_flip_scale_rotate"
FORMAT_VERSION = 1
METADATA_KEY = "condense_teacher"
REQUIRED_METADATA = ("image_shape", "classes", "fingerprint", "width")

State = dict[str, Any]


def needs_teacher(config: CondenseConfig) -> bool:
    """Whether anything in a run asks a network trained on the real data."""
    return (
        config.format.embedding == "class_mean"
        or config.loss.soft_labels
        or (
            config.pretrain.method == "reconstruction"
            and config.pretrain.targets == "medoids"
        )
        or (
            config.pretrain.method == "variational"
            and config.pretrain.feature_weight > 0
        )
    )


def build_teacher(data: ImageData, config: CondenseConfig) -> FeatureNetwork:
    """A fresh ConvNet of ``teacher.width``; of four blocks at 64 px."""
    return build_network(
        "convnet",
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        width=config.teacher.width,
        seed=derive_seed(config.seed, "teacher"),
    )


def train_teacher(
    data: ImageData,
    statistics: PixelStatistics,
    config: CondenseConfig,
    *,
    resume: Mapping[str, Any] | None = None,
    keep: Callable[[int, Callable[[], State]], None] | None = None,
    progress: bool = True,
) -> FeatureNetwork:
    """Train a teacher on the device of ``data``, reading one batch at a time.

    Args:
        data: Every class has an image.
        statistics: Normalisation.
        config: ``teacher.width``, ``teacher.steps``, ``data.flip`` and the seed.
        resume: As for `train_network`.
        keep: Likewise.
        progress: Whether to show progress on stderr.
    """
    teacher = build_teacher(data, config).to(data.images.device)
    steps = config.teacher.steps
    start = 0 if resume is None else resume["step"]
    with RunLog(
        None,
        total=steps,
        description="teacher",
        resume_step=start,
        progress=progress,
    ) as log:
        train_network(
            teacher,
            data.images,
            data.labels,
            recipe=Recipe("teacher", epochs=steps, augment=AUGMENT),
            statistics=statistics,
            seed=derive_seed(config.seed, "teacher"),
            flip=config.data.flip,
            max_steps=steps,
            on_step=lambda step, *_: log.advance(step + 1),
            resume=resume,
            keep=keep,
        )
    return frozen(teacher)


def frozen(teacher: FeatureNetwork) -> FeatureNetwork:
    """In evaluation mode, without gradients."""
    return teacher.eval().requires_grad_(False)


def train_teacher_file(
    path: Path,
    data: ImageData,
    config: CondenseConfig,
    *,
    device: torch.device,
    progress: bool = True,
) -> FeatureNetwork:
    """Train a teacher into a file for ``teacher.path``; the same call resumes.

    Beside the file lies ``.NAME.partial`` until it is written.

    Raises:
        RunError: The file or its folder cannot be written, or belongs to a teacher of
            other data or settings.
        DataError: A class has no image.
    """
    require_images(data)
    statistics = data.statistics()
    facts = _facts(data, statistics, config)
    if path.exists():
        _require_same(path, read_metadata(path), facts)
        return load_teacher(path, data, config, device=device)
    partial, resume = path.with_name(f".{path.name}.partial"), None
    if partial.exists():
        saved = _read_partial(partial)
        _require_same(partial, saved["facts"], facts)
        resume = saved["state"]
    kept_at = time.monotonic()

    def keep(step: int, state: Callable[[], State]) -> None:
        nonlocal kept_at
        if time.monotonic() - kept_at >= CHECKPOINT_SECONDS:
            kept_at = time.monotonic()
            buffer = io.BytesIO()
            torch.save({"facts": facts, "state": state()}, buffer)
            atomic_write_bytes(partial, buffer.getvalue())

    teacher = train_teacher(
        data.to(device),
        statistics,
        config,
        resume=resume,
        keep=keep,
        progress=progress,
    )
    weights = {k: v.cpu().contiguous() for k, v in teacher.state_dict().items()}
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    atomic_write_bytes(path, save_safetensors(weights, {METADATA_KEY: text}))
    partial.unlink(missing_ok=True)
    return teacher


def load_teacher(
    path: str | Path,
    data: ImageData,
    config: CondenseConfig,
    *,
    device: torch.device,
) -> FeatureNetwork:
    """A teacher from a file, checked against the data it is to teach.

    Raises:
        ArtefactError: The file is missing, damaged or of another version.
        DataError: It was trained on other images or classes.
        ConfigError: Its width is not ``teacher.width``.
    """
    check_teacher(path, data, config)
    teacher = build_teacher(data, config)
    try:
        teacher.load_state_dict(load_safetensors(Path(path).read_bytes()))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        line = " ".join(str(error).split())
        raise ArtefactError(f"{path}: damaged ({line}): train it again") from error
    return frozen(teacher.to(device))


def check_teacher(path: str | Path, data: ImageData, config: CondenseConfig) -> None:
    """Refuse a teacher that does not fit, without reading its weights.

    Raises:
        ArtefactError: As `load_teacher`, likewise the others.
        DataError: See above.
        ConfigError: See above.
    """
    facts = read_metadata(path)
    remedy = "train one with condense teacher, or leave out teacher.path"
    shape = tuple(facts["image_shape"])
    if shape != data.image_shape:
        raise DataError(
            f"teacher {path} is for images of shape {shape}, not {data.image_shape}: "
            f"{remedy}"
        )
    theirs, ours = facts["classes"], list(data.classes)
    if theirs != ours:
        odd = next((name for name in ours if name not in set(theirs)), None)
        why = (
            f"class {odd!r} is not among them{nearest(odd, theirs)}"
            if odd is not None
            else "their order or number differs"
        )
        raise DataError(
            f"teacher {path} knows {len(theirs)} classes, the data have {len(ours)}; "
            f"{why}: {remedy}"
        )
    if facts["fingerprint"] != data.fingerprint():
        raise DataError(
            f"teacher {path} was trained on other images (their fingerprint differs): "
            f"{remedy}"
        )
    width = config.teacher.width or DEFAULT_WIDTH
    if facts["width"] != width:
        raise ConfigError(
            f"teacher {path} has width {facts['width']}, teacher.width is {width}: use "
            f"--set teacher.width={facts['width']}"
        )


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What the file says about itself.

    Raises:
        ArtefactError: The file is missing, no teacher, of another version, or does not
            say what it was trained on.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
        facts: dict[str, Any] = json.loads(text or "null")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        line = " ".join(str(error).split())
        raise ArtefactError(f"cannot read teacher {path}: {line}") from error
    if not isinstance(facts, dict):
        raise ArtefactError(
            f"{path} is not a teacher file: give a file written by condense teacher"
        )
    if facts.get("format_version") != FORMAT_VERSION:
        raise ArtefactError(
            f"teacher {path} has format version {facts.get('format_version')!r}, this "
            f"program reads {FORMAT_VERSION}: train it again"
        )
    missing = [key for key in REQUIRED_METADATA if key not in facts]
    if missing:
        raise ArtefactError(f"teacher {path} lacks {missing[0]!r}: train it again")
    return facts


def _facts(
    data: ImageData, statistics: PixelStatistics, config: CondenseConfig
) -> dict[str, Any]:
    """All that decides the weights, on one kind of device."""
    return {
        "format_version": FORMAT_VERSION,
        "network": "convnet",
        "width": config.teacher.width or DEFAULT_WIDTH,
        "image_shape": list(data.image_shape),
        "classes": list(data.classes),
        "fingerprint": data.fingerprint(),
        "mean": list(statistics.mean),
        "std": list(statistics.std),
        "steps": config.teacher.steps,
        "flip": config.data.flip,
        "seed": config.seed,
    }


def _require_same(path: Path, theirs: Mapping[str, Any], ours: State) -> None:
    for key, value in ours.items():
        if theirs.get(key) != value:
            shown = "" if key in ("classes", "fingerprint") else f" {theirs.get(key)!r}"
            raise RunError(
                f"{path} is a teacher with another {key}{shown}: choose another --out "
                "or delete it"
            )


def _read_partial(path: Path) -> State:
    try:
        saved: State = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise RunError(
            f"cannot read {path} ({type(error).__name__}): delete it to start anew"
        ) from error
    return saved
