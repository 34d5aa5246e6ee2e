"""Randomness without global state: every draw is a function of (seed, purpose, step).

Because no generator is carried from one step to the next, a run that stops after any
step and starts again draws exactly what the uninterrupted run would have drawn
(the per-iteration seeding of NVlabs/edm2).
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, statistically independent of all others.

    Example:
        >>> derive_seed(0, "association", 3) == derive_seed(0, "association", 3)
        True
        >>> derive_seed(0, "association", 3) == derive_seed(0, "codes", 3)
        False
    """
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_generator(
    seed: int, *purpose: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A `torch.Generator` on ``device``, seeded for one purpose."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


def random_subset(
    count: int, size: int, rng: torch.Generator, device: torch.device
) -> Tensor:
    """``size`` of ``count`` ids in order, drawn without replacement; all if equal."""
    if size >= count:
        return torch.arange(count, device=device)
    chosen = torch.randperm(count, generator=rng)[:size]
    return chosen.sort().values.to(device, non_blocking=True)


@contextmanager
def seeded_initialisation(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed the parameter initialisation of modules built inside, then restore.

    `torch.nn` initialises from the global CPU generator and takes no other; modules
    are therefore built on the CPU inside this context and moved afterwards. The
    caller's global random state is the same before and after.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        yield
