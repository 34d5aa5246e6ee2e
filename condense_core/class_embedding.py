"""Class embeddings c(y) (Zhang et al. 2023, sec. 3.2 and Table 6).

``class_mean`` is the paper's: the mean pooled last-layer feature of a class under a
network trained on the real data. ``online`` is the same under the current phi.
``one_hot`` is the label. The projection that "makes it balance with the code" is the
generator's first layer.

Shape legend: N data set, B batch, Y classes, E embedding, D feature.
"""

import torch
from torch import Tensor

from condense_core.data import ImageData, PixelStatistics, to_unit
from condense_core.data.mapped import chunks
from condense_core.networks import FeatureNetwork


@torch.no_grad()
def class_mean_features(
    network: FeatureNetwork,
    data: ImageData,
    statistics: PixelStatistics,
    *,
    batch_size: int = 512,
) -> Tensor:
    """Mean pooled last-layer feature of every class: (Y, D).

    Args:
        network: On the device of ``data``.
        data: Every class has at least one image.
        statistics: Normalisation of the images.
        batch_size: Images a forward pass.
    """
    sums_YD = torch.zeros(
        data.num_classes, network.feature_dim, device=data.images.device
    )
    for images, labels_B in zip(
        chunks(data.images, batch_size), data.labels.split(batch_size), strict=True
    ):
        layers = network.layer_features(statistics.normalise(to_unit(images)))
        member_YB = torch.nn.functional.one_hot(labels_B, data.num_classes).T.float()
        # A product with the membership matrix is deterministic on every device.
        sums_YD += member_YB @ network.embed(layers[-1])
    return sums_YD / data.counts.to(sums_YD.device).unsqueeze(1)


def standardise(class_means_YD: Tensor) -> Tensor:
    """Centre and scale every feature over the classes.

    Pooled ReLU features share a large positive mean; without this the projection sees
    almost the same vector for every class. A single class maps to zeros.
    """
    centred = class_means_YD - class_means_YD.mean(dim=0)
    return centred / centred.square().mean(dim=0).sqrt().clamp_min(1e-6)


def one_hot_embedding(num_classes: int) -> Tensor:
    """The identity: (Y, Y)."""
    return torch.eye(num_classes)
