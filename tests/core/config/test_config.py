import dataclasses

import pytest
import yaml

from condense_core.config import (
    LOSS_TERMS,
    CondenseConfig,
    DataConfig,
    FormatConfig,
    LossConfig,
)
from condense_core.errors import ConfigError

NOTHING = dict.fromkeys(LOSS_TERMS, 0)


def test_defaults_are_valid_and_survive_a_round_trip():
    config = CondenseConfig()
    assert CondenseConfig.from_dict(config.to_dict()) == config
    assert CondenseConfig.from_dict({}) == config


def test_yaml_round_trip_keeps_every_value(tmp_path):
    config = CondenseConfig.from_dict(
        {
            "seed": 2**60 + 1,
            "augment": "none",
            "data": {"image_size": [8, 9], "channels": 3, "flip": False},
            "format": {"blocks": 2, "precision": "int8"},
            "network": {"width": None},
            "loss": {"layer_weights": [0.5, 1, 2], "tau": 1e-07},
            "evaluate": {"baselines": []},
        }
    )
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    again = CondenseConfig.from_yaml(path)
    assert again == config
    assert again.to_yaml() == config.to_yaml()
    assert again.seed == 2**60 + 1
    assert again.data.image_size == (8, 9)
    assert again.loss.layer_weights == (0.5, 1.0, 2.0)
    assert again.loss.tau == 1e-7


def test_missing_keys_take_their_defaults(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("loss:\n  tau: 0.3\n")
    config = CondenseConfig.from_yaml(path)
    assert config.loss == LossConfig(tau=0.3)
    assert dataclasses.replace(config, loss=LossConfig()) == CondenseConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"los": {}}, r"'los' \(did you mean 'loss'\?\)"),
        ({"loss": {"taus": 1}}, r"'loss\.taus' \(did you mean 'tau'\?\)"),
        ({"loop": {"xyzzy": 1}}, r"'loop\.xyzzy': choose from restarts"),
        ({1: 2}, r"unknown config key '1'"),
    ],
)
def test_unknown_key_is_refused_with_its_path_and_the_nearest(values, message):
    with pytest.raises(ConfigError, match=message):
        CondenseConfig.from_dict(values)


@pytest.mark.parametrize(
    ("section", "key", "text", "value"),
    [
        ("loss", "tau", "1e-3", 0.001),
        ("loss", "tau", "2", 2.0),
        ("optimiser", "codebook_lr", "5E-2", 0.05),
        ("loop", "association", "1e2", 100),
        ("loop", "association", "64.0", 64),
        ("teacher", "width", "null", None),
        ("data", "flip", "false", False),
        ("data", "image_size", "[16, 8]", (16, 8)),
        ("data", "channels", "1", 1),
        ("loss", "layer_weights", "[1e-3, 1]", (0.001, 1.0)),
        ("loss", "intra_centre", "none", "none"),
    ],
)
def test_text_of_a_file_or_an_override_becomes_the_declared_type(
    section, key, text, value, tmp_path
):
    path = tmp_path / "config.yaml"
    path.write_text(f"{section}:\n  {key}: {text}\n")
    for config in (
        CondenseConfig.from_yaml(path),
        CondenseConfig().with_overrides([f"{section}.{key}={text}"]),
    ):
        read = getattr(getattr(config, section), key)
        assert read == value
        assert type(read) is type(value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("loss.tau", "warm", "loss.tau is 'warm': expected a number"),
        ("loss.tau", True, "expected a number"),
        ("loss.tau", [1], "expected a number"),
        ("loss.tau", None, "expected a number"),
        ("loss.tau", ".nan", "expected a number|expected a finite number"),
        ("loss.tau", float("nan"), "expected a finite number"),
        ("loss.tau", float("inf"), "expected a finite number"),
        ("loss.tau", 10**400, "expected a number"),
        ("loop.restarts", 1.5, "loop.restarts is 1.5: expected a whole number"),
        ("loop.restarts", True, "expected a whole number"),
        ("data.flip", "no way", "data.flip is 'no way': expected true or false"),
        ("data.flip", 1, "expected true or false"),
        ("data.name", ["digits"], "expected text"),
        ("data.channels", 2, "data.channels is 2: choose from 1, 3"),
        ("data.channels", True, "choose from 1, 3"),
        ("data.channels", 1.0, "choose from 1, 3"),
        ("data.image_size", 32, "expected a list"),
        ("data.image_size", "32", "expected a list"),
        ("data.image_size", [32], "expected 2 values"),
        ("data.image_size", [32, "x"], "expected a whole number"),
        ("format.kind", "pixel", r"did you mean 'pixels'\?\): choose from generator"),
        ("loss", 3, "loss is 3: expected key: value"),
    ],
)
def test_value_of_another_type_is_refused_with_its_path(path, value, message):
    for key in reversed(path.split(".")):
        value = {key: value}
    with pytest.raises(ConfigError, match=message) as caught:
        CondenseConfig.from_dict(value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "assignment",
    [
        "format.images_per_class=0",
        "format.images_per_class=-1",
        "format.latent_dim=0",
        "format.projected_dim=0",
        "format.channels=0",
        "format.blocks=0",
        "format.blocks=8",
        "format.truncation=0",
        "network.width=0",
        "network.depth=0",
        "teacher.steps=0",
        "teacher.width=0",
        "pretrain.steps=0",
        "pretrain.batch_size=0",
        "pretrain.learning_rate=0",
        "loss.matching=-1",
        "loss.tau=0",
        "loss.soft_temperature=0",
        "loss.margin=-0.1",
        "loss.layer_weights=[1, -1]",
        "loop.restarts=-1",
        "loop.association=0",
        "loop.classes_per_step=0",
        "optimiser.pixel_lr=0",
        "optimiser.momentum=1",
        "optimiser.momentum=-0.1",
        "unrolled.window=0",
        "unrolled.width=0",
        "unrolled.learning_rate=0",
        "evaluate.repeats=0",
        "evaluate.width=0",
        "evaluate.probe_every=-1",
        "evaluate.full_max_steps=0",
        "seed=-1",
        "max_synthetic_batch=0",
    ],
)
def test_value_out_of_range_is_refused_with_path_value_and_remedy(assignment):
    path, _, value = assignment.partition("=")
    shown = value.strip("[]").split(", ")[-1]
    with pytest.raises(ConfigError, match=rf"{path} is {shown}.*: choose"):
        CondenseConfig().with_overrides([assignment])


@pytest.mark.parametrize(
    "assignment", ["format.code_map=per_class", "format.dispersion=true"]
)
def test_a_density_of_codes_that_nothing_learns_is_refused(assignment):
    with pytest.raises(ConfigError, match=r"only pretrain\.method=variational learns"):
        CondenseConfig().with_overrides([assignment])
    CondenseConfig().with_overrides([assignment, "pretrain.method=variational"])


def test_unknown_augmentation_is_refused():
    with pytest.raises(ConfigError, match="'blur'"):
        CondenseConfig(augment="color_blur")


def test_all_loss_weights_zero_are_refused_and_any_one_is_enough():
    with pytest.raises(ConfigError, match="all loss weights are 0"):
        LossConfig(**NOTHING)
    for name in LOSS_TERMS:
        assert getattr(LossConfig(**{**NOTHING, name: 0.5}), name) == 0.5


def test_overrides_apply_in_order_and_leave_the_rest():
    config = CondenseConfig().with_overrides(
        ["loss.tau=0.2", "loss.tau=0.4", "seed=3", "loss.inter=0"]
    )
    assert config.loss == LossConfig(tau=0.4, inter=0.0)
    assert config == CondenseConfig(seed=3, loss=config.loss)


def test_override_of_a_section_merges_into_it():
    config = CondenseConfig(loss=LossConfig(tau=0.7))
    merged = config.with_overrides(["loss={inter: 0}"])
    assert merged.loss == LossConfig(tau=0.7, inter=0.0)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("loss.tau", "has no '='"),
        ("loss.tau=[1", "not a YAML value"),
        ("=3", "unknown config key ''"),
        ("loss.tua=3", r"'loss\.tua' \(did you mean 'tau'\?\)"),
        ("loss.tau.deep=3", r"loss\.tau is .*expected a number"),
    ],
)
def test_bad_override_is_refused(assignment, message):
    with pytest.raises(ConfigError, match=message):
        CondenseConfig().with_overrides([assignment])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"loss: [", "not valid YAML"),
        (b"- 1", "holds no key: value pairs"),
        (b"", "holds no key: value pairs"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"loss: !!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_unusable_file_is_refused_in_one_line(content, message, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        CondenseConfig.from_yaml(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("place", ["missing.yaml", "."])
def test_file_that_cannot_be_read_is_refused(place, tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        CondenseConfig.from_yaml(tmp_path / place)


def test_configuration_cannot_be_changed():
    config = CondenseConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.loss.tau = 1.0


def test_plain_values_are_plain_yaml():
    plain = CondenseConfig(data=DataConfig(image_size=(8, 9))).to_dict()
    assert plain["data"]["image_size"] == [8, 9]
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain


def test_total_is_the_product_of_the_three_loops():
    config = CondenseConfig().with_overrides(
        ["loop.restarts=2", "loop.network_updates=3", "loop.generator_updates=5"]
    )
    assert config.loop.total == 30


def test_images_per_class_below_one_names_the_field_when_built_directly():
    with pytest.raises(ConfigError, match=r"format\.images_per_class is 0"):
        FormatConfig(images_per_class=0)


# data.classes


def test_classes_are_a_list_or_a_file_with_one_a_line(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("n01\n\n  n02 \n")
    config = CondenseConfig.preset("imagenet64-ipc1")
    for value in (f"{path}", "[n01, n02]"):
        chosen = config.with_overrides([f"data.classes={value}"])
        assert chosen.data.classes == ("n01", "n02")
        assert CondenseConfig.from_dict(chosen.to_dict()) == chosen


@pytest.mark.parametrize(
    ("content", "part"), [(None, "cannot read"), (" \n", "names no class")]
)
def test_a_class_file_that_is_no_use_is_named(tmp_path, content, part):
    path = tmp_path / "classes.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=part) as error:
        CondenseConfig().with_overrides([f"data.classes={path}"])
    assert str(path) in str(error.value)


def test_an_empty_class_list_is_refused():
    with pytest.raises(ConfigError, match="classes is empty"):
        CondenseConfig().with_overrides(["data.classes=[]"])


def test_a_format_that_learns_nothing_is_refused():
    with pytest.raises(ConfigError, match="leave nothing to learn"):
        FormatConfig(generator="fixed", codes="uniform")


def test_a_key_may_be_written_over_what_is_merged_in(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text(
        "teacher: &small {width: 8}\nnetwork:\n  <<: *small\n  width: 16\n"
        "evaluate: *small\n"
    )
    config = CondenseConfig.from_yaml(path)
    widths = (config.teacher.width, config.network.width, config.evaluate.width)
    assert widths == (8, 16, 8)


@pytest.mark.parametrize("text", ["loss={tau: 1, tau: 2}", "loss={tau: 1,\ntau: 1}"])
def test_an_override_has_no_key_twice(text):
    with pytest.raises(ConfigError, match=r"tau.* not a YAML value"):
        CondenseConfig().with_overrides([text])
