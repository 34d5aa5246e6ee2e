import json

import pytest
import torch
from torch import nn

from condense_core.config import FormatConfig
from condense_core.seeding import seeded_initialisation
from condense_core.synthesiser import (
    GeneratorSynthesiser,
    PixelSynthesiser,
    SynthesiserSpec,
    build_synthesiser,
)


def build(*, seed=0, **sizes):
    defaults = {
        "kind": "generator",
        "image_shape": (1, 8, 8),
        "num_classes": 3,
        "images_per_class": 2,
        "latent_dim": 4,
        "embedding_dim": 3,
        "projected_dim": 4,
        "channels": 4,
    }
    spec = SynthesiserSpec(**{**defaults, **sizes})
    with seeded_initialisation(seed, "test"):
        synthesiser = build_synthesiser(spec, seed=seed)
    synthesiser.class_embedding.copy_(torch.eye(spec.num_classes, spec.embedding_dim))
    return synthesiser


def all_images(synthesiser):
    spec, device = synthesiser.spec, synthesiser.class_embedding.device
    return synthesiser(
        torch.arange(spec.num_classes, device=device),
        torch.arange(spec.images_per_class, device=device),
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("generator", GeneratorSynthesiser), ("pixels", PixelSynthesiser)],
)
def test_kind_chooses_the_format_and_images_come_by_class_and_code(kind, expected):
    synthesiser = build(kind=kind)
    assert isinstance(synthesiser, expected)
    images = all_images(synthesiser)
    assert images.shape == (3, 2, 1, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1


def test_spec_holds_what_the_configuration_says_and_is_json():
    config = FormatConfig(
        images_per_class=7,
        codes="truncated",
        truncation=0.3,
        latent_dim=11,
        projected_dim=13,
        channels=17,
        blocks=2,
        code_map="per_class",
        code_components=5,
        dispersion=True,
    )
    spec = SynthesiserSpec.from_config(
        config,
        image_shape=(3, 8, 9),
        num_classes=5,
        embedding_dim=19,
        class_counts=[0, 19, 20, 59, 600],
    )
    assert json.loads(json.dumps(spec.to_dict())) == {
        "kind": "generator",
        "image_shape": [3, 8, 9],
        "num_classes": 5,
        "images_per_class": 7,
        "codes": "truncated",
        "truncation": 0.3,
        "latent_dim": 11,
        "embedding_dim": 19,
        "projected_dim": 13,
        "channels": 17,
        "blocks": 2,
        "code_map": "per_class",
        "code_components": [1, 1, 2, 5, 5],
        "dispersion": True,
    }


def test_every_class_gets_all_components_where_its_images_are_not_known():
    def components(count, class_counts=None):
        return SynthesiserSpec.from_config(
            FormatConfig(code_map="per_class", code_components=count),
            image_shape=(1, 8, 8),
            num_classes=2,
            embedding_dim=2,
            class_counts=class_counts,
        ).code_components

    assert components(5) == (5, 5)
    assert components(1) == components(5, [10, 19]) == ()


def mixture():
    """Classes of 2, 1 and 3 components: shares 1/4 and 3/4, 1, and 1/2, 0 and 1/2."""
    synthesiser = build(code_map="per_class", code_components=(2, 1, 3)).eval()
    synthesiser.component_mean.copy_(torch.arange(24.0).view(6, 4).T / 4)
    shares = torch.tensor([[1.0, 3.0, 9.0, 2.0, 1e-9, 2.0]])
    synthesiser.component_logit.copy_(shares.log())
    return synthesiser


def generated_from(synthesiser, codes, labels):
    """What G makes of codes that no map has moved."""
    return synthesiser.generator(codes, synthesiser.class_embedding[labels])


def test_places_choose_components_by_their_shares(generator):
    synthesiser, codes = mixture(), torch.randn(4, 4, generator=generator)
    means = synthesiser.component_mean.T
    for label, component, places in (
        (0, 0, [0.0, 0.1, 0.2, 0.2499]),
        (0, 1, [0.2501, 0.5, 0.9, 1.0]),
        (1, 2, [0.0, 0.3, 0.6, 1.0]),
        (2, 3, [0.0, 0.3, 0.4, 0.4999]),
        (2, 5, [0.5001, 0.6, 0.9999999, 1.0]),
    ):
        labels = torch.full((4,), label)
        images = synthesiser.generate(codes, labels, torch.tensor(places))
        expected = generated_from(synthesiser, codes + means[component], labels)
        torch.testing.assert_close(images, expected)


def test_shares_do_not_depend_on_a_constant(generator):
    synthesiser, codes = mixture(), torch.randn(100, 4, generator=generator)
    labels, places = torch.arange(100) % 3, torch.rand(100, generator=generator)
    images = synthesiser.generate(codes, labels, places)
    synthesiser.component_logit += torch.tensor([7.0, 7.0, -3.0, 99.0, 99.0, 99.0])
    torch.testing.assert_close(synthesiser.generate(codes, labels, places), images)


def test_the_codebook_is_spread_over_the_components(generator):
    synthesiser, codes = mixture(), torch.randn(4, 4, generator=generator)
    means = synthesiser.component_mean.T
    images = synthesiser.from_codes(torch.arange(3), codes)
    for label, components in enumerate(([0, 1, 1, 1], [2, 2, 2, 2], [3, 3, 5, 5])):
        moved = codes + means[components]
        expected = generated_from(synthesiser, moved, torch.full((4,), label))
        torch.testing.assert_close(images[label], expected)


def test_one_component_has_no_shares_and_equal_ones_change_nothing(generator):
    one = build(code_map="per_class").eval()
    assert one.code_mean.shape == (3, 4)
    assert not any("component" in name for name in one.state_dict())
    several = build(code_map="per_class", code_components=(6, 1, 2)).eval()
    codes, labels = torch.randn(9, 4, generator=generator), torch.arange(9) % 3
    places = torch.rand(9, generator=generator)
    torch.testing.assert_close(
        one.generate(codes, labels, places), several.generate(codes, labels, places)
    )


def test_same_seed_builds_the_same_weights():
    first, same, other = build(seed=1), build(seed=1), build(seed=2)
    for name, value in first.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
    assert not torch.equal(first.codebook.codes, other.codebook.codes)
    assert not torch.equal(first.generator.stem.weight, other.generator.stem.weight)


def test_every_class_gets_every_code(device):
    synthesiser = build().to(device).eval()
    images = all_images(synthesiser)
    for label in range(3):
        for code in range(2):
            single = synthesiser.generator(
                synthesiser.codebook.codes[code : code + 1],
                synthesiser.class_embedding[label : label + 1],
            )
            torch.testing.assert_close(
                images[label, code], single[0], atol=1e-3, rtol=0
            )


def test_subset_of_classes_and_codes_is_the_subset_of_the_images():
    for kind in ("generator", "pixels"):
        synthesiser = build(kind=kind).eval()
        with torch.no_grad():
            for parameter in synthesiser.parameters():
                parameter += 0.1 * torch.linspace(0, 1, parameter.numel()).view_as(
                    parameter
                )
        part = synthesiser(torch.tensor([2, 0]), torch.tensor([1]))
        torch.testing.assert_close(part, all_images(synthesiser)[[2, 0]][:, [1]])


def test_given_codes_replace_the_stored_ones(generator):
    synthesiser = build().eval()
    codes = torch.randn(5, 4, generator=generator)
    images = synthesiser.from_codes(torch.tensor([1]), codes)
    assert images.shape == (1, 5, 1, 8, 8)
    stored = synthesiser.from_codes(torch.arange(3), synthesiser.codebook.codes)
    torch.testing.assert_close(stored, all_images(synthesiser))


@pytest.mark.parametrize(
    "options",
    [{}, {"dispersion": True}, {"code_map": "per_class", "code_components": (2, 1, 3)}],
    ids=str,
)
def test_many_fresh_images_are_made_a_batch_at_a_time(monkeypatch, options):
    synthesiser = build(**options).eval()
    if options.get("dispersion"):
        synthesiser.dispersion.fill_(0.1)
    sizes, generate = [], synthesiser.generate

    def spy(codes, labels, places):
        sizes.append(len(codes))
        return generate(codes, labels, places)

    def draw():
        rng = torch.Generator().manual_seed(0)
        return synthesiser.draw(torch.arange(10) % 3, rng, dispersed=True)

    monkeypatch.setattr(synthesiser, "generate", spy)
    together = draw()
    monkeypatch.setattr("condense_core.synthesiser.SYNTHESIS_BATCH", 4)
    torch.testing.assert_close(draw(), together)
    assert sizes == [10, 4, 4, 2]


def test_class_embedding_is_stored_with_the_generator_but_not_with_pixels():
    assert "class_embedding" in build().state_dict()
    assert list(build(kind="pixels").state_dict()) == ["pixels"]


@pytest.mark.parametrize("max_batch", [1, 4, 100])
def test_after_recalibration_an_image_does_not_depend_on_its_batch(max_batch):
    synthesiser = build()
    synthesiser.recalibrate(max_batch=max_batch)
    synthesiser.eval()
    alone = synthesiser(torch.tensor([1]), torch.tensor([1]))
    torch.testing.assert_close(alone[0, 0], all_images(synthesiser)[1, 1])


def test_recalibration_in_one_batch_stores_its_statistics():
    synthesiser = build()
    seen = {}

    def remember(norm, inputs, _):
        seen[norm] = inputs[0].detach()

    norms = [m for m in synthesiser.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(remember) for norm in norms]
    all_images(synthesiser)
    for hook in hooks:
        hook.remove()
    synthesiser.recalibrate(max_batch=6)
    assert len(norms) == 3
    for norm in norms:
        values = seen[norm].transpose(0, 1).flatten(1)
        torch.testing.assert_close(norm.running_mean, values.mean(dim=1))
        # Batch norm itself divides by n in training and stores n - 1.
        torch.testing.assert_close(norm.running_var, values.var(dim=1, correction=1))


def test_recalibrated_images_are_those_of_training():
    synthesiser = build(images_per_class=4)
    training = all_images(synthesiser)
    synthesiser.eval()
    before = (all_images(synthesiser) - training).abs().max()
    synthesiser.recalibrate(max_batch=100)
    after = (all_images(synthesiser) - training).abs().max()
    assert after < 0.01 < before


def test_recalibration_in_batches_is_close_to_one_batch():
    synthesiser = build(num_classes=6, embedding_dim=6, images_per_class=4).eval()
    synthesiser.recalibrate(max_batch=100)
    whole = all_images(synthesiser)
    synthesiser.recalibrate(max_batch=8)
    chunked = all_images(synthesiser)
    assert not torch.equal(chunked, whole)
    assert (chunked - whole).abs().mean() < 0.05


def test_recalibration_keeps_mode_momentum_and_weights_and_repeats_itself():
    synthesiser = build().eval()
    weights = {k: v.clone() for k, v in synthesiser.named_parameters()}
    synthesiser.recalibrate(max_batch=4)
    first = all_images(synthesiser)
    synthesiser.recalibrate(max_batch=4)
    assert torch.equal(all_images(synthesiser), first)
    for module in synthesiser.modules():
        assert not module.training
        assert getattr(module, "momentum", 0.1) == 0.1
    for name, value in synthesiser.named_parameters():
        assert torch.equal(value, weights[name])
        assert value.grad is None


@pytest.mark.parametrize(
    ("image_shape", "blocks"), [((1, 8, 8), None), ((1, 28, 28), None), ((1, 8, 8), 3)]
)
def test_one_class_with_one_image_can_be_trained_and_recalibrated(image_shape, blocks):
    synthesiser = build(
        image_shape=image_shape,
        blocks=blocks,
        num_classes=1,
        images_per_class=1,
        embedding_dim=1,
    )
    training = all_images(synthesiser)
    training.square().sum().backward()
    assert synthesiser.generator.stem.weight.grad.abs().sum() > 0
    synthesiser.recalibrate(max_batch=1)
    image = all_images(synthesiser.eval())
    assert image.isfinite().all()
    torch.testing.assert_close(image, training, atol=0.2, rtol=0)


def test_pixels_start_grey_and_take_images_to_within_the_clamp(generator):
    synthesiser = build(kind="pixels")
    assert torch.equal(all_images(synthesiser), torch.full((3, 2, 1, 8, 8), 0.5))
    images = torch.rand(3, 2, 1, 8, 8, generator=generator)
    images[0, 0] = 0.0
    images[1, 1] = 1.0
    synthesiser.set_images(images)
    torch.testing.assert_close(
        all_images(synthesiser), images.clamp(0.01, 0.99), atol=1e-5, rtol=0
    )
    all_images(synthesiser).sum().backward()
    assert (synthesiser.pixels.grad > 0).all()
