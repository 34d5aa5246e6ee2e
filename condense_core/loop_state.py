"""What Algorithm 1 changes: codebook, networks, optimisers and where they stand.

Shape legend: Y classes, K codes, C H W image, B batch.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from condense_core.augment import SiameseAugment
from condense_core.class_embedding import standardise
from condense_core.compute.distributed import ALONE, Ranks
from condense_core.compute.mode import (
    prepare_generator,
    prepare_network,
    uses_graphs,
)
from condense_core.config import CondenseConfig
from condense_core.data import PixelStatistics
from condense_core.data.class_sampler import ClassSampler
from condense_core.discriminator import FeatureDiscriminator
from condense_core.errors import ConfigError
from condense_core.image_space import ImageSpaceOptimiser
from condense_core.networks import FeatureNetwork, build_network
from condense_core.objectives.feature import Association, sample_association
from condense_core.objectives.trajectory import Expert, TrajectoryMatcher
from condense_core.objectives.unrolled import StudentPool
from condense_core.pretrain import ImageDiscriminator, subset
from condense_core.seeding import derive_seed, make_generator, seeded_initialisation
from condense_core.synthesiser import (
    GeneratorSynthesiser,
    PixelSynthesiser,
    Synthesiser,
)

WEIGHT_DECAY = 5e-4  # of phi, as of every network in the field's protocol


class LoopState:
    """Networks and optimisers that Algorithm 1 updates, and where it stands.

    Attributes:
        outer: Outer iterations done, of restarts x N.
        synthesiser: Codebook and generator (or pixels).
        network: phi, the network features are matched in.
        discriminator: D.
        students: Pool of the unrolled objective, or None.
    """

    def __init__(
        self,
        config: CondenseConfig,
        synthesiser: Synthesiser,
        statistics: PixelStatistics,
        *,
        device: torch.device,
        network_start: Mapping[str, Tensor] | None = None,
        experts: list[Expert] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Build discriminator, students and optimisers around a synthesiser.

        ``network_start`` holds weights that every restart of phi begins with instead of
        random ones; ``experts`` are those of the trajectory term. ``ranks`` are the
        processes that share the classes of every step; what changes is the same in all
        of them.

        Raises:
            ConfigError: The trajectory term has a weight, but there are no experts.
        """
        self.config = config
        self.ranks = ranks
        self._network_start = network_start
        self.synthesiser = synthesiser
        self.statistics = statistics
        self.device = device
        self.outer = 0
        self.augment = SiameseAugment.from_text(config.augment, flip=config.data.flip)
        if isinstance(synthesiser, GeneratorSynthesiser):
            prepare_generator(synthesiser.generator, config.compute)
        self.network = self.initialise_network(0)
        self.discriminator = self._build_discriminator().to(device)
        self.students = None
        spec = synthesiser.spec
        if config.loss.unrolled:
            self.students = StudentPool(
                config.unrolled,
                image_shape=spec.image_shape,
                num_classes=spec.num_classes,
                augment=self.augment,
                seed=config.seed,
                device=device,
                ranks=ranks,
                graphs=uses_graphs(config.compute, device, ranks.world),
            )
        self.trajectories = None
        if config.loss.trajectory:
            if experts is None:
                raise ConfigError(
                    f"loss.trajectory is {config.loss.trajectory}, but no experts are "
                    "trained here: set it to 0"
                )
            self.trajectories = TrajectoryMatcher(
                config.trajectory,
                experts,
                image_shape=spec.image_shape,
                num_classes=spec.num_classes,
                augment=self.augment,
                seed=config.seed,
                device=device,
            )
        synthesiser.train()
        self.optimiser = self._build_optimiser()
        self.discriminator_optimiser = torch.optim.Adam(
            self.discriminator.parameters(),
            lr=config.optimiser.discriminator_lr,
            betas=(0.5, 0.999),
        )
        self._base_rates = [group["lr"] for group in self.optimiser.param_groups]

    def initialise_network(self, restart: int) -> FeatureNetwork:
        """A new phi and its optimiser."""
        spec, config = self.synthesiser.spec, self.config
        self.network = build_network(
            config.network.name,
            image_shape=spec.image_shape,
            num_classes=spec.num_classes,
            width=config.network.width,
            depth=config.network.depth,
            low_pass=config.network.low_pass,
            seed=derive_seed(config.seed, "phi", restart),
        ).to(self.device)
        prepare_network(self.network, config.compute)
        if self._network_start is not None:
            self.network.load_state_dict(self._network_start)
        self.network_optimiser = torch.optim.SGD(
            self.network.parameters(),
            lr=config.optimiser.network_lr,
            momentum=config.optimiser.momentum,
            weight_decay=WEIGHT_DECAY,
        )
        return self.network

    def associate(
        self,
        sampler: ClassSampler,
        teacher: FeatureNetwork | None,
        draw: torch.Generator,
    ) -> Association:
        """Choose the classes of a step and sample their associations."""
        spec, loop = self.synthesiser.spec, self.config.loop
        size = loop.classes_per_step or spec.num_classes
        association = sample_association(
            sampler,
            subset(spec.num_classes, size, draw, self.device),
            loop.association,
            network=self.network,
            statistics=self.statistics,
            augment=self.augment,
            teacher=teacher,
            temperature=self.config.loss.soft_temperature,
            with_gradients=self.config.loss.gradient > 0,
            generator=draw,
            ranks=self.ranks,
        )
        if self.config.format.embedding == "online":
            # Table 6, "online feature": c(y) follows phi.
            embedding = self.synthesiser.class_embedding
            embedding[association.step_ids] = standardise(association.step_means)
        return association

    def draw_codes(self, draw: torch.Generator) -> Tensor:
        """Ids of the codes of a step, shared by its classes."""
        codes = self.synthesiser.spec.images_per_class
        size = self.config.loop.codes_per_step or codes
        return subset(codes, size, draw, self.device)

    def normalise(self, images_YKCHW: Tensor) -> Tensor:
        """Images in [0, 1] as networks see them."""
        shape = images_YKCHW.shape
        return self.statistics.normalise(images_YKCHW.flatten(0, 1)).view(shape)

    def update(
        self,
        loss: Tensor,
        synthetic_YKCHW: Tensor,
        association: Association,
        code_ids_K: Tensor,
    ) -> None:
        """(Z, G) <- (Z, G) - alpha grad L_con, by the configured optimiser."""
        if isinstance(self.optimiser, ImageSpaceOptimiser):
            self.optimiser.step(
                loss,
                synthetic_YKCHW,
                association.class_ids_Y,
                code_ids_K,
                share=association.part.share,
            )
            return
        # Only of these: phi and D lie on the way, and gradients of theirs are not free.
        learnt = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.optimiser.zero_grad()
        loss.backward(inputs=learnt)
        self.ranks.sum_gradients(learnt)
        self.optimiser.step()

    def unrolled_term(
        self,
        step: int,
        images_YKCHW: Tensor,
        association: Association,
        sampler: ClassSampler,
    ) -> Tensor:
        """Loss on real images of students trained on these synthetic ones."""
        assert self.students is not None
        draw = make_generator(self.config.seed, "unrolled-real", step)
        class_ids_Y, part = association.class_ids_Y, association.part
        codes = images_YKCHW.shape[1]
        per_class = max(1, self.config.unrolled.real_batch // part.whole)
        real = sampler.sample(per_class, draw, association.step_ids, part=part)
        real = real.flatten(0, 1)
        return self.students.loss(
            step,
            images_YKCHW.flatten(0, 1),
            class_ids_Y.repeat_interleave(codes),
            self.statistics.normalise(real),
            class_ids_Y.repeat_interleave(per_class),
            part=part.times(codes),
        )

    def trajectory_term(
        self, step: int, images_YKCHW: Tensor, class_ids_Y: Tensor
    ) -> Tensor:
        """Distance of a student of these synthetic images to an expert."""
        assert self.trajectories is not None
        labels = class_ids_Y.repeat_interleave(images_YKCHW.shape[1])
        return self.trajectories.loss(step, images_YKCHW.flatten(0, 1), labels)

    def train_network(self, sampler: ClassSampler, outer: int, k: int) -> None:
        """One step of L_cls on real images, augmented image by image."""
        draw = make_generator(self.config.seed, "phi-batch", outer, k)
        images, labels = sampler.batch(self.config.loop.network_batch, draw)
        part = self.ranks.part(len(images))
        images = self.statistics.normalise(images[part.rows])
        images = self.augment.augment(images, draw, part=part)
        loss = F.cross_entropy(self.network(images), labels[part.rows]) * part.share
        self.network_optimiser.zero_grad()
        loss.backward()
        self.ranks.sum_gradients(self.network.parameters())
        self.network_optimiser.step()

    def decay(self, progress: float) -> None:
        """Linear learning-rate decay of (Z, G) and phi over the run (sec. 4.2)."""
        if self.config.optimiser.decay == "none":
            return
        for group, rate in zip(
            self.optimiser.param_groups, self._base_rates, strict=True
        ):
            group["lr"] = rate * (1.0 - progress)
        for group in self.network_optimiser.param_groups:
            group["lr"] = self.config.optimiser.network_lr * (1.0 - progress)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on as if never stopped."""
        return {
            "outer": self.outer,
            "synthesiser": self.synthesiser.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "network": self.network.state_dict(),
            "network_optimiser": self.network_optimiser.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
            "students": None if self.students is None else self.students.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.outer = state["outer"]
        self.synthesiser.load_state_dict(state["synthesiser"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.network.load_state_dict(state["network"])
        self.network_optimiser.load_state_dict(state["network_optimiser"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])
        if self.students is not None:
            self.students.load_state_dict(state["students"])

    def _build_discriminator(self) -> FeatureDiscriminator | ImageDiscriminator:
        spec, config = self.synthesiser.spec, self.config
        condition_dim = self.synthesiser.class_embedding.shape[1]
        if config.loss.adversarial_space == "pixel":
            return ImageDiscriminator.build(
                image_shape=spec.image_shape,
                num_classes=spec.num_classes,
                condition_dim=condition_dim,
                width=config.network.width,
                seed=config.seed,
            )
        with seeded_initialisation(config.seed, "discriminator"):
            return FeatureDiscriminator(
                feature_dim=self.network.feature_dim,
                condition_dim=condition_dim,
                num_classes=spec.num_classes,
            )

    def _build_optimiser(self) -> torch.optim.Optimizer | ImageSpaceOptimiser:
        rates = self.config.optimiser
        codes: list[torch.nn.Parameter] = []
        rest: list[torch.nn.Parameter] = []
        for name, parameter in self.synthesiser.named_parameters():
            (codes if name.startswith("codebook.") else rest).append(parameter)
        in_pixels = isinstance(self.synthesiser, PixelSynthesiser)
        groups: list[dict[str, Any]] = []
        if in_pixels or self.config.format.generator == "learned":
            rate = rates.pixel_lr if in_pixels else rates.generator_lr
            groups.append({"params": rest, "lr": rate})
        if codes:
            groups.append({"params": codes, "lr": rates.codebook_lr})
        if rates.name == "sgd":
            return torch.optim.SGD(groups, momentum=rates.momentum)
        if rates.name == "image_space" and not in_pixels:
            return ImageSpaceOptimiser(self.synthesiser, groups, rates, self.ranks)
        return torch.optim.Adam(groups)
