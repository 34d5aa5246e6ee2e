"""The server app: read settings, run the strategy, write result and artefact."""

import json
from dataclasses import asdict
from logging import INFO, WARNING
from pathlib import Path

from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from condense_core import ConfigError, PixelStatistics, RunError
from condense_core.runlog import atomic_write_text
from flower_strategy.aggregation import merge
from flower_strategy.local_data import load_global
from flower_strategy.result import CondensationResult
from flower_strategy.settings import (
    ClientSettings,
    DataSettings,
    ModelSettings,
    ServerSettings,
    Settings,
)
from flower_strategy.strategy import CondensationStrategy

RESULT, MERGED = "result.json", "merged.safetensors"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds and log the accuracy of the global model.

    Raises:
        ConfigError: The settings do not fit together, or the folders they name.
        RunError: Nothing was trained, or a folder cannot be read or written.
    """
    data = DataSettings.read(context.run_config)
    model = ModelSettings.read(context.run_config)
    settings = ServerSettings.read(context.run_config)
    clients = ClientSettings.read(context.run_config)
    model.prepare_process()
    if not settings.save_to:
        log(WARNING, "save-to is empty: the trained model is not kept")
    test = load_global(data, "test") if data.dataset else None
    strategy = CondensationStrategy(
        settings,
        model,
        image_shape=test.image_shape if test else image_shape_of(data),
        classes=test.classes if test else data.class_names,
        test=test,
    )
    result = strategy.start(grid)
    if settings.save_to:
        folder = Path(settings.save_to)
        leave(result, strategy, folder, data, model, clients, settings)
    if not result.state.trained:
        raise RunError(
            f"no round had {settings.min_clients} contributions, so nothing was "
            f"trained: look for the reasons in the log and in {RESULT}"
        )
    last = result.state.reports[-1]
    up = sum(report.bytes_up for report in result.state.reports)
    down = sum(report.bytes_down for report in result.state.reports)
    accuracy, by_clients = (
        "not measured" if found is None else f"{found:.2f} %"
        for found in (last.accuracy, last.client_accuracy)
    )
    log(
        INFO,
        "global accuracy %s, by clients %s, %d bytes up, %d bytes down",
        accuracy,
        by_clients,
        up,
        down,
    )
    kept = result.state.folder_in(Path(settings.save_to))
    if settings.save_to and kept.is_dir():
        log(INFO, "the trained model is in %s: see load_global_model", kept)


def leave(
    result: CondensationResult,
    strategy: CondensationStrategy,
    folder: Path,
    *settings: Settings,
) -> None:
    """Write ``result.json`` and ``merged.safetensors``.

    Args:
        result: Of the run.
        strategy: That made it.
        folder: Where to write.
        settings: Of the run, for the record.

    Raises:
        RunError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "settings": {
            k: v for each in settings for k, v in each.to_run_config().items()
        },
        "rounds": [asdict(report) for report in result.state.reports],
    }
    atomic_write_text(folder / RESULT, json.dumps(content, indent=2) + "\n")
    contributions = list(result.state.contributions.values())
    mean, std = result.state.normalisation
    if result.state.trained:
        merge(
            contributions,
            strategy.settings.merged_images_per_class,
            classes=strategy.limits.classes,
            statistics=PixelStatistics(tuple(mean), tuple(std)),
            seed=strategy.model.seed,
            max_share=strategy.settings.max_share,
            dropped=result.dropped,
        ).save(folder / MERGED)


def image_shape_of(settings: DataSettings) -> tuple[int, int, int]:
    """(C, H, W) of the sites' images, from the settings alone.

    Raises:
        ConfigError: The settings leave it open.
    """
    size = settings.image_size
    if size is None or not settings.channels or not settings.class_names:
        raise ConfigError(
            "without a dataset the server does not know the images: set run config "
            "height, width, channels and classes, as in height=32 width=32 channels=3 "
            'classes="cat,dog"'
        )
    return (settings.channels, *size)
