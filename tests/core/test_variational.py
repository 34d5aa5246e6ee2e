import pytest
import torch
from torch.distributions import Normal, kl_divergence

from condense_core import variational
from condense_core.artefact.precision import decode, encode
from condense_core.config import PretrainConfig
from condense_core.data import PixelStatistics, as_image_data, to_unit
from condense_core.data.class_sampler import ClassSampler
from condense_core.networks import build_network
from condense_core.runlog import RunLog
from condense_core.seeding import seeded_initialisation
from condense_core.synthesiser import SynthesiserSpec, build_synthesiser
from condense_core.variational import (
    Encoder,
    gaussian_divergence,
    train_variationally,
)

STATISTICS = PixelStatistics(mean=(0.3,), std=(0.2,))


def build(device="cpu", **sizes):
    spec = SynthesiserSpec(
        **{
            "kind": "generator",
            "image_shape": (1, 8, 8),
            "num_classes": 3,
            "images_per_class": 16,
            "latent_dim": 4,
            "embedding_dim": 3,
            "projected_dim": 4,
            "channels": 8,
            "code_map": "per_class",
            **sizes,
        }
    )
    with seeded_initialisation(0, "test"):
        synthesiser = build_synthesiser(spec)
    synthesiser.class_embedding.copy_(torch.eye(3))
    return synthesiser.to(device)


def train(synthesiser, sampler, *, network=None, warm_start=False, **options):
    config = PretrainConfig(
        **{
            "method": "variational",
            "steps": 150,
            "batch_size": 16,
            "learning_rate": 3e-3,
            **options,
        }
    )
    synthesiser.to(sampler.device)
    with RunLog(None, total=config.steps, description="test", progress=False) as log:
        train_variationally(
            synthesiser,
            sampler,
            config,
            seed=0,
            log=log,
            statistics=STATISTICS,
            network=network,
            warm_start=warm_start,
        )
    return synthesiser


@pytest.fixture
def phi(device):
    network = build_network(
        "convnet", image_shape=(1, 8, 8), num_classes=3, width=4, seed=0
    )
    return network.to(device).eval().requires_grad_(False)


@pytest.fixture
def sampler(tiny_images, device):
    return ClassSampler(as_image_data(tiny_images), device)


def test_divergence_is_that_of_torch():
    mean, log_variance = torch.randn(2, 5, 4, generator=torch.Generator()).unbind(0)
    prior = Normal(torch.zeros(4), torch.ones(4))
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), prior).sum(1)
    assert torch.allclose(gaussian_divergence(mean, log_variance), expected)


def test_divergence_of_the_prior_from_itself_is_zero():
    assert gaussian_divergence(torch.zeros(3, 4), torch.zeros(3, 4)).eq(0).all()


def test_the_encoder_sees_image_and_class():
    with seeded_initialisation(0, "test"):
        encoder = Encoder((1, 8, 8), 3, 4)
    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    mean, log_variance = encoder(images, labels)
    assert mean.shape == log_variance.shape == (2, 4)
    assert not torch.equal(encoder(images, labels.flip(0))[0], mean)


def test_fresh_codes_make_images_of_their_class(sampler, device):
    synthesiser = train(build(device), sampler)
    synthesiser.recalibrate(max_batch=256)
    synthesiser.eval()
    codes = torch.randn(60, 4, generator=torch.Generator().manual_seed(1)).to(device)
    labels = torch.arange(60, device=device) % 3
    with torch.no_grad():
        images = synthesiser.generate(codes, labels, torch.zeros(60, device=device))
    means = torch.stack(
        [to_unit(sampler.all_of(c)).mean(0).flatten() for c in range(3)]
    )
    nearest = torch.cdist(images.flatten(1), means).argmin(dim=1)
    assert (nearest == labels).float().mean() > 0.95


def test_what_a_network_sees_comes_closer_with_its_features(
    sampler, phi, device, monkeypatch
):
    errors = []
    real = variational._feature_error

    def noted(*arguments):
        errors.append(real(*arguments))
        return errors[-1]

    monkeypatch.setattr(variational, "_feature_error", noted)
    last = []
    for weight in (1e-6, 1.0):
        options = {"feature_weight": weight, "steps": 400, "batch_size": 30}
        train(build(device), sampler, network=phi, **options)
        last.append(torch.stack(errors[-20:]).mean().item())
    assert last[1] < 0.95 * last[0]


def test_images_that_are_the_real_ones_have_no_error_of_features(sampler, phi):
    real = to_unit(sampler.all_of(0))
    assert variational._feature_error(phi, STATISTICS, real, real) == 0
    brighter = (real + 0.2).clamp(max=1.0)
    assert variational._feature_error(phi, STATISTICS, brighter, real) > 0


def test_a_generator_that_can_draw_waits_for_its_encoder(sampler, monkeypatch):
    """Unchanged, batch-norm statistics too, for a quarter of the steps."""
    synthesiser = train(build(), sampler)
    states = []
    monkeypatch.setattr(
        RunLog,
        "advance",
        lambda *_, **__: states.append(
            {k: v.clone() for k, v in synthesiser.generator.state_dict().items()}
        ),
    )
    before = {k: v.clone() for k, v in synthesiser.generator.state_dict().items()}
    train(synthesiser, sampler, steps=8, warm_start=True)
    for state in states[:2]:
        torch.testing.assert_close(state, before, rtol=0, atol=0)
    moved = {k for k, v in states[2].items() if not torch.equal(v, before[k])}
    assert any(k.endswith("running_mean") for k in moved)
    assert all(p.requires_grad for p in synthesiser.generator.parameters())


def test_the_code_map_is_the_moments_of_the_coded_images(sampler, device, monkeypatch):
    """With an encoder of known output, mean and covariance are known."""
    synthesiser = build(device)
    scale = torch.tensor([1.0, 2.0, 0.5, 0.0], device=device)

    def forward(self, images, labels):
        grey = images.mean(dim=(1, 2, 3)).unsqueeze(1)
        return grey * scale + labels.unsqueeze(1), torch.full_like(grey * scale, -2.0)

    with seeded_initialisation(0, "test"):
        encoder = Encoder((1, 8, 8), 3, 4)
    monkeypatch.setattr(Encoder, "forward", forward)
    variational._measure_code_map(synthesiser, encoder, sampler, seed=0)
    for label in range(3):
        grey = to_unit(sampler.all_of(label)).mean(dim=(1, 2, 3))
        codes = grey[:, None] * scale + label
        assert torch.allclose(synthesiser.code_mean[label], codes.mean(0), atol=1e-5)
        noise = torch.diag(torch.full((4,), torch.tensor(-2.0).exp() + 1e-4))
        covariance = torch.cov(codes.T, correction=0) + noise.to(device)
        factor = synthesiser.code_factor[label]
        assert torch.allclose(factor @ factor.T, covariance, atol=1e-5)
        assert torch.equal(factor, factor.tril())


@pytest.fixture
def greys():
    """Images of one grey each: 30 and 10 around two levels, 25 at one, 9 at one."""
    draw = torch.Generator().manual_seed(0)
    levels = torch.cat(
        [torch.full((n,), v) for n, v in ((30, 40), (10, 200), (25, 90), (9, 60))]
    )
    levels[:40] += torch.randint(-5, 6, (40,), generator=draw)
    labels = torch.tensor([0] * 40 + [1] * 25 + [2] * 9)
    images = levels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return as_image_data((images, labels))


def grey_codes(self, images, labels):
    """An encoder that says the grey of an image, and is sure of it."""
    grey = 10 * images.mean(dim=(1, 2, 3)).unsqueeze(1).expand(-1, 4)
    return grey, torch.full_like(grey, -20.0)


def measured(monkeypatch, data, **sizes):
    synthesiser = build(**sizes)
    with seeded_initialisation(0, "test"):
        encoder = Encoder((1, 8, 8), 3, 4)
    monkeypatch.setattr(Encoder, "forward", grey_codes)
    sampler = ClassSampler(data, "cpu")
    variational._measure_code_map(synthesiser, encoder, sampler, seed=0)
    return synthesiser


def test_components_are_the_clusters_of_a_class(greys, monkeypatch):
    """Means, shares and the covariance around the means, as computed by hand."""
    synthesiser = measured(monkeypatch, greys, code_components=(2, 2, 1))
    codes = 10 * to_unit(greys.images[:40, 0, 0, 0])
    parts = codes[:30], codes[30:]
    means = synthesiser.component_mean[:, :2].T
    order = means[:, 0].argsort()
    expected = torch.stack([part.mean() for part in parts])
    torch.testing.assert_close(means[order], expected.unsqueeze(1).expand(2, 4))
    shares = synthesiser.component_shares()[:2][order]
    torch.testing.assert_close(shares, torch.tensor([0.75, 0.25]))
    spread = sum((part - part.mean()).square().sum() for part in parts) / 40
    factor = synthesiser.code_factor[0]
    covariance = spread.expand(4, 4) + torch.eye(4) * 1e-4
    torch.testing.assert_close(factor @ factor.T, covariance, atol=1e-5, rtol=0)


def test_every_class_has_its_own_number_of_components(greys, monkeypatch):
    """The 40, 25 and 9 images are in 4, 2 and 1 of them, the last in their mean."""
    synthesiser = measured(monkeypatch, greys, code_components=(4, 2, 1))
    shares = synthesiser.component_shares()
    of_classes = torch.stack([part.sum() for part in shares.split([4, 2, 1])])
    torch.testing.assert_close(of_classes, torch.ones(3))
    assert (shares[:4] > 0.01).sum() >= 2
    mean = synthesiser.component_mean[:, 6]
    torch.testing.assert_close(mean, torch.full((4,), 10 * 60 / 255))


def test_fresh_images_of_several_components_survive_int8(greys, monkeypatch):
    """A class of two far clusters is drawn as two, in the shares it had."""
    synthesiser = measured(monkeypatch, greys, code_components=(4, 2, 1))
    before = synthesiser.component_shares()
    state = decode(encode(synthesiser.state_dict(), "int8"))
    synthesiser.load_state_dict(state)
    shares = synthesiser.component_shares()
    torch.testing.assert_close(shares, before, atol=0.03, rtol=0)
    high = shares[:4] @ (synthesiser.component_mean[0, :4] > 5).float()
    assert high.item() == pytest.approx(0.25, abs=0.03)


def test_the_codebook_has_the_moments_fresh_codes_are_drawn_with(sampler):
    codes = train(build(), sampler, steps=1).codebook.codes.cpu()
    assert torch.allclose(codes.mean(dim=0), torch.zeros(4), atol=1e-6)
    assert torch.allclose(codes.std(dim=0, unbiased=False), torch.ones(4), atol=1e-5)


def test_a_single_code_is_the_mean_of_the_prior(sampler):
    codes = train(build(images_per_class=1), sampler, steps=1).codebook.codes
    assert torch.equal(codes, torch.zeros_like(codes))


def test_a_class_of_one_image_and_one_code(tiny_images):
    images, labels = tiny_images
    few = as_image_data((images[9:21], labels[9:21]))  # 1, 10 and 1 images
    synthesiser = train(build(images_per_class=1), ClassSampler(few, "cpu"), steps=2)
    assert torch.isfinite(synthesiser.code_factor).all()


def test_a_shared_map_has_nothing_to_store(sampler):
    synthesiser = train(build(code_map="shared"), sampler, steps=1)
    assert not any("code_" in name for name in synthesiser.state_dict())


def test_dispersion_is_that_of_the_residuals(sampler, monkeypatch):
    """With a generator of one known grey it is known."""
    synthesiser = build(dispersion=True).to(sampler.device)
    with seeded_initialisation(0, "test"):
        encoder = Encoder((1, 8, 8), 3, 4).to(sampler.device)
    grey = 0.25

    def forward(codes, conditions):
        return torch.full((len(codes), 1, 8, 8), grey, device=codes.device)

    monkeypatch.setattr(synthesiser.generator, "forward", forward)
    variational._measure_dispersion(synthesiser, encoder, sampler)
    for label in range(3):
        squares = (to_unit(sampler.all_of(label)) - grey).square().mean()
        expected = (squares / (grey * (1 - grey))).clamp(max=1.0)
        assert torch.allclose(synthesiser.dispersion[label], expected, atol=1e-6)


def test_observed_images_scatter_as_measured():
    synthesiser = build(dispersion=True)
    synthesiser.dispersion.copy_(torch.tensor([0.0, 0.01, 0.04]))
    labels = torch.arange(3).repeat_interleave(2000)
    images = torch.full((6000, 1, 8, 8), 0.3)
    images[:, :, 0] = 0.0  # where the generator is sure
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    observed = synthesiser.add_dispersion(images, labels, noise)
    assert torch.equal(observed[labels == 0], images[labels == 0])
    assert observed[:, :, 0].eq(0).all()
    for label, phi in ((1, 0.01), (2, 0.04)):
        scattered = observed[labels == label][:, :, 1:]
        assert scattered.mean() == pytest.approx(0.3, abs=1e-3)
        assert scattered.var() == pytest.approx(phi * 0.3 * 0.7, rel=0.02)


def test_negative_dispersion_is_none():
    synthesiser = build(dispersion=True)
    synthesiser.dispersion.fill_(-1.0)
    images = torch.full((3, 1, 8, 8), 0.5)
    observed = synthesiser.add_dispersion(
        images, torch.arange(3), torch.ones_like(images)
    )
    assert torch.equal(observed, images)


def test_the_identity_map_changes_nothing():
    with_map, without = build(), build(code_map="shared")
    ids = torch.arange(3), torch.arange(16)
    assert torch.equal(with_map.eval()(*ids), without.eval()(*ids))


def test_same_seed_same_weights_and_no_global_draw(sampler, untouched_global_rng):
    one, two = (train(build(), sampler, steps=3).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
