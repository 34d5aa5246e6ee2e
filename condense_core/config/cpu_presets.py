"""Settings for a CPU: narrow networks, and as many updates as take up to 134 minutes.

How they were chosen is in docs/condensation-choices.md.
"""

from typing import Any

from condense_core.config.strict import merge

Settings = dict[str, Any]

PAPER_TERMS = ("adversarial", "classification", "matching", "intra", "inter")
STUDENTS_ALONE: Settings = {**dict.fromkeys(PAPER_TERMS, 0.0), "unrolled": 10.0}

# On a CPU a run is for a subset of the classes.
MANY_CLASSES_CPU: dict[str, Settings] = {
    "imagenet64": {"loop": {"classes_per_step": 100}}
}

# Students of the unrolled objective on a CPU. Drawings and clothes on black tolerate a
# higher rate, and a short window then covers more of the training; on photographs
# such students overfit within the window.
CAREFUL: Settings = {"window": 10, "max_age": 100, "learning_rate": 1e-2}
QUICK: Settings = {
    "window": 12,
    "max_age": 120,
    "learning_rate": 3e-2,
    "width": 32,
}
SHORT: Settings = {"window": 6, "max_age": 90, "learning_rate": 3e-2}
CPU_STUDENTS = {"mnist": QUICK, "fashionmnist": QUICK}
# What students learn from one image per class they learn while young: these, and their
# updates, where that was measured. FashionMNIST alone gained from images as they are
# (docs/condensation-choices.md).
YOUNG: dict[str, Settings] = {
    "cifar10": {
        "loop": {"restarts": 24},
        "unrolled": {
            "at_once": 4,
            "window": 10,
            "max_age": 30,
            "learning_rate": 3e-2,
            "width": 32,
        },
    },
    "fashionmnist": {
        "augment": "none",
        "loop": {"restarts": 26},
        "unrolled": {**QUICK, "max_age": 36},
    },
}
# Ten images per class where students alone were measured, and their updates.
TEN: dict[str, Settings] = {
    "mnist": {"loop": {"restarts": 24}, "unrolled": SHORT},
    "fashionmnist": {"loop": {"restarts": 12}, "unrolled": {**SHORT, "width": 32}},
    "cifar10": {
        "format": {"channels": 80},
        "loop": {"restarts": 38},
        "optimiser": {"fit_steps": 3},
        "unrolled": {
            "window": 10,
            "real_batch": 400,
            "max_age": 60,
            "learning_rate": 3e-2,
            "width": 32,
            "normalise": True,
        },
    },
}


def cpu_settings(name: str, images_per_class: int) -> Settings:
    """All settings but the data's.

    One image per class is little enough to differentiate through the training on it,
    ten are just so. Beyond that it is too slow, and the paper's own losses start from
    medoids.
    """
    one = images_per_class == 1
    settings = {
        "format": {
            "images_per_class": images_per_class,
            "channels": 32,
            "latent_dim": 32,
            "projected_dim": 32,
        },
        "network": {"width": 32},
        "teacher": {"width": 32, "steps": 150},
        "pretrain": {"steps": 400, "targets": "centres" if one else "medoids"},
        "loss": {"unrolled": 10.0 if one else 0.0},
        "loop": {
            "restarts": 13 if one else 25,
            "network_updates": 10 if one else 4,
            "generator_updates": 10,
            "network_batch": 32,
            "association": 16 if one else 64,
            "codes_per_step": min(images_per_class, 10),
        },
        "optimiser": {"generator_lr": 2e-3},
        "unrolled": {
            "width": 16,
            "real_batch": 200,
            **CPU_STUDENTS.get(name, CAREFUL),
        },
        "evaluate": {
            "width": 32,
            "repeats": 3,
            "full_max_steps": 300,
            "probe_every": 250,
        },
    }
    if one and name in YOUNG:
        settings = merge(settings, _one_a_class(name))
    if images_per_class == 10 and name in TEN:
        settings = merge(settings | _unrolled_at_ten(), TEN[name])
    return merge(settings, MANY_CLASSES_CPU.get(name, {}))


def _one_a_class(name: str) -> Settings:
    """One image per class: young students alone, their gradients of equal length."""
    shared: Settings = {
        "loss": STUDENTS_ALONE,
        "loop": {"association": 1},
        "unrolled": {"normalise": True},
    }
    return merge(shared, YOUNG[name])


def _unrolled_at_ten() -> Settings:
    """Ten images per class: students, and nothing else pulls at the images.

    On their own the paper's losses did not improve on medoids
    (docs/condensation-choices.md).
    """
    return {
        "loss": STUDENTS_ALONE,
        "loop": {
            "network_updates": 10,
            "generator_updates": 10,
            "network_batch": 32,
            "association": 1,
        },
        "optimiser": {"generator_lr": 2e-3, "pixel_lr": 3e-2},
        "unrolled": {"width": 16, "real_batch": 200},
    }
