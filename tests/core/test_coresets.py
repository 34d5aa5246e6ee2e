from itertools import pairwise

import pytest
import torch

from condense_core.coresets import (
    CORESETS,
    count_forgetting,
    observe_training,
    select,
    select_forgetting,
    select_herding,
    select_kcenter,
    select_random,
)
from condense_core.data import ImageData
from condense_core.errors import ConfigError, DataError
from condense_core.training import Recipe, pooled_features


@pytest.fixture
def data(tiny_images):
    images, labels = tiny_images
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    return ImageData(
        images=images[shuffled],
        labels=labels[shuffled],
        classes=("left", "middle", "right"),
        name="bars",
    )


@pytest.fixture
def features(generator):
    return torch.randn(30, 5, generator=generator)


def members(data, label):
    return [i for i, y in enumerate(data.labels.tolist()) if y == label]


def squared_distance(one, two):
    return float(((one - two) ** 2).sum())


def loop_herding(data, size, features):
    selection = []
    for label in range(data.num_classes):
        candidates = members(data, label)
        mean = sum(features[i] for i in candidates) / len(candidates)
        chosen = []
        for _ in range(size):
            costs = {}
            for i in candidates:
                if i not in chosen:
                    trial = sum(features[j] for j in [*chosen, i]) / (len(chosen) + 1)
                    costs[i] = squared_distance(trial, mean)
            chosen.append(min(costs, key=costs.get))
        selection += chosen
    return selection


def loop_kcenter(data, size, features):
    selection = []
    for label in range(data.num_classes):
        candidates = members(data, label)
        mean = sum(features[i] for i in candidates) / len(candidates)
        chosen = [min(candidates, key=lambda i: squared_distance(features[i], mean))]
        while len(chosen) < size:
            gaps = {
                i: min(squared_distance(features[i], features[j]) for j in chosen)
                for i in candidates
                if i not in chosen
            }
            chosen.append(max(gaps, key=gaps.get))
        selection += chosen
    return selection


@pytest.mark.parametrize("size", [1, 4, 10])
def test_herding_equals_the_loop(data, features, size):
    indices = select_herding(data, size, features_ND=features)
    assert indices.tolist() == loop_herding(data, size, features.double())


@pytest.mark.parametrize("size", [1, 4, 10])
def test_kcenter_equals_the_loop(data, features, size):
    indices = select_kcenter(data, size, features_ND=features)
    assert indices.tolist() == loop_kcenter(data, size, features.double())


@pytest.mark.parametrize("choose", [select_herding, select_kcenter])
def test_duplicates_are_not_chosen_twice(data, choose):
    indices = choose(data, 10, features_ND=torch.ones(30, 2))
    assert sorted(indices.tolist()) == list(range(30))


def test_count_forgetting_equals_the_loop(generator):
    correct = torch.rand(8, 20, generator=generator) < 0.5
    correct[:, 3] = False
    expected = []
    for image in range(20):
        history = correct[:, image].tolist()
        falls = sum(a and not b for a, b in pairwise(history))
        expected.append(falls if any(history) else 8)
    assert count_forgetting(correct).tolist() == expected


def test_forgetting_takes_the_most_forgotten_first(data):
    events = torch.arange(30) % 10 + 100 * data.labels
    indices = select_forgetting(data, 3, forgetting_N=events, seed=0)
    for label in range(3):
        ranked = sorted(members(data, label), key=lambda i: -int(events[i]))
        assert events[indices[3 * label : 3 * label + 3]].tolist() == [
            int(events[i]) for i in ranked[:3]
        ]
        assert data.labels[indices[3 * label : 3 * label + 3]].tolist() == [label] * 3


def test_forgetting_breaks_ties_by_the_seed(data):
    events = torch.zeros(30, dtype=torch.int64)
    picks = {
        tuple(select_forgetting(data, 3, forgetting_N=events, seed=seed).tolist())
        for seed in (0, 0, 1)
    }
    assert len(picks) == 2


@pytest.mark.usefixtures("untouched_global_rng")
def test_random_draws_without_replacement_and_by_the_seed(data):
    indices = select_random(data, 4, seed=0)
    assert data.labels[indices].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(set(indices.tolist())) == 12
    assert torch.equal(indices, select_random(data, 4, seed=0))
    assert not torch.equal(indices, select_random(data, 4, seed=1))


def test_training_is_observed_at_each_image(data):
    options = {"seed": 0, "network_width": 8, "epochs": 150, "device": "cpu"}
    observed = observe_training(data, **options)
    assert observed.features.shape == (30, 8)
    assert observed.forgetting.shape == (30,)
    assert observed.forgetting.max() < 150  # learnt, so nothing counts as never
    again = observe_training(data, **options)
    assert torch.equal(observed.features, again.features)


def test_an_unfinished_epoch_is_left_out(data, monkeypatch):
    # Three steps an epoch; the last of eight is in the third.
    monkeypatch.setattr(
        "condense_core.observation.selection_recipe",
        lambda epochs: Recipe("coreset", epochs=epochs, batch_size=10),
    )
    seen = []
    monkeypatch.setattr(
        "condense_core.observation.count_forgetting",
        lambda correct_EN: seen.append(correct_EN) or count_forgetting(correct_EN),
    )
    observe_training(data, seed=0, network_width=4, max_steps=8, device="cpu")
    (correct_EN,) = seen
    assert correct_EN.shape == (2, 30)


def test_nothing_is_forgotten_in_less_than_two_epochs(data):
    options = {"seed": 0, "network_width": 4, "device": "cpu"}
    for few in ({"epochs": 1}, {"max_steps": 1}):
        with pytest.raises(ConfigError, match="give 2 or more"):
            select("forgetting", data, 2, **options, **few)
        assert len(select("herding", data, 2, **options, **few)) == 6
    assert len(select("forgetting", data, 2, **options, max_steps=2)) == 6


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"max_steps": 0}, {"max_steps": -1}])
def test_a_number_of_steps_below_one_is_refused(data, wrong):
    with pytest.raises(ConfigError, match="choose at least 1"):
        observe_training(data, seed=0, device="cpu", **wrong)


@pytest.mark.parametrize("name", list(CORESETS))
def test_every_coreset_is_balanced_and_repeatable(data, name):
    options = {"seed": 0, "network_width": 4, "epochs": 2, "device": "cpu"}
    chosen = select(name, data, 2, **options)
    assert chosen.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (chosen.classes, chosen.name) == (data.classes, "bars")
    assert torch.equal(chosen.images, select(name, data, 2, **options).images)


@pytest.mark.parametrize("name", list(CORESETS))
def test_a_class_with_too_few_images_is_named(data, name):
    few = data.subset((data.labels != 1) | (torch.arange(30) < 8))
    available = int((few.labels == 1).sum())
    with pytest.raises(DataError) as error:
        select(name, few, 5, seed=0)
    message = f"class 'middle' of bars has {available} images but images_per_class is 5"
    assert message in str(error.value)
    assert f"use at most {available}" in str(error.value)


def test_a_wrong_option_is_named(data):
    with pytest.raises(ConfigError, match="unknown coreset 'best': choose one of rand"):
        select("best", data, 1, seed=0)
    with pytest.raises(ConfigError, match="images_per_class is 0"):
        select("random", data, 0, seed=0)


def test_a_selection_is_observed_as_asked(data, monkeypatch):
    asked = {
        "network": "mlp",
        "network_width": 5,
        "epochs": 3,
        "max_steps": 7,
        "statistics": data.statistics(),
        "device": "cpu",
    }
    seen = {}

    def spy(given, **options):
        seen.update(options)
        return observe_training(given, **options)

    monkeypatch.setattr("condense_core.coresets.observe_training", spy)
    select("herding", data, 2, seed=3, **asked)
    assert seen == {"seed": 3, **asked}


def test_features_are_those_of_a_network_that_is_tested(data, monkeypatch):
    """Batch norm with its running statistics: no image depends on its batch."""
    modes = []

    def spy(network, *arguments):
        modes.append(network.training)
        return pooled_features(network, *arguments)

    monkeypatch.setattr("condense_core.observation.pooled_features", spy)
    observe_training(data, seed=0, network="resnet18", network_width=2, epochs=1)
    assert modes == [False]
