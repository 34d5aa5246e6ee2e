"""The codebook: K learnable codes shared by all classes (Zhang et al. 2023, sec. 3.2).

Shape legend: K codes (images per class), Z latent dimension.
"""

import torch
from torch import Tensor, nn

from condense_core.seeding import make_generator

CODE_KINDS = ("learned", "uniform", "truncated")


class Codebook(nn.Module):
    """Codes Z of shape (K, Z), one per image of a class.

    The kinds are the rows of the paper's Table 7: ``learned`` codes are optimised with
    the generator; ``uniform`` codes are Gaussian samples that stay as drawn ("sampled
    uniformly in a gaussian distribution"); ``truncated`` codes are Gaussian samples
    redrawn until inside ``truncation`` standard deviations, the truncation trick of
    BigGAN. All three start from N(0, 1), the prior a generator is pre-trained with.

    Attributes:
        codes: (K, Z); a parameter when learned, else a buffer.
    """

    codes: Tensor

    def __init__(
        self,
        *,
        images_per_class: int,
        latent_dim: int,
        kind: str = "learned",
        truncation: float = 0.5,
        seed: int = 0,
    ) -> None:
        """Draw the initial codes from their own generator."""
        super().__init__()
        assert kind in CODE_KINDS, kind
        self.kind = kind
        self.truncation = truncation
        generator = make_generator(seed, "codebook")
        codes = self.draw(images_per_class, latent_dim, generator)
        if kind == "learned":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)

    def draw(self, count: int, latent_dim: int, generator: torch.Generator) -> Tensor:
        """New codes (count, latent_dim) from the prior, truncated if the kind is."""
        codes = torch.empty(count, latent_dim)
        if codes.is_meta:
            return codes  # only the shape is asked for; a draw imports half of torch
        if self.kind == "truncated":
            bound = self.truncation
            nn.init.trunc_normal_(codes, a=-bound, b=bound, generator=generator)
        else:
            codes.normal_(generator=generator)
        return codes

    def forward(self, code_ids_B: Tensor) -> Tensor:
        """Look up codes: (B,) ids in 0..K-1 -> (B, Z)."""
        return self.codes[code_ids_B]
