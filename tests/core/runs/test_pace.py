from dataclasses import replace

import pytest
import torch
import yaml

from condense_core.artefact import CondensedDataset
from condense_core.errors import ConfigError
from condense_core.runs import pace
from condense_core.runs.estimate import Estimate
from condense_core.runs.pace import fill_budget, schedule
from condense_core.runs.run import condense

CPU = torch.device("cpu")


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
    fitted = fill_budget(budget(tiny_config, seconds), estimate)
    assert fitted.loop.restarts == restarts
    assert fitted.loop.network_updates == network_updates
    done = restarts * network_updates
    assert 80 + 10 * done <= 0.9 * seconds
    assert replace(fitted, loop=tiny_config.loop) == budget(tiny_config, seconds)


def test_a_budget_that_holds_nothing_says_what_takes_the_time(tiny_config):
    estimate = Estimate({"teacher": 30.0, "evaluation": 500.0}, outer=10.0, outers=6)
    with pytest.raises(ConfigError) as error:
        fill_budget(budget(tiny_config, 60.0), estimate)
    text = str(error.value)
    assert "teacher 30 s, evaluation 8 min" in text
    assert "at least 600 s" in text
    fill_budget(budget(tiny_config, 600.0), estimate)  # what it says is enough


def test_a_budget_of_no_time_is_refused(tiny_config):
    with pytest.raises(ConfigError, match="time_budget"):
        budget(tiny_config, 0.0)


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
