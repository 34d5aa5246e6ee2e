"""The zoo: what is in it is whole, small and as good as it says; what may come in."""

import json
import runpy
import shlex
import shutil
from pathlib import Path

import pytest

from condense_core.artefact import CondensedDataset
from condense_core.cli import main
from condense_core.config import CondenseConfig

ZOO = Path(__file__).parents[1] / "zoo"
NAMES = sorted(path.stem for path in ZOO.glob("*.json"))
script = runpy.run_path(str(ZOO / "add.py"))
add, write_table = script["add"], script["write_table"]


def test_there_is_something_in_the_zoo():
    assert "digits-ipc1" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_in_the_zoo_is_whole_and_small(name):
    path = ZOO / f"{name}.safetensors"
    entry = json.loads((ZOO / f"{name}.json").read_text("utf-8"))
    condensed = CondensedDataset.load(path)
    assert condensed.digest == entry["digest"]
    assert path.stat().st_size == entry["report"]["bytes"] <= script["LARGEST"]
    config = CondenseConfig.from_yaml(ZOO / f"{name}.yaml")
    assert config.data.name == entry["report"]["dataset"]
    assert config.format.images_per_class == condensed.images_per_class


def test_the_table_is_that_of_the_files(tmp_path):
    for path in (*ZOO.glob("*.json"), ZOO / "README.md"):
        shutil.copy(path, tmp_path)
    write_table(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == (ZOO / "README.md").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("digits")])
def test_the_printed_number_comes_out_again(name, tmp_path, monkeypatch):
    entry = json.loads((ZOO / f"{name}.json").read_text("utf-8"))
    monkeypatch.chdir(ZOO.parent)
    command = [*shlex.split(entry["evaluated_by"])[1:], "--device", "cpu"]
    assert main([*command, "--json", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text("utf-8"))
    # To the last digit where it was made; sums are taken in another order elsewhere.
    spread = 2 * entry["report"]["accuracy_std"]
    assert again["accuracy_mean"] == pytest.approx(
        entry["report"]["accuracy_mean"], abs=spread
    )
    assert again["bytes"] == entry["report"]["bytes"]


@pytest.fixture
def run(tmp_path):
    """A finished run, rebuilt from what is in the zoo."""
    entry = json.loads((ZOO / "digits-ipc1.json").read_text("utf-8"))
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(ZOO / "digits-ipc1.safetensors", folder / "condensed.safetensors")
    shutil.copy(ZOO / "digits-ipc1.yaml", folder / "config.yaml")
    report = entry["report"] | {"machine": "mine", "command": "condense run /secret"}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_a_finished_run_comes_in(run, tmp_path):
    zoo = tmp_path / "zoo"
    add(run, "mine", zoo=zoo)
    assert {path.name for path in zoo.iterdir()} == {
        *("mine.json", "mine.safetensors", "mine.yaml", "README.md")
    }
    text = (zoo / "mine.json").read_text("utf-8")
    assert "secret" not in text
    entry = json.loads(text)
    assert entry["made_by"] == "condense run zoo/mine.yaml --out runs/mine"
    first = json.loads((ZOO / "digits-ipc1.json").read_text("utf-8"))
    assert entry["report"] == first["report"]
    table = (zoo / "README.md").read_text("utf-8")
    assert "| [mine](mine.json) | digits | 1 |" in table


def test_a_report_with_more_networks_is_taken_instead(run, tmp_path):
    report = json.loads((run / "report.json").read_text())
    (tmp_path / "more.json").write_text(json.dumps(report | {"repeats": 20}))
    add(run, "mine", report=tmp_path / "more.json", zoo=tmp_path / "zoo")
    entry = json.loads((tmp_path / "zoo/mine.json").read_text("utf-8"))
    assert "--repeats 20" in entry["evaluated_by"]


def test_what_is_too_large_or_unfinished_stays_out(run, tmp_path, monkeypatch):
    monkeypatch.setitem(add.__globals__, "LARGEST", 1000)
    with pytest.raises(SystemExit, match="the zoo takes 1,000: lower"):
        add(run, "mine", zoo=tmp_path / "zoo")
    monkeypatch.undo()
    (tmp_path / "other.json").write_text('{"bytes": 3}')
    with pytest.raises(SystemExit, match="is no report of"):
        add(run, "mine", report=tmp_path / "other.json", zoo=tmp_path / "zoo")
    (run / "report.json").unlink()
    with pytest.raises(SystemExit, match="holds no finished run"):
        add(run, "mine", zoo=tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()
