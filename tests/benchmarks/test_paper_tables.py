"""The benchmark of the paper's tables: its grid, its queue, its resuming."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import paper_tables
from paper_lib import queue
from paper_lib.commands import Place, Setting, condense_command, evaluate_command
from paper_lib.figure import plot, read_panels
from paper_lib.grid import (
    GENERATED,
    RECIPES,
    ROWS,
    TABLES,
    Cell,
    Column,
    cells_in_order,
    settings_of,
)
from paper_lib.report import Results, report
from paper_lib.results import evaluate_seconds, save

from condense_core import diversity
from condense_core.cli import main as condense
from condense_core.config import CondenseConfig
from condense_core.runs import experiment

PUBLISHED = Path(paper_tables.__file__).parent / "paper_lib" / "published.yaml"
QUICK = [
    *("pretrain.steps=1", "teacher.steps=1", "loop.restarts=1"),
    *("loop.network_updates=1", "loop.generator_updates=1", "loss.unrolled=0"),
]
DIGITS = Column("digits", 1)
CPU = Setting(scale="cpu", repeats=1, width=4, overrides=tuple(QUICK))


@pytest.mark.parametrize("scale", ["cpu", "full"])
def test_every_condensed_cell_has_a_valid_configuration(scale):
    for cell in cells_in_order():
        if ROWS[cell.row].reference is None and cell.row != GENERATED:
            preset, overrides = settings_of(cell, scale)
            config = CondenseConfig.preset(preset).with_overrides(overrides)
            assert config.format.images_per_class == cell.column.ipc


@pytest.mark.parametrize("row", ["ours-paper", "loss-intra", "codes-uniform"])
@pytest.mark.parametrize("ipc", [1, 10])
def test_on_a_cpu_the_papers_rows_have_the_papers_losses_alone(row, ipc):
    preset, overrides = settings_of(Cell(Column("mnist", ipc), row, RECIPES[0]), "cpu")
    loss = CondenseConfig.preset(preset).with_overrides(overrides).loss
    assert (loss.matching, loss.classification, loss.adversarial) == (1, 1, 1)
    assert (loss.unrolled, loss.gradient) == (0, 0)
    assert loss.inter == (row != "loss-intra")


def test_every_cell_is_in_the_queue_once_and_the_most_wanted_come_first():
    cells = cells_in_order()
    assert len(cells) == len(set(cells)) == len({cell.name for cell in cells})
    for table in TABLES.values():
        for column in table.columns:
            for row in table.rows:
                assert Cell.at(column, row, RECIPES[0]) in cells
    order = list(dict.fromkeys((c.column.dataset, c.column.ipc) for c in cells))
    assert order[:4] == [
        ("cifar10", 10),
        ("cifar10", 1),
        ("cifar10", 50),
        ("fashionmnist", 10),
    ]


def test_the_whole_data_set_is_measured_once():
    cells = [cell for cell in cells_in_order() if cell.row == "full"]
    assert len(cells) == len({cell.column.dataset for cell in cells})


def test_published_values_belong_to_rows_and_columns():
    published = yaml.safe_load(PUBLISHED.read_text())
    notes = published.pop("notes")
    assert set(notes) <= set(TABLES)
    assert set(published) <= set(TABLES)
    for key, rows in published.items():
        columns = {column.name for column in TABLES[key].columns}
        for row, values in rows.items():
            ours = row in TABLES[key].rows
            known = {c for c in values if not c.startswith(("in-sub", "imagenet"))}
            assert known <= columns, (key, row)
            assert ours or row[0].isupper(), (key, row)
    best = published["table2"]
    assert best["ours"]["cifar10-ipc10"] == [66.2, 0.5]
    # The paper's method is the best of its Table 2 but for a tie or two.
    for column, (mean, _) in best["ours"].items():
        others = {
            r: v[column][0] for r, v in best.items() if r != "itgan" and column in v
        }
        others.pop("full")
        assert mean == max(others.values()), column


def test_sources_other_than_the_name_are_in_the_commands(tmp_path):
    place = Place(out=tmp_path, npz={"cifar100": tmp_path / "c"}, data_root=tmp_path)
    cell = Cell(Column("cifar100", 10), "ours", RECIPES[0])
    run = condense_command(cell, CPU, place)
    assert "data.name=npz" in run
    assert str(tmp_path / "c") in run
    evaluation = evaluate_command(cell, CPU, place)
    assert evaluation[evaluation.index("--dataset") + 1] == "npz"
    assert "--flip" in evaluation


def test_commands_that_are_kept_name_no_folder_of_ones_own():
    home = Path("/home/me")
    place = Place(
        out=home, data_root=home, npz={"cifar100": home}, generated=home
    ).anonymous()
    for cell in cells_in_order():
        for command in (condense_command, evaluate_command):
            assert "/home" not in str(command(cell, CPU, place))


def result_of(row, *, ipc, seconds, network="convnet"):
    return {
        "cell": {
            "column": {"dataset": "digits", "ipc": ipc, "network": network},
            "row": row,
            "recipe": "paper-300",
        },
        "seconds_evaluating": seconds,
        "report": {
            "repeats": 2,
            "steps": 300,
            "images": 10 * ipc,
            "recipe_settings": {"batch_size": 256},
        },
    }


def test_times_are_scaled_from_the_nearest_cell_of_the_same_network():
    done = [
        result_of("random", ipc=1, seconds=6.0),
        result_of("random", ipc=50, seconds=900.0),
        result_of("random", ipc=10, seconds=1e6, network="mlp"),
    ]
    cell = Cell(Column("digits", 10), "ours", "paper-300")
    setting = Setting(scale="cpu", repeats=4)
    near = done[1]  # a factor of five in images, not of ten
    rate = 900.0 / (2 * 300 * 256)
    assert evaluate_seconds(cell, setting, done) == pytest.approx(rate * 4 * 300 * 100)
    assert evaluate_seconds(cell, setting, [near]) == evaluate_seconds(
        cell, setting, done
    )
    guess = evaluate_seconds(cell, setting, [])
    assert guess == pytest.approx(0.01 * 4 * 300 * 100)
    full = Cell(Column("digits", 10), "full", "paper-300")
    steps = 300  # the cap of a CPU
    assert evaluate_seconds(full, setting, []) == pytest.approx(0.01 * 4 * steps * 256)


def run(monkeypatch, out, *more, overrides=QUICK):
    arguments = [
        *("--out", str(out), "--device", "cpu", "--repeats", "1", "--width", "4"),
        *("--recipes", "paper-300", "--time-budget", "120"),
        *(word for text in overrides for word in ("--set", text)),
    ]
    monkeypatch.setattr(sys, "argv", ["paper_tables.py", *arguments, *more])
    return paper_tables.main()


def in_process(patch):
    """Run commands here and without their long parts: seconds instead of minutes."""

    def run_here(command, log, deadline):
        if condense(command) != 0:
            raise queue.CommandError("it failed")
        return 1.0

    patch.setattr(queue, "_run", run_here)
    patch.setattr(experiment, "FEATURE_STEPS", 1)
    patch.setattr(diversity, "EXTRACTOR_STEPS", 2)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two cells of digits."""
    folder = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        in_process(patch)
        assert run(patch, folder, "--only", "digits_ipc1_random*") == 0
        assert run(patch, folder, "--only", "digits_ipc1_ours_*") == 0
    return folder


def test_a_cell_is_what_its_printed_commands_make_of_it(results, tmp_path, monkeypatch):
    (path,) = (results / "cpu").glob("digits_ipc1_ours_*.json")
    result = json.loads(path.read_text())
    assert result["cell"]["row"] == "ours"
    assert result["seconds_condensing"] > 0
    assert result["report"]["diversity"]["extractor"]["weights"] == "trained"
    monkeypatch.chdir(tmp_path)
    in_process(monkeypatch)
    first, second = map(shlex.split, result["commands"])
    assert condense(first[1:]) == 0
    assert condense([*second[1:], "--json", "again.json"]) == 0
    again = json.loads(Path("again.json").read_text())
    assert again["accuracies"] == result["report"]["accuracies"]
    assert again["width"] == 4


def test_what_is_there_is_not_measured_again(results, monkeypatch):
    monkeypatch.setattr(queue, "_run", lambda *_: pytest.fail("nothing is missing"))
    assert run(monkeypatch, results, "--only", "digits_ipc1_random*") == 0
    with pytest.raises(SystemExit, match="choose another --out"):
        run(monkeypatch, results, "--only", "digits_ipc1_random*", "--seed", "3")


def test_a_run_that_was_condensed_otherwise_is_not_taken(
    results, tmp_path, monkeypatch, capsys
):
    shutil.copytree(results / "cpu", tmp_path / "cpu")
    (path,) = (tmp_path / "cpu").glob("digits_ipc1_ours_*.json")
    path.unlink()  # the run is there, its evaluation is not
    in_process(monkeypatch)
    other = [*QUICK, "loss.tau=0.7"]
    only = ["--only", "digits_ipc1_ours_convnet_paper-300"]
    assert run(monkeypatch, tmp_path, *only, overrides=other) == 1
    assert "was made otherwise: delete it" in capsys.readouterr().out
    assert not path.exists()
    assert run(monkeypatch, tmp_path, *only) == 0
    assert path.exists()


def test_commands_stop_in_time_and_condensing_goes_on(tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 10_000, 50))  # every look at the clock takes 50 seconds
    monkeypatch.setattr(queue.time, "monotonic", lambda: float(next(clock)))
    started = []
    monkeypatch.setattr(
        queue, "_run", lambda command, *_: started.append(command) or 1.0
    )
    arguments = ["--only", "digits_ipc1*", "--time-budget", "400"]
    assert run(monkeypatch, tmp_path, *arguments) == 0
    assert 0 < len(started) < 10
    assert "time is over" in capsys.readouterr().out


@pytest.mark.slow
def test_a_command_that_outlives_the_time_is_interrupted(tmp_path):
    place = Place(out=tmp_path, device="cpu")
    setting = Setting(scale="cpu", repeats=1, width=4)
    cell = Cell(DIGITS, "ours", RECIPES[0])
    failed = queue.run_cells([cell], setting, place, budget=32.0)
    assert failed == []
    assert not place.file_of(cell, setting).exists()
    assert (place.run_of(cell, setting) / "config.yaml").exists()


@pytest.mark.slow
def test_the_last_line_of_a_failing_command_is_told(tmp_path, monkeypatch, capsys):
    only = ["--only", "mnist_ipc1_random_*", "--data-root", str(tmp_path / "absent")]
    assert run(monkeypatch, tmp_path / "out", *only) == 1
    out = capsys.readouterr().out
    assert "mnist_ipc1_random_convnet_paper-300: condense: error:" in out


def test_an_evaluation_that_would_not_end_is_left_for_later(
    results, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(queue, "evaluate_seconds", lambda *_: 1e6)
    monkeypatch.setattr(queue, "_run", lambda *_: pytest.fail("it would not end"))
    assert run(monkeypatch, tmp_path, "--only", "digits_ipc1_random*") == 0
    assert "not now" in capsys.readouterr().out


def test_an_evaluation_that_was_stopped_counts_all_its_seconds(tmp_path, monkeypatch):
    only = ["--only", "digits_ipc1_random_convnet_paper-300"]
    with monkeypatch.context() as context:
        context.setattr(queue, "_run", lambda *_: 3000.0)
        run(monkeypatch, tmp_path, *only)
    assert not list(tmp_path.rglob("*.json"))
    in_process(monkeypatch)
    run(monkeypatch, tmp_path, *only)
    (path,) = tmp_path.rglob("*.json")
    assert json.loads(path.read_text())["seconds_evaluating"] > 3000.0
    assert not list(tmp_path.rglob("*.part*"))


def test_a_failing_cell_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    only = ["--only", "*_ipc1_random_*", "--data-root", str(tmp_path)]
    in_process(monkeypatch)
    assert run(monkeypatch, tmp_path / "out", *only) == 1
    out = capsys.readouterr().out
    assert "cifar10_ipc1_random_convnet_paper-300: it failed" in out
    assert (tmp_path / "out/cpu/digits_ipc1_random_convnet_paper-300.json").exists()


def test_the_list_shows_cells_and_commands(results, monkeypatch, capsys):
    run(monkeypatch, results, "--list", "--only", "digits_ipc1_*")
    out = capsys.readouterr().out
    assert "digits_ipc1_random_convnet_paper-300 (done)" in out
    assert "digits_ipc1_itgan_convnet_paper-300 (missing)" in out
    assert "--set format.generator=fixed" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "cifer*"], "no cell is called"),
        (["--recipes", "paper-400"], "unknown recipe"),
        (["--npz", "cifar100"], "write NAME=FOLDER"),
        (["--device", "tpu"], "tpu"),
        (["--set", "time_budget=60"], "use --time-budget"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, monkeypatch, arguments, message):
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, tmp_path, *arguments)


def measured(folder, row, accuracy, *, scale="cpu", std=0.5, diversity=None, **column):
    """A file as if a cell had been run."""
    cell = Cell(Column("cifar10", **{"ipc": 10} | column), row, RECIPES[0])
    setting = Setting(scale=scale, repeats=5)
    path = Place(out=folder).file_of(cell, setting)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "accuracy_mean": accuracy,
        "accuracy_std": std,
        "repeats": 5,
        "width": 128,
        "device": "cpu",
        "dataset": "cifar10",
        "max_steps": None,
        "diversity": diversity,
    }
    save(path, cell, setting, commands=[f"condense x {row}"], report=found)


def lines_with(text, *words):
    lines = text.splitlines()
    return [line for line in lines if all(word in line for word in words)]


def test_the_report_has_ours_beside_the_papers(tmp_path):
    measured(tmp_path, "ours", 51.23)
    measured(tmp_path, "ours", 60.0, network="vgg11")
    text = report(Results.read(tmp_path))
    (line,) = lines_with(text, "CIFAR-10 | 10 | convnet | ours, best", "66.2 ± 0.5")
    assert "| 51.2 ± 0.5 | not run yet | 5 | cpu, width 128, cpu |" in line
    assert lines_with(text, "CIFAR-10 | 10 | vgg11 | ours", "| – | 60.0 ± 0.5 |")
    (missing,) = lines_with(text, "CIFAR-10 | 10 | convnet | herding", "31.6")
    assert missing.count("not run yet") == 2
    assert lines_with(text, "| CIFAR-10 | 10 | convnet | MTT | 65.3 ± 0.7 | – | – |")
    assert lines_with(text, "ImageNet-Sub", "learnable codebook", "| 26.6 | – | – |")
    assert "its own paper says 71.6" in text
    assert "condense x ours" in text


def test_the_report_shows_the_larger_scale_of_two(tmp_path):
    measured(tmp_path, "ours", 51.0)
    measured(tmp_path, "ours", 63.0, scale="full")
    assert "51.0" not in report(Results.read(tmp_path)).split("## Commands")[0]


@pytest.mark.parametrize(
    ("ours", "verdict"), [(60.0, "no worse"), (49.6, "no worse"), (49.4, "**worse**")]
)
def test_the_report_says_where_the_method_is_worse_than_its_parts(
    tmp_path, ours, verdict
):
    measured(tmp_path, "ours-paper", ours, std=0.1)
    measured(tmp_path, "loss-inter", 50.0, std=0.5)
    text = report(Results.read(tmp_path))
    (line,) = lines_with(text, "all losses − l_feature, l_inter")
    assert f"| {ours - 50:+.1f} | {verdict} |" in line
    assert not lines_with(text, "generator − pixels")


def test_the_report_of_real_files(results):
    text = report(Results.read(results))
    (found,) = lines_with(text, "digits", "| 1 | ours, best objective | – (")
    assert found.count("(") == 6  # five measures and the name
    assert "images/x.png" not in text
    assert lines_with(report(Results.read(results), "images/x.png"), "(images/x.png)")
    with pytest.raises(SystemExit, match="no results"):
        Results.read(results / "absent")


def test_figure_4_is_drawn_from_the_runs(tmp_path):
    features = {"real": [[0.0, 1.0, 0], [1.0, 0.0, 1]], "synthetic": [[0.5, 0.5, 1]]}
    for row in TABLES["figure4"].rows[1:]:
        run = tmp_path / "cpu" / "runs" / f"digits_ipc10_{row}"
        run.mkdir(parents=True)
        (run / "features.json").write_text(json.dumps(features))
    panels = read_panels(tmp_path)
    (found,) = panels.values()
    assert [label[:3] for label, _ in found] == ["(b)", "(c)", "(d)"]
    plot(panels, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert read_panels(tmp_path / "absent") == {}


def test_the_report_says_which_results_are_outdated(results, tmp_path):
    (path,) = (results / "cpu").glob("digits_ipc1_ours_*.json")
    result = json.loads(path.read_text())
    assert "before its preset changed" not in report(Results.read(results))
    result["configuration"]["loop"]["restarts"] += 1
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / path.name).write_text(json.dumps(result))
    (row,) = lines_with(report(Results.read(tmp_path)), "before its preset changed")
    assert "ours, best objective" in row
