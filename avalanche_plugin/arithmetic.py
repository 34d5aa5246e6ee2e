"""The arithmetic that images are condensed and generated in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_precision() -> Iterator[None]:
    """float32 inside a ``with``, whatever the caller's autocast or default type.

    Autocast keeps the weights that it has cast for as long as it is open. Around the
    training of a whole experience it would go on with those of the first step.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        torch.set_default_dtype(before)
