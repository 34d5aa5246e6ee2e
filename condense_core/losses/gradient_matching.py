"""Gradient matching, Eq. 5 and 6 of Zhao et al. 2021 (DC). Not in the paper.

``sum_y sum_l sum_o 1 - <g_o, g~_o> / (|g_o| |g~_o|)``: synthetic images of class y
should push phi where real images of class y do. g and g~ are the gradients of the cross
entropy on them with respect to the weights of layer l, taken apart by output o. As in
DC, biases and norms are left out. With siamese augmentation of both sides it is DSA
(Zhao and Bilen 2021); with phi trained on real images, as here, IDC (Kim et al. 2022).

Shape legend: Y classes, n images of each class, O outputs of a layer, I all its inputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from condense_core.networks import FeatureNetwork


def class_gradients(
    network: FeatureNetwork,
    images: Tensor,
    class_ids_Y: Tensor,
    *,
    create_graph: bool = False,
) -> list[Tensor]:
    """Gradient of the mean cross entropy of each class, layer by layer.

    Args:
        network: phi.
        images: (Y * n, C, H, W) normalised, ordered by class.
        class_ids_Y: Their classes.
        create_graph: True where the gradient has to be differentiated in the images.

    Returns:
        One tensor (Y, O, I) a weight matrix or kernel of ``network``.
    """
    weights = [weight for weight in network.parameters() if weight.ndim > 1]
    gradients = []
    with torch.enable_grad():
        for label, group in zip(
            class_ids_Y, images.chunk(len(class_ids_Y)), strict=True
        ):
            loss = F.cross_entropy(network(group), label.expand(len(group)))
            gradients.append(
                torch.autograd.grad(loss, weights, create_graph=create_graph)
            )
    return [torch.stack(layer).flatten(2) for layer in zip(*gradients, strict=True)]


def gradient_matching_loss(
    synthetic_layers: Sequence[Tensor], real_layers: Sequence[Tensor]
) -> Tensor:
    """One minus the cosine of the gradients of each output.

    Averaged over outputs and classes and summed over layers, so that the weight of the
    term does not depend on widths and counts.

    Args:
        synthetic_layers: One tensor (Y, O, I) a layer, from `class_gradients`.
        real_layers: The same of real images, no gradient.
    """
    total = synthetic_layers[0].new_zeros(())
    for synthetic, real in zip(synthetic_layers, real_layers, strict=True):
        total = total + (1.0 - F.cosine_similarity(synthetic, real, dim=2)).mean()
    return total
