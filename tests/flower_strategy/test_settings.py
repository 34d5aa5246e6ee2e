import pytest

from condense_core import ConfigError
from flower_strategy.settings import (
    ClientSettings,
    DataSettings,
    ModelSettings,
    ServerSettings,
)


def test_keys_are_field_names_with_dashes():
    found = ServerSettings.read(
        {"num-server-rounds": 3, "wait-seconds": 5, "dataset": "digits"}
    )
    assert found.num_server_rounds == 3
    assert found.wait_seconds == 5.0  # a whole number does for a float


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        (ServerSettings, {"num-server-rounds": 0}, "num-server-rounds is 0"),
        (ServerSettings, {"num-server-rounds": 1.5}, "give a int"),
        (ServerSettings, {"fraction-train": 0.0}, "fraction-train"),
        (ServerSettings, {"fraction-train": 1.5}, "fraction-train"),
        (ServerSettings, {"augment": "crop_turn"}, "unknown augmentation 'turn'"),
        (ServerSettings, {"label-smoothing": -0.1}, "label-smoothing"),
        (ServerSettings, {"class-balance": 1.5}, "class-balance"),
        (ServerSettings, {"round-seconds": float("nan")}, "round-seconds"),
        (ServerSettings, {"flip": 1}, "give a bool, as in flip=true"),
        (ModelSettings, {"network": 1}, 'as in network="convnet"'),
        (ClientSettings, {"upload-bytes": -1}, "upload-bytes"),
        (ClientSettings, {"upload-bytes": "60000"}, "upload-bytes"),
        (ClientSettings, {"min-class-count": 0}, "min-class-count"),
        (ModelSettings, {"threads": -1}, "threads"),
        (DataSettings, {"height": 8}, "both"),
        (DataSettings, {"partition-seed": True}, "partition-seed"),
    ],
)
def test_a_wrong_value_names_key_and_remedy(kind, values, reason):
    with pytest.raises(ConfigError, match=reason):
        kind.read(values)


@pytest.mark.parametrize(
    "settings", [DataSettings(classes="cat,dog"), ServerSettings(flip=False)]
)
def test_settings_are_read_as_they_are_written(settings):
    assert type(settings).read(settings.to_run_config()) == settings


def test_class_names_are_read_in_order():
    assert DataSettings.read({"classes": "dog, cat ,ant"}).class_names == (
        "dog",
        "cat",
        "ant",
    )
