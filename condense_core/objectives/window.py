"""A window of training, differentiated through (Wang et al. 2018).

Shape legend: B synthetic images, R real images, C H W image, Y classes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from condense_core.compute.distributed import ALONE, Ranks
from condense_core.training import MOMENTUM, WEIGHT_DECAY

OuterLoss = Callable[[Tensor, Tensor], Tensor]


def train_through(
    network: nn.Module,
    state: Sequence[Tensor],
    steps_BCHW: Sequence[Tensor],
    labels_B: Tensor,
    real_RCHW: Tensor,
    real_labels_R: Tensor,
    *,
    learning_rate: float,
    outer_loss: OuterLoss,
    share: float = 1.0,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """SGD with momentum and weight decay, then the loss on real images, differentiated.

    Args:
        network: What computes with the weights; its own are not touched.
        state: The weights in the order of ``network.parameters()``, then their momenta.
        steps_BCHW: Normalised synthetic images of every step.
        labels_B: Their classes.
        real_RCHW: Normalised real images.
        real_labels_R: Their classes.
        learning_rate: Of the SGD.
        outer_loss: Of logits (R, Y) and labels (R,), a mean.
        share: Of the images of a step that these are, where processes share them.
        ranks: Those processes.

    Returns:
        The loss times the share; its gradients at the images of every step; weights and
        momenta after the window, as in ``state``; all detached.
    """
    shapes = {name: weight.shape for name, weight in network.named_parameters()}

    def named(flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        return {
            name: part.view(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }

    # All weights in one vector: a step is a few operations instead of a hundred.
    weights, momenta = (
        torch.cat([tensor.detach().flatten() for tensor in half])
        for half in (state[: len(shapes)], state[len(shapes) :])
    )
    weights.requires_grad_()
    leaves = [images.detach().requires_grad_() for images in steps_BCHW]
    for leaf in leaves:
        images = leaf.view_as(leaf)  # hooks on modules, as to count FLOPs, want no leaf
        logits = functional_call(network, named(weights), (images,))
        inner = F.cross_entropy(logits, labels_B)
        (gradient,) = ranks.sum_all(
            torch.autograd.grad(inner * share, [weights], create_graph=True)
        )
        decay = WEIGHT_DECAY * weights
        momenta = MOMENTUM * momenta + gradient + decay
        weights = weights - learning_rate * momenta
    logits = functional_call(network, named(weights), (real_RCHW,))
    loss = outer_loss(logits, real_labels_R) * share
    gradients = torch.autograd.grad(loss, leaves)
    after = *named(weights).values(), *named(momenta).values()
    return loss.detach(), gradients, tuple(tensor.detach() for tensor in after)


def brier_score(logits_BY: Tensor, labels_B: Tensor) -> Tensor:
    """Mean squared distance of probabilities to the one-hot label, in [0, 2]."""
    wanted_BY = F.one_hot(labels_B, logits_BY.shape[1])
    return (logits_BY.softmax(dim=1) - wanted_BY).square().sum(dim=1).mean()


OUTER_LOSSES: dict[str, OuterLoss] = {
    "brier": brier_score,
    "cross_entropy": F.cross_entropy,
}
