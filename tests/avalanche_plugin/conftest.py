"""Streams of real digits, small enough to train on in a second."""

import warnings

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from condense_core import CondenseConfig

pytest.importorskip("avalanche")
sklearn = pytest.importorskip("sklearn.datasets")

IMAGES_PER_CLASS = 60
MEM_BYTES = 60_000


class Pairs(TensorDataset):
    """Avalanche reads classes from `targets`."""

    def __init__(self, images, labels):
        super().__init__(images, labels)
        self.targets = labels.tolist()


@pytest.fixture(autouse=True)
def quiet():
    """Avalanche's own deprecations are not ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*No loggers specified.*")
        yield


@pytest.fixture(scope="session")
def digits():
    """Images (600, 1, 16, 16) in [0, 1] and labels, then the same for testing."""
    bunch = sklearn.load_digits()
    images = F.interpolate(torch.tensor(bunch.images).float()[:, None] / 16, size=16)
    labels = torch.tensor(bunch.target)
    train, test = [], []
    for label in range(10):
        index = (labels == label).nonzero()[:, 0]
        train.append(index[:IMAGES_PER_CLASS])
        test.append(index[IMAGES_PER_CLASS : IMAGES_PER_CLASS + 60])
    train, test = torch.cat(train), torch.cat(test)
    return images[train], labels[train], images[test], labels[test]


@pytest.fixture(scope="session")
def pairs(digits):
    images, labels, test_images, test_labels = digits
    return Pairs(images, labels), Pairs(test_images, test_labels)


@pytest.fixture(scope="session")
def quick():
    """Condenses in a fraction of a second; images are rough but of their class."""
    return CondenseConfig.preset("replay").with_overrides(["pretrain.steps=120"])


@pytest.fixture(scope="session")
def instant():
    """For tests in which the images do not matter."""
    return CondenseConfig.preset("replay").with_overrides(["pretrain.steps=2"])
