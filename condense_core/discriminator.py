"""The discriminator D of Eq. 1: an MLP on features and the class condition.

Shape legend: B batch, D feature dimension, E class condition, Y classes.
"""

import torch
from torch import Tensor, nn


class FeatureDiscriminator(nn.Module):
    """Judges (phi(x), c(y)) real or synthetic, and names the class.

    "A multi-layer perceptron with a sigmoid function as the last layer" (sec. 4.2): the
    sigmoid is inside the losses, which take logits and are stable. Beside it is the
    classifier head of L_c, "on top of the features from both real and synthetic
    images", as in AC-GAN.

    Attributes:
        classifier: Linear head, features -> class logits.
    """

    def __init__(
        self,
        *,
        feature_dim: int,
        condition_dim: int,
        num_classes: int,
        hidden_dim: int = 256,
    ) -> None:
        """Two hidden layers of ``hidden_dim`` with leaky ReLU 0.2, as GANs use."""
        super().__init__()
        self.judge = nn.Sequential(
            nn.Linear(feature_dim + condition_dim, hidden_dim),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_dim, hidden_dim),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_dim, 1),
        )
        self.classifier = nn.Linear(feature_dim, num_classes)

    def forward(self, features_BD: Tensor, conditions_BE: Tensor) -> Tensor:
        """Logits (B,) of "real"."""
        logits: Tensor = self.judge(torch.cat([features_BD, conditions_BE], dim=1))
        return logits.squeeze(1)
