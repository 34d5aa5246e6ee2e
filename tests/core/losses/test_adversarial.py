import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condense_core.losses.adversarial import discriminator_loss, generator_loss
from tests import reference

logits = st.lists(st.floats(-20, 20), min_size=1, max_size=6).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@settings(deadline=None, derandomize=True)
@given(real=logits, synthetic=logits)
def test_discriminator_minimises_eq_1_with_its_sign_turned(real, synthetic):
    expected = -reference.adversarial_value(real, synthetic)
    assert discriminator_loss(real, synthetic).item() == pytest.approx(
        expected, rel=1e-6, abs=1e-7
    )


@settings(deadline=None, derandomize=True)
@given(synthetic=logits)
def test_generator_losses_match_the_equation(synthetic):
    literal = generator_loss(synthetic, saturating=True).item()
    usual = generator_loss(synthetic).item()
    assert literal == pytest.approx(
        reference.saturating_value(synthetic), rel=1e-6, abs=1e-7
    )
    assert usual == pytest.approx(
        reference.non_saturating_value(synthetic), rel=1e-6, abs=1e-7
    )


def test_undecided_discriminator_pays_two_log_two(device):
    zeros = torch.zeros(5, device=device)
    assert discriminator_loss(zeros, zeros[:2]).item() == pytest.approx(2 * math.log(2))
    assert generator_loss(zeros).item() == pytest.approx(math.log(2))
    assert generator_loss(zeros, saturating=True).item() == pytest.approx(-math.log(2))


def test_literal_form_saturates_while_the_discriminator_wins_and_the_other_does_not():
    slopes = {}
    for saturating in (True, False):
        logit = torch.tensor([-12.0], requires_grad=True)
        generator_loss(logit, saturating=saturating).backward()
        slopes[saturating] = logit.grad.item()
    assert -1e-4 < slopes[True] < 0
    assert slopes[False] == pytest.approx(-1, abs=1e-4)


def test_both_forms_push_towards_real():
    for saturating in (True, False):
        logits = torch.linspace(-3, 3, 7, requires_grad=True)
        generator_loss(logits, saturating=saturating).backward()
        assert (logits.grad < 0).all()


def test_no_overflow_with_huge_logits():
    huge = torch.tensor([-1e30, 1e30], requires_grad=True)
    for loss in (
        discriminator_loss(huge, huge),
        generator_loss(huge),
        generator_loss(huge, saturating=True),
    ):
        (slope,) = torch.autograd.grad(loss, huge)
        assert torch.isfinite(loss)
        assert torch.isfinite(slope).all()


def test_gradients_are_exact():
    real, synthetic = torch.randn(
        2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).unbind()
    for logits in (real, synthetic):
        logits.requires_grad_()
    assert torch.autograd.gradcheck(discriminator_loss, (real, synthetic))
    for saturating in (True, False):
        assert torch.autograd.gradcheck(
            lambda x, s=saturating: generator_loss(x, saturating=s), (synthetic,)
        )
