"""The discriminator D of Eq. 1: an MLP on features and the class condition.

Shape legend: B batch, C H W image, D feature dimension, E class condition, Y classes.
"""

from typing import Self

import torch
from torch import Tensor, nn

from condense_core.networks import FeatureNetwork, build_network
from condense_core.seeding import seeded_initialisation

HIDDEN_DIM = 256


class FeatureDiscriminator(nn.Module):
    """Tells real from synthetic (phi(x), c(y)), and names the class.

    "A multi-layer perceptron with a sigmoid function as the last layer" (sec. 4.2): the
    sigmoid is inside the losses, which take logits and are stable. Beside it is the
    classifier head of L_c, "on top of the features from both real and synthetic
    images", as in AC-GAN.

    The two hidden layers have leaky ReLU 0.2, as GANs use.

    Args:
        feature_dim: D.
        condition_dim: E.
        num_classes: Y.
        classified_dim: Size of the features that the classifier head reads; None is D.

    Attributes:
        mlp: (features, condition) -> logit.
        classifier: Linear head, features -> class logits.
    """

    def __init__(
        self,
        *,
        feature_dim: int,
        condition_dim: int,
        num_classes: int,
        classified_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(feature_dim + condition_dim, HIDDEN_DIM),
            nn.LeakyReLU(0.2),
            nn.Linear(HIDDEN_DIM, HIDDEN_DIM),
            nn.LeakyReLU(0.2),
            nn.Linear(HIDDEN_DIM, 1),
        )
        self.classifier = nn.Linear(classified_dim or feature_dim, num_classes)

    def forward(self, features_BD: Tensor, conditions_BE: Tensor) -> Tensor:
        """Logits (B,) of "real"."""
        logits: Tensor = self.mlp(torch.cat([features_BD, conditions_BE], dim=1))
        return logits.squeeze(1)


class ImageDiscriminator(nn.Module):
    """D on pixels: for adversarial pre-training and for ``l_real`` of Table 8.

    A ConvNet reads the image; its pooled feature and the class condition go to the
    same MLP as the features of Eq. 1. The classifier head reads features of phi, as
    L_c is "on top of the features".

    Attributes:
        trunk: The ConvNet.
        head: The MLP, with the classifier head.
    """

    def __init__(self, trunk: FeatureNetwork, head: FeatureDiscriminator) -> None:
        """Join a trunk and a head of the same feature size."""
        super().__init__()
        self.trunk = trunk
        self.head = head

    @classmethod
    def build(
        cls,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        condition_dim: int,
        width: int | None,
        seed: int,
        classified_dim: int | None = None,
    ) -> Self:
        """A fresh discriminator.

        Args:
            image_shape: (C, H, W).
            num_classes: Y.
            condition_dim: E.
            width: Channels of the ConvNet.
            seed: Of its initialisation.
            classified_dim: Size of phi's features, which the classifier head reads;
                None is that of the ConvNet's own.
        """
        trunk = build_network(
            "convnet",
            image_shape=image_shape,
            num_classes=num_classes,
            width=width,
            seed=seed,
        )
        with seeded_initialisation(seed, "image-discriminator"):
            head = FeatureDiscriminator(
                feature_dim=trunk.feature_dim,
                condition_dim=condition_dim,
                num_classes=num_classes,
                classified_dim=classified_dim,
            )
        return cls(trunk, head)

    @property
    def classifier(self) -> nn.Linear:
        """Linear head, features of phi -> class logits."""
        return self.head.classifier

    def forward(self, images_BCHW: Tensor, conditions_BE: Tensor) -> Tensor:
        """Logits (B,) of "real" for normalised images."""
        feature = self.trunk.layer_features(images_BCHW)[-1]
        logits: Tensor = self.head(self.trunk.embed(feature), conditions_BE)
        return logits


Discriminator = FeatureDiscriminator | ImageDiscriminator
