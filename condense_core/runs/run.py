"""A whole run: teacher, starting point, Algorithm 1, artefact.

Shape legend: Y classes, E embedding, D feature.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from condense_core.artefact import CondensedDataset
from condense_core.artefact.checks import MAX_FILE_BYTES, check_sizes
from condense_core.artefact.precision import encoded_layout
from condense_core.compute.devices import resolve_device
from condense_core.compute.distributed import ALONE, Ranks, check_ranks, shared_norms
from condense_core.compute.mode import check_compute, compute_scope
from condense_core.config import CondenseConfig
from condense_core.data import ImageData, as_image_data, require_images
from condense_core.data.class_sampler import ClassSampler
from condense_core.data.options import CLASSES
from condense_core.engine import condense_loop
from condense_core.errors import ArtefactError, ConfigError, DataError, RunError
from condense_core.generator import LARGEST_SIDE, SMALLEST_SIDE
from condense_core.loop_state import LoopState
from condense_core.probe import Probe
from condense_core.report.tiles import write_samples_png
from condense_core.runlog import RunLog
from condense_core.runs.directory import RunDirectory
from condense_core.runs.estimate import Estimate, in_words
from condense_core.runs.pace import schedule
from condense_core.runs.preparation import (
    build_phi,
    embedding_dim,
    prepare_teacher,
    starting_point,
    train_experts,
)
from condense_core.synthesiser import SynthesiserSpec
from condense_core.teacher import (
    check_teacher,
    needs_teacher,
)
from condense_core.versions import library_versions

METADATA_BYTES = 2**20  # of an artefact beside its tensors, about


def condense(
    train_set: Any,
    config: CondenseConfig,
    *,
    out: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> CondensedDataset:
    """Condense a data set into a codebook and a generator.

    With ``out``, the run can be stopped at any moment: the same call goes on where it
    stopped and ends with the same artefact, on the same CPU byte for byte; on a GPU up
    to nondeterministic kernels.

    Args:
        train_set: `ImageData`, a pair (images, labels) of tensors or arrays, or any
            map-style Dataset of (image, label).
        config: See `CondenseConfig`.
        out: Run directory; gets config.yaml, metrics.jsonl, condensed.safetensors and
            samples.png. None writes nothing.
        device: auto, cpu, cuda or cuda:N.
        progress: Whether to show progress on stderr.

    Returns:
        The condensed set, also in ``out/condensed.safetensors``.

    Raises:
        DataError: The data cannot be used; says what and why.
        ConfigError: The configuration does not fit the data, or its ``time_budget`` is
            too short.
        RunError: The directory holds another run, the disk is full, the device is
            absent, memory runs out, or the loss is no longer finite.

    Example:
        >>> images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 2
        >>> config = CondenseConfig.preset("digits-ipc1").with_overrides(
        ...     [
        ...         "loop.restarts=1",
        ...         "loop.network_updates=1",
        ...         "teacher.steps=1",
        ...         "pretrain.steps=1",
        ...         "evaluate.probe_every=0",
        ...     ]
        ... )
        >>> condense((images, labels), config, device="cpu").images()[0].shape
        torch.Size([2, 1, 8, 8])
    """
    if not isinstance(config, CondenseConfig):
        raise ConfigError(
            f"config is {config!r:.40}: give a CondenseConfig, as "
            "CondenseConfig.preset('digits')"
        )
    data = as_image_data(train_set)
    check_fit(data, config)
    device = resolve_device(device)
    check_compute(config, device)
    expected = None
    if config.time_budget is not None:
        folder = Path(out) if out is not None else None
        with memory_advice():
            config, expected = schedule(data, None, config, out=folder, device=device)
    run = RunDirectory.open(out, config, data.fingerprint())
    condensed = condense_in(
        run, data, config, device=device, progress=progress, expected=expected
    )
    samples = run.file("samples.png")
    if samples is not None:
        write_samples_png(*condensed.images(), condensed.classes, samples)
    run.finish()
    return condensed


def condense_in(
    run: RunDirectory,
    data: ImageData,
    config: CondenseConfig,
    *,
    device: torch.device,
    progress: bool = True,
    expected: Estimate | None = None,
    ranks: Ranks = ALONE,
) -> CondensedDataset:
    """Condense inside a run directory, leaving its checkpoint in place.

    Args:
        run: Opened for this configuration and these data.
        data: Training images, already checked by `check_fit`.
        config: See `CondenseConfig`.
        device: Where to compute.
        progress: Whether to show progress on stderr.
        expected: Length of the whole run, shown with the progress.
        ranks: Processes of this run. All call this function alike, but only the first
            with a directory on disk; all get the result.

    Raises:
        RunError: The disk is full, memory runs out, or the loss is no longer finite.
        ArtefactError: The artefact in the directory is damaged.
        ConfigError: A step has fewer classes than there are processes.
    """
    check_ranks(config, data.num_classes, ranks)
    path = run.file("condensed.safetensors")
    done = path is not None and path.exists()
    finished = ranks.from_first(lambda: str(path) if done else None, device)
    if finished is not None:
        return CondensedDataset.load(finished, device=device)
    with memory_advice():
        return _condense(
            run, data, config, device, progress and ranks.first, expected, ranks
        )


def _condense(
    run: RunDirectory,
    data: ImageData,
    config: CondenseConfig,
    device: torch.device,
    progress: bool,
    expected: Estimate | None,
    ranks: Ranks,
) -> CondensedDataset:
    finished = run.file("condensed.safetensors")
    statistics = data.statistics()
    placed = data.to(device)
    sampler = ClassSampler(placed, device)
    teacher = prepare_teacher(run, placed, statistics, config, progress, ranks)
    synthesiser = starting_point(
        run, sampler, placed, statistics, teacher, config, progress, ranks
    )

    state = LoopState(
        config,
        synthesiser,
        statistics,
        device=device,
        experts=train_experts(run, sampler, statistics, config, progress=progress),
        ranks=ranks,
    )
    saved = ranks.from_first(lambda: run.load("loop", device), device)
    if saved is not None:
        state.load_state_dict(saved)
    probe = Probe(synthesiser, data, statistics, config)
    with (
        compute_scope(config.compute, device),
        shared_norms(synthesiser, ranks),
        RunLog(
            run.file("metrics.jsonl"),
            total=config.loop.total,
            description="condense"
            if expected is None
            else f"condense (run: about {in_words(expected.total)})",
            progress=progress,
            resume_step=state.outer * config.loop.generator_updates,
        ) as log,
    ):
        condense_loop(
            state,
            sampler=sampler,
            teacher=teacher if config.loss.soft_labels else None,
            log=log,
            save=lambda s: run.save_sometimes("loop", s.state_dict),
            probe=probe,
        )

    condensed = CondensedDataset.from_synthesiser(
        synthesiser,
        classes=data.classes,
        statistics=statistics,
        precision=config.format.precision,
        max_batch=config.max_synthetic_batch,
        config=config.to_dict(),
        data={
            "name": data.name,
            "images": len(data),
            "images_per_class": data.counts.tolist(),
            "fingerprint": data.fingerprint(),
        },
        versions=library_versions(),
    )
    if finished is not None:
        condensed.save(finished)
        # What is read back is what was returned, on a resumed run as on this one.
        condensed = CondensedDataset.load(finished, device=device)
    return condensed


@contextmanager
def memory_advice() -> Iterator[None]:
    """Turn an out-of-memory failure into one line that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
        # The CPU allocator of PyTorch raises a bare RuntimeError, with one text on
        # Windows and another on Linux.
        texts = ("not enough memory", "can't allocate memory")
        if not exhausted and not any(known in text for known in texts):
            raise
        raise RunError(
            "out of memory: let a step see fewer images (loop.codes_per_step, "
            "loop.classes_per_step, loop.association) or its students take fewer "
            "steps (unrolled.window), as in --set loop.codes_per_step=2"
        ) from error


def check_fit(data: ImageData, config: CondenseConfig) -> None:
    """Refuse, before any work, data that the configuration cannot condense.

    Raises:
        DataError: The set is empty or a class has too few images.
        ConfigError: A size of the configuration does not fit the images.
        ArtefactError: The file of ``teacher.path`` cannot be used.
    """
    require_images(data)
    if config.pretrain.method == "reconstruction":
        counts, needed = data.counts, config.format.images_per_class
        smallest = int(counts.min())
        if smallest < needed:
            raise DataError(
                f"class {data.classes[int(counts.argmin())]!r} has {smallest} "
                f"image{'s' if smallest > 1 else ''}, fewer than the {needed} to "
                "condense each class into: add images, read the other classes alone, "
                f"as with {CLASSES}, or use --set format.images_per_class={smallest}"
            )
    sides = data.image_shape[1:]
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in sides):
        raise DataError(
            f"images are {sides[0]}x{sides[1]} px, sides must be {SMALLEST_SIDE} to "
            f"{LARGEST_SIDE}: resize them, as with --set data.image_size=[32,32]"
        )
    if config.teacher.path is not None and needs_teacher(config):
        check_teacher(config.teacher.path, data, config)
    # Building one network finds every size that does not fit, at no cost.
    phi = build_phi(config, data)
    weights, layers = config.loss.layer_weights, len(phi.blocks)
    if weights is not None and len(weights) != layers:
        raise ConfigError(
            f"loss.layer_weights has {len(weights)} values, but phi has {layers} "
            "layers: give one for each"
        )
    size = embedding_dim(config, data)
    if config.loss.intra_centre == "class_embedding" and size != phi.feature_dim:
        raise ConfigError(
            f"loss.intra_centre=class_embedding needs class embeddings of phi's size "
            f"{phi.feature_dim}, not {size}: set teacher.width and "
            "format.embedding to match, or loss.intra_centre=online"
        )
    _check_artefact(data, config)


def _check_artefact(data: ImageData, config: CondenseConfig) -> None:
    """Refuse sizes whose artefact could not be read at the end."""
    spec = SynthesiserSpec.from_config(
        config.format,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        embedding_dim=embedding_dim(config, data),
        class_counts=data.counts.tolist(),
    )
    try:
        check_sizes(spec)
    except ArtefactError as error:
        raise ConfigError(f"no artefact can be of these sizes: {error}") from error
    layout = encoded_layout(spec, config.format.precision).values()
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout)
    if size > MAX_FILE_BYTES - METADATA_BYTES:
        raise ConfigError(
            f"the artefact would have {size} bytes, more than the {MAX_FILE_BYTES} it "
            "may have: lower format.images_per_class, or use format.precision=int8"
        )
