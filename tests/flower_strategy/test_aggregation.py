from types import SimpleNamespace

import pytest
import torch

from condense_core import CondensedDataset, PixelStatistics
from condense_core.data import to_unit
from condense_core.synthesiser import SynthesiserSpec
from flower_strategy.aggregation import (
    image_counts,
    images_at_once,
    merge,
    synthesise,
)
from flower_strategy.settings import ServerSettings

CLASSES = ("ant", "bee", "cat", "dog")


@pytest.fixture
def pair(contribute):
    return [
        contribute("a", (0, 2), (30, 10), seed=1),
        contribute("b", (2, 3), (50, 10), seed=2),
    ]


def test_shares_follow_the_true_counts(pair):
    assert image_counts(pair, 1000) == {
        (0, 0): 300,
        (0, 2): 100,
        (1, 2): 500,
        (1, 3): 100,
    }


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        (1.0, {(0, 0): 100, (0, 2): 50, (1, 2): 50, (1, 3): 100}),
        (0.5, {(0, 0): 120, (0, 2): 60, (1, 2): 60, (1, 3): 60}),
    ],
)
def test_balance_moves_images_from_frequent_classes_to_rare_ones(
    contribute, balance, expected
):
    pair = [contribute("a", (0, 2), (40, 20)), contribute("b", (2, 3), (20, 10))]
    assert image_counts(pair, 300, class_balance=balance) == expected


def test_no_share_is_rounded_to_nothing(contribute):
    pair = [contribute("a", (0,), (1,)), contribute("b", (0, 1), (10**6, 10**6))]
    assert image_counts(pair, 100)[0, 0] == 1


def test_a_client_cannot_take_a_class_over(contribute):
    honest = [contribute(name, (0, 1), (100, 100)) for name in "abc"]
    greedy = contribute("greedy", (0,), (10**6,))
    shares = image_counts([*honest, greedy], 1000, max_share=0.5)
    of_class = {index: n for (index, label), n in shares.items() if label == 0}
    assert of_class[3] == pytest.approx(sum(of_class.values()) / 2, abs=1)
    # Nor can it take the training set over: its class has twice its honest weight.
    other = sum(n for (_, label), n in shares.items() if label == 1)
    assert sum(of_class.values()) == pytest.approx(2 * other, abs=3)


@pytest.mark.parametrize(("max_share", "images"), [(1.0, 16_378), (0.5, 1_358)])
def test_what_a_liar_gets_is_what_the_documentation_says(max_share, images):
    honest = [
        SimpleNamespace(client=name, class_ids=range(10), counts=[600] * 10)
        for name in "abcdefghij"
    ]
    liar = SimpleNamespace(client="liar", class_ids=[0], counts=[10**7])
    shares = image_counts(
        [*honest, liar],
        20_000,
        max_share=max_share,
        class_balance=ServerSettings().class_balance,
    )
    assert shares[10, 0] == images


@pytest.mark.parametrize(
    "counts",
    [
        (10**7, 10**7, *[600] * 8),
        (1000, 900, 10, 10, 10, 10),
        (7, 5, 3, 2),
        (100, 100, 100, 100),
    ],
)
def test_no_client_has_more_than_the_largest_share(contribute, counts):
    clients = [contribute(str(i), (0,), (count,)) for i, count in enumerate(counts)]
    shares = image_counts(clients, 1_000_000, max_share=0.3)
    assert max(shares.values()) <= 300_010
    # Who is below it keeps the ratio to the others below it.
    below = [i for i in range(len(counts)) if shares[i, 0] < 299_000]
    for i in below:
        ratio = shares[i, 0] / shares[below[0], 0]
        assert ratio == pytest.approx(counts[i] / counts[below[0]], rel=1e-3)


def test_too_few_clients_for_the_largest_share_have_the_same(contribute):
    clients = [contribute("a", (0,), (10**6,)), contribute("b", (0,), (50,))]
    assert image_counts(clients, 100, max_share=0.3) == {(0, 0): 50, (1, 0): 50}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 30, 33), (3, 64, 64)])
def test_a_wide_generator_makes_fewer_images_at_a_time(shape):
    def at_once(channels):
        spec = SynthesiserSpec(
            kind="generator",
            image_shape=shape,
            num_classes=2,
            images_per_class=1,
            channels=channels,
        )
        return images_at_once(spec)

    assert at_once(16) == 512
    assert 1 <= at_once(4096) < 512
    assert at_once(4096) * 4096 * shape[1] * shape[2] <= 2**26
    assert at_once(2**40) == 1


def test_a_class_that_one_client_has_is_not_capped(contribute):
    shares = image_counts([contribute("a", (0, 1), (30, 10))], 100, max_share=0.1)
    assert shares == {(0, 0): 75, (0, 1): 25}


def test_dropped_pairs_are_left_out(pair):
    shares = image_counts(pair, 100, dropped=frozenset({("b", 2)}))
    assert (1, 2) not in shares
    assert shares[0, 2] == 20


def test_synthetic_images_have_the_shares_and_global_labels(pair):
    data = synthesise(pair, image_counts(pair, 100), classes=CLASSES, seed=0)
    assert data.counts.tolist() == [30, 0, 60, 10]
    assert data.classes == CLASSES


def test_images_of_a_client_do_not_depend_on_the_others(pair):
    shares = {(0, 0): 5, (0, 2): 5, (1, 2): 5}
    both = synthesise(pair, shares, classes=CLASSES, seed=0)
    alone = synthesise(pair[:1], shares, classes=CLASSES, seed=0)
    torch.testing.assert_close(both.images[:10], alone.images)
    other = synthesise(pair[:1], shares, classes=CLASSES, seed=1)
    assert not torch.equal(other.images, alone.images)


def test_clients_with_equal_generators_draw_different_images(contribute):
    twins = [contribute("a", (0,)), contribute("b", (0,))]
    shares = {(0, 0): 5, (1, 0): 5}
    one, two = synthesise(twins, shares, classes=CLASSES, seed=0).images.split(5)
    assert not torch.equal(one, two)


@pytest.fixture
def merge_pair(pair):
    statistics = PixelStatistics((0.5,), (0.25,))

    def make(**options):
        return merge(pair, 6, classes=CLASSES, statistics=statistics, seed=0, **options)

    return make


def test_the_merged_artefact_names_classes_and_counts(merge_pair, tmp_path):
    merge_pair().save(tmp_path / "merged.safetensors")
    loaded = CondensedDataset.load(tmp_path / "merged.safetensors")
    _, labels = loaded.images()
    assert loaded.classes == ("ant", "cat", "dog")
    assert labels.bincount().tolist() == [6, 6, 6]
    assert loaded.metadata["clients"] == {
        "a": {"0": 30, "2": 10},
        "b": {"2": 50, "3": 10},
    }
    assert loaded.statistics == PixelStatistics((0.5,), (0.25,))


@pytest.mark.parametrize(
    ("options", "cats"),
    [
        ({}, {(0, 2): 1, (1, 2): 5}),  # the first client has ten of sixty
        ({"max_share": 0.5}, {(0, 2): 3, (1, 2): 3}),
        ({"dropped": frozenset({("b", 2)})}, {(0, 2): 6}),
    ],
)
def test_merged_images_are_the_clients_by_their_counts(pair, merge_pair, options, cats):
    images, labels = merge_pair(**options).images()
    shares = {(0, 0): 6, (1, 3): 6} | cats
    own = synthesise(pair, shares, classes=CLASSES, seed=0)
    for merged, label in enumerate((0, 2, 3)):
        torch.testing.assert_close(
            images[labels == merged],
            to_unit(own.images[own.labels == label]),
            atol=0.02,  # ends are pulled in
            rtol=0,
        )
