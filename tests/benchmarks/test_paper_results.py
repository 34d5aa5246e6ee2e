"""Whether a stored result is still what its command makes."""

import json
import shlex
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from paper_lib.results import condensed_with, configuration_of, is_outdated

from condense_core.config import CondenseConfig

FILED = sorted((Path(__file__).parents[2] / "docs/results/paper").rglob("*.json"))
COMMAND = "condense run digits-ipc1 --set loss.tau=0.2 --set seed=3 --out runs/x"


def test_a_configuration_is_that_of_the_command():
    found = configuration_of(shlex.split(COMMAND))
    assert (found["loss"]["tau"], found["seed"]) == (0.2, 3)
    assert "evaluate" not in found


def test_a_result_is_outdated_once_its_command_condenses_otherwise():
    recorded = configuration_of(shlex.split(COMMAND))
    result = {"commands": [COMMAND], "configuration": recorded}
    assert not is_outdated(result)
    recorded["loop"]["restarts"] += 1
    assert is_outdated(result)


def test_options_that_came_later_make_no_result_outdated():
    recorded = configuration_of(shlex.split(COMMAND))
    del recorded["loss"]["tau"], recorded["trajectory"]
    assert not is_outdated({"commands": [COMMAND], "configuration": recorded})


def test_of_real_images_nothing_can_be_outdated():
    command = "condense evaluate random --dataset digits"
    assert not is_outdated({"commands": [command], "configuration": None})


def test_what_no_longer_runs_is_outdated():
    gone = COMMAND.replace("loss.tau", "loss.gone")
    recorded = configuration_of(shlex.split(COMMAND))
    assert is_outdated({"commands": [gone], "configuration": recorded})


def test_what_counts_is_the_run_and_not_the_preset_of_today(tmp_path):
    config = CondenseConfig.preset("digits-ipc1").with_overrides(["loop.restarts=5"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    recorded = condensed_with(tmp_path)
    command = "condense run digits-ipc1"
    assert recorded["loop"]["restarts"] == 5
    assert is_outdated({"commands": [command], "configuration": recorded})
    assert condensed_with(tmp_path / "absent") is None


@pytest.mark.parametrize("path", FILED, ids=lambda path: path.stem)
def test_a_filed_cell_is_condensed_as_its_command_says(path):
    assert not is_outdated(json.loads(path.read_text("utf-8"))), (
        "its preset has changed: measure it again, or add what it had to its command"
    )
