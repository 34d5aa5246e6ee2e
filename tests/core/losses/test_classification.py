import math

import pytest
import torch
from torch.nn import functional as F

from condense_core.losses.classification import classification_loss
from tests import reference


@pytest.fixture
def logits(generator):
    return torch.randn(6, 4, generator=generator, dtype=torch.float64)


def test_hard_labels_match_the_reference(logits):
    labels = torch.tensor([0, 3, 1, 1, 2, 0])
    expected = reference.classification(logits, labels)
    assert classification_loss(logits, labels).item() == pytest.approx(expected)


def test_soft_labels_match_the_reference(logits, generator):
    soft = torch.rand(6, 4, generator=generator, dtype=torch.float64)
    soft /= soft.sum(dim=1, keepdim=True)
    expected = reference.classification(logits, soft)
    assert classification_loss(logits, soft).item() == pytest.approx(expected)


def test_one_hot_soft_labels_equal_hard_ones(logits):
    labels = torch.tensor([0, 3, 1, 1, 2, 0])
    soft = F.one_hot(labels, 4).double()
    torch.testing.assert_close(
        classification_loss(logits, soft), classification_loss(logits, labels)
    )


@pytest.mark.parametrize("classes", [1, 2, 10])
def test_equal_logits_cost_log_of_the_number_of_classes(classes, device):
    logits = torch.full((3, classes), 7.0, device=device)
    labels = torch.zeros(3, dtype=torch.int64, device=device)
    loss = classification_loss(logits, labels).item()
    assert loss == pytest.approx(math.log(classes), abs=1e-6)


def test_soft_loss_is_least_where_the_softmax_equals_the_label():
    soft = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    logits = soft.log().requires_grad_()
    classification_loss(logits, soft).backward()
    assert logits.grad.abs().max() < 1e-12


def test_order_of_images_does_not_matter(logits):
    labels, order = torch.tensor([0, 3, 1, 1, 2, 0]), torch.tensor([5, 2, 0, 1, 4, 3])
    torch.testing.assert_close(
        classification_loss(logits[order], labels[order]),
        classification_loss(logits, labels),
    )


def test_no_overflow_with_huge_logits():
    loss = classification_loss(torch.tensor([[1e30, -1e30]]), torch.tensor([0]))
    assert loss.item() == 0


def test_gradient_is_exact(logits):
    labels = torch.tensor([0, 3, 1, 1, 2, 0])
    assert torch.autograd.gradcheck(
        lambda x: classification_loss(x, labels), (logits.requires_grad_(),)
    )
