import pytest

from condense_core import CondenseConfig
from condense_core.artefact.budget import LADDER, BudgetError, fit
from condense_core.artefact.compact import packed_size

CONFIG = CondenseConfig.preset("replay")


def sizes(budget, shape=(1, 28, 28), classes=2):
    return fit(
        CONFIG,
        image_shape=shape,
        num_classes=classes,
        budget=budget,
        size_of=lambda spec, precision: packed_size(spec, precision, ["a"] * classes),
    ).format


def test_a_larger_budget_never_picks_a_smaller_rung():
    rungs = []
    for budget in range(4_000, 140_000, 2_000):
        chosen = sizes(budget)
        rungs.append(
            [rung[:3] for rung in LADDER].index(
                (chosen.channels, chosen.latent_dim, chosen.images_per_class)
            )
        )
    assert rungs == sorted(rungs, reverse=True)
    assert len(set(rungs)) > 10


def test_precision_is_fp16_only_when_the_largest_rung_fits_so():
    assert sizes(31_360).precision == "int8"
    assert sizes(120_000).precision == "int8"
    assert sizes(1_000_000).precision == "fp16"


def test_too_small_a_budget_says_the_minimum_which_then_fits():
    with pytest.raises(BudgetError, match="at least") as caught:
        sizes(100, shape=(3, 32, 32))
    minimum = caught.value.minimum
    assert str(minimum) in str(caught.value)
    sizes(minimum, shape=(3, 32, 32))
    with pytest.raises(BudgetError):
        sizes(minimum - 1, shape=(3, 32, 32))


def test_more_classes_need_more_bytes():
    with pytest.raises(BudgetError) as few:
        sizes(1)
    with pytest.raises(BudgetError) as lots:
        sizes(1, classes=100)
    assert lots.value.minimum > few.value.minimum


def test_components_are_given_up_before_the_decoder_gets_narrow():
    config, names = CondenseConfig.preset("federated"), list("abcdefghij")
    found = set()
    for budget in range(10_000, 100_000, 2_000):
        chosen = fit(
            config,
            image_shape=(1, 28, 28),
            num_classes=10,
            budget=budget,
            size_of=lambda spec, precision: packed_size(spec, precision, names),
        ).format
        found.add((chosen.channels, chosen.code_components))
        if chosen.channels < 16:
            assert chosen.code_components == chosen.images_per_class
    assert {(16, 256), (16, 128), (16, 64), (14, 64)} <= found


def test_a_preset_with_one_gaussian_a_class_keeps_to_it():
    assert sizes(100_000).code_components == 1
