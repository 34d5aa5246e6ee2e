from dataclasses import replace

import pytest
import torch

from condense_core import ConfigError
from flower_strategy import global_model
from flower_strategy.aggregation import image_counts, synthesise
from flower_strategy.global_model import GlobalTraining, initial_model, train_global
from flower_strategy.rounds import RoundReport, RunState
from flower_strategy.settings import ModelSettings, ServerSettings

CLASSES, SHAPE = ("ant", "bee", "cat", "dog"), (1, 8, 8)
MODEL = ModelSettings(network_width=4, device="cpu")


@pytest.fixture
def pair(contribute):
    return [
        contribute("a", (0, 2), (40, 20), seed=1),
        contribute("b", (2, 3), (20, 10), seed=2),
    ]


@pytest.fixture
def data(pair):
    return synthesise(pair, image_counts(pair, 100), classes=CLASSES, seed=0)


@pytest.fixture
def one_round(pair, limits, monkeypatch):
    """What training is given in a round, and the state after it."""
    given = {}

    def record(network, data, statistics, settings, **options):
        weights = {k: v.clone() for k, v in network.state_dict().items()}
        given.update(options, weights=weights, data=data, statistics=statistics)

    monkeypatch.setattr(global_model, "train_global", record)

    def run(number=1, dropped=frozenset(), state=None, **settings):
        training = GlobalTraining(
            settings=ServerSettings(synthetic_images=300, **settings),
            model=MODEL,
            limits=limits,
            test=None,
        )
        if state is None:
            state = RunState(
                contributions={c.client: c for c in pair},
                model=training.first_weights(),
            )
        state, _ = training.train(state, RoundReport(server_round=number), dropped)
        return dict(given), state

    return run


def trained(data, **settings):
    """Weights after three steps."""
    network = initial_model(MODEL, SHAPE, 4)
    settings = ServerSettings(train_steps=3, **settings)
    train_global(network, data, data.statistics(), settings, seed=0, device="cpu")
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_the_first_weights_depend_on_settings_alone():
    one, two = (initial_model(MODEL, SHAPE, 4).state_dict() for _ in range(2))
    torch.testing.assert_close(one, two)


def test_the_first_weights_depend_on_the_seed():
    one, two = (
        initial_model(replace(MODEL, seed=seed), SHAPE, 4).state_dict()
        for seed in (0, 1)
    )
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_the_model_blurs_by_the_settings(generator):
    images = torch.rand(2, *SHAPE, generator=generator)
    sharp, blurred = (
        initial_model(replace(MODEL, low_pass=low_pass), SHAPE, 4).eval()(images)
        for low_pass in (0.0, 0.2)
    )
    assert not torch.allclose(sharp, blurred)


def test_training_moves_the_weights_without_a_global_draw(data, untouched_global_rng):
    before = initial_model(MODEL, SHAPE, 4).parameters()
    before = torch.cat([p.detach().flatten() for p in before])
    assert not torch.equal(trained(data), before)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.01},
        {"label_smoothing": 0.0},
        {"augment": "crop"},
        {"augment": "flip"},
    ],
    ids=str,
)
def test_a_setting_of_the_training_counts(data, change):
    assert not torch.equal(trained(data, **change), trained(data))


def test_digits_are_not_mirrored(data):
    never = trained(data, augment="flip", flip=False)
    assert torch.equal(never, trained(data, augment="none"))


def test_an_unknown_device_is_refused_before_any_training(limits):
    with pytest.raises(ConfigError, match="unknown device 'tpu9'"):
        GlobalTraining(
            settings=ServerSettings(),
            model=replace(MODEL, device="tpu9"),
            limits=limits,
            test=None,
        )


def test_every_round_draws_images_and_batches_anew(one_round):
    first, again, second = (one_round(number)[0] for number in (1, 1, 2))
    assert torch.equal(first["data"].images, again["data"].images)
    assert not torch.equal(first["data"].images, second["data"].images)
    assert first["seed"] == again["seed"] != second["seed"]


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"class_balance": 0.0}, [133, 0, 134, 33]),
        ({"class_balance": 1.0}, [100, 0, 100, 100]),
    ],
)
def test_classes_are_balanced_by_the_settings(one_round, settings, counts):
    given, _ = one_round(**settings)
    assert given["data"].counts.tolist() == counts


def test_the_largest_share_is_that_of_the_settings(one_round, contribute):
    contributions = {
        "a": contribute("a", (0, 2), (40, 20)),
        "b": contribute("b", (2, 3), (80, 20)),
    }
    model = initial_model(MODEL, SHAPE, 4).state_dict()
    state = RunState(contributions=contributions, model=model)
    given, _ = one_round(state=state, class_balance=0.0, max_share=0.5)
    # Forty cats for a hundred, since the second client's eighty count as twenty.
    assert given["data"].counts.tolist() == [120, 0, 120, 60]


def test_dropped_pairs_are_not_trained_on(one_round):
    given, _ = one_round(dropped=frozenset({("b", 3)}))
    assert given["data"].counts[3] == 0


def test_later_rounds_go_on_from_the_model_and_its_normalisation(one_round):
    _, state = one_round(1)
    model = {name: value + 1 for name, value in state.model.items()}
    state = replace(state, model=model, normalisation=([0.4], [0.2]))
    given, state = one_round(2, state=state)
    torch.testing.assert_close(given["weights"], model, rtol=0, atol=0)
    assert (given["statistics"].mean, given["statistics"].std) == ((0.4,), (0.2,))
    assert state.normalisation == ([0.4], [0.2])


def test_the_first_round_normalises_by_the_images_drawn(one_round):
    given, state = one_round(1)
    statistics = given["data"].statistics()
    assert given["statistics"] == statistics
    assert state.normalisation == (list(statistics.mean), list(statistics.std))


def test_the_robust_check_is_made_by_the_settings(pair, limits, monkeypatch):
    given = {}

    def record(contributions, threshold, **options):
        given.update(options, contributions=contributions, threshold=threshold)
        return frozenset({("a", 0)})

    monkeypatch.setattr(global_model, "outliers", record)
    training = GlobalTraining(
        settings=ServerSettings(robust_threshold=4.0),
        model=replace(MODEL, seed=7),
        limits=limits,
        test=None,
    )
    state = RunState(contributions={c.client: c for c in pair})
    assert training.find_outliers(state) == {("a", 0)}
    assert given == {
        "contributions": pair,
        "threshold": 4.0,
        "image_shape": SHAPE,
        "seed": 7,
    }
