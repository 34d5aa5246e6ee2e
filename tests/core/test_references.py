import pytest
import torch

from condense_core.coresets import select
from condense_core.data import ImageData
from condense_core.errors import ConfigError, DataError
from condense_core.evaluate import evaluate
from condense_core.references import REFERENCES, evaluate_reference
from condense_core.seeding import derive_seed


@pytest.fixture
def settings(tiny_data):
    return {
        "images_per_class": 2,
        "statistics": tiny_data.statistics(),
        "device": torch.device("cpu"),
        "recipe": "tiny",
        "width": 4,
        "repeats": 2,
        "seed": 3,
        "selection_width": 4,
        "selection_steps": 2,
        "full_max_steps": 2,
    }


@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_gives_a_row(tiny_data, settings, name):
    report = evaluate_reference(name, tiny_data, tiny_data, **settings)
    assert len(report.accuracies) == report.repeats == 2
    images = 30 if name == "full" else 6
    assert report.images == images
    assert report.bytes == images * 64  # 8-bit pixels
    assert report.ipc == images // 3
    assert report.max_steps == (2 if name == "full" else None)
    again = evaluate_reference(name, tiny_data, tiny_data, **settings)
    assert again.accuracies == report.accuracies


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_continues_where_it_stopped(tiny_data, settings, name):
    settings["repeats"] = 3
    whole = evaluate_reference(name, tiny_data, tiny_data, **settings)
    for done in range(4):
        told = []
        report = evaluate_reference(
            name,
            tiny_data,
            tiny_data,
            completed=whole.accuracies[:done],
            on_repeat=lambda repeat, _, told=told: told.append(repeat),
            **settings,
        )
        assert report.accuracies == whole.accuracies
        assert report.accuracy_std == whole.accuracy_std
        assert report.repeats == 3
        assert told == list(range(done, 3))


def test_random_draws_anew_for_every_repeat(tiny_data, settings, monkeypatch):
    seen = []

    def spy(train: ImageData, *args, **kwargs):
        seen.append(train.images)
        return evaluate(train, *args, **kwargs)

    monkeypatch.setattr("condense_core.references.evaluate", spy)
    evaluate_reference("random", tiny_data, tiny_data, **settings)
    first, second = seen
    assert not torch.equal(first, second)
    expected = select("random", tiny_data, 2, seed=derive_seed(3, "select", 1))
    assert torch.equal(second, expected.images)
    seen.clear()
    evaluate_reference("herding", tiny_data, tiny_data, **settings)
    assert len(seen) == 1


def test_an_unknown_reference_is_refused(tiny_data, settings):
    with pytest.raises(ConfigError, match=r"'best': choose from random, .*full"):
        evaluate_reference("best", tiny_data, tiny_data, **settings)


def test_too_few_images_are_refused(tiny_data, settings):
    settings["images_per_class"] = 11
    with pytest.raises(DataError, match="has 10 images but images_per_class is 11"):
        evaluate_reference("random", tiny_data, tiny_data, **settings)
