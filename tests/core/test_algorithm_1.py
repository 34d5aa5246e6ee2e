"""The loop against Algorithm 1 written out: every value that reaches every function.

The losses, networks and draws are the library's, which have tests of their own; what is
written again here is what happens to them, and when.
"""

import dataclasses
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from condense_core.augment import SiameseAugment
from condense_core.data import ImageData
from condense_core.data.class_sampler import ClassSampler
from condense_core.engine import condense_loop
from condense_core.loop_state import LoopState
from condense_core.losses.adversarial import discriminator_loss, generator_loss
from condense_core.losses.classification import classification_loss
from condense_core.losses.inter_class import inter_class_loss
from condense_core.losses.intra_class import intra_class_loss
from condense_core.losses.matching import matching_loss
from condense_core.networks import build_network
from condense_core.runlog import RunLog
from condense_core.seeding import derive_seed, make_generator, seeded_initialisation
from condense_core.synthesiser import SynthesiserSpec, build_synthesiser

CPU = torch.device("cpu")
CLASSES, CODES, EMBEDDING = 3, 2, 4
STEADY = ["loss.unrolled=0", "optimiser.name=adam"]


@pytest.fixture
def start(tiny_data):
    def make(config):
        spec = SynthesiserSpec.from_config(
            config.format,
            image_shape=tiny_data.image_shape,
            num_classes=CLASSES,
            embedding_dim=EMBEDDING,
        )
        with seeded_initialisation(0, "test"):
            synthesiser = build_synthesiser(spec)
        rng = make_generator(0, "test-embedding")
        synthesiser.class_embedding.normal_(generator=rng)
        return LoopState(config, synthesiser, tiny_data.statistics(), device=CPU)

    return make


def teacher_of(data):
    return build_network(
        "convnet", image_shape=data.image_shape, num_classes=CLASSES, width=4, seed=9
    ).eval()


def weights_of(module):
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def written_out(config, state, data):
    """Algorithm 1, line by line; (G and Z, D, phi) in the end."""
    loop, loss, rates = config.loop, config.loss, config.optimiser
    synthesiser, judge = deepcopy(state.synthesiser), deepcopy(state.discriminator)
    normalise = data.statistics().normalise
    sampler, teacher = ClassSampler(data, CPU), teacher_of(data)
    augment = SiameseAugment.from_text(config.augment, flip=config.data.flip)
    groups = [
        {"params": synthesiser.generator.parameters(), "lr": rates.generator_lr},
        {"params": synthesiser.codebook.parameters(), "lr": rates.codebook_lr},
    ]
    if rates.name == "sgd":
        optimiser = torch.optim.SGD(groups, momentum=rates.momentum)
    else:
        optimiser = torch.optim.Adam(groups)
    judge_optimiser = torch.optim.Adam(
        judge.parameters(), lr=rates.discriminator_lr, betas=(0.5, 0.999)
    )
    labels = torch.arange(CLASSES).repeat_interleave(CODES)
    real_labels = torch.arange(CLASSES).repeat_interleave(loop.association)
    step = 0
    for restart in range(loop.restarts):
        phi = build_network(
            config.network.name,
            image_shape=data.image_shape,
            num_classes=CLASSES,
            width=config.network.width,
            seed=derive_seed(config.seed, "phi", restart),
        )
        phi_optimiser = torch.optim.SGD(
            phi.parameters(),
            lr=rates.network_lr,
            momentum=rates.momentum,
            weight_decay=5e-4,
        )
        for n in range(loop.network_updates):
            outer = restart * loop.network_updates + n
            for i in range(loop.generator_updates):
                left = 1 - step / (
                    loop.restarts * loop.network_updates * loop.generator_updates
                )
                optimiser.param_groups[0]["lr"] = rates.generator_lr * left
                optimiser.param_groups[1]["lr"] = rates.codebook_lr * left
                phi_optimiser.param_groups[0]["lr"] = rates.network_lr * left
                rng = make_generator(config.seed, "step", step)
                if i == 0:  # phi stays for M updates, and with it the association
                    every_class = torch.arange(CLASSES)
                    real = sampler.sample(loop.association, rng, every_class)
                    real = normalise(real.flatten(0, 1))
                    with torch.no_grad():
                        soft = F.softmax(teacher(real) / loss.soft_temperature, dim=1)
                        drawn = augment.draw(1, rng, CPU)
                        real = augment.apply(real, drawn)
                        real_layers = phi.layer_features(real)
                        real_features = phi.embed(real_layers[-1])
                    soft = soft.view(CLASSES, loop.association, -1).mean(dim=1)
                    means = [
                        torch.stack([part.mean(0) for part in layer.chunk(CLASSES)])
                        for layer in real_layers
                    ]
                    centres = means[-1].flatten(2).mean(2)
                    if config.format.embedding == "online":
                        spread = (centres - centres.mean(0)).square().mean(0).sqrt()
                        synthesiser.class_embedding[:] = (
                            centres - centres.mean(0)
                        ) / spread.clamp_min(1e-6)

                made = synthesiser(torch.arange(CLASSES), torch.arange(CODES))
                made = augment.apply(normalise(made.flatten(0, 1)), drawn)
                layers = phi.layer_features(made)
                features = phi.embed(layers[-1])
                conditions = synthesiser.class_embedding
                target = soft if loss.soft_labels else torch.arange(CLASSES)
                if loss.classifier == "phi":
                    logits = phi.classify(layers[-1])
                else:
                    logits = judge.classifier(features)
                total = loss.classification * classification_loss(
                    logits, target.repeat_interleave(CODES, dim=0)
                )
                total += loss.matching * matching_loss(
                    [layer.unflatten(0, (CLASSES, CODES)) for layer in layers], means
                )
                grouped = features.view(CLASSES, CODES, -1)
                total += loss.intra * intra_class_loss(grouped, centres, tau=loss.tau)
                total += loss.inter * inter_class_loss(
                    grouped, margin=loss.margin, real_means_YD=centres
                )
                if loss.adversarial:
                    total += loss.adversarial * generator_loss(
                        judge(features, conditions.repeat_interleave(CODES, dim=0))
                    )
                optimiser.zero_grad()
                total.backward()
                optimiser.step()

                features = features.detach()
                each = conditions.repeat_interleave(loop.association, dim=0)
                judge_loss = discriminator_loss(
                    judge(real_features, each),
                    judge(features, conditions.repeat_interleave(CODES, dim=0)),
                )
                if loss.classifier == "auxiliary":
                    judge_loss += classification_loss(
                        judge.classifier(real_features), real_labels
                    )
                    judge_loss += classification_loss(
                        judge.classifier(features), labels
                    )
                classifies = loss.classifier == "auxiliary" and loss.classification
                if loss.adversarial or classifies:
                    judge_optimiser.zero_grad()
                    judge_loss.backward()
                    judge_optimiser.step()
                step += 1

            for k in range(loop.network_steps):
                rng = make_generator(config.seed, "phi-batch", outer, k)
                images, classes = sampler.batch(loop.network_batch, rng)
                images = augment.augment(normalise(images), rng)
                phi_optimiser.zero_grad()
                F.cross_entropy(phi(images), classes).backward()
                phi_optimiser.step()
    return synthesiser, judge, phi


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["augment=color_crop_flip", "loop.network_steps=2"],
        ["augment=flip", "data.flip=true"],
        ["loss.soft_labels=true", "optimiser.momentum=0.3"],
        ["loss.classifier=auxiliary", "loss.adversarial=0"],
        ["loss.classifier=auxiliary", "optimiser.discriminator_lr=0.02"],
        ["loss.classifier=auxiliary", "loss.adversarial=0", "loss.classification=0"],
        ["optimiser.name=sgd", "optimiser.momentum=0.6", "optimiser.generator_lr=0.1"],
        ["format.embedding=online"],
        [f"loss.{name}=3" for name in ("matching", "intra", "inter", "classification")],
    ],
    ids=lambda overrides: " ".join(overrides) or "as it is",
)
def test_the_loop_is_algorithm_1(tiny_config, tiny_data, start, overrides):
    config = tiny_config.with_overrides([*STEADY, *overrides])
    state = start(config)
    expected = written_out(config, state, tiny_data)
    teacher = teacher_of(tiny_data) if config.loss.soft_labels else None
    with RunLog(None, total=config.loop.total, description="", progress=False) as log:
        condense_loop(
            state,
            sampler=ClassSampler(tiny_data, CPU),
            teacher=teacher,
            log=log,
            save=lambda _: None,
            probe=lambda _: 0.0,
        )
    found = state.synthesiser, state.discriminator, state.network
    for name, one, other in zip(("G", "D", "phi"), found, expected, strict=True):
        torch.testing.assert_close(
            weights_of(one), weights_of(other), msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.fixture
def shades():
    """Three classes of one grey value each: an image says what its label is."""
    labels = torch.arange(CLASSES).repeat_interleave(4)
    images = (labels * 100).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    return ImageData(
        images=images.contiguous(), labels=labels, classes=("a", "b", "c"), name="grey"
    )


class Spy:
    """Stands for students or experts: keeps what they are given."""

    def __init__(self):
        self.calls = []

    def loss(self, step, *given, **options):
        self.calls.append((step, *given))
        return given[0].sum()

    def state_dict(self):
        return {}


def test_students_see_images_under_their_own_labels(tiny_config, start, shades):
    config = tiny_config.with_overrides(["augment=none", "loop.classes_per_step=2"])
    state, sampler = start(config), ClassSampler(shades, CPU)
    state.statistics = statistics = shades.statistics()
    state.students = state.trajectories = spy = Spy()
    for step in range(2):
        rng = make_generator(0, "test", step)
        association = state.associate(sampler, None, rng)
        batch = state.synthesise(association, rng)
        values = association.class_ids_Y.view(-1, 1, 1, 1, 1) * 100 / 255
        grey = values.expand_as(batch.images_YKCHW)
        normalised = statistics.normalise(grey.flatten(0, 1)).view_as(grey)
        batch = dataclasses.replace(batch, normalised_YKCHW=normalised)
        state.condensation_terms(step, batch, association, sampler)

    def label_of(images):
        (mean,), (std,) = statistics.mean, statistics.std
        return (images[:, 0, 0, 0] * std + mean) * 255 / 100

    for index, (step, images, labels, *real) in enumerate(spy.calls):
        assert step == index // 2
        assert len(labels) == 2 * CODES
        torch.testing.assert_close(label_of(images), labels.float())
        if real:
            real_images, real_labels = real
            assert len(real_labels) == config.unrolled.real_batch
            torch.testing.assert_close(label_of(real_images), real_labels.float())
            assert set(real_labels.tolist()) == set(labels.tolist())
    assert [len(call) for call in spy.calls] == [5, 3, 5, 3]


def test_students_are_judged_on_other_images_at_every_step(
    tiny_config, start, tiny_data
):
    state, sampler = start(tiny_config), ClassSampler(tiny_data, CPU)
    state.students = spy = Spy()
    association = state.associate(sampler, None, make_generator(0, "test"))
    batch = state.synthesise(association, make_generator(0, "test"))
    for step in (0, 1, 0):
        state.condensation_terms(step, batch, association, sampler)
    first, second, again = (call[3] for call in spy.calls)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
