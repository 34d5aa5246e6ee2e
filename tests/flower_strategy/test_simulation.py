"""The example app under Flower's simulation engine, by the script that users run."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flower_strategy.settings import (
    ClientSettings,
    DataSettings,
    ModelSettings,
    ServerSettings,
)

APP = Path(__file__).parents[2] / "examples/flower_app"
DIFFERENT = {"threads", "flip"}  # from the defaults, as the file says
SHORT = [
    "train-steps=200",
    "synthetic-images=2000",
    "merged-images-per-class=3",
    'overrides="pretrain.steps=100"',
]


def script(name, *arguments, out, **variables):
    """Run a script of the app from another folder; its output is on the failure."""
    environment = os.environ | variables
    environment |= {"OUT": str(out), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment.pop("FLWR_HOME", None)
    return subprocess.run(
        [APP / name, *arguments],
        env=environment,
        cwd=out.parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1200,
    )


def settings_of_the_app():
    content = tomllib.loads((APP / "pyproject.toml").read_text())
    return content["tool"]["flwr"]["app"]["config"]


def test_every_setting_can_be_overridden():
    found = settings_of_the_app()
    kinds = (DataSettings, ModelSettings, ClientSettings, ServerSettings)
    defaults = {
        field.name.replace("_", "-"): field.default
        for kind in kinds
        for field in dataclasses.fields(kind)
    }
    assert found.keys() == defaults.keys()
    assert {key for key in found if found[key] != defaults[key]} == DIFFERENT
    for kind in kinds:
        kind.read(found)


INSTALL = """
import sys
from flwr.supercore.superexec.dependency_installer import install_app_dependencies
install_app_dependencies(sys.argv[1])
import flower_strategy.server_app
"""


def test_flower_needs_no_index_to_install_the_app(tmp_path):
    pytest.importorskip("flwr.supercore.superexec.dependency_installer")
    shutil.copytree(APP, tmp_path / "app")
    offline = {"FLWR_HOME": str(tmp_path / "home"), "UV_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-c", INSTALL, tmp_path / "app"],
        env=os.environ | offline,
        check=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["seed=1"], {"logs", "own"}),
        (["seed=1", 'resume-from="/runs/a"'], {"logs", "own", "round-001"}),
        (['seed=1 resume-from="/runs/a"'], {"logs", "own", "round-001"}),
    ],
)
def test_results_of_an_earlier_run_are_removed(tmp_path, arguments, left):
    (tmp_path / "round-001" / "clients").mkdir(parents=True)
    for name in ("result.json", "merged.safetensors", "own"):
        (tmp_path / name).touch()
    subprocess.run(
        ["bash", "-ec", 'source "$0"; prepare "$@"', APP / "common.sh", *arguments],
        env=os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable},
        check=True,
    )
    assert {path.name for path in tmp_path.iterdir()} == left


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_a_simulation_runs_to_its_end(tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    run = script("simulate.sh", *SHORT, out=out, CLIENTS="3")
    assert run.returncode == 0, run.stdout
    (report,) = json.loads((out / "result.json").read_text())["rounds"]
    assert f"global accuracy {report['accuracy']:.2f} %" in run.stdout
    assert report["accepted"] == ["partition-0", "partition-1", "partition-2"]
    inspected = subprocess.run(
        [sys.executable, "-m", "condense_core", "inspect", out / "merged.safetensors"],
        text=True,
        capture_output=True,
        check=True,
    )
    assert "3 per class, 8x8 px" in inspected.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("argument", "reason"),
    [("no-such-key=1", "Invalid run configuration"), ("train-steps=0", "train-steps")],
)
def test_a_run_that_fails_fails_the_script(tmp_path, argument, reason):
    pytest.importorskip("ray")
    run = script("simulate.sh", argument, out=tmp_path / "out", CLIENTS="2")
    assert run.returncode != 0
    assert reason in run.stdout
