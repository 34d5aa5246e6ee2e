import typing

import pytest

from condense_core.config import CondenseConfig, EvaluateConfig
from condense_core.config.presets import (
    DATA_SETS,
    IMAGES_PER_CLASS,
    PRESETS,
    choices,
    flips,
)
from condense_core.config.start import Architecture
from condense_core.data.sources import SOURCES
from condense_core.errors import ConfigError
from condense_core.networks import NETWORKS
from condense_core.references import REFERENCES
from condense_core.training import RECIPES


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_valid_and_survives_yaml(name, tmp_path):
    config = CondenseConfig.preset(name)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert CondenseConfig.from_yaml(path) == config
    assert CondenseConfig.from_dict(config.to_dict()) == config
    path.write_text(f"preset: {name}\nseed: 7\n")
    assert CondenseConfig.from_yaml(path) == config.with_overrides(["seed=7"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_what_exists(name):
    config = CondenseConfig.preset(name)
    assert config.data.name in SOURCES
    unbound = ("replay", "federated")  # for any data set
    start = next((n for n in unbound if name.startswith(n)), config.data.name)
    assert name == start or name.startswith(f"{start}-")
    assert config.evaluate.recipe in RECIPES
    assert config.evaluate.network in NETWORKS
    assert config.network.name in NETWORKS
    assert set(config.evaluate.baselines) <= set(REFERENCES)
    assert config.data.flip == flips(config.data.name)


@pytest.mark.parametrize(
    "name",
    [n for n in PRESETS if n.endswith("-cpu") or "-ipc" not in n or "digits" in n],
)
def test_a_preset_for_a_cpu_evaluates_small_networks_for_few_steps(name):
    evaluation = CondenseConfig.preset(name).evaluate
    assert evaluation.width == 32
    assert evaluation.repeats <= 5
    assert evaluation.full_max_steps <= 600


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_trains_on_the_whole_data_set_for_a_whole_recipe(name):
    evaluation = CondenseConfig.preset(name).evaluate
    assert "full" not in evaluation.baselines or evaluation.full_max_steps <= 600


@pytest.mark.parametrize("data", [name for name in DATA_SETS if name != "digits"])
@pytest.mark.parametrize("count", IMAGES_PER_CLASS)
def test_every_data_set_and_size_has_a_preset(data, count):
    start = f"{data}-ipc{count}"
    names = [name for name in PRESETS if name == start or name.startswith(f"{start}-")]
    assert start in names
    assert f"{start}-cpu" in names
    for config in map(CondenseConfig.preset, names):
        assert config.format.images_per_class == count
        assert config.data.name == data


def test_the_demo_is_there():
    assert CondenseConfig.preset("digits").data.name == "digits"


@pytest.mark.parametrize(
    ("name", "mirrored"),
    [("digits", False), ("mnist", False), ("svhn", False), ("cifar10", True)],
)
def test_letters_and_digits_are_not_mirrored(name, mirrored):
    assert flips(name) is mirrored


def test_a_data_set_of_ones_own_may_be_mirrored():
    assert flips("imagefolder") is flips("anything") is True


def test_the_choices_a_configuration_names_are_those_there_are():
    fields = typing.get_type_hints(EvaluateConfig)
    assert typing.get_args(Architecture) == tuple(NETWORKS)
    baseline, _ = typing.get_args(fields["baselines"])
    assert set(typing.get_args(baseline)) == set(REFERENCES)


def test_every_preset_is_among_the_choices():
    alone, _, rule = choices().partition(", or DATA-ipc{1,10,50}")
    for name in PRESETS:
        data, _, _ = name.partition("-ipc")
        assert name in alone.split(", ") or data in rule.split("where DATA is ")[1]


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        CondenseConfig.preset("digit")


@pytest.mark.parametrize("images_per_class", [1, 10, 50])
def test_imagenet64_samples_classes_and_keeps_no_target_for_each_image(
    images_per_class,
):
    config = CondenseConfig.preset(f"imagenet64-ipc{images_per_class}")
    assert config.loop.classes_per_step == 50
    assert config.loss.soft_labels
    assert config.optimiser.name == "adam"
    assert config.loss.unrolled == 0
    paper = CondenseConfig.preset(f"imagenet64-ipc{images_per_class}-paper")
    assert paper.loop.classes_per_step == 50
    assert paper.loss.soft_labels
    assert not CondenseConfig.preset("cifar100-ipc10-paper").loss.soft_labels
