"""The release and what is made of it."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from condense_core.artefact import CondensedDataset
from condense_core.config import FormatConfig
from condense_core.data import ImageData, to_unit
from condense_core.errors import ConfigError, DataError
from condense_core.synthesiser import GeneratorSynthesiser
from flower_strategy import privacy, private_condense
from flower_strategy.accounting import gaussian_epsilon
from flower_strategy.privacy import (
    NoisyStatistics,
    PrivacyConfig,
    RandomFeatures,
    release,
    statistics_vector,
)
from flower_strategy.private_condense import (
    class_means,
    condense_privately,
    matching_loss,
    total_variation,
)

CLASSES = ("left", "middle", "right", "absent")
FORM = FormatConfig(
    images_per_class=4, latent_dim=4, projected_dim=4, channels=8, precision="fp32"
)
STEPS = 5  # of most tests


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(private_condense, "STEPS", STEPS)
    monkeypatch.setattr(private_condense, "CODES_PER_STEP", 2)


@pytest.fixture
def data(tiny_images):
    """Ten images of each class but the last, which has none."""
    images, labels = tiny_images
    return ImageData(images=images, labels=labels, classes=CLASSES)


@pytest.fixture
def config():
    return PrivacyConfig(epsilon=4.0, width=4, min_class_count=1.0)


def drop(data, index):
    return data.subset(torch.arange(len(data)) != index)


def noiseless(data, **settings):
    """Statistics as of an infinite budget, for tests of what is made of them."""
    config = PrivacyConfig(
        **{"epsilon": math.inf, "width": 4, "min_class_count": 5.0, **settings}
    )
    return release(data, config, classes=CLASSES)


# --- configuration --------------------------------------------------------------------


def test_the_noise_of_a_configuration_costs_its_budget(config):
    spent = gaussian_epsilon(
        config.delta, config.noise_std, sensitivity=config.sensitivity
    )
    assert spent == pytest.approx(config.epsilon, rel=1e-9)
    assert spent <= config.epsilon * (1 + 1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon": 0.0},
        {"epsilon": math.nan},
        {"delta": 0.0},
        {"delta": 1.5},
        {"clip": 0.0},
        {"clip": math.inf},
        {"count_scale": 0.0},
        {"min_class_count": -1.0},
    ],
)
def test_a_setting_out_of_range(settings):
    (name,) = settings
    with pytest.raises(ConfigError, match=name):
        PrivacyConfig(**{"epsilon": 1.0, **settings})


# --- features and sensitivity ---------------------------------------------------------


def test_features_are_the_same_for_everyone(config, data, untouched_global_rng):
    images = to_unit(data.images)
    one, two = (RandomFeatures(config, data.image_shape)(images) for _ in range(2))
    other = dataclasses.replace(config, seed=1)
    assert torch.equal(one, two)
    assert not torch.equal(one, RandomFeatures(other, data.image_shape)(images))


def test_a_feature_does_not_depend_on_the_batch(config, data):
    """Else one image more would change what the others add."""
    extractor, images = RandomFeatures(config, data.image_shape), to_unit(data.images)
    alone = torch.cat([extractor(image[None]) for image in images])
    assert torch.allclose(extractor(images), alone, atol=1e-6)


def test_features_are_no_longer_than_the_clipping_norm(data):
    for clip in (1e-3, 0.3, 10.0):
        config = PrivacyConfig(epsilon=1.0, width=4, clip=clip)
        norms = RandomFeatures(config, data.image_shape)(to_unit(data.images)).norm(
            dim=1
        )
        assert norms.max() <= clip * (1 + 1e-5)
        assert norms.min() > 0


def test_features_of_random_images_are_centred(config, generator):
    config = dataclasses.replace(config, clip=1e6)
    coarse = torch.rand(512, 1, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")
    features = RandomFeatures(config, (1, 8, 8))(smooth)
    assert features.mean(dim=0).norm() < 0.1 * features.norm(dim=1).mean()


@pytest.mark.parametrize("clip", [1e-3, 0.1, 0.3])
def test_one_image_adds_no_more_than_the_clipping_norm(data, clip):
    """To the last digit: each image is in a class of its own."""
    names = tuple(map(str, range(len(data))))
    data = ImageData(images=data.images, labels=torch.arange(len(data)), classes=names)
    config = PrivacyConfig(epsilon=1.0, width=4, clip=clip)
    norms = statistics_vector(data, config)[:, :-1].norm(dim=1)
    assert norms.max() <= clip * (1 + 1e-12)


@pytest.mark.parametrize("clip", [1e-3, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("count_scale", [0.1, 1.0])
def test_no_image_moves_the_vector_by_more_than_the_sensitivity(
    data, clip, count_scale
):
    """Brute force: remove every image of a set with outliers in turn."""
    draw = torch.Generator().manual_seed(3)
    extremes = torch.stack(
        [
            torch.zeros(1, 8, 8),
            torch.full((1, 8, 8), 255),
            torch.randint(0, 2, (1, 8, 8), generator=draw) * 255,
            torch.eye(8)[None] * 255,
        ]
    ).to(torch.uint8)
    data = ImageData(
        images=torch.cat([data.images, extremes]),
        labels=torch.cat([data.labels, torch.tensor([0, 1, 2, 3])]),
        classes=CLASSES,
    )
    config = PrivacyConfig(epsilon=1.0, width=4, clip=clip, count_scale=count_scale)
    whole = statistics_vector(data, config)
    moves = [
        float((whole - statistics_vector(drop(data, index), config)).norm())
        for index in range(len(data))
    ]
    # What is above the bound is float32 arithmetic in the other images' features.
    assert max(moves) <= config.sensitivity * (1 + 1e-6)
    if clip < 0.1:  # every image is clipped, and the bound is reached
        assert min(moves) == pytest.approx(config.sensitivity, rel=1e-4)


def test_the_vector_is_the_sums_and_counts_of_the_classes(config, data):
    vector = statistics_vector(data, config)
    features = RandomFeatures(config, data.image_shape)(to_unit(data.images)).double()
    for label in range(len(CLASSES)):
        member = data.labels == label
        expected = features[member].sum(dim=0)
        assert torch.allclose(vector[label, :-1], expected, atol=1e-5)
        count = vector[label, -1] / (config.clip * config.count_scale)
        assert count == pytest.approx(int(member.sum()))


# --- release --------------------------------------------------------------------------


def test_the_noise_has_the_promised_deviation_everywhere(config, data):
    exact = statistics_vector(data, config)
    scale = config.clip * config.count_scale
    sums, counts = [], []
    for _ in range(40):
        noisy = release(data, config, classes=CLASSES)
        sums.append(noisy.sums_YD.double() - exact[:, :-1])
        counts.append(noisy.counts_Y.double() - exact[:, -1] / scale)
    sums, counts = torch.stack(sums), torch.stack(counts)
    for label in range(len(CLASSES)):
        std = float(sums[:, label].std())
        assert std == pytest.approx(config.noise_std, rel=0.1)
    assert float(sums.std()) == pytest.approx(config.noise_std, rel=0.05)
    assert float(sums.mean()) == pytest.approx(0.0, abs=0.05 * config.noise_std)
    assert float(counts.std()) == pytest.approx(config.count_std, rel=0.25)
    assert config.noise_std == pytest.approx(config.sigma * config.clip)


def test_the_noise_is_normal():
    noise = privacy._noise(400_001, None)
    assert noise.shape == (400_001,)
    ordered = np.sort(noise.numpy())
    ranks = np.arange(1, len(ordered) + 1) / len(ordered)
    normal = 0.5 * torch.special.erfc(torch.from_numpy(-ordered / math.sqrt(2))).numpy()
    # Kolmogorov-Smirnov: beyond this once in a hundred million runs.
    assert np.abs(ranks - normal).max() < 3.1 / math.sqrt(len(ordered))


def test_the_noise_is_independent():
    noise = privacy._noise(200_000, None)
    assert len(noise.unique()) == len(noise)
    one, two = noise.view(2, -1)  # made in pairs
    for a, b in ((one, two), (one.abs(), two.abs()), (noise[:-1], noise[1:])):
        # Beyond this once in five hundred million runs.
        assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 6 / len(a) ** 0.5


def test_noise_is_added_in_double_precision_and_then_rounded(config, data):
    exact = statistics_vector(data, config)
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn(exact.shape, generator=draw, dtype=torch.float64)
    expected = (exact + config.noise_std * noise).float()
    found = release(
        data,
        config,
        classes=CLASSES,
        test_generator=torch.Generator().manual_seed(1),
    )
    assert torch.equal(found.sums_YD, expected[:, :-1])


def test_a_public_seed_does_not_repeat_the_noise(config, data, untouched_global_rng):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = release(data, config, classes=CLASSES)
        torch.manual_seed(0)
        two = release(data, config, classes=CLASSES)
    assert (one.sums_YD != two.sums_YD).all()


def test_a_test_may_inject_its_generator(config, data):
    one, two = (
        release(
            data,
            config,
            classes=CLASSES,
            test_generator=torch.Generator().manual_seed(1),
        )
        for _ in range(2)
    )
    assert torch.equal(one.sums_YD, two.sums_YD)
    assert torch.equal(one.counts_Y, two.counts_Y)


def test_absent_classes_are_released_like_all_others(config, data):
    noisy = release(data, config, classes=CLASSES)
    assert noisy.classes == CLASSES
    assert len(noisy.sums_YD) == len(noisy.counts_Y) == len(CLASSES)
    assert noisy.sums_YD[3].std() > 0.5 * config.noise_std
    assert noisy.counts_Y[3] != 0


def test_nothing_but_the_noised_vector_and_public_values_is_released(config, data):
    renamed = dataclasses.replace(data, name="ward 7")
    noisy = release(renamed, config, classes=CLASSES)
    values = {f.name: getattr(noisy, f.name) for f in dataclasses.fields(noisy)}
    assert values.keys() == {"sums_YD", "counts_Y", "classes", "image_shape", "config"}
    assert values["config"] is config
    assert "ward 7" not in str(values)


def test_the_class_list_must_be_the_public_one(config, tiny_images):
    images, labels = tiny_images
    own = ImageData(images=images, labels=labels, classes=CLASSES[:3])
    with pytest.raises(DataError, match="label the images by the public list"):
        release(own, config, classes=CLASSES)


def test_without_a_budget_limit_there_is_no_noise_and_no_promise(data):
    noisy = noiseless(data)
    assert noisy.counts_Y.tolist() == pytest.approx([10, 10, 10, 0])
    assert noisy.report()["epsilon"] == noisy.report()["delta"] == "none"


def test_the_report_names_the_guarantee(config, data):
    report = release(data, config, classes=CLASSES).report()
    assert report["epsilon"] == 4.0
    assert report["delta"] == 1e-5
    assert report["clip"] == config.clip
    assert report["sigma"] == pytest.approx(config.noise_std / config.clip)
    assert report["adjacency"] == "add or remove one image"
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_classes_are_kept_by_noised_counts_alone(config):
    counts = torch.tensor([50.0, -3.0, 1.0 + 2 * config.count_std + 1e-3, 0.0])
    noisy = NoisyStatistics(
        sums_YD=torch.zeros(4, 64),
        counts_Y=counts,
        classes=CLASSES,
        image_shape=(1, 8, 8),
        config=config,
    )
    assert noisy.kept == (0, 2)


def test_statistics_that_do_not_fit(config):
    good = {
        "sums_YD": torch.zeros(4, 64),
        "counts_Y": torch.zeros(4),
        "classes": CLASSES,
        "image_shape": (1, 8, 8),
        "config": config,
    }
    for wrong in (
        {"sums_YD": torch.zeros(3, 64)},
        {"counts_Y": torch.zeros(4, 1)},
        {"classes": CLASSES[:2]},
        {"sums_YD": torch.full((4, 64), math.nan)},
        {"counts_Y": torch.full((4,), math.inf)},
    ):
        with pytest.raises(DataError):
            NoisyStatistics(**{**good, **wrong})


# --- condensing -----------------------------------------------------------------------


def test_the_generator_draws_the_classes_it_was_told_the_means_of(data, monkeypatch):
    monkeypatch.setattr(private_condense, "STEPS", 120)
    condensed, _ = condense_privately(noiseless(data), FORM)
    assert isinstance(condensed, CondensedDataset)
    assert condensed.classes == CLASSES[:3]
    means = torch.stack(
        [to_unit(data.images[data.labels == y]).mean(0) for y in range(3)]
    )
    for images, labels in (condensed.images(), condensed.sample(60, fresh=True)):
        nearest = torch.cdist(images.flatten(1), means.flatten(1)).argmin(dim=1)
        assert (nearest == labels).float().mean() > 0.9


def test_only_the_statistics_decide(data, untouched_global_rng):
    noisy = noiseless(data)
    one, two = (condense_privately(noisy, FORM, seed=3)[0] for _ in range(2))
    assert one.to_bytes() == two.to_bytes()
    moved = dataclasses.replace(noisy, sums_YD=noisy.sums_YD + 1.0)
    other, _ = condense_privately(moved, FORM, seed=3)
    assert other.to_bytes() != one.to_bytes()


@pytest.mark.parametrize("term", ["SPREAD_WEIGHT", "SMOOTHNESS"])
def test_a_weight_changes_the_generator(data, monkeypatch, term):
    def tensors(weight):
        monkeypatch.setattr(private_condense, term, weight)
        return condense_privately(noiseless(data), FORM)[0].tensors

    without, with_ = tensors(0.0), tensors(1.0)
    assert any(not torch.equal(without[name], with_[name]) for name in with_)


def test_half_the_codes_of_a_step_are_fresh(data, monkeypatch):
    seen, original = [], GeneratorSynthesiser.from_codes

    def record(synthesiser, class_ids, codes):
        own = synthesiser.codebook.codes
        seen.append((codes.detach().clone(), own.detach().clone()))
        return original(synthesiser, class_ids, codes)

    monkeypatch.setattr(GeneratorSynthesiser, "from_codes", record)
    condense_privately(noiseless(data), FORM)
    steps = seen[:STEPS]
    for codes, own in steps:
        known = (codes[:, None] == own).all(dim=2).any(dim=1)
        assert known.tolist() == [True, True, False, False]
    assert not torch.equal(steps[0][0][2:], steps[1][0][2:])


def test_the_learning_rate_decays_along_a_half_cosine(data, monkeypatch):
    rates, original = [], torch.optim.Adam.step

    def record(optimiser, *arguments, **options):
        rates.append(optimiser.param_groups[0]["lr"])
        return original(optimiser, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    condense_privately(noiseless(data), FORM)
    cosine = [0.5 + 0.5 * math.cos(math.pi * step / 5) for step in range(5)]
    assert rates == pytest.approx(
        [private_condense.LEARNING_RATE * part for part in cosine]
    )


def test_the_artefact_carries_the_guarantee_and_public_normalisation(config, data):
    noisy = dataclasses.replace(noiseless(data), config=config)
    noisy.counts_Y[:3] = 1000.0
    condensed, report = condense_privately(noisy, FORM)
    again = CondensedDataset.from_bytes(condensed.to_bytes())
    assert again.metadata["privacy"] == report == noisy.report()
    assert (again.statistics.mean, again.statistics.std) == ((0.5,), (0.5,))
    assert "data" not in again.metadata


def test_the_loss_is_that_of_the_formula(generator):
    features = torch.randn(3, 5, 7, generator=generator)
    targets = torch.randn(3, 7, generator=generator)
    expected = 0.0
    for y in range(3):
        mean = sum(features[y]) / 5
        expected += float(((mean - targets[y]) ** 2).sum())
        expected += 0.3 * sum(float(((f - mean) ** 2).sum()) for f in features[y]) / 5
    loss = matching_loss(features, targets, spread_weight=0.3, clip=0.5)
    assert float(loss) == pytest.approx(expected / 0.25, rel=1e-5)


def test_total_variation_of_a_checkerboard_and_a_plain():
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    assert total_variation(board.float()[None, None, None]) == 2.0
    assert total_variation(torch.ones(2, 3, 1, 8, 8)) == 0.0


def test_class_means_are_no_longer_than_a_mean_can_be(data):
    noisy = noiseless(data)
    noisy.sums_YD[0] += 1000.0
    means = class_means(noisy)
    assert means.shape == (3, noisy.sums_YD.shape[1])
    assert means.norm(dim=1).max() <= noisy.config.clip * (1 + 1e-6)


def test_a_per_class_code_map_and_a_single_code_work(data):
    form = dataclasses.replace(FORM, code_map="per_class", images_per_class=1)
    condensed, _ = condense_privately(noiseless(data), form)
    assert condensed.images()[0].shape == (3, 1, 8, 8)


def test_no_class_left(data):
    with pytest.raises(DataError, match="no class has enough images"):
        condense_privately(noiseless(data, min_class_count=11.0), FORM)


def test_pixels_are_refused(data):
    form = dataclasses.replace(FORM, kind="pixels")
    with pytest.raises(ConfigError, match="need kind='generator'"):
        condense_privately(noiseless(data), form)


def test_features_of_another_extractor_are_refused(data):
    noisy = noiseless(data)
    wrong = dataclasses.replace(
        noisy, config=dataclasses.replace(noisy.config, width=8)
    )
    with pytest.raises(DataError, match="the same configuration"):
        condense_privately(wrong, FORM)
