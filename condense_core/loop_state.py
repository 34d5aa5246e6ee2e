"""What Algorithm 1 changes: codebook, networks, optimisers and where they stand.

Shape legend: Y classes, K codes, C H W image, E class embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
from condense_core.discriminator import (
    Discriminator,
    FeatureDiscriminator,
    ImageDiscriminator,
)
from condense_core.errors import ConfigError
from condense_core.networks import FeatureNetwork, build_network
from condense_core.objectives.feature import (
    Association,
    SyntheticFeatures,
    Terms,
    discriminator_loss,
    feature_terms,
    sample_association,
)
from condense_core.objectives.trajectory import Expert, TrajectoryMatcher
from condense_core.objectives.unrolled import StudentPool
from condense_core.optimisers import build_optimiser, restore
from condense_core.seeding import (
    derive_seed,
    make_generator,
    random_subset,
    seeded_initialisation,
)
from condense_core.synthesiser import GeneratorSynthesiser, Synthesiser
from condense_core.training import WEIGHT_DECAY


@dataclass(frozen=True, slots=True)
class SyntheticBatch:
    """The synthetic set S_i of one generator update.

    Attributes:
        images_YKCHW: In [0, 1], with the graph of codebook and generator.
        normalised_YKCHW: The same as networks see them.
        code_ids_K: Codes, shared by all classes.
        conditions_YE: c(y) of the classes.
    """

    images_YKCHW: Tensor
    normalised_YKCHW: Tensor
    code_ids_K: Tensor
    conditions_YE: Tensor


class LoopState:
    """Networks and optimisers that Algorithm 1 updates, and where it stands.

    Args:
        config: Of the run.
        synthesiser: Codebook and generator (or pixels), at their starting point.
        statistics: Normalisation of the training images.
        device: Where to compute.
        network_start: Weights that every restart of phi begins with; random ones if
            None.
        experts: Of the trajectory term.
        ranks: Processes that share the classes of every step; what changes is the same
            in all of them.

    Raises:
        ConfigError: The trajectory term has a weight, but there are no experts.

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
        self.initialise_network(0)
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
        self.optimiser = build_optimiser(synthesiser, config, ranks)
        self.discriminator_optimiser = torch.optim.Adam(
            self.discriminator.parameters(),
            lr=config.optimiser.discriminator_lr,
            betas=(0.5, 0.999),
        )
        self._base_rates = [group["lr"] for group in self.optimiser.param_groups]

    def initialise_network(self, restart: int) -> None:
        """A new phi and its optimiser."""
        spec, config = self.synthesiser.spec, self.config
        self.network: FeatureNetwork = build_network(
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

    def associate(
        self,
        sampler: ClassSampler,
        teacher: FeatureNetwork | None,
        rng: torch.Generator,
    ) -> Association:
        """Choose the classes of a step and sample their associations."""
        spec, loop = self.synthesiser.spec, self.config.loop
        size = loop.classes_per_step or spec.num_classes
        association = sample_association(
            sampler,
            random_subset(spec.num_classes, size, rng, self.device),
            loop.association,
            network=self.network,
            statistics=self.statistics,
            augment=self.augment,
            teacher=teacher,
            temperature=self.config.loss.soft_temperature,
            with_gradients=self.config.loss.gradient > 0,
            generator=rng,
            ranks=self.ranks,
        )
        if self.config.format.embedding == "online":
            # Table 6, "online feature": c(y) follows phi.
            embedding = self.synthesiser.class_embedding
            embedding[association.step_ids] = standardise(association.step_means)
        return association

    def synthesise(
        self, association: Association, rng: torch.Generator
    ) -> SyntheticBatch:
        """Images of some codes, shared by the classes of the association."""
        codes = self.synthesiser.spec.images_per_class
        size = self.config.loop.codes_per_step or codes
        code_ids_K = random_subset(codes, size, rng, self.device)
        class_ids_Y = association.class_ids_Y
        images_YKCHW = self.synthesiser(class_ids_Y, code_ids_K)
        normalised = self.statistics.normalise(images_YKCHW.flatten(0, 1))
        return SyntheticBatch(
            images_YKCHW=images_YKCHW,
            normalised_YKCHW=normalised.view(images_YKCHW.shape),
            code_ids_K=code_ids_K,
            conditions_YE=self.synthesiser.class_embedding[class_ids_Y],
        )

    def condensation_terms(
        self,
        step: int,
        synthetic: SyntheticBatch,
        association: Association,
        sampler: ClassSampler,
    ) -> tuple[Terms, SyntheticFeatures | None]:
        """The unweighted terms of L_con that have a weight.

        Args:
            step: Generator update, seeds the draws of students.
            synthetic: S_i.
            association: T_i.
            sampler: Real images that students are judged on.

        Returns:
            Terms by name, and the features for D, as `feature_terms` returns them.
        """
        terms, features = feature_terms(
            synthetic.normalised_YKCHW,
            association,
            network=self.network,
            augment=self.augment,
            discriminator=self.discriminator,
            conditions_YE=synthetic.conditions_YE,
            config=self.config.loss,
            ranks=self.ranks,
        )
        if self.students is not None:
            terms["unrolled"] = self._unrolled_term(
                step, synthetic.normalised_YKCHW, association, sampler
            )
        if self.trajectories is not None:
            terms["trajectory"] = self.trajectories.loss(
                step,
                synthetic.normalised_YKCHW.flatten(0, 1),
                association.class_ids_Y.repeat_interleave(len(synthetic.code_ids_K)),
            )
        return terms, features

    def update_generator(
        self, loss: Tensor, synthetic: SyntheticBatch, association: Association
    ) -> None:
        """(Z, G) <- (Z, G) - alpha grad L_con, by the configured optimiser."""
        self.optimiser.step(
            loss,
            synthetic.images_YKCHW,
            association.class_ids_Y,
            synthetic.code_ids_K,
            share=association.part.share,
        )

    def update_discriminator(
        self,
        features: SyntheticFeatures | None,
        synthetic: SyntheticBatch,
        association: Association,
    ) -> Terms:
        """One step of D on features that have no gradient; its loss, if it is used."""
        config = self.config.loss
        judges = config.adversarial > 0
        classifies = config.classification > 0 and config.classifier == "auxiliary"
        if features is None or not (judges or classifies):
            return {}
        loss = discriminator_loss(
            features,
            association,
            discriminator=self.discriminator,
            conditions_YE=synthetic.conditions_YE,
            config=config,
        )
        self.discriminator_optimiser.zero_grad()
        loss.backward()
        self.ranks.sum_gradients(self.discriminator.parameters())
        self.discriminator_optimiser.step()
        return {"discriminator": loss}

    def train_network(self, sampler: ClassSampler, outer: int, k: int) -> None:
        """One step of L_cls on real images, augmented image by image."""
        rng = make_generator(self.config.seed, "phi-batch", outer, k)
        images, labels = sampler.batch(self.config.loop.network_batch, rng)
        part = self.ranks.part(len(images))
        images = self.statistics.normalise(images[part.rows])
        images = self.augment.augment(images, rng, part=part)
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
        restore(self.network_optimiser, state["network_optimiser"])
        self.discriminator.load_state_dict(state["discriminator"])
        restore(self.discriminator_optimiser, state["discriminator_optimiser"])
        if self.students is not None:
            self.students.load_state_dict(state["students"])

    def _unrolled_term(
        self,
        step: int,
        images_YKCHW: Tensor,
        association: Association,
        sampler: ClassSampler,
    ) -> Tensor:
        """Loss on real images of students trained on these synthetic ones."""
        assert self.students is not None
        rng = make_generator(self.config.seed, "unrolled-real", step)
        class_ids_Y, part = association.class_ids_Y, association.part
        codes = images_YKCHW.shape[1]
        per_class = max(1, self.config.unrolled.real_batch // part.whole)
        real = sampler.sample(per_class, rng, association.step_ids, part=part)
        real = real.flatten(0, 1)
        return self.students.loss(
            step,
            images_YKCHW.flatten(0, 1),
            class_ids_Y.repeat_interleave(codes),
            self.statistics.normalise(real),
            class_ids_Y.repeat_interleave(per_class),
            part=part.times(codes),
        )

    def _build_discriminator(self) -> Discriminator:
        spec, config = self.synthesiser.spec, self.config
        condition_dim = self.synthesiser.class_embedding.shape[1]
        if config.loss.adversarial_space == "pixel":
            return ImageDiscriminator.build(
                image_shape=spec.image_shape,
                num_classes=spec.num_classes,
                condition_dim=condition_dim,
                width=config.network.width,
                seed=config.seed,
                classified_dim=self.network.feature_dim,
            )
        with seeded_initialisation(config.seed, "discriminator"):
            return FeatureDiscriminator(
                feature_dim=self.network.feature_dim,
                condition_dim=condition_dim,
                num_classes=spec.num_classes,
            )
