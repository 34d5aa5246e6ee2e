"""The images of one client: a simulated partition, or a site's own folder.

``partition-id`` in the node's configuration selects a part of a data set that every
client can read (simulation); ``data-path`` names the client's own folder with
``train/CLASS/*.png`` (a site).
"""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from condense_core import ConfigError, DataError, ImageData
from condense_core.data.sources import Split, load_source
from condense_core.errors import MissingSplitError
from flower_strategy.partition import iid, partition
from flower_strategy.payload import CLIENT_NAME
from flower_strategy.settings import DataSettings


@dataclass(frozen=True, kw_only=True)
class LocalData:
    """The images of a client.

    Attributes:
        client: Its name, the same in every run.
        train: Its images, labelled by the classes of all clients.
        test: Images held out from training, or None.
    """

    client: str
    train: ImageData
    test: ImageData | None


def load_local(node_config: Mapping[str, Any], settings: DataSettings) -> LocalData:
    """Read the images of this node.

    Raises:
        ConfigError: As for `client_name`, or no classes are named.
        DataError: The images cannot be read, or have unknown classes.
    """
    client = client_name(node_config)
    if "partition-id" in node_config:
        train, test = _simulated(node_config, settings)
    else:
        train, test = _site(node_config, settings)
    return LocalData(client=client, train=train, test=test)


def client_name(node_config: Mapping[str, Any]) -> str:
    """The name of this node's client; no image is read.

    Raises:
        ConfigError: The node configuration names neither the client nor any kind of
            data, or a partition that does not exist, or the name is not allowed.
    """
    if "partition-id" in node_config:
        return f"partition-{_partition(node_config)[0]}"
    if "client-name" in node_config:
        client = str(node_config["client-name"])
    else:
        # A digest: path and host may reveal more than a site wants to share.
        origin = f"{platform.node()}:{_data_path(node_config).resolve()}"
        client = f"site-{hashlib.sha256(origin.encode()).hexdigest()[:12]}"
    if not CLIENT_NAME.fullmatch(client):
        raise ConfigError(
            f"client-name={client!r:.40} is not allowed: use letters, digits, '.', '-' "
            "and '_'"
        )
    return client


def load_global(settings: DataSettings, split: Split) -> ImageData:
    """The whole data set that the settings name.

    Raises:
        DataError: It cannot be read.
    """
    return load_source(
        settings.dataset,
        split=split,
        data_root=Path(settings.data_root) if settings.data_root else None,
        image_size=settings.image_size,
        channels=settings.channels or None,
    )


def _simulated(
    node_config: Mapping[str, Any], settings: DataSettings
) -> tuple[ImageData, ImageData | None]:
    number, count = _partition(node_config)
    train, test = load_global(settings, "train"), load_global(settings, "test")
    parts = partition(
        train.labels.numpy(), count, settings.partition, settings.partition_seed
    )
    held_out = iid(len(test), count, seed=settings.partition_seed)[number]
    return (
        train.subset(torch.from_numpy(parts[number])),
        test.subset(torch.from_numpy(held_out)) if len(held_out) else None,
    )


def _partition(node_config: Mapping[str, Any]) -> tuple[int, int]:
    """Number of the partition, and of all partitions."""
    number, count = node_config["partition-id"], node_config.get("num-partitions")
    if type(number) is not int or type(count) is not int or not 0 <= number < count:
        raise ConfigError(
            f"partition-id={number!r} of num-partitions={count!r} does not exist: give "
            "partition-id 0 to num-partitions - 1"
        )
    return number, count


def _site(
    node_config: Mapping[str, Any], settings: DataSettings
) -> tuple[ImageData, ImageData | None]:
    classes = settings.class_names or _class_names_of(settings)
    folder = _data_path(node_config)
    train = _folder(folder, "train", settings, classes)
    try:
        return train, _folder(folder, "test", settings, classes)
    except MissingSplitError:
        return train, None


def _data_path(node_config: Mapping[str, Any]) -> Path:
    if "data-path" not in node_config:
        raise ConfigError(
            "the node has neither partition-id nor data-path: give --node-config "
            "'partition-id=0 num-partitions=10' or 'data-path=\"/data\"' (client-name "
            "if the app loads its own images)"
        )
    return Path(str(node_config["data-path"])).expanduser()


def _folder(
    folder: Path, split: Split, settings: DataSettings, classes: tuple[str, ...]
) -> ImageData:
    data = load_source(
        "imagefolder",
        split=split,
        data_root=folder,
        image_size=settings.image_size,
        channels=settings.channels or None,
    )
    unknown = sorted(set(data.classes) - set(classes))
    if unknown:
        raise DataError(
            f"the folder has a class {unknown[0]!r} that is not one of the "
            f"federation's: choose from {', '.join(classes)}"
        )
    global_ids = torch.tensor([classes.index(name) for name in data.classes])
    return replace(data, labels=global_ids[data.labels], classes=classes)


def _class_names_of(settings: DataSettings) -> tuple[str, ...]:
    if not settings.dataset:
        raise ConfigError(
            "run config classes is empty: name all classes of the federation in label "
            'order, as in classes="cat,dog"'
        )
    return load_global(settings, "test").classes
