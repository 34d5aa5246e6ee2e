import pytest
import torch

from condense_core.errors import ConfigError
from condense_core.networks import NETWORKS, build_network
from condense_core.networks.blur import gaussian_blur
from tests.reference import slow_blur


@pytest.fixture
def images():
    return torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sigma", [0.3, 1.2, 2.9])
def test_it_is_a_gaussian_with_mirrored_edges(images, sigma):
    torch.testing.assert_close(gaussian_blur(images, sigma), slow_blur(images, sigma))


def test_it_may_be_wider_than_the_image():
    ones = torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(gaussian_blur(ones, 20.0), ones)


def test_it_commutes_with_normalisation(images):
    torch.testing.assert_close(
        gaussian_blur(images * 3 - 1, 1.0), gaussian_blur(images, 1.0) * 3 - 1
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_sees_its_images_through_it(name):
    sizes = {"image_shape": (3, 32, 32), "num_classes": 3, "width": 8, "seed": 0}
    plain = build_network(name, **sizes).eval()
    smooth = build_network(name, low_pass=1 / 16, **sizes).eval()
    assert plain.state_dict().keys() == smooth.state_dict().keys()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = plain(gaussian_blur(images, 2.0))
    torch.testing.assert_close(smooth(images), expected)
    assert not torch.allclose(expected, plain(images))


def test_a_negative_one_is_refused():
    with pytest.raises(ConfigError, match="low_pass is -1"):
        build_network(
            "mlp", image_shape=(1, 8, 8), num_classes=2, low_pass=-1.0, seed=0
        )
