import math

import numpy as np
import pytest

from condense_core.errors import ConfigError
from flower_strategy.accounting import (
    gaussian_delta,
    gaussian_epsilon,
    gaussian_sigma,
    mills_ratio,
)


def integrated_delta(epsilon, sigma):
    """The hockey-stick divergence of N(1, sigma^2) from N(0, sigma^2), summed up."""
    reach = 12 * sigma
    x = np.linspace(-reach, 1 + reach, 2_000_001)
    scale = sigma * math.sqrt(2 * math.pi)
    near = np.exp(-0.5 * ((x - 1) / sigma) ** 2) / scale
    far = np.exp(-0.5 * (x / sigma) ** 2) / scale
    return np.trapezoid(np.maximum(near - math.exp(epsilon) * far, 0), x)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 4.0, 10.0])
@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 3.73, 20.0])
def test_delta_is_the_integral_of_the_privacy_loss(epsilon, sigma):
    expected = integrated_delta(epsilon, sigma)
    assert gaussian_delta(epsilon, sigma) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3, 0.1, 1, 10, 100, 1000, 1e4])
@pytest.mark.parametrize("sigma", [1e-3, 0.01, 0.1, 0.5, 1, 3.73, 100, 1e4, 1e6])
def test_delta_is_right_to_nine_digits_at_every_scale(epsilon, sigma):
    mp = pytest.importorskip("mpmath")
    with mp.workdps(60):
        mu = 1 / mp.mpf(sigma)
        exact = mp.ncdf(mu / 2 - epsilon / mu) - mp.exp(epsilon) * mp.ncdf(
            -mu / 2 - epsilon / mu
        )
    if exact > 1e-290:
        assert gaussian_delta(epsilon, sigma) == pytest.approx(float(exact), rel=1e-9)
    else:
        assert gaussian_delta(epsilon, sigma) < 1e-280


def test_a_known_calibration():
    """Balle & Wang's own code gives 3.7306 for epsilon 1 and delta 1e-5."""
    assert gaussian_sigma(1.0, 1e-5) == pytest.approx(3.730632, abs=1e-6)
    assert gaussian_sigma(1.0, 1e-5) < math.sqrt(2 * math.log(1.25e5))  # the classic


@pytest.mark.parametrize("epsilon", [1e-3, 0.5, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("delta", [1e-300, 1e-50, 1e-9, 1e-5, 0.1, 0.9])
def test_calibration_and_accounting_are_inverse_and_err_on_the_safe_side(
    epsilon, delta
):
    sigma = gaussian_sigma(epsilon, delta)
    assert gaussian_delta(epsilon, sigma) <= delta
    assert gaussian_epsilon(delta, sigma) == pytest.approx(epsilon, rel=1e-9)
    assert gaussian_delta(gaussian_epsilon(delta, sigma), sigma) <= delta


def test_delta_falls_with_epsilon_and_noise():
    by_epsilon = [gaussian_delta(e, 1.0) for e in np.linspace(0, 30, 200)]
    by_noise = [gaussian_delta(1.0, s) for s in np.geomspace(0.01, 100, 200)]
    for values in (by_epsilon, by_noise):
        assert (np.diff(values) <= 0).all()
        assert all(0.0 <= value <= 1.0 for value in values)


def test_limits():
    assert gaussian_delta(1.0, 0.0) == 1.0
    assert gaussian_delta(math.inf, 1.0) == gaussian_delta(1.0, math.inf) == 0.0
    assert gaussian_delta(0.0, 1e-8) == 1.0
    assert gaussian_epsilon(1e-5, 0.0) == math.inf
    assert gaussian_epsilon(0.5, 1e6) == 0.0
    assert gaussian_sigma(math.inf, 1e-5) == 0.0


def test_only_the_ratio_of_noise_and_sensitivity_counts():
    one, two = gaussian_delta(1.0, 2.0), gaussian_delta(1.0, 0.6, sensitivity=0.3)
    assert one == pytest.approx(two)
    assert gaussian_sigma(1.0, 1e-5, sensitivity=0.3) == pytest.approx(
        0.3 * gaussian_sigma(1.0, 1e-5)
    )


@pytest.mark.parametrize(
    "x", [0.0, 0.1, 1.0, 5.999, 6.0, 30.0, 40.0, 200.0, 1e6, 1e300]
)
def test_the_mills_ratio_is_exact_to_machine_precision(x):
    mp = pytest.importorskip("mpmath")
    with mp.workdps(60):
        half = mp.mpf(x) / mp.sqrt(2)
        if x < 1e3:
            exact = mp.sqrt(mp.pi / 2) * mp.exp(half**2) * mp.erfc(half)
        else:  # exp overflows even there; this series is as good
            exact = 1 / mp.mpf(x) - 1 / mp.mpf(x) ** 3
    assert mills_ratio(x) == pytest.approx(float(exact), rel=2e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 1e-5), "epsilon is -1.0"),
        ((math.nan, 1e-5), "epsilon is nan"),
        ((1.0, 0.0), "delta is 0.0"),
        ((1.0, 1.0), "delta is 1.0"),
    ],
)
def test_a_budget_out_of_range(arguments, message):
    with pytest.raises(ConfigError, match=message):
        gaussian_sigma(*arguments)
