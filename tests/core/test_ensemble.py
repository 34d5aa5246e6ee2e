"""Networks trained side by side against the same networks trained one after another.

Weights are compared in double precision, where rounding has no time to grow: a wrong
seed, batch or draw shows in the second digit, the order of sums in the tenth.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from condense_core import ensemble, networks
from condense_core.data import ImageData, PixelStatistics
from condense_core.ensemble import (
    resolve_mode,
    train_ensemble,
    trained_networks,
    trial_seconds,
    unstackable,
)
from condense_core.errors import ConfigError
from condense_core.evaluate import evaluate
from condense_core.networks import NETWORKS, ConvNet, build_network
from condense_core.training import Recipe, train_network

HALF = PixelStatistics((0.5,), (0.25,))
AUGMENT = "color_crop_cutout_flip_scale_rotate"
SEEDS = (5, 6, 7)
SHORT = Recipe("short", epochs=6, augment=AUGMENT, batch_size=16, learning_rate=0.1)


@pytest.fixture
def data(tiny_images, device):
    images, labels = tiny_images
    return images.to(device), labels.to(device)


def build(seed, name="convnet", device="cpu"):
    network = build_network(
        name, image_shape=(1, 8, 8), num_classes=3, width=4, seed=seed
    )
    return network.to(device)


def weights(network):
    return torch.cat([value.detach().flatten() for value in network.parameters()])


class BatchNormNet(ConvNet):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.blocks[0][1] = nn.BatchNorm2d(self.width)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("augment", [None, AUGMENT], ids=["plain", "augmented"])
@pytest.mark.parametrize("batch_size", [256, 16], ids=["one-batch", "batches"])
@pytest.mark.usefixtures("untouched_global_rng")
def test_the_weights_are_those_of_the_loop(data, name, augment, batch_size):
    images, labels = data[0].double() / 255, data[1]
    recipe = Recipe(
        "x", epochs=4, augment=augment, batch_size=batch_size, learning_rate=0.05
    )
    options = {"recipe": recipe, "statistics": HALF, "flip": False}
    alone = [build(seed, name, images.device).double() for seed in SEEDS]
    together = [build(seed, name, images.device).double() for seed in SEEDS]
    start = [weights(network) for network in alone]
    for network, seed in zip(alone, SEEDS, strict=True):
        train_network(network, images, labels, seed=seed, **options)
    train_ensemble(together, images, labels, seeds=SEEDS, **options)
    for before, one, other in zip(start, alone, together, strict=True):
        moved = (weights(one) - before).abs().max()
        assert moved > 1e-3
        assert (weights(one) - weights(other)).abs().max() < 1e-8 * moved
        assert other.training


def test_labels_are_smoothed_as_in_the_loop(data):
    options = {"recipe": replace(SHORT, label_smoothing=0.3), "statistics": HALF}
    alone, together = (build(0, device=data[0].device) for _ in range(2))
    train_network(alone, *data, seed=3, **options)
    train_ensemble([together], *data, seeds=[3], **options)
    rounding = 1e-3 if data[0].is_cuda else 1e-6
    assert torch.allclose(weights(alone), weights(together), atol=rounding)


@pytest.mark.parametrize("max_steps", [1, 5, None])
def test_the_cap_on_steps_is_that_of_the_loop(data, max_steps):
    options = {"recipe": SHORT, "statistics": HALF, "max_steps": max_steps}
    alone, together = build(0).to(data[0].device), build(0).to(data[0].device)
    train_network(alone, *data, seed=3, **options)
    train_ensemble([together], *data, seeds=[3], **options)
    assert torch.allclose(weights(alone), weights(together), atol=1e-6)


def test_each_network_depends_on_its_own_seed_alone(data):
    data = data[0].double() / 255, data[1]

    def train(seeds):
        together = [build(0, device=data[0].device).double() for _ in seeds]
        options = {"recipe": SHORT, "statistics": HALF}
        train_ensemble(together, *data, seeds=seeds, **options)
        return [weights(network) for network in together]

    first = train((1, 2, 3))
    second = train((9, 2))
    assert torch.allclose(first[1], second[1], atol=1e-6)
    assert not torch.allclose(first[0], first[1], atol=1e-3)
    assert not torch.allclose(first[0], second[0], atol=1e-3)


# From here on through `evaluate`, in single precision.


@pytest.fixture
def bars(data):
    return ImageData(images=data[0], labels=data[1], classes=("a", "b", "c"))


@pytest.fixture
def noise(bars, generator):
    pixels = torch.randint(0, 256, bars.images.shape, generator=generator)
    return ((bars.images.cpu() + pixels) // 2).to(torch.uint8), bars.labels.cpu()


def run(train, test, device, **options):
    defaults = {"recipe": SHORT, "repeats": 3, "width": 8, "device": device}
    return evaluate(train, test, **(defaults | options))


def test_the_accuracies_are_those_of_the_loop(bars, noise, device):
    loop = run(bars, noise, device, ensemble="loop").accuracies
    assert len(set(loop)) > 1
    # Products of ten bits may decide differently about an image or two.
    images = 2 if device.type == "cuda" else 0
    slack = 100 * images / len(noise[0])
    together = run(bars, noise, device, ensemble="vmap").accuracies
    assert together == pytest.approx(loop, abs=slack + 1e-9)


def test_on_the_cpu_auto_is_the_loop_without_a_trial(bars, noise, monkeypatch):
    def never(*_, **__):
        pytest.fail("the choice on the CPU must not depend on the clock")

    monkeypatch.setattr(ensemble, "trial_seconds", never)
    monkeypatch.setattr(ensemble, "train_ensemble", never)
    loop = run(bars, noise, "cpu", ensemble="loop").accuracies
    assert run(bars, noise, "cpu").accuracies == loop


def test_completed_repeats_are_not_trained_again(bars, noise, device, monkeypatch):
    whole = run(bars, noise, device, ensemble="vmap", repeats=4).accuracies
    blocks, original = [], ensemble.train_ensemble

    def spy(networks, *args, **options):
        blocks.append(len(networks))
        original(networks, *args, **options)

    monkeypatch.setattr(ensemble, "train_ensemble", spy)
    seen = []
    options = {"ensemble": "vmap", "repeats": 4, "on_repeat": lambda *x: seen.append(x)}
    resumed = run(bars, noise, device, completed=whole[:1], **options)
    assert resumed.accuracies == whole
    assert blocks == [3]
    assert seen == [*enumerate(whole)][1:]
    assert run(bars, noise, device, completed=whole, **options).accuracies == whole
    assert blocks == [3]


def test_a_block_that_does_not_fit_is_halved(data, monkeypatch):
    blocks, original = [], ensemble.train_ensemble

    def small_memory(networks, *args, **options):
        blocks.append(len(networks))
        if len(networks) > 2:
            raise torch.OutOfMemoryError
        original(networks, *args, **options)

    monkeypatch.setattr(ensemble, "train_ensemble", small_memory)
    options = {"recipe": SHORT, "statistics": HALF}
    seeds = {repeat: repeat + 10 for repeat in range(2, 7)}
    here = partial(build, device=data[0].device)
    trained = trained_networks(here, seeds, *data, mode="vmap", **options)
    result = {repeat: weights(network) for repeat, network in trained}
    assert list(result) == [2, 3, 4, 5, 6]
    assert blocks == [5, 3, 2, 2, 1]
    alone = here(5)
    train_network(alone, *data, seed=15, **options)
    rounding = 1e-3 if data[0].is_cuda else 1e-6
    assert torch.allclose(result[5], weights(alone), atol=rounding)


def test_one_network_that_does_not_fit_is_an_error(data, monkeypatch):
    def no_memory(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ensemble, "train_ensemble", no_memory)
    monkeypatch.setattr(ensemble, "train_network", no_memory)
    trained = trained_networks(
        build, {0: 0, 1: 1}, *data, mode="vmap", recipe=SHORT, statistics=HALF
    )
    with pytest.raises(torch.OutOfMemoryError):
        list(trained)


@pytest.mark.parametrize(("loop", "together"), [(1.0, 3.0), (3.0, 1.0)])
def test_auto_takes_the_faster(data, monkeypatch, loop, together):
    times = {"loop": loop, "vmap": together}
    monkeypatch.setattr(ensemble, "trial_seconds", lambda *_, **__: times)
    elsewhere = data[0].to("meta"), data[1].to("meta")  # any device but the CPU
    mode = resolve_mode("auto", build, {0: 0, 1: 1}, *elsewhere)
    assert mode == min(times, key=times.__getitem__)
    assert resolve_mode("auto", build, {0: 0}, *elsewhere) == "loop"


def test_a_trial_changes_nothing(data):
    built = []

    def spy(repeat):
        built.append(build(repeat, device=data[0].device))
        return built[-1]

    options = {"recipe": SHORT, "statistics": HALF, "max_steps": None}
    times = trial_seconds(spy, {0: 10, 1: 11}, *data, **options)
    assert times.keys() == {"vmap", "loop"}
    assert min(times.values()) > 0
    assert not torch.equal(weights(built[0]).cpu(), weights(build(0)))


def test_a_trial_that_runs_out_of_memory_leaves_the_loop(data, monkeypatch):
    def no_memory(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ensemble, "train_ensemble", no_memory)
    options = {"recipe": SHORT, "statistics": HALF}
    here = partial(build, device=data[0].device)
    times = trial_seconds(here, {0: 10, 1: 11}, *data, **options)
    assert times["vmap"] == float("inf")


def test_running_statistics_and_dropout_cannot_be_stacked():
    def obstacle(*layers):
        return unstackable(nn.Sequential(*layers))

    assert obstacle(nn.Linear(2, 2), nn.GroupNorm(2, 2)) is None
    assert obstacle(nn.BatchNorm2d(2, track_running_stats=False)) is None
    assert obstacle(nn.Linear(2, 2), nn.BatchNorm1d(2)) == "buffer '1.running_mean'"
    assert obstacle(nn.Dropout(0.1)) == "dropout '0'"
    for name in NETWORKS:
        assert unstackable(build(0, name)) is None, name


def test_a_network_that_cannot_be_stacked(bars, noise, monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "batchnorm", BatchNormNet)
    message = r"BatchNormNet with buffer 'blocks\.0\.1\.running_mean'.*ensemble=loop"
    with pytest.raises(ConfigError, match=message):
        run(bars, noise, "cpu", network="batchnorm", ensemble="vmap")
    with pytest.raises(ConfigError, match=message):
        train_ensemble(
            [BatchNormNet(image_shape=(1, 8, 8), num_classes=3, width=4)],
            bars.images,
            bars.labels,
            recipe=SHORT,
            statistics=HALF,
            seeds=[0],
        )
    assert run(bars, noise, "cpu", network="batchnorm").repeats == 3
    elsewhere = bars.images.to("meta"), bars.labels.to("meta")
    chosen = resolve_mode(
        "auto", lambda _: build(0, "batchnorm"), {0: 0, 1: 1}, *elsewhere
    )
    assert chosen == "loop"


def test_an_unknown_mode_is_refused(bars, noise):
    with pytest.raises(ConfigError, match="ensemble is 'pool': choose from auto"):
        run(bars, noise, "cpu", ensemble="pool")
