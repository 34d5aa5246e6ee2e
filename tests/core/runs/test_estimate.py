import gc
import weakref

import pytest
import torch

from condense_core.config import LOSS_TERMS
from condense_core.loop_state import LoopState
from condense_core.networks import build_network
from condense_core.runs import estimate as module
from condense_core.runs.estimate import Estimate, in_words, measure
from condense_core.runs.run import condense

CPU = torch.device("cpu")


class Clock:
    """A clock that says how long things take, for tests that do not depend on it."""

    def __init__(self, seconds: float) -> None:
        self.time, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.time += self.seconds
        return self.time


@pytest.fixture
def steady(monkeypatch):
    """Between any two looks at the clock passes one second."""
    monkeypatch.setattr(module.time, "perf_counter", Clock(1.0))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59.6, "60 s"), (150, "2 min"), (5000, "83 min"), (9000, "2.5 h")],
)
def test_durations_are_short(seconds, words):
    assert in_words(seconds) == words


def test_the_line_leaves_out_what_takes_no_time():
    text = str(Estimate({"teacher": 0.1, "evaluation": 60.0}, outer=1.0, outers=40))
    assert text == "about 2 min (evaluation 60 s, condensing 40 s)"


# Timed phases


def test_experts_are_counted_and_their_students_timed(tiny_config, tiny_data, steady):
    sets = ["experts=4", "snapshots=11", "snapshot_steps=3", "student_steps=2"]
    config = tiny_config.with_overrides(
        ["loss.trajectory=1", "trajectory.depth=1", "trajectory.width=4"]
        + [f"trajectory.{text}" for text in sets]
    )
    estimate = measure(tiny_data, None, config, device=CPU)
    # One expert of eleven steps took the second between two looks at the clock.
    assert estimate.fixed["experts"] == pytest.approx(4 * 11 * 3 / 11)
    assert estimate.outer > 0


@pytest.mark.parametrize("width", [4, 64])
def test_class_embeddings_are_timed_on_the_network_that_makes_them(
    tiny_config, tiny_data, monkeypatch, width
):
    built = []

    def spy(name, **options):
        built.append((name, options["width"]))
        return build_network(name, **options)

    monkeypatch.setattr(module, "build_network", spy)
    config = tiny_config.with_overrides(
        ["format.embedding=online", f"network.width={width}", "network.name=mlp"]
    )
    measure(tiny_data, None, config, device=CPU)
    assert ("mlp", width) in built


def test_every_phase_is_counted_by_its_steps(tiny_config, tiny_data, steady):
    """With a second between looks at the clock, phases are their numbers of steps."""
    config = tiny_config.with_overrides(
        ["evaluate.repeats=3", "evaluate.full_max_steps=7", "loop.network_updates=5"]
    )
    estimate = measure(tiny_data, tiny_data, config, device=CPU)
    assert estimate.outers == 10
    assert estimate.fixed["teacher"] == 2.0
    # Three timed steps before and after which nothing was: two intervals of a second.
    assert estimate.fixed["pre-training"] >= 3.0
    testing = 30 / 256
    # Two epochs of one batch, then full data in two epochs of one.
    assert estimate.fixed["evaluation"] == pytest.approx(3 * (2 + testing))
    assert estimate.fixed["full"] == pytest.approx(3 * (2 + testing))
    assert estimate.fixed["random"] == estimate.fixed["evaluation"]
    assert estimate.outer == 2.0  # M updates of a second; renewing costs no more
    assert estimate.total == pytest.approx(sum(estimate.phases.values()))


@pytest.mark.parametrize(
    "overrides",
    [
        ["format.kind=pixels"],
        ["format.embedding=one_hot"],
        ["format.embedding=online", "loss.soft_labels=true"],
        ["pretrain.method=adversarial"],
        ["pretrain.method=variational"],
        ["pretrain.method=none"],
        ["pretrain.targets=medoids"],
        ["evaluate.baselines=[herding,full]", "evaluate.probe_every=2"],
        ["loop.classes_per_step=2", "loop.reuse_association=false"],
        ["loop.restarts=0"],
    ],
)
def test_any_configuration_can_be_timed(tiny_config, tiny_data, overrides):
    config = tiny_config.with_overrides(overrides)
    estimate = measure(tiny_data, tiny_data, config, device=CPU)
    assert estimate.total > 0
    assert all(seconds >= 0 for seconds in estimate.phases.values())
    assert (estimate.outer == 0) == (config.loop.total == 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loop_and_nothing_else_is_timed_in_the_precision_of_the_run(
    tiny_config, tiny_data, monkeypatch, precision
):
    def spy(name):
        original, lowered[name] = getattr(module, name), set()

        def called(*args, **options):
            lowered[name].add(torch.is_autocast_enabled("cpu"))
            return original(*args, **options)

        monkeypatch.setattr(module, name, called)

    lowered = {}
    for name in ("pretrain", "condense_loop", "_probe_seconds", "_evaluation"):
        spy(name)
    config = tiny_config.with_overrides(
        [f"compute.precision={precision}", "evaluate.probe_every=2"]
    )
    measure(tiny_data, tiny_data, config, device=CPU)
    bf16 = precision == "bf16"
    assert lowered == {
        "pretrain": {False},
        "condense_loop": {bf16},
        "_probe_seconds": {bf16},
        "_evaluation": {False},
    }


@pytest.mark.parametrize(
    "overrides",
    [
        [f"loss.{name}=0.5" for name in LOSS_TERMS if name != "trajectory"],
        ["format.embedding=online", "loss.soft_labels=true"],
        ["unrolled.normalise=true", "compute.precision=bf16"],
        ["format.kind=pixels", "loss.adversarial_space=pixel"],
    ],
)
def test_of_many_processes_one_share_is_timed(
    tiny_config, tiny_data, monkeypatch, overrides
):
    shares, original = [], LoopState.synthesise

    def spy(self, association, rng):
        shares.append((self.ranks.world, len(association.class_ids_Y)))
        return original(self, association, rng)

    monkeypatch.setattr(LoopState, "synthesise", spy)
    config = tiny_config.with_overrides(overrides)
    estimate = measure(tiny_data, None, config, device=CPU, world=2)
    assert set(shares) == {(2, 2)}  # of three classes
    assert estimate.outer > 0


@pytest.fixture
def without_gc():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_gc")
def test_what_was_timed_is_freed_before_the_run(tiny_config, tiny_data, monkeypatch):
    """Graphs among it hold as much memory as those that the run captures."""
    made = []

    class Spy(LoopState):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(weakref.ref(self.students))

    monkeypatch.setattr(module, "LoopState", Spy)
    measure(tiny_data, None, tiny_config, device=CPU)
    assert [students() for students in made] == [None]


def test_measuring_leaves_the_run_as_it_would_be(tiny_config, tiny_data):
    expected = condense(tiny_data, tiny_config, device="cpu", progress=False)
    before = torch.get_rng_state()
    measure(tiny_data, tiny_data, tiny_config, device=CPU)
    assert torch.equal(before, torch.get_rng_state())
    again = condense(tiny_data, tiny_config, device="cpu", progress=False)
    assert expected.to_bytes() == again.to_bytes()
