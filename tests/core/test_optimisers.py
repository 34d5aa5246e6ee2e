import copy

import pytest
import torch
from torch.nn import functional as F

from condense_core import optimisers
from condense_core.config import OptimiserConfig
from condense_core.optimisers import ImageSpaceOptimiser
from condense_core.seeding import seeded_initialisation
from condense_core.synthesiser import SynthesiserSpec, build_synthesiser

CLASSES, CODES = torch.arange(2), torch.arange(3)


def build(**options):
    spec = SynthesiserSpec(
        kind="generator",
        image_shape=(1, 8, 8),
        num_classes=2,
        images_per_class=3,
        latent_dim=8,
        embedding_dim=2,
        projected_dim=4,
        channels=8,
    )
    with seeded_initialisation(0, "test"):
        synthesiser = build_synthesiser(spec)
    synthesiser.class_embedding.copy_(torch.eye(2))
    config = OptimiserConfig(**{"pixel_lr": 0.1, "fit_steps": 5, **options})
    groups = [{"params": list(synthesiser.parameters()), "lr": 5e-3}]
    return synthesiser, ImageSpaceOptimiser(synthesiser, groups, config)


def step(synthesiser, optimiser, objective, classes=CLASSES, codes=CODES):
    images = synthesiser(classes, codes)
    loss = objective(images)
    optimiser.step(loss, images, classes, codes)
    return loss.item()


def test_targets_start_as_the_generated_images():
    synthesiser, optimiser = build()
    with torch.no_grad():
        images = synthesiser(CLASSES, CODES)
    torch.testing.assert_close(
        torch.sigmoid(optimiser.logits), images.clamp(0.01, 0.99)
    )


def test_building_it_changes_nothing_in_the_synthesiser():
    synthesiser, _ = build()
    before = {k: v.clone() for k, v in synthesiser.state_dict().items()}
    ImageSpaceOptimiser(
        synthesiser, [{"params": synthesiser.parameters()}], OptimiserConfig()
    )
    torch.testing.assert_close(dict(synthesiser.state_dict()), before, rtol=0, atol=0)


def test_targets_take_adams_step_on_the_gradient_at_the_images():
    synthesiser, optimiser = build()
    logits = optimiser.logits.detach().clone().requires_grad_()
    reference = torch.optim.Adam([logits], lr=0.1)
    with torch.no_grad():
        images = synthesiser(CLASSES, CODES)
    wanted = torch.full_like(images, 0.8)
    # d loss / d logit by the chain rule through the sigmoid, at the generated images.
    logits.grad = 2 * (images - wanted) / images.numel() * images * (1 - images)
    reference.step()
    step(synthesiser, optimiser, lambda x: F.mse_loss(x, wanted))
    torch.testing.assert_close(optimiser.logits, logits)


def test_the_generator_follows_its_targets_down_the_loss():
    synthesiser, optimiser = build()
    wanted = torch.rand(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    losses = [
        step(synthesiser, optimiser, lambda x: F.mse_loss(x, wanted))
        for _ in range(120)
    ]
    assert losses[-1] < 0.3 * losses[0]


def test_a_first_step_on_some_codes_leaves_the_other_targets_alone():
    synthesiser, optimiser = build()
    before = optimiser.logits.detach().clone()
    step(
        synthesiser,
        optimiser,
        lambda x: x.square().mean(),
        classes=torch.tensor([1]),
        codes=torch.tensor([0, 2]),
    )
    changed = (optimiser.logits != before).flatten(2).any(dim=2)
    assert changed.tolist() == [[False] * 3, [True, False, True]]


def test_targets_that_a_step_leaves_out_go_on_by_their_momentum():
    synthesiser, optimiser = build()
    step(synthesiser, optimiser, lambda x: x.square().mean(), codes=torch.tensor([0]))
    before = optimiser.logits.detach().clone()
    step(synthesiser, optimiser, lambda x: x.square().mean(), codes=torch.tensor([1]))
    moved = (optimiser.logits - before).abs().flatten(2).amax(dim=2)
    assert (moved[:, 0] > 0).all()
    assert (moved[:, 0] < moved[:, 1]).all()
    assert (moved[:, 2] == 0).all()


def test_state_dict_continues_identically():
    def objective(images):
        return (images - 0.3).square().mean()

    synthesiser, optimiser = build()
    for _ in range(3):
        step(synthesiser, optimiser, objective)
    weights = {k: v.clone() for k, v in synthesiser.state_dict().items()}
    twin, twin_optimiser = build()
    twin.load_state_dict(weights)
    twin_optimiser.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for _ in range(3):
        step(synthesiser, optimiser, objective)
        step(twin, twin_optimiser, objective)
    for name, value in synthesiser.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


class Elsewhere(torch.Tensor):
    """A tensor that says it is on a GPU until it is asked for on the CPU."""

    is_cuda = True

    def cpu(self):
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_steps_of_a_checkpoint_on_a_gpu_are_counted_on_the_cpu(kind):
    def optimiser():
        weight = torch.ones(2).requires_grad_()
        weight.grad = torch.ones(2)
        return kind([weight], lr=0.1)

    trained, resumed = optimiser(), optimiser()
    trained.step()
    state = trained.state_dict()
    for values in state["state"].values():
        if "step" in values:
            values["step"] = values["step"].as_subclass(Elsewhere)
    optimisers.restore(resumed, state)
    for values in resumed.state.values():
        assert not any(value.is_cuda for value in values.values() if value is not None)
    resumed.step()


def test_both_kinds_of_learning_rate_decay():
    _, optimiser = build()
    assert sorted(group["lr"] for group in optimiser.param_groups) == [5e-3, 0.1]


def test_many_images_start_a_few_classes_at_a_time(monkeypatch):
    sizes = []
    whole = build()[1].logits
    synthesiser, _ = build()
    synthesiser.eval()  # without batch statistics, parts are the whole
    forward = synthesiser.forward

    def spy(classes, codes):
        sizes.append(len(classes) * len(codes))
        return forward(classes, codes)

    monkeypatch.setattr(synthesiser, "forward", spy)
    groups = [{"params": list(synthesiser.parameters()), "lr": 5e-3}]
    together = ImageSpaceOptimiser(synthesiser, groups, OptimiserConfig()).logits
    monkeypatch.setattr(optimisers, "LARGEST_BATCH", 3)
    apart = ImageSpaceOptimiser(synthesiser, groups, OptimiserConfig()).logits
    assert sizes == [6, 3, 3]
    torch.testing.assert_close(together, apart)
    assert together.shape == whole.shape
