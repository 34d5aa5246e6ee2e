from dataclasses import replace

import pytest
import torch

from condense_core import ImageData
from condense_core.data.sources import load_source
from flower_strategy.condensing import condense_locally
from flower_strategy.partition import iid
from flower_strategy.robust import outliers
from flower_strategy.settings import ClientSettings, ModelSettings

THRESHOLD = 4.0


def condensed(client, data):
    return condense_locally(
        client,
        data,
        ClientSettings(
            overrides="pretrain.steps=120 pretrain.batch_size=64",
            upload_bytes=20_000,
            min_class_count=5,
        ),
        ModelSettings(device="cpu"),
    )


@pytest.fixture(scope="module")
def digits():
    data = load_source("digits", split="train", data_root=None)
    return data.subset(data.labels < 3)


@pytest.fixture(scope="module")
def honest(digits):
    """Five clients with three digits each, trained for a moment."""
    return [
        condensed(f"client-{number}", digits.subset(torch.from_numpy(share)))
        for number, share in enumerate(iid(len(digits), 5))
    ]


def found(contributions):
    return outliers(contributions, THRESHOLD, image_shape=(1, 8, 8), seed=0)


def test_honest_clients_are_left_alone(honest):
    assert found(honest) == frozenset()


def test_two_swapped_classes_stand_out_and_the_third_does_not(honest):
    swapped = replace(honest[2], class_ids=(1, 0, 2))
    contributions = [*honest[:2], swapped, *honest[3:]]
    assert found(contributions) == {("client-2", 0), ("client-2", 1)}
    assert found(contributions[::-1]) == found(contributions)


def test_images_of_noise_stand_out(honest, digits):
    noise = torch.randint(
        256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator()
    )
    data = ImageData(images=noise, labels=torch.arange(60) % 3, classes=digits.classes)
    assert found([*honest, condensed("noisy", data)]) == {
        ("noisy", label) for label in range(3)
    }


def test_two_clients_have_no_median(honest):
    swapped = replace(honest[1], class_ids=(1, 0, 2))
    assert found([honest[0], swapped]) == frozenset()
