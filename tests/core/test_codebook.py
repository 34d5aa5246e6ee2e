import pytest
import torch
from torch import nn

from condense_core.codebook import CODE_KINDS, Codebook


def build(**options):
    return Codebook(**{"images_per_class": 5, "latent_dim": 6, **options})


def test_learned_codes_are_a_parameter_that_gets_a_gradient():
    codebook = build(kind="learned")
    assert isinstance(codebook.codes, nn.Parameter)
    codebook(torch.tensor([1, 1, 4])).sum().backward()
    counts = torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0])
    assert torch.equal(codebook.codes.grad, counts.unsqueeze(1).expand(5, 6))


@pytest.mark.parametrize("kind", ["uniform", "truncated"])
def test_other_codes_are_fixed_but_stored(kind):
    codebook = build(kind=kind)
    assert not list(codebook.parameters())
    assert not codebook(torch.arange(5)).requires_grad
    assert list(codebook.state_dict()) == ["codes"]


@pytest.mark.parametrize("kind", CODE_KINDS)
def test_same_seed_gives_the_same_codes_and_another_seed_others(kind):
    first, same, other = (build(kind=kind, seed=seed).codes for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.isclose(first, other).any()


def test_learned_codes_start_where_uniform_ones_stay():
    assert torch.equal(build(kind="learned").codes, build(kind="uniform").codes)


@pytest.mark.parametrize("bound", [0.1, 0.5, 2.0])
def test_truncated_codes_stay_within_the_bound_and_use_it(bound):
    codes = build(
        images_per_class=100, latent_dim=20, kind="truncated", truncation=bound
    ).codes
    assert 0.9 * bound < codes.abs().max() <= bound


def test_uniform_codes_are_standard_normal():
    codes = build(images_per_class=100, latent_dim=100, kind="uniform").codes
    assert abs(codes.mean().item()) < 0.05
    assert abs(codes.std().item() - 1) < 0.05
    assert codes.abs().max() > 3


@pytest.mark.parametrize("kind", CODE_KINDS)
def test_fresh_codes_follow_the_prior_of_the_kind(kind, generator):
    codes = build(kind=kind, truncation=0.5).draw(50, 20, generator)
    assert codes.shape == (50, 20)
    assert (codes.abs().max() <= 0.5) == (kind == "truncated")


def test_look_up_returns_the_codes_asked_for():
    codebook = build()
    ids = torch.tensor([3, 0, 3])
    expected = torch.stack([codebook.codes[3], codebook.codes[0], codebook.codes[3]])
    assert torch.equal(codebook(ids), expected)


@pytest.mark.usefixtures("untouched_global_rng")
@pytest.mark.parametrize("kind", CODE_KINDS)
def test_global_generator_is_left_alone(kind):
    assert build(kind=kind).codes.isfinite().all()
