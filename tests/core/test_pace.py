from dataclasses import replace

import pytest
import torch
import yaml

from condense_core import pace
from condense_core.artefact import CondensedDataset
from condense_core.errors import ConfigError
from condense_core.pace import Estimate, fit, in_words, measure, schedule
from condense_core.run import condense

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
    monkeypatch.setattr(pace.time, "perf_counter", Clock(1.0))


def budget(config, seconds):
    return replace(config, time_budget=seconds)


# From phases to a schedule


@pytest.mark.parametrize(
    ("seconds", "restarts", "network_updates"),
    [
        (100.0, 1, 1),  # 90 s left, 80 s fixed, 10 s an iteration
        (1000.0, 27, 3),  # 82 iterations, 27 x 3 = 81
        (112.0, 1, 2),
        (145.0, 2, 2),  # five fit, four are done: restarts are whole
    ],
)
def test_as_many_iterations_as_fit(tiny_config, seconds, restarts, network_updates):
    estimate = Estimate({"teacher": 30.0, "evaluation": 50.0}, outer=10.0, outers=6)
    fitted = fit(budget(tiny_config, seconds), estimate)
    assert fitted.loop.restarts == restarts
    assert fitted.loop.network_updates == network_updates
    done = restarts * network_updates
    assert 80 + 10 * done <= 0.9 * seconds
    assert replace(fitted, loop=tiny_config.loop) == budget(tiny_config, seconds)


def test_a_budget_that_holds_nothing_says_what_takes_the_time(tiny_config):
    estimate = Estimate({"teacher": 30.0, "evaluation": 500.0}, outer=10.0, outers=6)
    with pytest.raises(ConfigError) as error:
        fit(budget(tiny_config, 60.0), estimate)
    text = str(error.value)
    assert "teacher 30 s, evaluation 8 min" in text
    assert "at least 600 s" in text
    fit(budget(tiny_config, 600.0), estimate)  # what it says is enough


def test_a_budget_of_no_time_is_refused(tiny_config):
    with pytest.raises(ConfigError, match="time_budget"):
        budget(tiny_config, 0.0)


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


def test_measuring_leaves_the_run_as_it_would_be(tiny_config, tiny_data):
    expected = condense(tiny_data, tiny_config, device="cpu", progress=False)
    before = torch.get_rng_state()
    measure(tiny_data, tiny_data, tiny_config, device=CPU)
    assert torch.equal(before, torch.get_rng_state())
    again = condense(tiny_data, tiny_config, device="cpu", progress=False)
    assert expected.to_bytes() == again.to_bytes()


# A budget through a run


def test_a_budget_is_settled_once_and_resumed(
    tiny_config, tiny_data, tmp_path, monkeypatch
):
    config = budget(tiny_config, 60.0)
    monkeypatch.setattr(
        pace, "measure", lambda *_, **__: Estimate({"teacher": 10.0}, 8.0, 6)
    )
    out = tmp_path / "run"
    first = condense(tiny_data, config, out=out, device="cpu", progress=False)
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert (written["loop"]["restarts"], written["loop"]["network_updates"]) == (2, 2)
    assert written["time_budget"] == 60.0
    # The second time nothing is timed: a faster machine would change the run.
    monkeypatch.setattr(pace, "measure", None)
    again = condense(tiny_data, config, out=out, device="cpu", progress=False)
    assert first.to_bytes() == again.to_bytes()
    plain = tiny_config.with_overrides(["loop.restarts=2", "loop.network_updates=2"])
    same = condense(tiny_data, plain, device="cpu", progress=False)
    assert all(torch.equal(same.tensors[k], v) for k, v in first.tensors.items())


def test_another_budget_is_another_run(tiny_config, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "measure", lambda *_, **__: Estimate({}, 8.0, 6))
    condense(tiny_data, budget(tiny_config, 60.0), out=tmp_path / "run", progress=False)
    with pytest.raises(RuntimeError, match=r"time_budget was 60\.0, now 80\.0"):
        condense(
            tiny_data, budget(tiny_config, 80.0), out=tmp_path / "run", progress=False
        )
    assert CondensedDataset.load(tmp_path / "run" / "condensed.safetensors")


def test_without_a_budget_nothing_changes(tiny_config, tiny_data, tmp_path):
    config, estimate = schedule(
        tiny_data, tiny_data, tiny_config, out=tmp_path / "no", device=CPU
    )
    assert config == tiny_config
    assert estimate is not None
    condense(tiny_data, tiny_config, out=tmp_path / "run", device="cpu")
    config, estimate = schedule(
        tiny_data, tiny_data, tiny_config, out=tmp_path / "run", device=CPU
    )
    assert (config, estimate) == (tiny_config, None)
