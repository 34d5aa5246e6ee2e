"""Fixtures shared by every test: the device, and a data set of a few small images."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where device tests run")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    name = request.config.getoption("--device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(name)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tiny_images() -> tuple[Tensor, Tensor]:
    """Three separable classes: uint8 images (30, 1, 8, 8) and labels (30,).

    Each class is a bright bar at its own place plus noise, so that a few training
    steps are enough to tell the classes apart.
    """
    noise = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(10)
    images = torch.randint(0, 60, (30, 1, 8, 8), generator=noise)
    for label in range(3):
        images[labels == label, :, :, 2 * label : 2 * label + 2] += 180
    return images.to(torch.uint8), labels


@pytest.fixture
def untouched_global_rng() -> Iterator[None]:
    """Fail the test if the code under test draws from or seeds the global one."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
