import json
from dataclasses import replace

import pytest
import torch

from condense_core import RunError
from flower_strategy.rounds import RoundReport, RunState


@pytest.fixture
def state(contribute):
    start = RunState(
        contributions={"a": contribute("a"), "b": contribute("b", seed=1)},
        model={"weight": torch.arange(6.0).view(2, 3)},
        normalisation=([0.5], [0.25]),
    )
    return start.after(RoundReport(server_round=1, accepted=["a", "b"], accuracy=50.0))


def test_round_trip(state, tmp_path):
    state.save(tmp_path)
    found = RunState.load(tmp_path)
    assert found.server_round == 1
    assert found.reports == state.reports
    assert found.normalisation == ([0.5], [0.25])
    torch.testing.assert_close(found.model, state.model)
    for name, contribution in state.contributions.items():
        again = found.contributions[name]
        assert again.condensed.digest == contribution.condensed.digest
        assert again.class_ids == contribution.class_ids
        assert again.counts == contribution.counts


def test_a_resumed_round_keeps_budgets_and_bytes(state, contribute, tmp_path):
    private = replace(contribute("a"), privacy={"epsilon": 1.0}, nbytes=123)
    replace(state, contributions={"a": private}).save(tmp_path)
    again = RunState.load(tmp_path).contributions["a"]
    assert (again.privacy, again.nbytes) == ({"epsilon": 1.0}, 123)


def test_an_empty_folder_has_no_rounds(tmp_path):
    assert RunState.load(tmp_path).server_round == 0


def test_the_newest_round_counts(state, tmp_path):
    state.save(tmp_path)
    later = state.after(RoundReport(server_round=2))
    later.save(tmp_path)
    assert RunState.load(tmp_path).server_round == 2


def test_round_1000_is_newer_than_round_999(state, tmp_path):
    state.save(tmp_path)
    (tmp_path / "round-001").rename(tmp_path / "round-999")
    state.after(RoundReport(server_round=2)).save(tmp_path)
    (tmp_path / "round-002").rename(tmp_path / "round-1000")
    assert RunState.load(tmp_path).server_round == 2


def test_a_round_that_was_not_finished_does_not_exist(state, tmp_path):
    state.save(tmp_path)
    (tmp_path / "round-001").rename(tmp_path / ".round-002.partial")
    assert RunState.load(tmp_path).server_round == 0
    later = state.after(RoundReport(server_round=2))
    later.save(tmp_path)  # over the remains
    assert RunState.load(tmp_path).server_round == 2


@pytest.mark.parametrize(
    "name", ["round.json", "global.safetensors", "clients/a.safetensors"]
)
def test_a_damaged_round_is_refused(state, tmp_path, name):
    state.save(tmp_path)
    (tmp_path / "round-001" / name).write_bytes(b"{}")
    with pytest.raises(RunError, match="round-001 is damaged"):
        RunState.load(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RunError, match="no folder"):
        RunState.load(tmp_path / "typo")


def test_a_folder_that_cannot_be_written_is_refused(state, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="save-to"):
        state.save(tmp_path / "file")


def test_report_is_plain_json(state, tmp_path):
    state.save(tmp_path)
    content = json.loads((tmp_path / "round-001" / "round.json").read_text())
    assert content["reports"][0]["accepted"] == ["a", "b"]
    assert content["clients"]["a"]["counts"] == [20, 20]
