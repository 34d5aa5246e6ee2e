import errno
import json
import os
from pathlib import Path

import pytest
import torch

from condense_core.errors import RunError
from condense_core.runlog import RunLog, atomic_write_bytes, atomic_write_text


def write_steps(path: Path, steps: range, *, resume_step: int = 0) -> None:
    with RunLog(path, total=10, description="x", resume_step=resume_step) as log:
        for step in steps:
            log.log(step, **{"loss/matching": torch.tensor(step / 7), "accuracy": 1.5})


def test_a_line_holds_step_and_scalars_in_call_order(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with RunLog(path, total=1, description="x") as log:
        log.log(3, **{"b": 1.25, "loss/a": torch.tensor([0.1]), "n": torch.tensor(7)})
    assert path.read_text() == '{"step": 3, "b": 1.25, "loss/a": 0.1, "n": 7.0}\n'


def test_a_value_that_is_not_finite_becomes_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with RunLog(path, total=1, description="x") as log:
        log.log(0, loss=torch.tensor(float("nan")), norm=float("inf"))
    assert json.loads(path.read_text()) == {"step": 0, "loss": None, "norm": None}


def test_lines_reach_the_file_before_the_log_is_closed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with RunLog(path, total=1, description="x") as log:
        log.log(0, loss=1.0)
        assert path.read_text().endswith("\n")


@pytest.mark.parametrize(
    "torn", [b"", b'{"step": 6, "lo', b'{"step": 4, "x\xff', b"\0"]
)
def test_a_resumed_file_equals_the_uninterrupted_one(tmp_path, torn):
    write_steps(tmp_path / "whole.jsonl", range(10))
    path = tmp_path / "resumed.jsonl"
    write_steps(path, range(6))
    path.write_bytes(path.read_bytes() + torn)
    write_steps(path, range(4, 10), resume_step=4)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_last_line_torn_only_at_its_newline_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}')
    write_steps(path, range(1, 2), resume_step=1)
    assert [json.loads(line)["step"] for line in path.open()] == [0, 1]


def test_a_run_from_step_zero_starts_the_file_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(3))
    write_steps(path, range(1))
    assert len(path.read_text().splitlines()) == 1


def test_without_a_terminal_progress_is_few_plain_lines(capsys):
    with RunLog(None, total=100, description="condense") as log:
        for step in range(1, 101):
            log.advance(step, loss=torch.tensor(0.5), phase="outer")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("condense  1/100  ")
    assert lines[0].endswith("left  loss 0.5  phase outer")
    assert lines[1:] == ["condense  100/100  loss 0.5  phase outer"]


def test_on_a_terminal_progress_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with RunLog(None, total=10, description="condense", resume_step=4) as log:
        log.advance(10, loss=0.5)
    err = capsys.readouterr().err
    assert "10/10" in err
    assert "loss 0.5" in err


def interrupted_run(path: Path) -> None:
    with RunLog(path, total=1, description="x") as log:
        log.log(0, loss=1.0)
        raise KeyboardInterrupt


def test_an_interrupted_run_keeps_its_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(KeyboardInterrupt):
        interrupted_run(path)
    assert path.read_text() == '{"step": 0, "loss": 1.0}\n'


def test_an_atomic_write_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.txt"
    atomic_write_text(path, "old")
    atomic_write_text(str(path), "neu é")
    assert path.read_text(encoding="utf-8") == "neu é"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_keeps_the_old_file_and_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    atomic_write_bytes(path, b"old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError) as caught:
        atomic_write_bytes(path, b"new")
    assert str(caught.value) == (
        f"no space left on device while writing {path}: "
        "free some space and run the same command again"
    )
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_stops_the_metrics_file_with_the_same_words():
    with pytest.raises(RunError, match="no space left on device while writing /dev/fu"):
        write_steps(Path("/dev/full"), range(1))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*nowhere"):
        atomic_write_bytes(tmp_path / "nowhere" / "a.bin", b"")
