import copy

import pytest
import torch
from torch.nn import functional as F

from condense_core.augment import SiameseAugment
from condense_core.config import UnrolledConfig
from condense_core.errors import ConfigError
from condense_core.networks import build_network
from condense_core.objectives.unrolled import StudentPool


def build(
    *,
    augment=None,
    seed=0,
    device="cpu",
    dtype=torch.float32,
    graphs=False,
    **options,
):
    defaults = {"students": 1, "window": 2, "max_age": 100, "width": 4}
    pool = StudentPool(
        UnrolledConfig(**{**defaults, "learning_rate": 0.05, **options}),
        image_shape=(1, 8, 8),
        num_classes=3,
        augment=SiameseAugment.from_text(augment),
        seed=seed,
        device=torch.device(device),
        graphs=graphs,
    )
    for student in pool.students:
        for part in ("weights", "momenta"):
            student[part] = {k: v.to(dtype) for k, v in student[part].items()}
    return pool


@pytest.fixture
def batch(generator):
    """Synthetic images and labels, real images and labels."""
    return (
        torch.randn(6, 1, 8, 8, generator=generator),
        torch.arange(3).repeat(2),
        torch.randn(9, 1, 8, 8, generator=generator),
        torch.arange(3).repeat(3),
    )


def to(batch, dtype=torch.float32, device="cpu"):
    return tuple(
        value.to(device, dtype if value.is_floating_point() else value.dtype)
        for value in batch
    )


def as_network(student):
    network = build_network(
        "convnet", image_shape=(1, 8, 8), num_classes=3, width=4, seed=99
    )
    network.load_state_dict(student["weights"])
    return network


def test_student_takes_the_steps_of_torchs_sgd(batch):
    pool = build(window=3, outer_loss="cross_entropy")
    network = as_network(pool.students[0])
    optimiser = torch.optim.SGD(
        network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4
    )
    images, labels, real, real_labels = batch
    for turn in range(2):  # the second window starts with momentum
        loss = pool.loss(turn, *batch)
        for _ in range(3):
            optimiser.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimiser.step()
        expected = F.cross_entropy(network(real), real_labels)
        torch.testing.assert_close(loss, expected)
        weights = pool.students[0]["weights"]
        for name, value in network.named_parameters():
            torch.testing.assert_close(weights[name], value, atol=1e-6, rtol=1e-5)
            buffer = optimiser.state[value]["momentum_buffer"]
            torch.testing.assert_close(
                pool.students[0]["momenta"][name], buffer, atol=1e-6, rtol=1e-5
            )


@pytest.mark.parametrize("augment", ["none", "color_crop_cutout_flip_scale_rotate"])
def test_gradient_at_the_images_is_that_of_finite_differences(
    augment, batch, generator, device
):
    batch = to(batch, torch.float64, device)

    def loss_of(images):
        pool = build(augment=augment, dtype=torch.float64, device=device)
        return pool.loss(0, images, *batch[1:])

    images = batch[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(images), images)
    for _ in range(2):
        direction = torch.randn(images.shape, generator=generator).to(images)
        ends = [loss_of(batch[0] + sign * 1e-6 * direction) for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / 2e-6
        assert expected.abs() > 1e-7
        torch.testing.assert_close(
            (slope * direction).sum(), expected, rtol=1e-4, atol=1e-9
        )


def test_loss_leaves_no_gradient_and_no_graph_on_the_student(batch):
    pool = build()
    start = dict(pool.students[0]["weights"])
    images = batch[0].clone().requires_grad_()
    pool.loss(0, images, *batch[1:]).backward()
    assert images.grad.abs().sum() > 0
    for part in ("weights", "momenta"):
        for value in pool.students[0][part].values():
            assert not value.requires_grad
    for value in start.values():
        assert not value.requires_grad
        assert value.grad is None


def test_student_retires_at_its_greatest_age(batch):
    pool = build(window=2, max_age=4)
    first = {k: v.clone() for k, v in pool.students[0]["weights"].items()}
    pool.loss(0, *batch)
    assert pool.students[0]["age"] == 2
    pool.loss(1, *batch)
    replacement = pool.students[0]
    assert replacement["age"] == 0
    assert all((value == 0).all() for value in replacement["momenta"].values())
    kernel = "blocks.0.0.weight"
    assert not torch.isclose(replacement["weights"][kernel], first[kernel]).any()


def test_pool_starts_with_mixed_ages_and_different_students():
    pool = build(students=4, max_age=100)
    assert [student["age"] for student in pool.students] == [0, 25, 50, 75]
    kernels = [student["weights"]["blocks.0.0.weight"] for student in pool.students]
    assert not any(torch.equal(kernels[0], kernel) for kernel in kernels[1:])


def test_one_student_advances_a_call_and_every_one_gets_its_turn(batch):
    pool = build(students=3)
    turns = set()
    for step in range(12):
        before = [student["age"] for student in pool.students]
        pool.loss(step, *batch)
        advances = [
            student["age"] - age
            for student, age in zip(pool.students, before, strict=True)
        ]
        assert sorted(advances) == [0, 0, 2]
        turns.add(advances.index(2))
    assert turns == {0, 1, 2}


def slope_of(pool, step, batch):
    images = batch[0].clone().requires_grad_()
    loss = pool.loss(step, images, *batch[1:])
    return loss.detach(), torch.autograd.grad(loss, images)[0]


@pytest.mark.parametrize("normalise", [False, True])
def test_students_asked_at_once_give_their_mean(normalise, batch):
    options = {"students": 4, "normalise": normalise}
    pool = build(**options, at_once=2)
    loss, slope = slope_of(pool, 0, batch)
    asked = [i for i, s in enumerate(pool.students) if s["age"] % 25]
    assert len(asked) == 2
    assert asked[1] - asked[0] == 2  # far apart in age

    alone = []
    for index in asked:
        twin = build(**options)
        twin.students = [twin.students[index]]
        alone.append(slope_of(twin, 0, batch))
        for name, value in twin.students[0]["weights"].items():
            torch.testing.assert_close(pool.students[index]["weights"][name], value)
    losses, slopes = zip(*alone, strict=True)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    torch.testing.assert_close(slope, torch.stack(slopes).mean(dim=0))


def test_a_normalised_slope_has_unit_length_and_the_same_direction(batch):
    loss, slope = slope_of(build(augment="color_crop"), 0, batch)
    same_loss, unit = slope_of(build(augment="color_crop", normalise=True), 0, batch)
    assert same_loss == loss
    torch.testing.assert_close(unit, slope / slope.norm())


def test_no_more_students_are_asked_than_there_are():
    with pytest.raises(ConfigError, match="at_once is 3, but there are 2 students"):
        UnrolledConfig(students=2, at_once=3)


def test_restored_pool_continues_as_if_never_stopped(batch, tmp_path):
    # Retirement within the run: the serial of the next student is restored too.
    options = {"students": 2, "max_age": 6, "augment": "color_crop"}
    pool = build(**options)
    for step in range(4):
        pool.loss(step, *batch)
    torch.save(pool.state_dict(), tmp_path / "pool.pt")
    restored = build(**options)
    restored.load_state_dict(torch.load(tmp_path / "pool.pt", weights_only=True))
    for step in range(4, 12):
        assert torch.equal(pool.loss(step, *batch), restored.loss(step, *batch))


def test_state_is_a_snapshot_that_later_steps_do_not_change(batch):
    pool = build(students=2)
    state = pool.state_dict()
    kept = copy.deepcopy(state)
    twin = build(students=2)
    twin.load_state_dict(state)
    pool.loss(0, *batch)
    twin.loss(0, *batch)
    assert [s["age"] for s in state["students"]] == [s["age"] for s in kept["students"]]
    for student, before in zip(state["students"], kept["students"], strict=True):
        for name, value in student["weights"].items():
            assert torch.equal(value, before["weights"][name])


def test_same_seed_gives_the_same_loss_and_another_step_another_augmentation(batch):
    losses = [
        build(augment="color", seed=seed).loss(step, *batch)
        for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert torch.equal(losses[0], losses[1])
    assert not torch.isclose(losses[0], losses[2])
    assert not torch.isclose(losses[0], losses[3])


@pytest.mark.usefixtures("untouched_global_rng")
def test_global_generator_is_left_alone(batch):
    assert build(augment="color").loss(0, *batch).isfinite()


def test_students_are_scored_by_the_brier_score_by_default(batch):
    crossed = build(outer_loss="cross_entropy").loss(0, *batch)
    default = build().loss(0, *batch)
    assert default != crossed
    assert 0 <= default <= 2


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_graph_trains_the_same_students(at_once, batch, device):
    if device.type != "cuda":
        pytest.skip("graphs need --device cuda")
    options = {
        "augment": "color_crop_flip_rotate",
        "device": device,
        "students": 2,
        "at_once": at_once,
    }
    pools = [build(graphs=graphs, **options) for graphs in (False, True)]
    fake, labels, real, real_labels = to(batch, device=device)
    for step in range(6):
        slopes = []
        for pool in pools:
            images = (fake + step).requires_grad_()
            loss = pool.loss(step, images, labels, real, real_labels)
            slopes.append(torch.autograd.grad(loss, images)[0])
        assert torch.allclose(*slopes, rtol=1e-2, atol=1e-5), step
    for plain, graphed in zip(*(pool.students for pool in pools), strict=True):
        assert plain["age"] == graphed["age"]
        for part in ("weights", "momenta"):
            for name, value in plain[part].items():
                assert torch.allclose(value, graphed[part][name], atol=1e-4)
