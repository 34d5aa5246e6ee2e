"""The unrolled objective: how well a student trained on the synthetic set does.

Not in the paper. Feature matching asks that synthetic features look like real ones;
this asks directly for what a condensed set is for. A student takes a window of SGD
steps on the synthetic images, its loss on real images is differentiated through those
steps (back-propagation through time, Wang et al. 2018), and the detached student then
waits in a pool for its next turn, so that students of every age are seen without
training each one from the start (random truncation, Feng et al. 2023, RaT-BPTT; the
pool of FRePo, Zhou et al. 2022).

Shape legend: B batch, Y classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from condense_core.augment import SiameseAugment
from condense_core.config import UnrolledConfig
from condense_core.distributed import ALONE, Ranks
from condense_core.graphs import GraphedFunction
from condense_core.networks import build_network
from condense_core.networks.norm import differentiate_twice
from condense_core.parts import Part
from condense_core.seeding import derive_seed, make_generator
from condense_core.training import Recipe

Window = Callable[..., tuple[Tensor, ...]]


class StudentPool:
    """Students of mixed ages, trained on the synthetic images by the field's recipe.

    Attributes:
        students: For each student its weights, momenta and age.
        network: What computes with the weights of any of them.
    """

    def __init__(
        self,
        config: UnrolledConfig,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        augment: SiameseAugment,
        seed: int,
        device: torch.device,
        ranks: Ranks = ALONE,
        graphs: bool = False,
    ) -> None:
        """Fill the pool with new students.

        Args:
            config: Pool size, window, ages, learning rate.
            image_shape: (C, H, W).
            num_classes: Y.
            augment: Drawn per image at every step of a student, as in evaluation.
            seed: Of initialisations and draws.
            device: Where students live.
            ranks: Processes that share the images of a step.
            graphs: Whether to replay windows as CUDA graphs; one process on CUDA only.
        """
        self.config = config
        self._shape, self._classes = image_shape, num_classes
        self._augment, self._seed, self._device = augment, seed, device
        self._ranks = ranks
        self._graphed = GraphedFunction(self._train) if graphs else None
        self.network = self._fresh_network(0)
        differentiate_twice(self.network, fused=graphs)
        self.students = [self._fresh(serial) for serial in range(config.students)]
        for index, student in enumerate(self.students):
            # Staggered first retirements: the pool is of mixed age from then on.
            student["age"] = index * config.max_age // config.students
        self._next_serial = config.students

    def loss(
        self,
        step: int,
        images_BCHW: Tensor,
        labels_B: Tensor,
        real_images_BCHW: Tensor,
        real_labels_B: Tensor,
        part: Part | None = None,
        once: bool = False,
    ) -> Tensor:
        """Outer loss on real images after a window of steps on synthetic ones.

        The chosen student advances by the window (detached), or retires.

        Args:
            step: Generator update, seeds every draw.
            images_BCHW: Normalised synthetic images, with gradient.
            labels_B: Their classes.
            real_images_BCHW: Normalised real images.
            real_labels_B: Their classes.
            part: Which images of the step these are, if not all. The real ones are of
                the same classes, and the loss is an addend of the step's.
            once: Whether its gradient is taken at most once, which is what a graph
                allows.
        """
        part = part or Part(0, len(images_BCHW), len(images_BCHW))
        draw = make_generator(self._seed, "unrolled", step)
        turn = int(torch.randint(len(self.students), (1,), generator=draw))
        student = self.students[turn]
        augmented = (
            self._augment.augment(images_BCHW, draw, part=part)
            for _ in range(self.config.window)
        )
        train: Window = partial(self._train, share=part.share)
        if self._graphed is not None and once:
            train = self._graphed
        loss, *after = train(
            *student["weights"].values(),
            *student["momenta"].values(),
            *augmented,
            labels_B,
            real_images_BCHW,
            real_labels_B,
        )

        age = student["age"] + self.config.window
        if age >= self.config.max_age:
            self.students[turn] = self._fresh(self._next_serial)
            self._next_serial += 1
        else:
            names = list(student["weights"])
            # Clones: a graph overwrites its results.
            after = [tensor.detach().clone() for tensor in after]
            student["weights"] = dict(zip(names, after[: len(names)], strict=True))
            student["momenta"] = dict(zip(names, after[len(names) :], strict=True))
            student["age"] = age
        return loss

    def _train(self, *tensors: Tensor, share: float = 1.0) -> tuple[Tensor, ...]:
        """A window of SGD with momentum and weight decay, then the loss on real images.

        Args:
            tensors: Weights, their momenta, augmented images of every step, their
                labels, real images, their labels.
            share: Of the images of a step, where several processes share them.

        Returns:
            The loss, with the gradient of the augmented images; weights and momenta
            after the window, detached.
        """
        shapes = {n: p.shape for n, p in self.network.named_parameters()}
        count = len(shapes)
        *augmented, labels, real_images, real_labels = tensors[2 * count :]

        def named(flat: Tensor) -> dict[str, Tensor]:
            parts = flat.split([shape.numel() for shape in shapes.values()])
            return {
                name: part.view(shape)
                for (name, shape), part in zip(shapes.items(), parts, strict=True)
            }

        # All weights in one vector: a step is a few operations instead of a hundred.
        weights, momenta = (
            torch.cat([tensor.flatten() for tensor in half])
            for half in (tensors[:count], tensors[count : 2 * count])
        )
        weights.requires_grad_()
        for images in augmented:
            logits = functional_call(self.network, named(weights), (images,))
            inner = F.cross_entropy(logits, labels)
            (slope,) = self._ranks.sum_all(
                torch.autograd.grad(inner * share, [weights], create_graph=True)
            )
            decay = _RECIPE.weight_decay * weights
            momenta = _RECIPE.momentum * momenta + slope + decay
            weights = weights - self.config.learning_rate * momenta
        logits = functional_call(self.network, named(weights), (real_images,))
        loss = OUTER_LOSSES[self.config.outer_loss](logits, real_labels) * share
        after = *named(weights).values(), *named(momenta).values()
        return loss, *(tensor.detach() for tensor in after)

    def _fresh_network(self, serial: int) -> torch.nn.Module:
        return build_network(
            "convnet",
            image_shape=self._shape,
            num_classes=self._classes,
            width=self.config.width,
            seed=derive_seed(self._seed, "student", serial),
        ).to(self._device)

    def _fresh(self, serial: int) -> dict[str, Any]:
        network = self._fresh_network(serial)
        weights = {k: v.detach() for k, v in network.named_parameters()}
        momenta = {k: torch.zeros_like(v) for k, v in weights.items()}
        return {"weights": weights, "momenta": momenta, "age": 0}

    def state_dict(self) -> dict[str, Any]:
        """All that decides the following steps."""
        students = [dict(student) for student in self.students]
        return {"students": students, "next_serial": self._next_serial}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.students = [dict(student) for student in state["students"]]
        self._next_serial = state["next_serial"]


def brier_score(logits_BY: Tensor, labels_B: Tensor) -> Tensor:
    """Mean squared distance of probabilities to the one-hot label, in [0, 2]."""
    wanted_BY = F.one_hot(labels_B, logits_BY.shape[1])
    return (logits_BY.softmax(dim=1) - wanted_BY).square().sum(dim=1).mean()


OUTER_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brier": brier_score,
    "cross_entropy": F.cross_entropy,
}
_RECIPE = Recipe("student", epochs=1)  # the field's momentum and weight decay
