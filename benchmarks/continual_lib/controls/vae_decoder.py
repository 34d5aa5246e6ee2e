"""The decoder of a class-conditional VAE for each experience.

Shape legend: N images, B batch, K classes of an experience, Z latent, C H W image.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condense_core.generator import ConditionalGenerator, default_blocks
from condense_core.seeding import seeded_initialisation
from continual_lib.controls.base import ExperienceMemory, Part, too_small
from continual_lib.controls.packing import pack_state, unpack_state

ENCODER_UNITS = 400  # of the VAE's, which is not stored; as many as in ours


class VaeDecoderMemory(ExperienceMemory):
    """The decoder of a plain class-conditional VAE for each experience, 8 bits.

    Prior N(0, I), beta 1, Bernoulli likelihood; the encoder is an MLP that is thrown
    away. The decoder is our own generator with one block less than its default, the
    class entering one-hot; its width is the largest that fits the budget.

    Args:
        mem_bytes: Bound of the stored bytes.
        seed: Of initialisation and training.
        steps: Updates, with Adam and a cosine schedule.
        batch_size: Images an update.
        lr: First learning rate.
        latent_dim: Z.
    """

    def __init__(
        self,
        *,
        mem_bytes: int,
        seed: int = 0,
        steps: int = 2000,
        batch_size: int = 128,
        lr: float = 3e-3,
        latent_dim: int = 8,
    ) -> None:
        super().__init__(mem_bytes=mem_bytes, seed=seed)
        self.steps, self.batch_size, self.lr = steps, batch_size, lr
        self.latent_dim = latent_dim

    def _build(self, part: Part, channels: int) -> ConditionalGenerator:
        _, height, width = part.image_shape
        return ConditionalGenerator(
            image_shape=part.image_shape,
            latent_dim=self.latent_dim,
            embedding_dim=len(part.pairs),
            projected_dim=len(part.pairs),
            channels=channels,
            blocks=max(1, default_blocks(height, width) - 1),
        )

    def _stored_bytes(self, part: Part, channels: int) -> int:
        with torch.device("meta"):
            state = self._build(part, channels).state_dict()
        return sum(tensor.nbytes for tensor in pack_state(state).values())

    def _width(self, part: Part, share: int) -> int:
        channels = 0
        while self._stored_bytes(part, channels + 1) <= share:
            channels += 1
        if channels == 0:
            raise too_small(share, self._stored_bytes(part, 1))
        return channels

    def _fit(self, empty: Part, groups: list[Tensor], share: int) -> Part:
        channels = self._width(empty, share)
        with seeded_initialisation(self.seed, "vae", len(self.parts)):
            decoder = self._build(empty, channels)
            inputs = math.prod(empty.image_shape) + len(groups)
            encoder = nn.Sequential(
                nn.Linear(inputs, ENCODER_UNITS),
                nn.ReLU(),
                nn.Linear(ENCODER_UNITS, ENCODER_UNITS),
                nn.ReLU(),
                nn.Linear(ENCODER_UNITS, 2 * self.latent_dim),
            )
        images_NCHW = empty.to_unit(torch.cat(groups)).clamp(0, 1)
        labels_N = torch.cat(
            [torch.full((len(group),), k) for k, group in enumerate(groups)]
        )
        classes_NK = F.one_hot(labels_N, len(groups)).float()
        with torch.enable_grad():
            self._train(encoder, decoder, images_NCHW, classes_NK)
        return empty.filled(pack_state(decoder.state_dict()))

    def _train(
        self, encoder: nn.Module, decoder: nn.Module, images: Tensor, classes: Tensor
    ) -> None:
        device, generator = images.device, self._generator("train")
        encoder.to(device), decoder.to(device, memory_format=torch.channels_last)
        parameters = [*encoder.parameters(), *decoder.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        for _ in range(self.steps):
            index = torch.randint(len(images), (self.batch_size,), generator=generator)
            images_BCHW = images[index.to(device)]
            classes_BK = classes[index].to(device)
            joined = torch.cat([2 * images_BCHW.flatten(1) - 1, classes_BK], dim=1)
            mean_BZ, log_variance_BZ = encoder(joined).chunk(2, dim=1)
            noise_BZ = torch.randn(mean_BZ.shape, generator=generator).to(device)
            codes_BZ = mean_BZ + noise_BZ * (log_variance_BZ / 2).exp()
            images_hat = decoder(codes_BZ, classes_BK)
            nll = F.binary_cross_entropy(images_hat, images_BCHW, reduction="sum")
            kl = (mean_BZ**2 + log_variance_BZ.exp() - log_variance_BZ - 1).sum() / 2
            optimiser.zero_grad()
            ((nll + kl) / self.batch_size).backward()
            optimiser.step()
            schedule.step()

    def _shrink(self, part: Part, share: int) -> Part:
        """A narrower decoder, trained on samples of the old one."""
        generator, decoder = self._generator("shrink"), self._decode(part)
        with torch.no_grad():
            groups = [
                self._draw(part, decoder, position, 1000, generator)
                for position in range(len(part.pairs))
            ]
        return self._fit(part, groups, share)

    def _decode(self, part: Part) -> ConditionalGenerator:
        channels = len(part.tensors["stem_norm.weight"])
        with torch.device("meta"):
            decoder = self._build(part, channels)
        state = unpack_state(part.tensors)
        for name, value in decoder.state_dict().items():
            if name not in state:  # batch norm's step counters
                state[name] = torch.zeros(value.shape, dtype=value.dtype)
        decoder.load_state_dict(state, assign=True)
        return decoder.eval()

    def _draw(
        self,
        part: Part,
        ready: Any,
        position: int,
        count: int,
        generator: torch.Generator,
    ) -> Tensor:
        codes_BZ = torch.randn(count, self.latent_dim, generator=generator)
        classes_BK = torch.zeros(count, len(part.pairs))
        classes_BK[:, position] = 1
        return part.from_unit(ready(codes_BZ, classes_BK))
