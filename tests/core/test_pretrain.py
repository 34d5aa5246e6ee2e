from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from condense_core.config import PretrainConfig
from condense_core.data import as_image_data, to_unit
from condense_core.data.class_sampler import ClassSampler
from condense_core.networks import build_network
from condense_core.pretrain import (
    fit_targets,
    pretrain,
    reconstruction_targets,
    spatial_features,
    train_adversarially,
)
from condense_core.runlog import RunLog
from condense_core.seeding import seeded_initialisation
from condense_core.synthesiser import SynthesiserSpec, build_synthesiser


@pytest.fixture
def data(tiny_images):
    return as_image_data(tiny_images)


@pytest.fixture
def sampler(data, device):
    return ClassSampler(data, device)


@pytest.fixture
def log():
    with RunLog(None, total=100, description="test") as opened:
        yield opened


def build(device="cpu", **sizes):
    spec = SynthesiserSpec(
        **{
            "kind": "generator",
            "image_shape": (1, 8, 8),
            "num_classes": 3,
            "images_per_class": 2,
            "latent_dim": 4,
            "embedding_dim": 3,
            "projected_dim": 4,
            "channels": 8,
            **sizes,
        }
    )
    with seeded_initialisation(0, "test"):
        synthesiser = build_synthesiser(spec)
    synthesiser.class_embedding.copy_(torch.eye(spec.num_classes, spec.embedding_dim))
    return synthesiser.to(device)


def every_image(synthesiser):
    spec, device = synthesiser.spec, synthesiser.class_embedding.device
    return synthesiser(
        torch.arange(spec.num_classes, device=device),
        torch.arange(spec.images_per_class, device=device),
    )


def state(synthesiser):
    return {k: v.clone() for k, v in synthesiser.state_dict().items()}


@pytest.mark.parametrize("count", [1, 4, 25])
@pytest.mark.parametrize("kind", ["centres", "medoids", "images"])
def test_targets_are_images_of_their_class_even_if_it_has_fewer(
    kind, count, sampler, data
):
    targets = reconstruction_targets(sampler, count, kind=kind, seed=0).cpu()
    assert targets.shape == (3, count, 1, 8, 8)
    means = torch.stack(
        [to_unit(data.images[data.labels == y]).mean(dim=0) for y in range(3)]
    )
    nearest = torch.cdist(targets.flatten(0, 1).flatten(1), means.flatten(1)).argmin(1)
    assert torch.equal(nearest, torch.arange(3).repeat_interleave(count))


def test_image_targets_are_distinct_real_images_until_all_are_used(sampler, data):
    targets = reconstruction_targets(sampler, 10, kind="images", seed=0).cpu()
    for label in range(3):
        real = to_unit(data.images[data.labels == label]).flatten(1)
        distance = torch.cdist(targets[label].flatten(1), real)
        assert torch.equal(distance.argmin(dim=1).sort().values, torch.arange(10))
        assert distance.amin(dim=1).max() < 1e-3


def test_medoids_are_the_real_images_nearest_to_centres_in_the_space_given(sampler):
    def columns(images):
        return images.mean(dim=(1, 2))

    targets = reconstruction_targets(
        sampler, 3, kind="medoids", seed=0, embed=columns
    ).cpu()
    for label in range(3):
        real = to_unit(sampler.all_of(label)).cpu()
        distance = torch.cdist(targets[label].flatten(1), real.flatten(1))
        assert distance.amin(dim=1).max() < 1e-3
        # Each stands for a cluster: none is nearer to the mean of another's members.
        points, chosen = columns(real), columns(targets[label])
        nearest = torch.cdist(points, chosen).argmin(dim=1)
        assert nearest.unique().tolist() == [0, 1, 2]


def test_spatial_features_are_the_last_layer_of_the_network(data):
    network = build_network(
        "convnet", image_shape=(1, 8, 8), num_classes=3, width=4, seed=0
    )
    images, statistics = to_unit(data.images), data.statistics()
    features = spatial_features(network, statistics, images)
    expected = network.layer_features(statistics.normalise(images))[-1]
    torch.testing.assert_close(features, expected.flatten(1))
    assert not features.requires_grad


def test_targets_depend_on_the_seed_alone(sampler):
    first, same, other = (
        reconstruction_targets(sampler, 3, kind="images", seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("batch_size", [256, 4, 2])
def test_fitting_brings_the_images_near_their_targets(batch_size, sampler, log):
    synthesiser = build(sampler.device)
    targets = reconstruction_targets(sampler, 2, kind="centres", seed=0)
    before = F.mse_loss(every_image(synthesiser), targets).item()
    config = PretrainConfig(steps=80, learning_rate=0.01, batch_size=batch_size)
    codes = synthesiser.codebook.codes.detach().clone()
    fit_targets(synthesiser, targets, config, seed=0, log=log)
    after = F.mse_loss(every_image(synthesiser), targets).item()
    assert after < 0.3 * before
    assert not torch.equal(synthesiser.codebook.codes, codes)


def test_fitting_leaves_fixed_codes_and_embeddings_alone(sampler, log):
    synthesiser = build(sampler.device, codes="uniform")
    before = state(synthesiser)
    targets = reconstruction_targets(sampler, 2, kind="centres", seed=0)
    fit_targets(synthesiser, targets, PretrainConfig(steps=2), seed=0, log=log)
    after = state(synthesiser)
    for name in ("codebook.codes", "class_embedding"):
        assert torch.equal(before[name], after[name])
    assert not torch.equal(
        before["generator.stem.weight"], after["generator.stem.weight"]
    )


def test_step_size_falls_linearly(sampler):
    class Recorder:
        def __init__(self):
            self.codes = [synthesiser.codebook.codes.detach().clone()]

        def advance(self, step, **values):
            self.codes.append(synthesiser.codebook.codes.detach().clone())

    synthesiser = build(sampler.device)
    recorder = Recorder()
    targets = reconstruction_targets(sampler, 2, kind="centres", seed=0)
    config = PretrainConfig(steps=4, learning_rate=1e-3)
    fit_targets(synthesiser, targets, config, seed=0, log=recorder)
    moves = [
        (after - before).abs().max().item()
        for before, after in pairwise(recorder.codes)
    ]
    # Steps of Adam are about the learning rate long while gradients keep their sign.
    assert moves == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4], rel=0.1)


def test_adversarial_training_changes_the_generator_but_not_the_codebook(
    sampler, data, log
):
    results = []
    for _ in range(2):
        synthesiser = build(sampler.device)
        before = state(synthesiser)
        config = PretrainConfig(method="adversarial", steps=3, batch_size=6)
        train_adversarially(
            synthesiser, sampler, data.statistics(), config, seed=0, log=log
        )
        after = state(synthesiser)
        assert torch.equal(before["codebook.codes"], after["codebook.codes"])
        for name, _ in synthesiser.generator.named_parameters():
            value = after[f"generator.{name}"]
            assert value.isfinite().all()
            assert not torch.equal(value, before[f"generator.{name}"]), name
        results.append(every_image(synthesiser))
    torch.testing.assert_close(results[0], results[1])


def test_adversarial_training_brings_classes_nearer_to_their_real_images(
    sampler, data, log
):
    means = torch.stack(
        [to_unit(data.images[data.labels == y]).mean(dim=0) for y in range(3)]
    ).to(sampler.device)
    synthesiser = build(sampler.device)

    def distance():
        return F.mse_loss(every_image(synthesiser).mean(dim=1), means).item()

    before = distance()
    config = PretrainConfig(
        method="adversarial", steps=60, batch_size=24, learning_rate=0.005
    )
    train_adversarially(
        synthesiser, sampler, data.statistics(), config, seed=0, log=log
    )
    assert distance() < 0.8 * before


def test_pixels_start_from_the_targets_by_either_method(sampler, data, log):
    for method in ("reconstruction", "adversarial"):
        synthesiser = build(sampler.device, kind="pixels")
        pretrain(
            synthesiser,
            sampler,
            data.statistics(),
            PretrainConfig(method=method, targets="images"),
            seed=3,
            log=log,
        )
        targets = reconstruction_targets(sampler, 2, kind="images", seed=3)
        torch.testing.assert_close(
            every_image(synthesiser), targets.clamp(0.01, 0.99), atol=1e-4, rtol=0
        )


def test_method_chooses_what_is_done(sampler, data, log):
    results = {}
    for method in ("none", "reconstruction", "adversarial"):
        synthesiser = build(sampler.device)
        start = state(synthesiser)
        config = PretrainConfig(method=method, steps=2, batch_size=6)
        pretrain(synthesiser, sampler, data.statistics(), config, seed=0, log=log)
        results[method] = [
            name
            for name, value in state(synthesiser).items()
            if not torch.equal(value, start[name])
        ]
    assert results["none"] == []
    assert "codebook.codes" in results["reconstruction"]
    assert "codebook.codes" not in results["adversarial"]
    assert "generator.stem.weight" in results["adversarial"]


@pytest.mark.usefixtures("untouched_global_rng")
def test_global_generator_is_left_alone(sampler, data, log):
    for method in ("reconstruction", "adversarial"):
        synthesiser = build(sampler.device)
        config = PretrainConfig(method=method, steps=1, batch_size=6)
        pretrain(synthesiser, sampler, data.statistics(), config, seed=0, log=log)
        assert every_image(synthesiser).isfinite().all()
