import pytest
import torch

from avalanche_plugin.detail import WIDEST, lend_detail, matching_sigma
from condense_core.networks.blur import gaussian_blur
from tests.reference import slow_blur


@pytest.fixture
def real():
    return torch.rand(30, 3, 12, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def generated():
    return torch.rand(8, 3, 12, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("energy", [0.001, 0.01, 0.05])
def test_the_matching_blur_takes_away_that_energy(real, energy):
    sigma = matching_sigma(real, energy)
    taken = (real - gaussian_blur(real, sigma)).square().mean().item()
    assert taken == pytest.approx(energy, rel=0.05)


def test_more_energy_is_a_wider_blur_up_to_a_bound(real):
    sigmas = [matching_sigma(real, energy) for energy in (0.0, 0.002, 0.02, 1e9)]
    assert sigmas == sorted(sigmas)
    assert sigmas[0] == 0.0
    assert sigmas[-1] == pytest.approx(WIDEST, abs=0.01)


def test_units_do_not_matter(real):
    assert matching_sigma(real * 5 - 2, 0.02 * 25) == pytest.approx(
        matching_sigma(real, 0.02), abs=0.01
    )


def test_an_image_gets_the_detail_of_one_lender(generated, real):
    draw = torch.Generator().manual_seed(3)
    found = lend_detail(generated, real, 1.5, draw)
    lenders = torch.randint(
        len(real), (len(generated),), generator=torch.Generator().manual_seed(3)
    )
    both = torch.cat([generated, real])
    for image, smooth, lender in zip(found, generated, lenders, strict=True):
        detail = real[lender] - slow_blur(real[lender], 1.5)
        for channel in range(3):
            low, high = both[:, channel].min(), both[:, channel].max()
            expected = (smooth + detail)[channel].clamp(low, high)
            torch.testing.assert_close(image[channel], expected)


def test_flat_images_lend_nothing(generated):
    flat = torch.full((4, 3, 12, 16), 0.5)
    found = lend_detail(generated, flat, 2.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, generated)


def test_without_a_blur_images_stay_as_they_are(generated, real):
    draw = torch.Generator().manual_seed(0)
    state = draw.get_state()
    assert lend_detail(generated, real, 0.0, draw) is generated
    assert torch.equal(draw.get_state(), state)
