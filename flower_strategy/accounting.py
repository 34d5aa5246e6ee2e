"""What one Gaussian mechanism costs, exactly (Balle & Wang 2018).

Sigma is the standard deviation of the noise on every coordinate, sensitivity the L2
distance between the vectors of two neighbouring data sets.
"""

import math

import torch

from condense_core.config.strict import non_negative, positive
from condense_core.errors import ConfigError

_HALVINGS = 200


def gaussian_delta(epsilon: float, sigma: float, *, sensitivity: float = 1.0) -> float:
    """The smallest delta of one Gaussian mechanism: Balle & Wang 2018, Theorem 8.

    With mu = sensitivity / sigma, delta = Phi(mu/2 - epsilon/mu) -
    exp(epsilon) Phi(-mu/2 - epsilon/mu). Computed like this, exp(epsilon) overflows and
    the difference cancels. Both terms share the density at u = epsilon/mu - mu/2, so
    delta = phi(u) (R(u) - R(u + mu)) with the Mills ratio R.

    Args:
        epsilon: At least 0.
        sigma: Standard deviation of the noise on every coordinate; 0 gives delta 1.
        sensitivity: Upper bound on the L2 distance between the vectors of two
            neighbouring data sets.

    Raises:
        ConfigError: An argument is out of range.
    """
    non_negative("epsilon", epsilon)
    non_negative("sigma", sigma)
    positive("sensitivity", sensitivity)
    if math.isinf(epsilon) or math.isinf(sigma):
        return 0.0
    mu = sensitivity / sigma if sigma > 0 else math.inf
    if math.isinf(mu):
        return 1.0
    if epsilon == 0:
        return math.erf(mu / math.sqrt(8))
    low = epsilon / mu - mu / 2
    density = math.exp(-0.5 * low * low) / math.sqrt(2 * math.pi)
    if low < 0:
        upper = 0.5 * math.erfc(low / math.sqrt(2))
        return min(1.0, max(0.0, upper - density * mills_ratio(low + mu)))
    return max(0.0, density * (mills_ratio(low) - mills_ratio(low + mu)))


def gaussian_epsilon(delta: float, sigma: float, *, sensitivity: float = 1.0) -> float:
    """The smallest epsilon for a delta, rounded up: `gaussian_delta` by bisection.

    Returns:
        At least 0; infinity without noise.

    Raises:
        ConfigError: ``delta`` is not between 0 and 1, or as `gaussian_delta`.
    """
    check_delta(delta)
    if gaussian_delta(0.0, sigma, sensitivity=sensitivity) <= delta:
        return 0.0
    mu = sensitivity / sigma if sigma > 0 else math.inf
    # delta <= Phi(-u) <= exp(-u^2 / 2): epsilon is at most this.
    low, high = 0.0, mu * (mu / 2 + math.sqrt(-2 * math.log(delta)))
    if math.isinf(high):
        return math.inf
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if gaussian_delta(middle, sigma, sensitivity=sensitivity) > delta:
            low = middle
        else:
            high = middle
    return high


def gaussian_sigma(epsilon: float, delta: float, *, sensitivity: float = 1.0) -> float:
    """The least noise for a budget, rounded up (Balle & Wang 2018, Algorithm 1).

    Returns:
        Standard deviation for every coordinate; 0 for an infinite epsilon.

    Raises:
        ConfigError: An argument is out of range.
    """
    non_negative("epsilon", epsilon)
    positive("sensitivity", sensitivity)
    check_delta(delta)
    if math.isinf(epsilon):
        return 0.0
    low, high = 1e-9, 1.0
    while gaussian_delta(epsilon, high) > delta:
        high *= 2.0
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if gaussian_delta(epsilon, middle) > delta:
            low = middle
        else:
            high = middle
    return sensitivity * high


def mills_ratio(x: float) -> float:
    """(1 - Phi(x)) / phi(x) of the standard normal for x >= 0, to machine precision."""
    scaled = torch.special.erfcx(torch.tensor(x / math.sqrt(2), dtype=torch.float64))
    return math.sqrt(math.pi / 2) * float(scaled)


def check_delta(delta: float) -> None:
    """Refuse a delta that is not a probability.

    Raises:
        ConfigError: It is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ConfigError(
            f"delta is {delta}: choose a number between 0 and 1, such as 1e-5"
        )
