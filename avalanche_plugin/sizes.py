"""How many bytes each generator of a memory may take, and what fits into them."""

from collections.abc import Sequence

from avalanche_plugin.pixels import Key, class_names
from avalanche_plugin.slot import side_bytes
from condense_core import CondenseConfig
from condense_core.artefact.budget import BudgetError, fit
from condense_core.artefact.compact import packed_size


def shares(
    budget: int, weights: Sequence[int], *, expected: int | None = None
) -> list[int]:
    """Bytes that each generator may take; together at most the budget.

    Args:
        budget: Bytes of the whole memory.
        weights: Of each generator, the next one included: its number of classes, or 1
            where those of the stream are not known.
        expected: Sum of the weights at the end of the stream, if known.

    Returns:
        For each generator ``budget * weight / expected``, rounded down. If ``expected``
        is unknown (then it starts at 1) or exceeded, it is doubled until all fit.
    """
    parts = expected or 1
    while parts < sum(weights):
        parts *= 2
    return [budget * weight // parts for weight in weights]


def limits(
    budget: int,
    keys: Sequence[tuple[Key, ...]],
    expected: int | None,
    expected_classes: Sequence[int] | None,
) -> list[int]:
    """Bytes that each generator of a stream may take.

    Args:
        budget: Bytes of the whole memory.
        keys: (label, task) of the classes of each generator, the next one included. A
            class counts once, under however many tasks.
        expected: Number of experiences of the whole stream, if known.
        expected_classes: Number of classes of each of them, if known.
    """
    if expected_classes is None:
        return shares(budget, [1] * len(keys), expected=expected)
    weights = [len({label for label, _ in of_one}) for of_one in keys]
    return shares(budget, weights, expected=sum(expected_classes))


def config_within(
    limit: int,
    config: CondenseConfig,
    *,
    image_shape: tuple[int, int, int],
    keys: tuple[Key, ...],
    budget: int,
    alternative: str = "",
) -> CondenseConfig:
    """The configuration of the largest generator that fits its part of a budget.

    Args:
        limit: Bytes that `Slot.nbytes` may reach.
        config: Everything but the sizes in ``format``.
        image_shape: (C, H, W).
        keys: (label, task) of the generator's classes.
        budget: Bytes of the whole memory, for the error message.
        alternative: What else can be done about too small a budget, for the same.

    Raises:
        BudgetError: Not even the smallest generator fits; names the budget it needs.
    """
    beside = side_bytes(len(keys), image_shape[0])
    names = class_names(keys)
    try:
        return fit(
            config,
            image_shape=image_shape,
            num_classes=len(keys),
            budget=limit,
            size_of=lambda spec, precision: (
                packed_size(spec, precision, names) + beside
            ),
        )
    except BudgetError as error:
        needed = f"{error.minimum} bytes for each experience"
        if limit:
            needed = f"{error.minimum * budget // limit + 1} bytes"
        raise BudgetError(
            f"a memory of {budget} bytes leaves {limit} for a generator, and the "
            f"smallest of {len(keys)} classes of {'x'.join(map(str, image_shape))} "
            f"images has {error.minimum}: give the memory at least {needed}"
            f"{alternative}",
            minimum=error.minimum,
        ) from error
