"""A run as the command line makes it: condense, evaluate, compare, report."""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from condense_core.artefact import CondensedDataset
from condense_core.compute.devices import resolve_device
from condense_core.compute.distributed import ALONE, Ranks, check_ranks
from condense_core.compute.mode import check_compute
from condense_core.config import CondenseConfig
from condense_core.coresets import check_selection
from condense_core.data import ImageData, PixelStatistics
from condense_core.data.options import CLASSES
from condense_core.data.sources import CACHE_FOLDER, CACHED, load_source
from condense_core.errors import DataError, MissingSplitError
from condense_core.evaluate import EvaluationReport, evaluate
from condense_core.networks import build_network
from condense_core.references import FULL, evaluate_reference
from condense_core.report.page import write_features, write_report, write_samples_png
from condense_core.runlog import RunLog
from condense_core.runs.directory import RunDirectory
from condense_core.runs.estimate import Estimate
from condense_core.runs.run import check_fit, condense_in, memory_advice
from condense_core.seeding import derive_seed, make_generator
from condense_core.training import Recipe, pooled_features, train_network

HELD_OUT = 0.2  # of each class, where a source has no test images
HOLD_OUT_BYTES = 2**32  # at most: it copies them to memory
FEATURE_IMAGES = 1000
FEATURE_STEPS = 300


def load_splits(
    config: CondenseConfig,
    *,
    data_root: Path | None,
    download: bool = False,
    cache: Path | None = None,
    skip_corrupt: bool = False,
) -> tuple[ImageData, ImageData, str | None]:
    """Training and test images of a configuration.

    A folder without test images gives up a fifth of each class for testing.

    Args:
        config: Its ``data`` section and seed.
        data_root: Folder of the data set.
        download: Whether torchvision may fetch missing files.
        cache: Folder for decoded copies, see `load_source`. By default only sets that
            are too big for memory have one, in ``data_root``.
        skip_corrupt: Whether to leave out image files that cannot be read.

    Returns:
        Training images, test images, and a line to show if images were held out.

    Raises:
        DataError: The source cannot be read, or has no test images and is too big to
            hold some out.
    """
    if cache is None and config.data.name in CACHED and data_root is not None:
        cache = data_root / CACHE_FOLDER
    options: dict[str, Any] = {
        "data_root": data_root,
        "download": download,
        "image_size": config.data.image_size,
        "channels": config.data.channels,
        "classes": config.data.classes,
        "cache": cache,
        "skip_corrupt": skip_corrupt,
    }
    train = load_source(config.data.name, split="train", **options)
    try:
        return train, load_source(config.data.name, split="test", **options), None
    except MissingSplitError as error:
        if train.images.nbytes > HOLD_OUT_BYTES:
            raise DataError(
                f"{error}; or choose fewer classes with {CLASSES}: "
                f"{train.images.nbytes / 1e9:.1f} GB are too much to hold some out"
            ) from error
        train, test = hold_out(train, seed=config.seed)
        return train, test, f"no test images found: {len(test)} of train are held out"


def hold_out(data: ImageData, *, seed: int) -> tuple[ImageData, ImageData]:
    """Split off a stratified fifth; a class of one image stays in training."""
    kept, held = [], []
    for label in range(data.num_classes):
        members = (data.labels == label).nonzero().squeeze(1)
        order = torch.randperm(
            len(members), generator=make_generator(seed, "hold-out", label)
        )
        count = max(1, int(HELD_OUT * len(members))) if len(members) > 1 else 0
        held.append(members[order[:count]])
        kept.append(members[order[count:]])
    return data.subset(torch.cat(kept)), data.subset(torch.cat(held))


def check_experiment(train: ImageData, config: CondenseConfig) -> None:
    """`check_fit`, and that each reference finds enough images to choose from.

    Raises:
        DataError: As `check_fit`, or a class is too small for a reference.
        ConfigError: As `check_fit`, or a reference has too few steps to choose by.
    """
    check_fit(train, config)
    selecting = [name for name in config.evaluate.baselines if name != FULL]
    smallest, needed = int(train.counts.min()), config.format.images_per_class
    if selecting and smallest < needed:
        raise DataError(
            f"class {train.classes[int(train.counts.argmin())]!r} has {smallest} "
            f"image{'s' if smallest > 1 else ''}, fewer than the {needed} that "
            f"reference {selecting[0]!r} chooses: add images, read the other classes "
            f"alone, as with {CLASSES}, or use --set evaluate.baselines=[full]"
        )
    for name in selecting:
        check_selection(name, train, needed, max_steps=config.teacher.steps)


def run_experiment(
    train: ImageData,
    test: ImageData,
    config: CondenseConfig,
    *,
    out: Path,
    device: str | torch.device = "auto",
    on_start: Callable[[], None] | None = None,
    expected: Estimate | None = None,
    ranks: Ranks = ALONE,
    command: str | None = None,
) -> dict[str, Any]:
    """Condense, evaluate against references and write the report.

    Stops and resumes anywhere, also between two networks of the evaluation.

    Args:
        train: Training images.
        test: Test images; used by the final evaluation alone.
        config: See `CondenseConfig`; a ``time_budget`` is settled by
            `condense_core.runs.pace.schedule` before.
        out: Run directory.
        device: auto, cpu, cuda or cuda:N.
        on_start: Called once nothing speaks against the run, before its first step.
        expected: Length of the run, shown with the progress.
        ranks: Processes of this run, each of which calls this function. The first alone
            writes and evaluates; the others return an empty report.
        command: What the user typed, for the report.

    Returns:
        Content of ``report.json``.

    Raises:
        CondenseError: See `condense`.
    """
    check_experiment(train, config)
    device = resolve_device(device)
    check_compute(config, device, world=ranks.world)
    check_ranks(config, train.num_classes, ranks)
    own = out if ranks.first else None
    run = RunDirectory.open(own, config, train.fingerprint())
    if on_start is not None and ranks.first:
        on_start()
    done: dict[str, Any] | None = run.read_json("report.json")
    condensed = condense_in(
        run, train, config, device=device, expected=expected, ranks=ranks
    )
    if not ranks.first:
        return {}
    if done is not None:
        if not (out / "report.html").exists():
            write_report(out)
        run.finish()
        return done

    images, labels = condensed.images()
    write_samples_png(images, labels, condensed.classes, out / "samples.png")
    statistics = train.statistics()
    with memory_advice():
        rows = {
            name: _evaluate_row(
                name, condensed, train, test, statistics, run, config, device
            )
            for name in ("condensed", *config.evaluate.baselines)
        }
    _write_features(out, condensed, train, statistics, config, device)
    report = {
        **rows.pop("condensed"),
        "baselines": rows,
        "pixel_bytes": condensed.pixel_bytes,
        "bytes_by_part": condensed.bytes_by_part(),
        "digest": condensed.digest,
        "command": command,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {device}",
    }
    run.write_json("report.json", report)
    write_report(out)
    run.finish()
    return report


def _evaluate_row(
    name: str,
    condensed: CondensedDataset,
    train: ImageData,
    test: ImageData,
    statistics: PixelStatistics,
    run: RunDirectory,
    config: CondenseConfig,
    device: torch.device,
) -> dict[str, Any]:
    """One row of the table, continuing after the networks already trained."""
    progress = f"checkpoint/evaluate-{name}.json"
    accuracies: list[float] = run.read_json(progress) or []
    options = config.evaluate
    with RunLog(
        None,
        total=options.repeats,
        description=f"evaluate {name}",
        resume_step=len(accuracies),
    ) as log:

        def on_repeat(repeat: int, accuracy: float) -> None:
            accuracies.append(accuracy)
            run.write_json(progress, accuracies)
            log.advance(repeat + 1, accuracy=accuracy)

        settings: dict[str, Any] = {
            "recipe": options.recipe,
            "network": options.network,
            "width": options.width,
            "repeats": options.repeats,
            "ensemble": options.ensemble,
            "seed": config.seed,
            "device": device,
            "flip": config.data.flip,
            "statistics": statistics,
            "on_repeat": on_repeat,
            "completed": tuple(accuracies),
        }
        report: EvaluationReport
        if name == "condensed":
            report = evaluate(condensed, test, **settings)
        else:
            report = evaluate_reference(
                name,
                train,
                test,
                images_per_class=config.format.images_per_class,
                selection_width=config.teacher.width,
                selection_steps=config.teacher.steps,
                full_max_steps=options.full_max_steps,
                **settings,
            )
    return report.to_dict()


def _write_features(
    out: Path,
    condensed: CondensedDataset,
    train: ImageData,
    statistics: PixelStatistics,
    config: CondenseConfig,
    device: torch.device,
) -> None:
    """Real and synthetic images as a network trained on real ones sees them."""
    order = torch.randperm(
        len(train), generator=make_generator(config.seed, "feature-plot")
    )
    real = train.subset(order[:FEATURE_IMAGES]).to(device)
    network = build_network(
        "convnet",
        image_shape=train.image_shape,
        num_classes=train.num_classes,
        width=32,
        seed=derive_seed(config.seed, "feature-plot"),
    ).to(device)
    data = train.to(device)
    train_network(
        network,
        data.images,
        data.labels,
        recipe=Recipe("features", epochs=FEATURE_STEPS),
        statistics=statistics,
        seed=config.seed,
        max_steps=FEATURE_STEPS,
    )
    network.eval()
    images, labels = condensed.images()
    write_features(
        out,
        real_ND=pooled_features(network, real.images, statistics).cpu(),
        real_labels_N=real.labels.cpu(),
        synthetic_MD=pooled_features(network, images, statistics).cpu(),
        synthetic_labels_M=labels.cpu(),
    )
