"""Multi-layer feature matching, Eq. 2 of Zhang et al. 2023.

``L_f = sum_l |f_l(x~) - mean f_l(association)|^2``. The association of a synthetic
image is a sample of real images of its class.

As written, Eq. 2 pulls *each* image to the mean of its class (``per_sample``), which
works against diversity; CAFE, which it cites, and DM match the *mean* of the synthetic
images of a class (``class_mean``). With one image per class the two are the same.

Shape legend: Y classes, K synthetic images of each class, ``...`` any feature shape.
"""

from collections.abc import Sequence

from torch import Tensor

from condense_core.errors import ConfigError

MATCHING_MODES = ("class_mean", "per_sample")


def matching_loss(
    synthetic_layers: Sequence[Tensor],
    real_means: Sequence[Tensor],
    *,
    mode: str = "class_mean",
    layer_weights: Sequence[float] | None = None,
) -> Tensor:
    """Squared distance of synthetic features to the association's mean, every layer.

    Squares are averaged over feature entries, images and classes and summed over
    layers, so that the weight of the term does not depend on widths and counts.

    Args:
        synthetic_layers: One tensor (Y, K, ...) a layer.
        real_means: One tensor (Y, ...) a layer: mean feature of each class's
            association, no gradient.
        mode: ``per_sample`` (Eq. 2 as written) or ``class_mean``.
        layer_weights: One factor a layer; None is all ones.

    Returns:
        Scalar, zero where the features agree.

    Raises:
        ConfigError: ``layer_weights`` are for another number of layers.

    Example:
        >>> import torch
        >>> synthetic = torch.tensor([[[1.0], [3.0]]])  # one class, two images
        >>> mean = torch.tensor([[2.0]])
        >>> matching_loss([synthetic], [mean]).item()
        0.0
        >>> matching_loss([synthetic], [mean], mode="per_sample").item()
        1.0
    """
    assert mode in MATCHING_MODES, mode
    weights = layer_weights or [1.0] * len(synthetic_layers)
    if len(weights) != len(synthetic_layers):
        raise ConfigError(
            f"loss.layer_weights has {len(weights)} values but the network has "
            f"{len(synthetic_layers)} layers: give one for each"
        )
    total = synthetic_layers[0].new_zeros(())
    for weight, synthetic, mean in zip(
        weights, synthetic_layers, real_means, strict=True
    ):
        if mode == "class_mean":
            difference = synthetic.mean(dim=1) - mean
        else:
            difference = synthetic - mean.unsqueeze(1)
        total = total + weight * difference.square().mean()
    return total
