import pytest
import torch
from torch.nn import functional as F

from condense_core.augment import SiameseAugment
from condense_core.config import TrajectoryConfig
from condense_core.data.class_sampler import ClassSampler
from condense_core.errors import ConfigError
from condense_core.loop_state import LoopState
from condense_core.networks import build_network
from condense_core.objectives.trajectory import (
    TrajectoryMatcher,
    train_expert,
)
from condense_core.runs.directory import RunDirectory
from condense_core.runs.preparation import train_experts
from condense_core.seeding import make_generator
from condense_core.synthesiser import SynthesiserSpec, build_synthesiser

ALL = "color_crop_cutout_flip_scale_rotate"
SMALL = {
    "experts": 2,
    "snapshots": 3,
    "snapshot_steps": 2,
    "expert_batch": 6,
    "latest_start": 1,
    "student_steps": 3,
    "student_rate": 0.05,
    "width": 4,
}


def options(**changed):
    return TrajectoryConfig(**{**SMALL, **changed})


def network_of(weights):
    network = build_network(
        "convnet", image_shape=(1, 8, 8), num_classes=3, width=4, seed=99
    ).to(next(iter(weights.values())))
    network.load_state_dict(weights)
    return network


@pytest.fixture
def batch(generator):
    """Synthetic images and labels."""
    images = torch.randn(6, 1, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.arange(3).repeat(2)


@pytest.fixture
def experts():
    """Two experts that wander at random."""
    found = []
    for index in range(2):
        draw = make_generator(0, "expert", index)
        network = build_network(
            "convnet", image_shape=(1, 8, 8), num_classes=3, width=4, seed=index
        )
        weights = {k: v.detach().double() for k, v in network.named_parameters()}
        found.append([])
        for _ in range(4):
            found[-1].append(weights)
            weights = {
                k: v + 0.1 * torch.randn(v.shape, generator=draw, dtype=v.dtype)
                for k, v in weights.items()
            }
    return found


def matcher(experts, *, augment="none", device="cpu", **changed):
    moved = [
        [{k: v.to(device) for k, v in snapshot.items()} for snapshot in expert]
        for expert in experts
    ]
    built = TrajectoryMatcher(
        options(**changed),
        moved,
        image_shape=(1, 8, 8),
        num_classes=3,
        augment=SiameseAugment.from_text(augment),
        seed=0,
        device=torch.device(device),
    )
    built._network.double()
    return built


def distance(first, second):
    total = 0.0
    for name in first:
        pairs = zip(first[name].flatten(), second[name].flatten(), strict=True)
        total += sum((float(a) - float(b)) ** 2 for a, b in pairs)
    return total


@pytest.mark.parametrize("through_steps", [True, False])
@pytest.mark.parametrize("gap", [1, 2])
def test_the_loss_is_that_of_torchs_sgd(experts, batch, through_steps, gap):
    built = matcher(experts, through_steps=through_steps, gap=gap)
    images, labels = batch
    pairs = [(e, s) for e in experts for s in range(2)]
    found = []
    for step in range(8):
        possible = []
        for expert, start in pairs:
            network = network_of(expert[start])
            optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
            for _ in range(3):
                optimiser.zero_grad()
                F.cross_entropy(network(images), labels).backward()
                optimiser.step()
            reached = {k: v.detach() for k, v in network.named_parameters()}
            target = expert[start + gap]
            possible.append(distance(reached, target) / distance(expert[start], target))
        loss = float(built.loss(step, images, labels).detach())
        matches = [n for n, p in enumerate(possible) if p == pytest.approx(loss)]
        assert len(matches) == 1
        found += matches
    assert len(set(found)) > 2  # several experts and starts are drawn


@pytest.mark.parametrize("augment", ["none", ALL])
def test_gradient_through_all_steps_is_that_of_finite_differences(
    experts, batch, augment, generator, device
):
    built = matcher(experts, augment=augment, device=device)
    start, labels = (value.to(device) for value in batch)
    images = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(built.loss(0, images, labels), images)
    for _ in range(2):
        direction = torch.randn(images.shape, generator=generator).to(images)
        ends = [built.loss(0, start + s * 1e-5 * direction, labels) for s in (1, -1)]
        expected = (ends[0] - ends[1]) / 2e-5
        assert expected.abs() > 1e-7
        torch.testing.assert_close(
            (slope * direction).sum(), expected, rtol=1e-4, atol=1e-9
        )


def test_gradient_step_by_step_holds_the_weights_of_each_step(experts, batch):
    """One step's images are moved at a time, and the weights before it stay."""
    images, labels = batch
    one, other = experts[0], matcher([experts[0]], latest_start=0, through_steps=False)
    leaf = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(other.loss(0, leaf, labels), leaf)

    start, target = one[0], one[1]
    networks, weights = [], start
    for _ in range(3):
        network = network_of(weights)
        networks.append(network)
        slopes = torch.autograd.grad(
            F.cross_entropy(network(images), labels), list(network.parameters())
        )
        weights = {
            k: v.detach() - 0.05 * s
            for (k, v), s in zip(network.named_parameters(), slopes, strict=True)
        }
    scale = distance(start, target)
    expected = torch.zeros_like(images)
    for network in networks:
        leaf = images.clone().requires_grad_()
        slopes = torch.autograd.grad(
            F.cross_entropy(network(leaf), labels),
            list(network.parameters()),
            create_graph=True,
        )
        inner = sum(
            (2 * (weights[k] - target[k]) * -0.05 * s).sum() / scale
            for (k, _), s in zip(network.named_parameters(), slopes, strict=True)
        )
        expected += torch.autograd.grad(inner, leaf)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("augment", ["none", ALL])
def test_with_one_step_both_gradients_are_one(experts, batch, augment):
    images, labels = batch
    found = []
    for through_steps in (True, False):
        built = matcher(
            experts, augment=augment, student_steps=1, through_steps=through_steps
        )
        leaf = images.clone().requires_grad_()
        loss = built.loss(3, leaf, labels)
        found.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(found[0], found[1])


def test_a_student_that_takes_no_step_worth_naming_is_as_far_as_at_the_start(
    experts, batch
):
    loss = matcher(experts, student_rate=1e-12).loss(0, *batch)
    assert float(loss.detach()) == pytest.approx(1.0, abs=1e-6)


def test_the_images_an_expert_was_trained_on_bring_the_student_to_it(tiny_data):
    """One batch, no augmentation: the student repeats the expert's very steps."""
    sampler = ClassSampler(tiny_data, "cpu")
    config = options(
        snapshots=1, snapshot_steps=1, latest_start=0, student_steps=1, expert_rate=0.05
    )
    statistics = tiny_data.statistics()
    expert = train_expert(
        0,
        sampler,
        config,
        statistics=statistics,
        augment=SiameseAugment.from_text("none"),
        seed=0,
    )
    images, labels = sampler.batch(6, make_generator(0, "expert", 0, 0))
    built = TrajectoryMatcher(
        config,
        [expert],
        image_shape=tiny_data.image_shape,
        num_classes=3,
        augment=SiameseAugment.from_text("none"),
        seed=0,
        device=torch.device("cpu"),
    )
    loss = built.loss(0, statistics.normalise(images), labels)
    assert float(loss.detach()) < 1e-8


def test_experts_learn_and_keep_their_way(tiny_data):
    sampler = ClassSampler(tiny_data, "cpu")
    config = options(snapshots=2, snapshot_steps=40, expert_batch=16, expert_rate=0.1)
    statistics = tiny_data.statistics()
    expert = train_expert(
        1,
        sampler,
        config,
        statistics=statistics,
        augment=SiameseAugment.from_text("none"),
        seed=0,
    )
    images = statistics.normalise(sampler.images.float() / 255)
    losses = [
        float(F.cross_entropy(network_of(weights)(images), sampler.labels).detach())
        for weights in expert
    ]
    assert losses[0] > losses[1] > losses[2]


@pytest.fixture
def wanting(tiny_config):
    changed = [f"trajectory.{k}={v}" for k, v in SMALL.items()]
    return tiny_config.with_overrides(
        [*changed, "loss.trajectory=1", "loss.unrolled=0"]
    )


def test_experts_are_kept_in_the_run(tiny_data, wanting, tmp_path, monkeypatch):
    def experts():
        run = RunDirectory.open(tmp_path / "run", wanting, tiny_data.fingerprint())
        return train_experts(
            run,
            ClassSampler(tiny_data, "cpu"),
            tiny_data.statistics(),
            wanting,
            progress=False,
        )

    first = experts()
    assert len(first) == 2
    assert len(first[0]) == 4
    assert (tmp_path / "run/checkpoint/expert-1.pt").exists()
    monkeypatch.setattr(
        "condense_core.runs.preparation.train_expert",
        lambda *_, **__: pytest.fail("they were trained before"),
    )
    for one, other in zip(experts(), first, strict=True):
        for kept, trained in zip(one, other, strict=True):
            torch.testing.assert_close(kept, trained, rtol=0, atol=0)


def test_without_weight_there_are_no_experts(tiny_data, tiny_config):
    sampler = ClassSampler(tiny_data, "cpu")
    statistics = tiny_data.statistics()
    run = RunDirectory.open(None, tiny_config, "")
    assert train_experts(run, sampler, statistics, tiny_config) is None


def test_the_term_needs_experts(tiny_data, wanting):
    spec = SynthesiserSpec.from_config(
        wanting.format, image_shape=(1, 8, 8), num_classes=3, embedding_dim=4
    )
    with pytest.raises(ConfigError, match="no experts are trained here"):
        LoopState(
            wanting,
            build_synthesiser(spec),
            tiny_data.statistics(),
            device=torch.device("cpu"),
        )


def test_a_target_beyond_the_last_snapshot_is_refused():
    with pytest.raises(ConfigError, match=r"raise trajectory.snapshots to 5"):
        TrajectoryConfig(snapshots=4, latest_start=3, gap=2)


@pytest.mark.parametrize("through_steps", [True, False])
def test_images_that_follow_the_gradient_bring_students_nearer(
    tiny_data, through_steps
):
    config = options(
        snapshots=4,
        snapshot_steps=10,
        expert_batch=16,
        expert_rate=0.1,
        latest_start=2,
        depth=1,
        through_steps=through_steps,
    )
    sampler, statistics = ClassSampler(tiny_data, "cpu"), tiny_data.statistics()
    plain = SiameseAugment.from_text("none")
    experts = [
        train_expert(i, sampler, config, statistics=statistics, augment=plain, seed=0)
        for i in range(2)
    ]
    built = TrajectoryMatcher(
        config,
        experts,
        image_shape=tiny_data.image_shape,
        num_classes=3,
        augment=plain,
        seed=0,
        device=torch.device("cpu"),
    )
    images = torch.randn(3, 1, 8, 8, generator=make_generator(0, "start"))
    images.requires_grad_()
    optimiser = torch.optim.Adam([images], lr=0.05)

    def unseen():
        losses = [built.loss(s, images, torch.arange(3)) for s in range(1000, 1012)]
        return float(torch.stack(losses).mean().detach())

    first = unseen()
    for step in range(60):
        optimiser.zero_grad()
        built.loss(step, images, torch.arange(3)).backward()
        optimiser.step()
    assert unseen() < 0.9 * first
