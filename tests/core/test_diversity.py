import itertools
import math
from dataclasses import replace

import pytest
import torch

from condense_core import diversity as module
from condense_core.data import ImageData
from condense_core.diversity import (
    class_margins,
    coverage_and_density,
    diversity,
    expected_coverage,
    measure_diversity,
)
from condense_core.errors import DataError
from condense_core.seeding import make_generator


@pytest.fixture
def features():
    """Judged features and classes, real features and classes."""
    draw = make_generator(0, "test")
    labels, real_labels = torch.arange(3).repeat(4), torch.arange(3).repeat(9)
    centres = 2 * torch.randn(3, 5, generator=draw)
    return (
        centres[labels] + torch.randn(12, 5, generator=draw),
        labels,
        centres[real_labels] + torch.randn(27, 5, generator=draw),
        real_labels,
    )


def distance(a, b):
    return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))


def members(rows, labels, label):
    return [row for row, own in zip(rows, labels.tolist(), strict=True) if own == label]


def slow_coverage_and_density(judged, real, k):
    covered, inside = 0, 0
    for i, x in enumerate(real):
        others = sorted(distance(x, z) for j, z in enumerate(real) if j != i)
        hits = sum(distance(x, y) <= others[k - 1] for y in judged)
        covered += hits > 0
        inside += hits
    return covered / len(real), inside / (k * len(judged))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_measures_equal_their_slow_definitions(features, k):
    judged, labels, real, real_labels = features
    found = diversity(*features, neighbours=k)
    pairs, coverages, densities = [], [], []
    for label in range(3):
        mine = members(judged, labels, label)
        own = [distance(a, b) for a, b in itertools.combinations(mine, 2)]
        pairs.append(sum(own) / len(own))
        coverage, density = slow_coverage_and_density(
            mine, members(real, real_labels, label), k
        )
        coverages.append(coverage)
        densities.append(density)
    assert found.pairwise_distance == pytest.approx(sum(pairs) / 3)
    assert found.coverage == pytest.approx(sum(coverages) / 3)
    assert found.density == pytest.approx(sum(densities) / 3)


def test_margins_equal_their_slow_definition(features):
    judged, labels, real, real_labels = features
    means = [
        torch.stack(members(real, real_labels, label)).mean(dim=0) for label in range(3)
    ]
    scale = sum(distance(a, b) for a, b in itertools.combinations(means, 2)) / 3
    expected = []
    for row, own in zip(judged, labels.tolist(), strict=True):
        far = [distance(row, mean) for mean in means]
        nearest = min(d for label, d in enumerate(far) if label != own)
        expected.append((nearest - far[own]) / scale)
    found = class_margins(*features)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    share = sum(margin > 0 for margin in expected) / 12
    assert diversity(*features).right_side == pytest.approx(share)


def test_the_real_images_themselves_cover_everything(features):
    *_, real, real_labels = features
    found = diversity(real, real_labels, real, real_labels)
    assert found.coverage == 1.0


def test_images_far_away_cover_nothing(features):
    judged, labels, real, real_labels = features
    found = diversity(judged + 1e3, labels, real, real_labels)
    assert found.coverage == found.density == 0.0


def test_copies_of_one_image_have_no_diversity(features):
    _, labels, real, real_labels = features
    found = diversity(real[labels], labels, real, real_labels)
    assert found.pairwise_distance == 0.0


def test_one_image_a_class_has_no_distance(features):
    judged, labels, real, real_labels = features
    found = diversity(judged[:3], labels[:3], real, real_labels)
    assert found.pairwise_distance is None


def test_measures_do_not_depend_on_order_or_on_the_place_of_the_features(features):
    judged, labels, real, real_labels = features
    order, real_order = torch.arange(11, -1, -1), torch.arange(26, -1, -1)
    again = diversity(
        judged[order] + 3.0,
        labels[order],
        real[real_order] + 3.0,
        real_labels[real_order],
    )
    first = diversity(*features)
    for name in ("pairwise_distance", "coverage", "density", "class_margin"):
        assert getattr(again, name) == pytest.approx(getattr(first, name), rel=1e-5)


def test_expected_coverage_is_that_of_many_draws():
    draw = make_generator(0, "coverage")
    found = [
        coverage_and_density(
            torch.randn(6, 3, generator=draw),
            torch.randn(20, 3, generator=draw),
            neighbours=3,
        )[0]
        for _ in range(400)
    ]
    mean = float(torch.stack(found).mean())
    assert mean == pytest.approx(expected_coverage(20, 6, neighbours=3), abs=0.02)


@pytest.fixture
def real():
    draw = make_generator(0, "real")
    labels = torch.arange(2).repeat(20)
    images = torch.randint(0, 120, (40, 1, 8, 8), generator=draw, dtype=torch.uint8)
    images[labels == 1] += 100
    return ImageData(images=images, labels=labels, classes=("dark", "light"), name="t")


@pytest.mark.parametrize("extractor", ["trained", "random"])
def test_a_set_is_measured_beside_real_images(real, extractor, monkeypatch):
    monkeypatch.setattr(module, "EXTRACTOR_STEPS", 20)
    images, labels = real.images[:6].float() / 255, real.labels[:6]
    options = {"statistics": real.statistics(), "extractor": extractor, "device": "cpu"}
    report = measure_diversity(images, labels, real, **options)
    assert report["extractor"]["weights"] == extractor
    assert report["real_per_class"] == 17
    assert report["coverage_expected"] == expected_coverage(17, 3)
    assert 0.0 < report["coverage"] <= 1.0
    assert set(report["random_real"]) <= set(report)
    assert report == measure_diversity(images, labels, real, **options)


def test_too_few_images_are_refused(real):
    images, labels = real.images[:6].float() / 255, real.labels[:6]
    options = {"statistics": real.statistics(), "device": "cpu"}
    with pytest.raises(DataError, match="'light' has no image in the set"):
        measure_diversity(images[:1], labels[:1], real, **options)
    alone = replace(real.subset(real.labels == 0), classes=real.classes[:1])
    with pytest.raises(DataError, match="diversity needs two"):
        measure_diversity(images, labels * 0, alone, **options)
    few = real.subset(torch.arange(8))
    with pytest.raises(DataError, match=r"has 4 real images, .* at least 7"):
        measure_diversity(images, labels, few, **options)
