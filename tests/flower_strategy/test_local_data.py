import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from PIL import Image

from condense_core import ConfigError, DataError
from flower_strategy import local_data
from flower_strategy.client_app import app
from flower_strategy.local_data import load_global, load_local
from flower_strategy.local_grid import LocalGrid
from flower_strategy.settings import DataSettings

DIGITS = DataSettings(dataset="digits", partition="dirichlet-0.5")


def test_partitions_are_disjoint_and_cover_the_training_images():
    parts = [
        load_local({"partition-id": i, "num-partitions": 3}, DIGITS) for i in range(3)
    ]
    assert [part.client for part in parts] == [
        "partition-0",
        "partition-1",
        "partition-2",
    ]
    counts = sum(part.train.counts for part in parts)
    assert torch.equal(counts, load_global(DIGITS, "train").counts)
    assert all(part.train.num_classes == 10 for part in parts)
    tested = sum(len(part.test) for part in parts)
    assert tested == len(load_global(DIGITS, "test"))


@pytest.mark.parametrize(
    "node",
    [
        {"partition-id": 3, "num-partitions": 3},
        {"partition-id": -1, "num-partitions": 3},
        {"partition-id": 0},
        {"partition-id": "0", "num-partitions": 3},
    ],
)
def test_a_partition_that_does_not_exist_is_refused(node):
    with pytest.raises(ConfigError, match="partition-id"):
        load_local(node, DIGITS)


def test_a_node_without_data_is_told_what_to_do():
    with pytest.raises(ConfigError, match="--node-config"):
        load_local({}, DIGITS)


@pytest.fixture
def site(tmp_path):
    """A site with two of three classes and no test images."""
    for name, count in (("dog", 3), ("ant", 2)):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = np.full((10, 12, 3), 40 * number, np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


SITES = DataSettings(dataset="", classes="ant,bee,dog", height=8, width=8, channels=1)


def test_a_sites_folder_is_labelled_by_the_federations_classes(site):
    local = load_local({"data-path": str(site), "client-name": "north"}, SITES)
    assert local.client == "north"
    assert local.train.classes == ("ant", "bee", "dog")
    assert local.train.counts.tolist() == [2, 0, 3]
    assert local.train.image_shape == (1, 8, 8)
    assert local.test is None


def test_a_sites_name_does_not_tell_its_path(site):
    client = load_local({"data-path": str(site)}, SITES).client
    assert site.name not in client
    assert client == load_local({"data-path": str(site)}, SITES).client


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ({"partition-id": 1, "num-partitions": 3}, "partition-1"),
        ({"data-path": "/nowhere", "client-name": "north"}, "north"),
    ],
)
def test_a_client_gives_its_name_without_reading_an_image(
    run_config, monkeypatch, node, name
):
    def fails(*_, **__):
        raise AssertionError("images were read")

    monkeypatch.setattr(local_data, "load_source", fails)
    grid = LocalGrid(app, [node], run_config)
    asked = Message(RecordDict(), 100, "query.identify")
    (reply,) = grid.send_and_receive([asked])
    assert reply.content["identity"]["client"] == name


@pytest.mark.parametrize(
    ("node", "settings", "error", "reason"),
    [
        ({"client-name": "a/b"}, SITES, ConfigError, "not allowed"),
        ({}, DataSettings(dataset="", classes="ant"), DataError, "class 'dog'"),
        ({}, DataSettings(dataset=""), ConfigError, "classes is empty"),
    ],
)
def test_bad_sites_are_told_what_to_do(site, node, settings, error, reason):
    with pytest.raises(error, match=reason):
        load_local({"data-path": str(site)} | node, settings)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError):
        load_local({"data-path": str(tmp_path / "typo")}, SITES)


def test_the_same_path_on_two_hosts_gives_two_names(site, monkeypatch):
    names = set()
    for host in ("north", "north", "south"):
        monkeypatch.setattr("platform.node", lambda host=host: host)
        names.add(load_local({"data-path": str(site)}, SITES).client)
    assert len(names) == 2
    assert not any("north" in name or str(site) in name for name in names)
