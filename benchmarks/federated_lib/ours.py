"""Our rows, through the real apps and the real strategy on `LocalGrid`."""

import logging
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from federated_lib.images import train_and_test
from federated_lib.setting import (
    FIRST_PARTITION_SEED,
    Cell,
    Federation,
    Outcome,
    Point,
    Setting,
    model_of,
)
from flower_strategy.aggregation import image_counts, synthesise
from flower_strategy.client_app import app
from flower_strategy.condensing import condense_locally
from flower_strategy.local_grid import LocalGrid
from flower_strategy.payload import content_bytes, encode
from flower_strategy.settings import ClientSettings
from flower_strategy.strategy import CondensationStrategy


def run_federated(
    cell: Cell,
    setting: Setting,
    federation: Federation,
    *,
    preset: str,
    data_root: Path | None,
    rounds: int,
    missing: int = 0,
    robust_threshold: float = 0.0,
) -> Outcome:
    """One shot or several rounds; the first ``missing`` clients never answer."""
    run_config = {
        "dataset": cell.dataset,
        "data-root": str(data_root or ""),
        "partition": cell.partition,
        "partition-seed": FIRST_PARTITION_SEED + cell.seed,
        "seed": cell.seed,
        "network-width": setting.network_width,
        "low-pass": model_of(cell, setting).low_pass,
        "device": "cpu",
        "preset": preset,
        "upload-bytes": cell.upload_bytes,
        "overrides": setting.overrides,
    }
    nodes = [
        {"partition-id": i, "num-partitions": setting.clients}
        for i in range(missing, setting.clients)
    ]
    grid = LocalGrid(app, nodes, run_config)
    strategy = CondensationStrategy(
        replace(setting.server_for(federation), robust_threshold=robust_threshold),
        model_of(cell, setting),
        image_shape=federation.test.image_shape,
        classes=federation.test.classes,
        test=federation.test,
    )
    logging.getLogger("flwr").setLevel(logging.WARNING)
    result = strategy.start(grid, num_rounds=rounds)
    outcome, seconds = Outcome(), Counter[str]()
    up = down = 0
    for report in result.state.reports:
        seconds.update(report.client_seconds)
        up, down = up + report.bytes_up, down + report.bytes_down
        outcome.points.append(
            Point(
                rounds=report.server_round,
                accuracy=report.accuracy,
                bytes_up=up,
                bytes_down=down,
            )
        )
    outcome.client_seconds = list(seconds.values())
    return outcome


def run_centralised(
    cell: Cell, setting: Setting, federation: Federation, *, preset: str
) -> Outcome:
    """All images at one client: what the split costs."""
    started = time.perf_counter()
    contribution = condense_locally(
        "all",
        federation.train,
        ClientSettings(
            preset=preset,
            upload_bytes=cell.upload_bytes,
            overrides=setting.overrides,
        ),
        model_of(cell, setting),
    )
    seconds = time.perf_counter() - started
    counts = image_counts([contribution], setting.synthetic_images)
    data = synthesise(
        [contribution], counts, classes=federation.train.classes, seed=cell.seed
    )
    found = train_and_test(data, cell, setting, federation)
    size = content_bytes(encode(contribution))
    point = Point(rounds=1, accuracy=found, bytes_up=size, bytes_down=0)
    return Outcome([point], [seconds])
