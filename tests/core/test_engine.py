import pytest
import torch

from condense_core import monitor
from condense_core.data.class_sampler import ClassSampler
from condense_core.engine import condense_loop
from condense_core.errors import RunError
from condense_core.loop_state import LoopState
from condense_core.probe import Probe
from condense_core.runlog import RunLog
from condense_core.seeding import make_generator, seeded_initialisation
from condense_core.synthesiser import SynthesiserSpec, build_synthesiser

CPU = torch.device("cpu")


class ListLog(RunLog):
    """Keeps what a run would write."""

    def __init__(self, total: int) -> None:
        super().__init__(None, total=total, description="test")
        self.lines: list[dict] = []

    def log(self, step, **scalars):
        values = {k: float(torch.as_tensor(v).detach()) for k, v in scalars.items()}
        self.lines.append({"step": step} | values)


@pytest.fixture
def make_state(tiny_data):
    def make(config, *, embedding_dim: int = 4) -> LoopState:
        spec = SynthesiserSpec.from_config(
            config.format,
            image_shape=tiny_data.image_shape,
            num_classes=3,
            embedding_dim=embedding_dim,
        )
        with seeded_initialisation(0, "test"):
            synthesiser = build_synthesiser(spec)
        draw = make_generator(0, "test-embedding")
        synthesiser.class_embedding.normal_(generator=draw)
        return LoopState(config, synthesiser, tiny_data.statistics(), device=CPU)

    return make


@pytest.fixture
def loop(tiny_data):
    def run(state: LoopState, *, save=lambda state: None, probe=None) -> list[dict]:
        with ListLog(state.config.loop.total) as log:
            condense_loop(
                state,
                sampler=ClassSampler(tiny_data, CPU),
                teacher=None,
                log=log,
                save=save,
                probe=probe or (lambda step: pytest.fail("no probe was asked for")),
            )
        return log.lines

    return run


def flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def test_the_loop_updates_what_algorithm_1_updates(tiny_config, make_state, loop):
    state = make_state(tiny_config)
    parts = {
        "codebook": state.synthesiser.codebook,
        "generator": state.synthesiser.generator,
        "discriminator": state.discriminator,
    }
    before = {name: flat(part) for name, part in parts.items()}
    embedding = state.synthesiser.class_embedding.clone()
    loop(state)
    for name, part in parts.items():
        assert not torch.equal(flat(part), before[name]), name
    assert torch.equal(state.synthesiser.class_embedding, embedding)
    assert state.outer == 6


def test_an_update_takes_no_gradient_of_what_it_leaves_alone(
    tiny_config, make_state, loop, monkeypatch
):
    state = make_state(tiny_config.with_overrides(["optimiser.name=adam"]))
    monkeypatch.setattr(state, "train_network", lambda *_: None)
    loop(state)
    assert all(p.grad is None for p in state.network.parameters())
    assert all(p.grad is not None for p in state.synthesiser.generator.parameters())


def test_saving_is_offered_after_every_outer_iteration(tiny_config, make_state, loop):
    seen = []
    loop(make_state(tiny_config), save=lambda state: seen.append(state.outer))
    assert seen == [1, 2, 3, 4, 5, 6]


def test_phi_is_trained_on_real_data_and_renewed_at_restarts(
    tiny_config, make_state, loop
):
    weights = []
    state = make_state(tiny_config)
    fresh = []
    for restart in range(2):
        state.initialise_network(restart)
        fresh.append(flat(state.network))
    assert not torch.equal(*fresh)
    loop(state, save=lambda state: weights.append(flat(state.network)))
    assert len({tuple(w.tolist()) for w in weights}) == 6

    def distance(a, b):
        return float((a - b).norm())

    for restart in range(2):
        own, other = fresh[restart], fresh[1 - restart]
        for update in range(3):
            phi = weights[3 * restart + update]
            assert 0 < distance(phi, own) < distance(phi, other)


def test_phi_does_not_depend_on_the_synthetic_images(tiny_config, make_state, loop):
    ends = []
    for rate in (1e-3, 1e-1):
        config = tiny_config.with_overrides([f"optimiser.generator_lr={rate}"])
        state = make_state(config)
        loop(state)
        ends.append((flat(state.network), flat(state.synthesiser)))
    assert torch.equal(ends[0][0], ends[1][0])
    assert not torch.equal(ends[0][1], ends[1][1])


OPTIMISERS = {
    "image_space": [5e-2, 1e-3, 1e-2],
    "adam": [1e-3, 1e-2],
    "sgd": [1e-3, 1e-2],
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_rates_fall_linearly_to_zero(tiny_config, make_state, name):
    state = make_state(tiny_config.with_overrides([f"optimiser.name={name}"]))
    for progress in (0.0, 0.25, 0.5, 1.0):
        state.decay(progress)
        rates = [group["lr"] for group in state.optimiser.param_groups]
        assert rates == pytest.approx([r * (1 - progress) for r in OPTIMISERS[name]])
        (phi,) = state.network_optimiser.param_groups
        assert phi["lr"] == pytest.approx(1e-2 * (1 - progress))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_rates_can_stay(tiny_config, make_state, name):
    overrides = ["optimiser.decay=none", f"optimiser.name={name}"]
    state = make_state(tiny_config.with_overrides(overrides))
    state.decay(0.9)
    assert [g["lr"] for g in state.optimiser.param_groups] == OPTIMISERS[name]


@pytest.mark.parametrize("codes", ["uniform", "truncated"])
def test_codes_that_are_not_learned_stay(tiny_config, make_state, loop, codes):
    state = make_state(tiny_config.with_overrides([f"format.codes={codes}"]))
    before = state.synthesiser.codebook.codes.clone()
    rates = [group["lr"] for group in state.optimiser.param_groups]
    assert rates == OPTIMISERS["image_space"][:-1]  # no group of codes
    loop(state)
    assert torch.equal(state.synthesiser.codebook.codes, before)


def test_a_fixed_generator_stays_while_codes_learn(tiny_config, make_state, loop):
    state = make_state(tiny_config.with_overrides(["format.generator=fixed"]))
    codes, weights = flat(state.synthesiser.codebook), flat(state.synthesiser.generator)
    loop(state)
    assert torch.equal(flat(state.synthesiser.generator), weights)
    assert not torch.equal(flat(state.synthesiser.codebook), codes)


def test_no_gradient_of_a_fixed_generator_is_taken(tiny_config, make_state, loop):
    state = make_state(tiny_config.with_overrides(["format.generator=fixed"]))
    loop(state)
    assert all(p.grad is None for p in state.synthesiser.generator.parameters())


def test_pixels_take_no_notice_of_a_fixed_generator(tiny_config, make_state, loop):
    overrides = ["format.kind=pixels", "format.generator=fixed"]
    state = make_state(tiny_config.with_overrides(overrides))
    pixels = flat(state.synthesiser)
    loop(state)
    assert not torch.equal(flat(state.synthesiser), pixels)


def test_an_online_embedding_follows_phi(tiny_config, make_state, loop):
    state = make_state(tiny_config.with_overrides(["format.embedding=online"]))
    before = state.synthesiser.class_embedding.clone()
    seen = []
    loop(
        state,
        save=lambda state: seen.append(state.synthesiser.class_embedding.clone()),
    )
    assert not torch.allclose(seen[0], before)
    assert not torch.allclose(seen[0], seen[-1])


def test_pixels_have_their_own_rate(tiny_config, make_state, loop):
    state = make_state(tiny_config.with_overrides(["format.kind=pixels"]))
    (group,) = state.optimiser.param_groups
    assert group["lr"] == 5e-2
    assert len(group["params"]) == 1
    before = state.synthesiser.pixels.clone()
    loop(state)
    assert not torch.equal(state.synthesiser.pixels, before)


def test_every_term_and_its_gradient_are_logged(
    tiny_config, make_state, loop, monkeypatch
):
    monkeypatch.setattr(monitor, "LOG_EVERY", 5)
    lines = loop(make_state(tiny_config))
    assert [line["step"] for line in lines] == [0, 5, 10, 11]
    terms = {"adversarial", "classification", "matching", "intra", "inter", "unrolled"}
    for line in lines:
        losses = {k.removeprefix("loss/") for k in line if k.startswith("loss/")}
        norms = {
            k.removeprefix("grad_norm/"): v for k, v in line.items() if "norm" in k
        }
        assert losses == terms | {"discriminator"}
        assert norms.keys() == terms
        assert norms["matching"] > 0
        assert norms["unrolled"] > 0


def test_a_loss_that_is_not_finite_ends_the_run_by_name(
    tiny_config, make_state, loop, monkeypatch
):
    monkeypatch.setattr(monitor, "LOG_EVERY", 5)
    state = make_state(tiny_config)
    original = state.condensation_terms

    def diverge(step, *args):
        terms, features = original(step, *args)
        if step == 5:
            terms["inter"] = terms["inter"] * torch.inf
        return terms, features

    state.condensation_terms = diverge
    with pytest.raises(RunError, match=r"at step 5 .* by term inter"):
        loop(state)


def test_a_term_without_weight_is_not_computed(tiny_config, make_state, loop):
    off = ["adversarial", "classification", "intra", "inter", "unrolled"]
    config = tiny_config.with_overrides([f"loss.{name}=0" for name in off])
    state = make_state(config)
    judge = flat(state.discriminator)
    assert state.students is None
    lines = loop(state)
    assert set(lines[0]) == {"step", "loss/matching", "grad_norm/matching"}
    assert torch.equal(flat(state.discriminator), judge)


def test_the_probe_is_called_on_time_and_changes_nothing(tiny_config, make_state, loop):
    quiet = make_state(tiny_config)
    loop(quiet)
    state = make_state(tiny_config.with_overrides(["evaluate.probe_every=5"]))
    lines = loop(state, probe=lambda step: 10.0 + step)
    probed = {x["step"]: x["probe_accuracy"] for x in lines if "probe_accuracy" in x}
    assert probed == {0: 10.0, 4: 14.0, 9: 19.0}
    assert torch.equal(flat(state.synthesiser), flat(quiet.synthesiser))


def test_a_probe_changes_nothing_in_the_synthesiser(tiny_config, tiny_data, make_state):
    synthesiser = make_state(tiny_config).synthesiser
    before = {k: v.clone() for k, v in synthesiser.state_dict().items()}
    Probe(synthesiser, tiny_data, tiny_data.statistics(), tiny_config)(0)
    torch.testing.assert_close(dict(synthesiser.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("reuse", [True, False])
def test_associations_are_reused_while_phi_is_frozen(
    tiny_config, make_state, loop, reuse
):
    state = make_state(
        tiny_config.with_overrides([f"loop.reuse_association={str(reuse).lower()}"])
    )
    calls, original = [], state.associate

    def spy(*args):
        calls.append(state.outer)
        return original(*args)

    state.associate = spy
    loop(state)
    assert calls == ([0, 1, 2, 3, 4, 5] if reuse else sorted([*range(6)] * 2))


def test_a_step_can_use_some_classes_and_codes(tiny_config, make_state, loop):
    config = tiny_config.with_overrides(
        ["loop.classes_per_step=2", "loop.codes_per_step=1", "loop.restarts=4"]
    )
    state = make_state(config)
    seen, original = [], state.condensation_terms

    def spy(step, synthetic, association, sampler):
        class_ids = tuple(association.class_ids_Y.tolist())
        seen.append((class_ids, tuple(synthetic.images_YKCHW.shape[:2])))
        return original(step, synthetic, association, sampler)

    state.condensation_terms = spy
    loop(state)
    assert {shape for _, shape in seen} == {(2, 1)}
    assert {classes for classes, _ in seen} == {(0, 1), (0, 2), (1, 2)}


@pytest.mark.parametrize("kind", ["generator", "pixels"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("embedding", ["class_mean", "online"])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_restored_state_goes_on_as_if_never_stopped(
    tiny_config, make_state, loop, tmp_path, kind, optimiser, embedding, stop
):
    config = tiny_config.with_overrides(
        [
            f"format.kind={kind}",
            f"optimiser.name={optimiser}",
            f"format.embedding={embedding}",
            "evaluate.probe_every=3",
        ]
    )
    path = tmp_path / "state.pt"

    def keep(state):
        if state.outer == stop:
            torch.save(state.state_dict(), path)

    def probe(step):
        return 1.0 * step

    whole = make_state(config)
    lines = loop(whole, save=keep, probe=probe)
    resumed = make_state(config)
    resumed.load_state_dict(torch.load(path, weights_only=True))
    rest = loop(resumed, probe=probe)
    assert resumed.outer == 6
    assert rest == [line for line in lines if line["step"] >= 2 * stop]
    expected, found = whole.state_dict(), resumed.state_dict()
    assert torch.equal(flat(whole.synthesiser), flat(resumed.synthesiser))
    assert torch.equal(flat(whole.discriminator), flat(resumed.discriminator))
    assert torch.equal(flat(whole.network), flat(resumed.network))
    assert expected["students"]["next_serial"] == found["students"]["next_serial"]
