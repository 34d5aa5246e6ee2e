"""(Z, G) <- (Z, G) - alpha grad L_con, two ways.

`ParameterOptimiser` is the paper's: SGD or Adam on codebook and generator. It sends the
gradient of L_con straight into the generator. Every weight of G is shared by all
images, so the noise of one step moves all of them together, and with a noisy objective
the images drift into one saturated texture long before its mean has been learnt. Pixel
methods do not have this problem: there the noise of each pixel averages out on its own.

`ImageSpaceOptimiser` takes the step where the noise averages out, in the images, and
then moves the generator to where they went: Adam updates one target image for every
(class, code), and G and Z are fitted to the targets by a few steps of Adam on the
squared error. The gradient is always taken at the images that G really makes. A step
on some of the images moves the other targets too, by the momentum they have, as Adam
does with every parameter; G is fitted to them when their turn comes. The targets are
scaffolding and are thrown away; they cost the memory of the images, so that
for very many images ``optimiser.name: adam`` is the choice.

Shape legend: Y classes, K codes, C H W image.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from condense_core.compute.distributed import ALONE, Ranks
from condense_core.config import CondenseConfig, OptimiserConfig
from condense_core.synthesiser import (
    PixelSynthesiser,
    Synthesiser,
    statistics_kept,
    to_logits,
)

# Images synthesised together as a start: bounds memory. Batch norm is in training mode,
# so that another number would start elsewhere.
LARGEST_BATCH = 5000


class SynthesiserOptimiser(Protocol):
    """What Algorithm 1 asks of an optimiser of (Z, G)."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups whose learning rates decay."""
        ...

    def step(
        self,
        loss: Tensor,
        images_YKCHW: Tensor,
        class_ids_Y: Tensor,
        code_ids_K: Tensor,
        *,
        share: float = 1.0,
    ) -> None:
        """Update codebook and generator.

        Args:
            loss: L_con.
            images_YKCHW: The images in [0, 1] it was computed from, part of its graph.
            class_ids_Y: Their classes.
            code_ids_K: Their codes.
            share: Of the images of the step, where several processes share them.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that decides the following steps."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        ...


def build_optimiser(
    synthesiser: Synthesiser, config: CondenseConfig, ranks: Ranks = ALONE
) -> SynthesiserOptimiser:
    """The optimiser of ``config.optimiser``, on what ``config.format`` learns.

    Args:
        synthesiser: In training mode, on its device.
        config: Of the run. Pixels are their own image space: they take Adam for it.
        ranks: Processes that share the classes of a step.
    """
    rates = config.optimiser
    in_pixels = isinstance(synthesiser, PixelSynthesiser)
    codes: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in synthesiser.named_parameters():
        (codes if name.startswith("codebook.") else rest).append(parameter)
    groups: list[dict[str, Any]] = []
    if in_pixels or config.format.generator == "learned":
        rate = rates.pixel_lr if in_pixels else rates.generator_lr
        groups.append({"params": rest, "lr": rate})
    if codes:
        groups.append({"params": codes, "lr": rates.codebook_lr})
    if rates.name == "image_space" and not in_pixels:
        return ImageSpaceOptimiser(synthesiser, groups, rates, ranks)
    if rates.name == "sgd":
        optimiser = torch.optim.SGD(groups, momentum=rates.momentum)
        return ParameterOptimiser(optimiser, ranks)
    return ParameterOptimiser(torch.optim.Adam(groups), ranks)


class ParameterOptimiser:
    """SGD or Adam on the parameters, by the gradient of the loss.

    Args:
        optimiser: Of codebook and generator.
        ranks: Processes whose gradients are summed.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, ranks: Ranks = ALONE) -> None:
        self._optimiser, self._ranks = optimiser, ranks

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups whose learning rates decay."""
        return self._optimiser.param_groups

    def step(
        self,
        loss: Tensor,
        images_YKCHW: Tensor,
        class_ids_Y: Tensor,
        code_ids_K: Tensor,
        *,
        share: float = 1.0,
    ) -> None:
        """As `SynthesiserOptimiser.step`; the loss is all that counts."""
        # The graph passes through phi and D too, whose gradients would cost time.
        learnt = _learnt(self.param_groups)
        self._optimiser.zero_grad()
        loss.backward(inputs=learnt)
        self._ranks.sum_gradients(learnt)
        self._optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """All that decides the following steps."""
        return self._optimiser.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        restore(self._optimiser, state_dict)


class ImageSpaceOptimiser:
    """Adam on target images, followed by the generator.

    Targets start as the images that the synthesiser makes now, which changes nothing
    in it.

    Args:
        synthesiser: In training mode, pre-trained.
        groups: Its parameters with their learning rates, as for any optimiser.
        config: Rate of the images and number of fitting steps.
        ranks: Processes that share the classes of a step.

    Attributes:
        logits: (Y, K, C, H, W) logits of the target images.
        images: Adam over them.
        fit: Adam over codebook and generator.
    """

    def __init__(
        self,
        synthesiser: Synthesiser,
        groups: list[dict[str, Any]],
        config: OptimiserConfig,
        ranks: Ranks = ALONE,
    ) -> None:
        self._synthesiser = synthesiser
        self._steps = config.fit_steps
        self._ranks = ranks
        spec = synthesiser.spec
        device = synthesiser.class_embedding.device
        class_ids = torch.arange(spec.num_classes, device=device)
        code_ids = torch.arange(spec.images_per_class, device=device)
        per_batch = max(1, LARGEST_BATCH // spec.images_per_class)
        with torch.no_grad(), statistics_kept(synthesiser):
            parts = [
                to_logits(synthesiser(c, code_ids)) for c in class_ids.split(per_batch)
            ]
        self.logits = torch.cat(parts).requires_grad_()
        self.images = torch.optim.Adam([self.logits], lr=config.pixel_lr)
        self.fit = torch.optim.Adam(groups)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups whose learning rates decay."""
        return [*self.images.param_groups, *self.fit.param_groups]

    def step(
        self,
        loss: Tensor,
        images_YKCHW: Tensor,
        class_ids_Y: Tensor,
        code_ids_K: Tensor,
        *,
        share: float = 1.0,
    ) -> None:
        """Move the targets down the gradient at the images, then fit G and Z."""
        (at_images,) = torch.autograd.grad(loss, images_YKCHW)
        images = images_YKCHW.detach()
        rows = class_ids_Y.unsqueeze(1), code_ids_K.unsqueeze(0)
        gradient = torch.zeros_like(self.logits)
        gradient[rows] = at_images * images * (1.0 - images)  # d sigmoid
        self.logits.grad = self._ranks.sum(gradient)
        self.images.step()
        targets = torch.sigmoid(self.logits.detach()[rows])
        learnt = _learnt(self.fit.param_groups)
        for step in range(self._steps):
            # The given images are what the first step would generate again.
            made = self._synthesiser(class_ids_Y, code_ids_K) if step else images_YKCHW
            error = F.mse_loss(made, targets)
            self.fit.zero_grad()
            (error * share).backward(inputs=learnt)
            self._ranks.sum_gradients(learnt)
            self.fit.step()

    def state_dict(self) -> dict[str, Any]:
        """All that decides the following steps."""
        return {
            "logits": self.logits.detach(),
            "images": self.images.state_dict(),
            "fit": self.fit.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        with torch.no_grad():
            self.logits.copy_(state_dict["logits"])
        restore(self.images, state_dict["images"])
        restore(self.fit, state_dict["fit"])


def restore(optimiser: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """Let an optimiser continue from its `state_dict`, read to whatever device.

    Adam reads at every step how many it has taken of each parameter. It keeps these
    numbers on the CPU; those of a checkpoint may be on a GPU, where each of them would
    be waited for.
    """
    optimiser.load_state_dict(state_dict)
    for values in optimiser.state.values():
        if "step" in values:
            values["step"] = values["step"].cpu()


def _learnt(groups: list[dict[str, Any]]) -> list[torch.nn.Parameter]:
    """Parameters of all groups: what a gradient is taken of, and exchanged."""
    return [parameter for group in groups for parameter in group["params"]]
