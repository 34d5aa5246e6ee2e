import json
from dataclasses import replace

import pytest
import torch

from condense_core import ConfigError, RunError
from flower_strategy.rounds import RoundReport, RunState, meaning_of
from flower_strategy.settings import ModelSettings


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


def test_a_round_without_the_newest_fields_is_read(state, tmp_path):
    state.save(tmp_path)
    path = tmp_path / "round-001" / "round.json"
    content = json.loads(path.read_text())
    for name in ("client_images", "untested"):
        del content["reports"][0][name]
    path.write_text(json.dumps(content))
    assert RunState.load(tmp_path).reports == state.reports


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
    ("name", "content"),
    [
        ("round.json", b"{"),
        ("round.json", b"[]"),
        ("round.json", b'{"version": 1}'),
        ("global.safetensors", b"{}"),
        ("clients/a.safetensors", b"{}"),
    ],
)
def test_a_damaged_round_is_refused(state, tmp_path, name, content):
    state.save(tmp_path)
    (tmp_path / "round-001" / name).write_bytes(content)
    with pytest.raises(RunError, match="round-001 is damaged"):
        RunState.load(tmp_path)


def test_artefacts_that_changed_places_are_refused(state, tmp_path):
    state.save(tmp_path)
    clients = tmp_path / "round-001" / "clients"
    (clients / "b.safetensors").replace(clients / "a.safetensors")
    with pytest.raises(RunError, match="in the place of a's"):
        RunState.load(tmp_path)


@pytest.mark.parametrize("version", [None, 2])
def test_a_round_of_another_version_is_refused(state, tmp_path, version):
    state.save(tmp_path)
    report = tmp_path / "round-001" / "round.json"
    content = json.loads(report.read_text())
    content["version"] = version
    report.write_text(json.dumps(content))
    with pytest.raises(RunError, match=f"is of version {version}, this is version 1"):
        RunState.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"network": "mlp"}, "network 'convnet', this one 'mlp'"),
        ({"network_width": 16}, "network-width 32, this one 16"),
        ({"low_pass": 0.0}, "low-pass 0.035, this one 0.0"),
        ({"seed": 1}, "seed 0, this one 1"),
        ({"classes": ("dog", "cat", "bee", "ant")}, "classes"),
        ({"image_shape": (3, 8, 8)}, "image-shape"),
    ],
)
def test_a_saved_state_keeps_its_meaning(state, limits, tmp_path, change, reason):
    def meaning(change):
        images = {k: v for k, v in change.items() if k in ("classes", "image_shape")}
        rest = {k: v for k, v in change.items() if k not in images}
        return meaning_of(ModelSettings(**rest), replace(limits, **images))

    replace(state, meaning=meaning({})).save(tmp_path)
    found = RunState.load(tmp_path)
    found.check_meaning(meaning({}))
    with pytest.raises(ConfigError, match=reason):
        found.check_meaning(meaning(change))


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
