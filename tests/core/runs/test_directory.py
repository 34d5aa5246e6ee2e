import errno
import json
import os
import time

import pytest
import torch

from condense_core.errors import CondenseError, RunError
from condense_core.runs import directory
from condense_core.runs.directory import RunDirectory

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny_config):
    return tiny_config


def test_a_new_directory_holds_config_and_checkpoint(tmp_path, config):
    out = tmp_path / "deep" / "run"
    run = RunDirectory.open(out, config, "abc")
    assert sorted(p.name for p in out.iterdir()) == ["checkpoint", "config.yaml"]
    assert (out / "config.yaml").read_text() == config.to_yaml()
    assert run.file("metrics.jsonl") == out / "metrics.jsonl"
    assert run.read_json("checkpoint/data.json") == "abc"


def test_the_same_run_continues(tmp_path, config):
    first = RunDirectory.open(tmp_path, config, "abc")
    first.save("loop", {"outer": 3, "w": torch.ones(2)})
    again = RunDirectory.open(tmp_path, config, "abc")
    state = again.load("loop", CPU)
    assert state["outer"] == 3
    assert torch.equal(state["w"], torch.ones(2))
    assert again.load("teacher", CPU) is None


def test_hidden_files_and_a_lone_checkpoint_do_not_matter(tmp_path, config):
    (tmp_path / ".nfs001").touch()
    (tmp_path / "checkpoint").mkdir()  # killed before config.yaml was written
    RunDirectory.open(tmp_path, config, "abc")
    assert (tmp_path / "config.yaml").exists()


def test_another_config_is_refused_with_the_key(tmp_path, config):
    RunDirectory.open(tmp_path, config, "abc")
    other = config.with_overrides(["loop.association=5", "loop.restarts=9"])
    with pytest.raises(RunError, match=r"loop.restarts was 2, now 9.*another --out"):
        RunDirectory.open(tmp_path, other, "abc")
    assert (tmp_path / "config.yaml").read_text() == config.to_yaml()


def test_other_data_are_refused(tmp_path, config):
    RunDirectory.open(tmp_path, config, "abc")
    with pytest.raises(RunError, match="other data"):
        RunDirectory.open(tmp_path, config, "abd")
    RunDirectory.open(tmp_path, config, "abc")


@pytest.mark.parametrize("name", ["thesis.tex", "report.json", "samples.png"])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, config, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match="not empty and holds no run"):
        RunDirectory.open(tmp_path, config, "abc")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_is_refused(tmp_path, config):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        RunDirectory.open(tmp_path / "file", config, "abc")
    with pytest.raises(RunError, match=r"cannot use .*: choose another --out"):
        RunDirectory.open(tmp_path / "file" / "below", config, "abc")


def test_a_config_that_cannot_be_read_is_told(tmp_path, config):
    (tmp_path / "config.yaml").write_text("{")
    with pytest.raises(
        CondenseError, match=r"config\.yaml is not valid YAML"
    ) as caught:
        RunDirectory.open(tmp_path, config, "abc")
    assert "\n" not in str(caught.value)


def test_without_a_path_nothing_is_written(tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunDirectory.open(None, config, "abc")
    run.save("loop", {"outer": 1})
    run.save_sometimes("loop", lambda: pytest.fail("there is nothing to save to"))
    run.write_json("a.json", [1])
    assert run.load("loop", CPU) == {"outer": 1}
    assert run.read_json("a.json") == [1]
    assert run.file("a.json") is None
    run.finish()
    assert list(tmp_path.iterdir()) == []


def test_saving_sometimes_waits(tmp_path, config, monkeypatch):
    run = RunDirectory.open(tmp_path, config, "abc")
    clock = [time.monotonic()]
    monkeypatch.setattr(directory.time, "monotonic", lambda: clock[0])
    run.save("start", {})
    saved = []

    def state():
        saved.append(clock[0])
        return {"at": clock[0]}

    for _ in range(5):
        run.save_sometimes("loop", state)
        clock[0] += 9.0
    assert len(saved) == 1  # 27 s after the first save; 9 s before the next is due
    assert run.load("loop", CPU) == {"at": saved[0]}


def test_a_damaged_checkpoint_is_told(tmp_path, config):
    run = RunDirectory.open(tmp_path, config, "abc")
    run.save("loop", {"w": torch.ones(100)})
    path = tmp_path / "checkpoint" / "loop.pt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunError, match=r"loop.pt .*: delete .*checkpoint to start"):
        run.load("loop", CPU)


def test_a_checkpoint_runs_no_code(tmp_path, config):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("owned").touch, ())

    run = RunDirectory.open(tmp_path, config, "abc")
    torch.save(Evil(), tmp_path / "checkpoint" / "loop.pt")
    with pytest.raises(RunError, match="cannot read"):
        run.load("loop", CPU)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", ["", "{", "\x00", None])
def test_a_damaged_json_file_counts_as_absent(tmp_path, config, content):
    run = RunDirectory.open(tmp_path, config, "abc")
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    assert run.read_json("a.json") is None


def test_finishing_deletes_the_checkpoint_alone(tmp_path, config):
    run = RunDirectory.open(tmp_path, config, "abc")
    run.save("loop", {"outer": 1})
    # Left by a killed process of the same number, as in a container.
    stale = tmp_path / f".checkpoint.{os.getpid()}"
    stale.mkdir()
    (stale / "loop.pt").touch()
    run.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]
    run.finish()


def test_a_finished_directory_opens_without_a_checkpoint(
    tmp_path, config, make_condensed
):
    run = RunDirectory.open(tmp_path, config, "abc")
    condensed = make_condensed(metadata={"data": {"fingerprint": "abc"}})
    condensed.save(tmp_path / "condensed.safetensors")
    run.write_json("report.json", {"a": 1})
    run.finish()
    RunDirectory.open(tmp_path, config, "abc")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "condensed.safetensors",
        "config.yaml",
        "report.json",
    ]
    assert json.loads((tmp_path / "report.json").read_text()) == {"a": 1}


def test_a_run_whose_artefact_was_deleted_starts_again(tmp_path, config):
    run = RunDirectory.open(tmp_path, config, "abc")
    run.write_json("report.json", {"a": 1})
    run.finish()
    RunDirectory.open(tmp_path, config, "abc").save("loop", {"outer": 1})
    assert (tmp_path / "checkpoint" / "loop.pt").exists()


def test_a_full_disk_is_told_and_leaves_the_old_state(tmp_path, config, monkeypatch):
    run = RunDirectory.open(tmp_path, config, "abc")
    run.save("loop", {"outer": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(RunError, match=r"no space left .* run the same command"):
            run.save("loop", {"outer": 2})
    assert run.load("loop", CPU) == {"outer": 1}
    assert [p.name for p in (tmp_path / "checkpoint").glob(".*")] == []
