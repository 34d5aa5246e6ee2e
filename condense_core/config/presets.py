"""Named configurations: one row a data set, one a number of images per class.

``NAME-ipcK`` is the full setting, for minutes on a GPU; ``NAME-ipcK-cpu`` is narrower
and shorter and takes 17 to 134 minutes on a CPU. ``NAME-ipcK-paper`` keeps to what the
paper says: its five losses, its optimisers, Algorithm 1 and adversarial pre-training
(docs/paper-to-code.md has what it leaves open); ``NAME-ipcK-itgan`` learns codes alone.
``digits`` is the demo, ``replay`` what a replay memory condenses with, ``federated``
what a client sends and ``federated-round`` how it goes on in later rounds.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from condense_core.config.cpu_presets import STUDENTS_ALONE, cpu_settings
from condense_core.config.strict import merge

Settings = dict[str, Any]

# name -> data settings. Mirroring changes what a digit means (the field's convention).
DATA_SETS: dict[str, Settings] = {
    "digits": {"flip": False},
    "mnist": {"flip": False},
    "fashionmnist": {"flip": True},
    "svhn": {"flip": False},
    "cifar10": {"flip": True},
    "cifar100": {"flip": True},
    "imagenet64": {"flip": True, "image_size": [64, 64]},
    "imagefolder": {"flip": True},
    "npz": {"flip": True},
}
IMAGES_PER_CLASS = (1, 10, 50)

# Sets of so many classes that an update touches some of them only; on a GPU with
# soft labels (sec. 4.2) and no optimiser that keeps a target for every image.
MANY_CLASSES: dict[str, Settings] = {
    "imagenet64": {
        "teacher": {"steps": 50_000},
        "loss": {"soft_labels": True},
        "loop": {"classes_per_step": 50, "association": 64},
        "optimiser": {"name": "adam"},
    }
}
# No row of the whole data set: for a recipe of a thousand epochs its twenty networks
# take hours, where a run takes minutes.
JUDGED: Settings = {
    "recipe": "dsa-1000",
    "repeats": 20,
    "baselines": ["random"],
    "probe_every": 1000,
}
# Of more classes, fewer codes: a student's step is on a hundred images or two.
CODES_PER_STEP = {"cifar100": 2}


def flips(name: str) -> bool:
    """Whether mirrored images of a data set keep their meaning."""
    return bool(DATA_SETS.get(name, {}).get("flip", True))


def _data(name: str) -> Settings:
    return {"name": name, **DATA_SETS[name]}


def _digits(images_per_class: int) -> Settings:
    """About two minutes on two cores, evaluation included."""
    one = images_per_class == 1
    return {
        "data": _data("digits"),
        "format": {
            "images_per_class": images_per_class,
            "channels": 32 if one else 64,
            "latent_dim": 32,
            "projected_dim": 32,
        },
        "network": {"width": 32},
        "teacher": {"width": 32, "steps": 150},
        "pretrain": {
            "steps": 400 if one else 800,
            "targets": "centres" if one else "images",
        },
        "loss": {"unrolled": 10.0 if one else 0.0},
        "loop": {
            "restarts": 6,
            "network_updates": 10,
            "generator_updates": 10,
            "network_batch": 64,
            "association": 32,
        },
        "optimiser": {"pixel_lr": 5e-2 if one else 2e-2},
        "unrolled": {"width": 16, "max_age": 300},
        "evaluate": {
            "width": 32,
            "repeats": 5,
            "baselines": ["random", "herding", "full"],
            "full_max_steps": 600,
            "probe_every": 100,
        },
    }


def _full(name: str, images_per_class: int) -> Settings:
    """The field's widths and 20 evaluation networks; students' loss alone.

    Its windows are graphs on a GPU, and the whole takes minutes there.
    """
    if name in MANY_CLASSES:
        return merge(_long(name, images_per_class), MANY_CLASSES[name])
    one = images_per_class == 1
    return {
        "data": _data(name),
        "format": {"images_per_class": images_per_class, "channels": 128},
        "teacher": {"steps": 2000},
        "pretrain": {
            "steps": 1000 if one else 2000,
            "targets": "centres" if one else "medoids",
        },
        "loss": STUDENTS_ALONE,
        "loop": {
            "restarts": 9,
            "network_updates": 10,
            "generator_updates": 50,
            "network_batch": 32,
            "association": 1,
            "codes_per_step": min(images_per_class, CODES_PER_STEP.get(name, 10)),
        },
        "optimiser": {"pixel_lr": 5e-2 if one else 3e-2},
        "unrolled": {
            "normalise": True,
            # Ten images leave a GPU idle, a hundred do not.
            "at_once": 4 if one else 1,
            "width": 128,
            "window": 20 if one else 10,
            "max_age": 40 if one else 60,
            "learning_rate": 2e-2 if one else 3e-2,
            "real_batch": 500,
        },
        "evaluate": JUDGED,
    }


def _cpu(name: str, images_per_class: int) -> Settings:
    return {"data": _data(name), **cpu_settings(name, images_per_class)}


def _long(name: str, images_per_class: int) -> Settings:
    """The five losses for 20,000 generator updates; phi has the field's width."""
    return {
        "data": _data(name),
        "format": {"images_per_class": images_per_class, "channels": 128},
        "pretrain": {"steps": 5000},
        "teacher": {"steps": 10_000},
        "loop": {
            "restarts": 40,
            "network_updates": 100,
            "generator_updates": 5,
            "codes_per_step": min(images_per_class, 10),
        },
        "evaluate": JUDGED,
    }


def _paper(name: str, images_per_class: int) -> Settings:
    """What the paper states, in a loop of 20,000 updates."""
    long = merge(_long(name, images_per_class), MANY_CLASSES.get(name, {}))
    soft_labels = long.get("loss", {}).get("soft_labels", False)
    return {
        **long,
        "pretrain": {"method": "adversarial", "steps": 20_000, "learning_rate": 2e-4},
        "loss": {
            "adversarial": 1.0,
            "classification": 1.0,
            "matching": 1.0,
            "intra": 1.0,
            "inter": 1.0,
            "matching_mode": "per_sample",
            "intra_centre": "class_embedding",
            "classifier": "auxiliary",
            "soft_labels": soft_labels,
        },
        "loop": {**long["loop"], "codes_per_step": None, "reuse_association": False},
        "optimiser": {"name": "sgd"},
        "evaluate": {**JUDGED, "recipe": "paper-300"},
    }


def _itgan(name: str, images_per_class: int) -> Settings:
    """As `_paper`, codes alone: the comparison with IT-GAN in sec. 4.5.

    The paper fixes the generator and leaves out its losses on relations.
    """
    paper = _paper(name, images_per_class)
    return {
        **paper,
        "format": {**paper["format"], "generator": "fixed"},
        "loss": {**paper["loss"], "intra": 0.0, "inter": 0.0},
    }


def _replay() -> Settings:
    """A small generator of fresh images, for a memory of bounded bytes.

    Whoever keeps or sends it sets the sizes in ``format``. The paper's losses are left
    out by default: for replay they cost time and gained nothing measurable
    (docs/continual.md). ``dispersion`` says how much of the real images the generator
    misses, to whoever makes up for it.
    """
    return {
        "data": _data("digits"),
        "format": {
            "images_per_class": 64,
            "channels": 16,
            "latent_dim": 16,
            "projected_dim": 8,
            "embedding": "one_hot",
            "code_map": "per_class",
            "dispersion": True,
            "precision": "int8",
        },
        "network": {"width": 32},
        "teacher": {"width": 32, "steps": 150},
        "pretrain": {
            "method": "variational",
            "steps": 2000,
            "learning_rate": 3e-3,
            "batch_size": 128,
        },
        "loop": {"restarts": 0},
        "evaluate": {"width": 32, "repeats": 3, "full_max_steps": 300},
    }


def _replay_refined() -> Settings:
    """As `_replay`, then 150 updates of the paper's losses on the codebook's images."""
    replay = _replay()
    return {
        **replay,
        "loop": {
            "restarts": 3,
            "network_updates": 10,
            "network_steps": 5,
            "network_batch": 64,
            "association": 64,
            "codes_per_step": 32,
        },
        "optimiser": {"name": "adam", "generator_lr": 3e-4},
    }


def _federated() -> Settings:
    """As `_replay`, for images that shall train a ConvNet from scratch.

    Denser codes are what its fresh images lacked most (docs/federated-choices.md).
    """
    return merge(_replay(), {"format": {"code_components": 256}})


def _federated_round() -> Settings:
    """Of a client that goes on: its decoder, as the global model sees what it draws.

    The paper's losses are left out here too: they made fresh images worse
    (docs/federated.md).
    """
    pretrain = {"steps": 800, "learning_rate": 1e-3, "feature_weight": 30.0}
    return merge(_federated(), {"pretrain": pretrain})


def _presets() -> Iterator[tuple[str, Callable[[], Settings]]]:
    yield "digits", partial(_digits, 10)
    yield "digits-ipc1", partial(_digits, 1)
    yield "replay", _replay
    yield "replay-refined", _replay_refined
    yield "federated", _federated
    yield "federated-round", _federated_round
    for name in DATA_SETS:
        if name == "digits":
            continue
        for images_per_class in IMAGES_PER_CLASS:
            preset = f"{name}-ipc{images_per_class}"
            yield preset, partial(_full, name, images_per_class)
            yield f"{preset}-cpu", partial(_cpu, name, images_per_class)
            yield f"{preset}-paper", partial(_paper, name, images_per_class)
            yield f"{preset}-itgan", partial(_itgan, name, images_per_class)


PRESETS: dict[str, Callable[[], Settings]] = dict(_presets())


def choices() -> str:
    """All names of presets, in a line."""
    sets = [name for name in DATA_SETS if name != "digits"]
    alone = [name for name in PRESETS if name.partition("-ipc")[0] not in sets]
    counts = ",".join(map(str, IMAGES_PER_CLASS))
    return (
        f"{', '.join(alone)}, or DATA-ipc{{{counts}}}, with or without -cpu, -paper or "
        f"-itgan at its end, where DATA is {', '.join(sets)}"
    )
