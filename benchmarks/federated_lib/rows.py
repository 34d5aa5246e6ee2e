"""The rows of the table, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from federated_lib.images import (
    choose_files,
    choose_herded,
    choose_random,
    condensed_of,
    send_images,
    train_and_test,
)
from federated_lib.local_training import ensemble, run_at_equal_bytes, run_rounds
from federated_lib.ours import run_centralised, run_federated
from federated_lib.setting import Cell, Federation, Outcome, Point, Setting

MISSING = 3  # clients of ``ours-missing``
ROBUST = 4.0  # threshold of ``ours-robust``
SINGLE = "replay"  # the preset with one Gaussian for the codes of a class

Run = Callable[[Cell, Setting, Federation, Path | None, int], Outcome]


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        label: What the report calls it.
        run: Called with cell, setting, data, folder of the data and rounds.
        bounded: Whether clients send at most ``--upload-bytes``.
        several: Whether it takes ``--rounds``.
        served: Whether the server trains, with `ServerSettings`.
    """

    label: str
    run: Run
    bounded: bool = True
    several: bool = False
    served: bool = True


def _centralised(
    cell: Cell, setting: Setting, federation: Federation, root: Path | None, rounds: int
) -> Outcome:
    found = train_and_test(federation.train, cell, setting, federation)
    size = federation.train.images.nbytes
    return Outcome([Point(rounds=1, accuracy=found, bytes_up=size, bytes_down=0)])


def _local(**options) -> Run:
    return lambda c, s, f, root, rounds: run_rounds(c, s, f, rounds=rounds, **options)


def _one_shot(c, s, f, root, rounds) -> Outcome:
    return run_rounds(c, s, f, rounds=1, epochs=s.one_shot_epochs)


def _equal_bytes(**options) -> Run:
    return lambda c, s, f, root, rounds: run_at_equal_bytes(c, s, f, **options)


def _images(choose_of) -> Run:
    return lambda c, s, f, root, rounds: send_images(choose_of(c.dataset), c, s, f)


def _ours(*, shot: bool = True, preset: str = "federated", **options) -> Run:
    return lambda c, s, f, root, rounds: run_federated(
        c,
        s,
        f,
        preset=preset,
        data_root=root,
        rounds=1 if shot else rounds,
        **options,
    )


def _ours_in_one_place(preset: str) -> Run:
    return lambda c, s, f, root, rounds: run_centralised(c, s, f, preset=preset)


# How ours came to be what it is; in the table, not in the plot.
VARIANTS = {
    "ours-single": Row("ours, one Gaussian a class", _ours(preset=SINGLE)),
    "ours-single-other-blur": Row(
        "ours, one Gaussian a class, no blur", _ours(preset=SINGLE)
    ),
    "ours-single-missing-other-blur": Row(
        f"ours, one Gaussian a class, no blur, {MISSING} clients missing",
        _ours(preset=SINGLE, missing=MISSING),
    ),
    "centralised-condensed-single-other-blur": Row(
        "ours, one Gaussian a class, no blur, all images at one client",
        _ours_in_one_place(SINGLE),
    ),
    "real-random-other-blur": Row(
        "random real images, blurred as ours", _images(lambda d: choose_random)
    ),
}
ROWS = {
    "centralised": Row("all real images in one place", _centralised, bounded=False),
    "centralised-condensed": Row(
        "ours, all images at one client", _ours_in_one_place("federated")
    ),
    "fedavg-one-shot": Row(
        "one-shot FedAvg, 10 local epochs", _one_shot, bounded=False, served=False
    ),
    "ensemble": Row(
        "ensemble of local models, 10 epochs",
        lambda c, s, f, root, rounds: ensemble(c, s, f),
        bounded=False,
        served=False,
    ),
    "fedavg": Row("FedAvg", _local(), bounded=False, several=True, served=False),
    "fedprox": Row(
        "FedProx", _local(proximal=True), bounded=False, several=True, served=False
    ),
    "fedavg-equal-bytes": Row(
        "FedAvg for the bytes of ours", _equal_bytes(), served=False
    ),
    "fedprox-equal-bytes": Row(
        "FedProx for the bytes of ours", _equal_bytes(proximal=True), served=False
    ),
    "real-random": Row("random real images, raw", _images(lambda d: choose_random)),
    "real-png": Row(
        "random real images, PNG", _images(lambda d: partial(choose_files, kind="png"))
    ),
    "real-jpeg": Row(
        "random real images, JPEG",
        _images(lambda d: partial(choose_files, kind="jpeg")),
    ),
    "real-herded": Row("herded real images, raw", _images(lambda d: choose_herded)),
    "pixels": Row("condensed pixels", _images(condensed_of)),
    "ours": Row("**ours**, one shot", _ours()),
    "ours-missing": Row(
        f"**ours**, one shot, {MISSING} clients missing", _ours(missing=MISSING)
    ),
    "ours-robust": Row(
        "**ours**, one shot, robust check on", _ours(robust_threshold=ROBUST)
    ),
    "ours-rounds": Row("**ours**, several rounds", _ours(shot=False), several=True),
    **VARIANTS,
}
