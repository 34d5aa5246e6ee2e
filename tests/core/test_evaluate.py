import dataclasses
import json
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from condense_core.compute.devices import resolve_device
from condense_core.data import ImageData, PixelStatistics, to_unit
from condense_core.errors import ConfigError, DataError, RunError
from condense_core.evaluate import RECIPES, Recipe, evaluate
from condense_core.networks import build_network
from condense_core.training import accuracy, planned_steps, train_network

QUICK = Recipe("quick", epochs=150)
CLASSES = ("left", "middle", "right")
HALF = PixelStatistics((0.5,), (0.5,))


@pytest.fixture
def data(tiny_images):
    images, labels = tiny_images
    return ImageData(images=images, labels=labels, classes=CLASSES, name="bars")


@pytest.fixture
def noise(data, generator):
    """Test images with so faint a pattern that no two networks quite agree."""
    pixels = torch.randint(0, 256, data.images.shape, generator=generator)
    pixels = (data.images + pixels) // 2
    return pixels.to(torch.uint8), data.labels


def run(train, test, **options):
    options = {"recipe": QUICK, "repeats": 2, "width": 8, "device": "cpu"} | options
    return evaluate(train, test, **options)


def condensed(data, **attributes):
    pixels = to_unit(data.images), data.labels
    known = {"images": lambda: pixels, "classes": data.classes} | attributes
    return SimpleNamespace(**known)


def small_network(seed=0):
    return build_network(
        "convnet", image_shape=(1, 8, 8), num_classes=3, width=4, seed=seed
    )


def test_a_separable_set_is_learnt_completely(data):
    report = run(data, data)
    assert report.accuracies == (100.0, 100.0)
    assert (report.accuracy_mean, report.accuracy_std) == (100.0, 0.0)


def test_any_data_set_of_images_and_labels_is_taken(data):
    class Listed(torch.utils.data.Dataset):
        classes = data.classes

        def __len__(self):
            return len(data)

        def __getitem__(self, index):
            return data.images[index], int(data.labels[index])

    expected = run(data, data).accuracies
    pair = to_unit(data.images), data.labels
    plain = TensorDataset(*pair)
    for source in (Listed(), plain, Subset(Listed(), range(len(data))), list(pair)):
        assert run(data, source).accuracies == expected
        assert run(source, data).accuracies == expected


def test_labels_that_do_not_occur_in_a_data_set_change_no_others(data):
    some = data.labels != 0
    pair = data.images[some], data.labels[some]
    expected = run(data, pair).accuracies
    listed = [(image, int(label)) for image, label in zip(*pair, strict=True)]
    for source in (TensorDataset(*pair), Subset(listed, range(len(listed)))):
        assert run(data, source).accuracies == expected


@pytest.mark.usefixtures("untouched_global_rng")
def test_the_seed_decides_the_accuracies(data, noise):
    recipe = Recipe("short", epochs=5, batch_size=8, augment="color_crop_flip")
    options = {"recipe": recipe, "network": "mlp", "repeats": 3}
    first = run(data, noise, **options).accuracies
    assert len(set(first)) > 1
    assert run(data, noise, **options).accuracies == first
    assert run(data, noise, seed=1, **options).accuracies != first


def test_completed_repeats_are_not_run_again(data, noise):
    recipe = Recipe("short", epochs=5, batch_size=8)
    options = {"recipe": recipe, "network": "mlp", "repeats": 3}
    whole = run(data, noise, **options).accuracies
    assert len(set(whole)) > 1
    seen = []
    options["on_repeat"] = lambda *values: seen.append(values)
    assert run(data, noise, completed=whole[:2], **options).accuracies == whole
    assert seen == [(2, whole[2])]
    assert run(data, noise, completed=whole, **options).accuracies == whole
    assert len(seen) == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_training_equals_the_optimiser_written_out(smoothing):
    torch_generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 1, 8, 8, generator=torch_generator)
    labels = torch.arange(6) % 3
    recipe = Recipe("x", epochs=5, learning_rate=0.1, label_smoothing=smoothing)
    trained, reference = small_network(), small_network()
    train_network(trained, images, labels, recipe=recipe, statistics=HALF, seed=0)

    momenta = [torch.zeros_like(p) for p in reference.parameters()]
    for step in range(5):
        rate = 0.1 if step < 3 else 0.01
        if step == 3:  # the first step of the second half: momentum starts again
            momenta = [torch.zeros_like(p) for p in reference.parameters()]
        log_odds = reference((images - 0.5) / 0.5).log_softmax(dim=1)
        of_labels = log_odds[torch.arange(6), labels]
        loss = -((1 - smoothing) * of_labels + smoothing * log_odds.mean(1)).mean()
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for p, v, g in zip(reference.parameters(), momenta, gradients, strict=True):
                v.mul_(0.9).add_(g + 5e-4 * p)
                p.sub_(rate * v)
    for one, two in zip(trained.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_the_cap_on_steps_scales_the_schedule():
    images, labels = torch.rand(3, 1, 8, 8), torch.arange(3)
    capped, short = small_network(), small_network()
    options = {"statistics": HALF, "seed": 0}
    train_network(
        capped, images, labels, recipe=Recipe("x", 300), max_steps=4, **options
    )
    train_network(short, images, labels, recipe=Recipe("x", 4), **options)
    for one, two in zip(capped.parameters(), short.parameters(), strict=True):
        assert torch.equal(one, two)


def test_every_image_is_seen_once_an_epoch_in_a_new_order():
    images, labels = torch.rand(7, 1, 8, 8), torch.arange(7) % 3
    seen = []
    train_network(
        small_network(),
        images,
        labels,
        recipe=Recipe("x", epochs=2, batch_size=3),
        statistics=HALF,
        seed=0,
        on_step=lambda step, index_B, logits_BY: seen.append(index_B.tolist()),
    )
    assert [len(index) for index in seen] == [3, 3, 1, 3, 3, 1]
    first, second = list(chain(*seen[:3])), list(chain(*seen[3:]))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second


def test_bytes_and_floats_train_alike(data):
    networks = small_network(), small_network()
    for network, images in zip(
        networks, (data.images, to_unit(data.images)), strict=True
    ):
        train_network(
            network,
            images,
            data.labels,
            recipe=Recipe("x", epochs=2, batch_size=8),
            statistics=HALF,
            seed=0,
        )
    for one, two in zip(*(n.parameters() for n in networks), strict=True):
        assert torch.equal(one, two)


def test_flip_false_removes_the_operation(data):
    only_flip = Recipe("flip", epochs=2, augment="flip")
    networks = [small_network() for _ in range(3)]
    for network, recipe, flip in zip(
        networks,
        (only_flip, only_flip, Recipe("none", epochs=2)),
        (True, False, True),
        strict=True,
    ):
        train_network(
            network,
            data.images,
            data.labels,
            recipe=recipe,
            statistics=HALF,
            seed=0,
            flip=flip,
        )
    flipped, unflipped, plain = (n.classifier.weight for n in networks)
    assert torch.equal(unflipped, plain)
    assert not torch.equal(flipped, plain)


def test_accuracy_counts_over_batches_and_restores_the_mode(data):
    network = small_network().eval()
    logits = network((to_unit(data.images) - 0.5) / 0.5)
    hits = [int(row.argmax() == y) for row, y in zip(logits, data.labels, strict=True)]
    value = accuracy(network, data.images, data.labels, HALF, batch_size=7)
    assert value == pytest.approx(100 * sum(hits) / len(hits))
    assert not network.training


def test_the_report_describes_the_run_and_is_json(data):
    report = run(data.subset(torch.arange(0, 30, 2)), data, max_steps=3)
    values = json.loads(json.dumps(report.to_dict()))
    assert values["accuracy_mean"] == np.mean(report.accuracies)
    assert values["accuracy_std"] == np.std(report.accuracies)
    assert values["accuracies"] == list(report.accuracies)
    expected = {
        "repeats": 2,
        "recipe": "quick",
        "network": "convnet",
        "width": 8,
        "dataset": "bars",
        "ipc": 5,
        "images": 15,
        "bytes": 15 * 64,
        "bits_per_class": 8 * 5 * 64,
        "label_type": "hard",
        "steps": 3,
        "max_steps": 3,
        "seed": 0,
        "device": "cpu",
    }
    assert {key: values[key] for key in expected} == expected
    assert values["recipe_settings"]["learning_rate"] == 0.01
    assert values["recipe_settings"]["flip"] is True
    assert set(values["versions"]) == {"python", "torch", "gencondense", "platform"}
    assert values["seconds"] >= 0


def test_an_unbalanced_set_has_no_images_per_class(data):
    report = run(data.subset(torch.arange(29)), data, max_steps=1, repeats=1)
    assert (report.ipc, report.images) == (None, 29)


def test_a_condensed_set_brings_its_size_and_its_statistics(data):
    options = {"recipe": Recipe("short", epochs=3), "repeats": 1}
    plain = condensed(data)
    sized = condensed(data, nbytes=123, statistics=HALF)
    assert run(sized, data, **options).bytes == 123
    assert run(plain, data, **options).bytes == data.images.numel()

    def trained_with(source, **more):
        return run(source, data, recipe=Recipe("one", epochs=1), **more).accuracies

    assert trained_with(sized) == trained_with(data, statistics=HALF)
    assert trained_with(plain) == trained_with(data)


def test_pairs_keep_their_labels_even_if_a_class_is_missing(data):
    gap = data.labels != 1
    pair = data.images[gap], data.labels[gap]
    assert run(pair, pair, repeats=1).accuracy_mean == 100.0
    assert run(data, pair, repeats=1).accuracy_mean == 100.0
    report = run(pair, data, repeats=1)
    assert report.accuracy_mean == pytest.approx(200 / 3, abs=0.01)


def test_the_recipes_are_those_of_the_field():
    paper, dsa = RECIPES["paper-300"], RECIPES["dsa-1000"]
    assert (paper.epochs, paper.augment) == (300, None)
    assert (dsa.epochs, dsa.augment) == (1000, "color_crop_cutout_flip_scale_rotate")
    for recipe in (paper, dsa):
        assert (recipe.learning_rate, recipe.momentum) == (0.01, 0.9)
        assert (recipe.weight_decay, recipe.batch_size) == (5e-4, 256)


def test_planned_steps_round_the_last_batch_up():
    assert planned_steps(257, Recipe("x", epochs=3)) == 6
    assert planned_steps(257, Recipe("x", epochs=3), max_steps=5) == 5
    assert planned_steps(10, Recipe("x", epochs=3), max_steps=5) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "long"}, "unknown recipe 'long': choose one of paper-300"),
        ({"network": "lenet"}, "unknown network 'lenet'"),
        ({"repeats": 0}, "repeats is 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_a_wrong_option_is_named(data, options, message):
    with pytest.raises(ConfigError) as error:
        run(data, data, **options)
    assert message in str(error.value)


@pytest.mark.parametrize("sizes", [{"epochs": 0}, {"epochs": 1, "batch_size": 0}])
def test_a_recipe_without_steps_is_refused(sizes):
    with pytest.raises(ConfigError, match="is 0: give at least 1"):
        Recipe("x", **sizes)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan")])
def test_a_label_is_smoothed_by_a_share(smoothing):
    with pytest.raises(ConfigError, match=r"label_smoothing is .* from 0 to 1"):
        Recipe("x", epochs=1, label_smoothing=smoothing)


def test_sets_that_do_not_fit_each_other_are_refused(data):
    larger = ImageData(
        images=torch.zeros(3, 1, 9, 8, dtype=torch.uint8),
        labels=torch.arange(3),
        classes=CLASSES,
    )
    more = ImageData(images=data.images, labels=data.labels, classes=(*CLASSES, "up"))
    names = (CLASSES[0], "centre", CLASSES[2])
    other = ImageData(images=data.images, labels=data.labels, classes=names)
    turned = ImageData(images=data.images, labels=data.labels, classes=CLASSES[::-1])
    for test, message in (
        (larger, r"shape \(1, 8, 8\), test images \(1, 9, 8\)"),
        (more, "3 classes, test data 4"),
        (turned, "in different order"),
        (other, "class 1 is 'middle' in the training data and 'centre' in the test"),
    ):
        with pytest.raises(DataError, match=message):
            run(data, test)


@pytest.mark.parametrize(
    ("kept", "accepted"), [((0, 1, 2), True), ((0, 1), False), ((2,), True)]
)
def test_labels_of_a_pair_are_names_or_positions_but_not_both(data, kept, accepted):
    named = ImageData(images=data.images, labels=data.labels, classes=("1", "2", "3"))
    rows = torch.isin(data.labels, torch.tensor(kept))
    expected = run(named, named.subset(rows.nonzero().squeeze(1)))
    pair = data.images[rows], data.labels[rows] + 1
    if accepted:
        assert run(named, pair).accuracies == expected.accuracies
    else:
        with pytest.raises(DataError, match=r"labels \[1, 2\] are both names and pos"):
            run(named, pair)


def test_labels_of_no_class_are_refused(data):
    named = ImageData(images=data.images, labels=data.labels, classes=("0", "1", "2"))
    with pytest.raises(DataError, match=r"labels 5\.\.7 are neither names nor"):
        run(named, (data.images, data.labels + 5))


def test_images_are_mirrored_as_the_run_had_it(data):
    def flips(**attributes):
        recipe = dataclasses.replace(QUICK, augment="flip")
        report = run(condensed(data, **attributes), data, recipe=recipe, repeats=1)
        return report.recipe_settings["flip"]

    assert flips()
    assert flips(metadata={"config": {"data": {"flip": True}}})
    assert not flips(metadata={"config": {"data": {"flip": False}}})
    assert run(data, data, flip=False, repeats=1).recipe_settings["flip"] is False


def test_an_absent_device_is_an_error_naming_the_remedy():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(RunError, match="'cuda:99' is not available here"):
        resolve_device("cuda:99")
