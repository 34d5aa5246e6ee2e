"""The unrolled objective: how well a student trained on the synthetic set does.

Not in the paper. Feature matching asks that synthetic features look like real ones;
this asks directly for what a condensed set is for. A student takes a window of SGD
steps on the synthetic images, its loss on real images is differentiated through those
steps (`condense_core.objectives.window`), and the detached student then waits in a pool
for its next turn, so that students of every age are seen without training each one from
the start (random truncation, Feng et al. 2023, RaT-BPTT; the pool of FRePo, Zhou et al.
2022).

Shape legend: B batch, Y classes.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from condense_core.augment import SiameseAugment
from condense_core.compute.distributed import ALONE, Ranks
from condense_core.compute.graphs import Function, GraphedFunction, side_by_side
from condense_core.compute.parts import Part
from condense_core.config import UnrolledConfig
from condense_core.networks import build_network
from condense_core.networks.norm import differentiate_twice
from condense_core.objectives.known_gradient import WithGradient
from condense_core.objectives.window import OUTER_LOSSES, train_through
from condense_core.seeding import derive_seed, make_generator

TINY = 1e-12  # a norm to divide by


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
        self.network = self._fresh_network(0)
        differentiate_twice(self.network, fused=graphs)
        self._names = [name for name, _ in self.network.named_parameters()]
        streams: list[torch.cuda.Stream] = []
        if graphs and config.at_once > 1:
            streams = [torch.cuda.Stream(device) for _ in range(config.at_once)]
        # No method: with a cycle of references, graphs would outlive their pool.
        self._train = partial(_train_windows, self.network, config, streams, ranks)
        self._graphed = GraphedFunction(self._train) if graphs else None
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
    ) -> Tensor:
        """Mean outer loss on real images after a window of steps on synthetic ones.

        The chosen students advance by the window (detached), or retire.

        Args:
            step: Generator update, seeds every draw.
            images_BCHW: Normalised synthetic images, with gradient.
            labels_B: Their classes.
            real_images_BCHW: Normalised real images.
            real_labels_B: Their classes.
            part: Which images of the step these are, if not all. The real ones are of
                the same classes, and the loss is an addend of the step's.

        Returns:
            The loss. Its gradient at the images is taken already, so that nothing of
            the windows is kept.
        """
        config = self.config
        part = part or Part(0, len(images_BCHW), len(images_BCHW))
        rng = make_generator(self._seed, "unrolled", step)
        turn = int(torch.randint(len(self.students), (1,), generator=rng))
        apart = len(self.students) // config.at_once
        turns = [(turn + i * apart) % len(self.students) for i in range(config.at_once)]
        leaf_BCHW = images_BCHW.detach().requires_grad_()
        augmented = self._augment.apply_each(
            leaf_BCHW,
            [
                self._augment.draw(part.whole, rng).of(part)
                for _ in range(config.at_once * config.window)
            ],
        )
        states = [t for turn in turns for t in _tensors(self.students[turn])]
        train: Function = self._graphed or partial(self._train, share=part.share)
        losses, *results = train(
            *states, *augmented, labels_B, real_images_BCHW, real_labels_B
        )
        gradients, after = results[: len(augmented)], results[len(augmented) :]
        gradient_BCHW = self._at_images(leaf_BCHW, augmented, gradients)
        each = len(states) // config.at_once
        for i, turn in enumerate(turns):
            self._advance(turn, after[i * each : (i + 1) * each])
        loss: Tensor = WithGradient.apply(images_BCHW, losses.mean(), gradient_BCHW)
        return loss

    def _at_images(
        self, leaf_BCHW: Tensor, augmented: list[Tensor], gradients: Sequence[Tensor]
    ) -> Tensor:
        """Mean over the students of the gradients at the images (B, C, H, W).

        Args:
            leaf_BCHW: The images.
            augmented: What became of them in every step, student by student.
            gradients: The gradients there.
        """
        count, window = self.config.at_once, self.config.window
        total = torch.zeros_like(leaf_BCHW)
        for own in (slice(i * window, (i + 1) * window) for i in range(count)):
            (gradient,) = torch.autograd.grad(
                augmented[own], leaf_BCHW, gradients[own], retain_graph=True
            )
            if self.config.normalise:
                gradient = gradient / self._ranks.norm(gradient).clamp_min(TINY)
            total += gradient
        return total / count

    def _advance(self, turn: int, after: Sequence[Tensor]) -> None:
        """A student's weights and momenta after a window; or a new student."""
        student = self.students[turn]
        age = student["age"] + self.config.window
        if age >= self.config.max_age:
            self.students[turn] = self._fresh(self._next_serial)
            self._next_serial += 1
            return
        names = self._names
        after = [tensor.clone() for tensor in after]  # a graph overwrites its results
        student["weights"] = dict(zip(names, after[: len(names)], strict=True))
        student["momenta"] = dict(zip(names, after[len(names) :], strict=True))
        student["age"] = age

    def _fresh_network(self, serial: int) -> torch.nn.Module:
        return build_network(
            "convnet",
            image_shape=self._shape,
            num_classes=self._classes,
            width=self.config.width,
            seed=derive_seed(self._seed, "student", serial),
        ).to(self._device, non_blocking=True)

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


def _train_windows(
    network: torch.nn.Module,
    config: UnrolledConfig,
    streams: Sequence[torch.cuda.Stream],
    ranks: Ranks,
    *tensors: Tensor,
    share: float = 1.0,
) -> tuple[Tensor, ...]:
    """A window of every chosen student.

    Args:
        network: What computes with the weights of any of them.
        config: Students at once, window, learning rate, outer loss.
        streams: One a student, or none: then they are trained one after another.
        ranks: Processes that share the images of a step.
        tensors: Weights and momenta, student by student; augmented images of every
            step, student by student; their labels; real images; their labels.
        share: Of the images of a step, where several processes share them.

    Returns:
        Losses of the students; the gradients of the augmented images; weights and
        momenta after the window; all detached.
    """
    count, window = config.at_once, config.window
    each = 2 * len(list(network.parameters()))
    states = tensors[: count * each]
    augmented = tensors[count * each : -3]
    trained = side_by_side(
        [
            partial(
                train_through,
                network,
                states[i * each : (i + 1) * each],
                augmented[i * window : (i + 1) * window],
                *tensors[-3:],
                learning_rate=config.learning_rate,
                outer_loss=OUTER_LOSSES[config.outer_loss],
                share=share,
                ranks=ranks,
            )
            for i in range(count)
        ],
        streams,
    )
    losses, gradients, after = zip(*trained, strict=True)
    return torch.stack(losses), *chain(*gradients), *chain(*after)


def _tensors(student: dict[str, Any]) -> list[Tensor]:
    return [*student["weights"].values(), *student["momenta"].values()]
