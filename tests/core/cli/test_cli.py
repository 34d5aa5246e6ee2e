import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import condense_core
from condense_core import diversity, references
from condense_core.artefact import CondensedDataset
from condense_core.artefact.export import RULE
from condense_core.cli import main
from condense_core.cli.repeats import Repeats
from condense_core.config import CondenseConfig
from condense_core.data.options import CHANNELS, CLASSES, IMAGE_SIZE, SHAPE
from condense_core.runs import experiment

CONTRACT = {
    "accuracy_mean",
    "accuracy_std",
    "accuracies",
    "repeats",
    "recipe",
    "network",
    "dataset",
    "ipc",
    "images",
    "bytes",
    "bits_per_class",
    "seed",
    "seconds",
    "device",
    "versions",
}


@pytest.fixture(autouse=True)
def quick_and_away(monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "FEATURE_STEPS", 1)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def config_file(tiny_config, tmp_path):
    config = tiny_config.with_overrides(["loop.network_updates=1", "loss.unrolled=0"])
    path = tmp_path / "tiny.yaml"
    path.write_text(config.to_yaml())
    return path


@pytest.fixture
def run_line(config_file, npz_root):
    """The command line of a run that works."""
    return [
        *["run", str(config_file), "--data-root", str(npz_root)],
        *["--out", "out", "--device", "cpu"],
    ]


@pytest.fixture
def artefact(make_condensed, tmp_path):
    path = tmp_path / "a.safetensors"
    make_condensed().save(path)
    return str(path)


@pytest.fixture
def refused(capsys):
    """Run a command that must end with code 2 and one line; return the line."""

    def run(*argv, lines: int = 1) -> str:
        try:
            code = main([str(word) for word in argv])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert code == 2
        assert out == ""
        assert err.endswith("\n")
        assert err.count("\n") == lines, err
        last = err.splitlines()[-1]
        assert "error: " in last
        return last

    return run


@pytest.fixture
def done(capsys):
    """Run a command that must succeed; return what it printed."""

    def run(*argv) -> tuple[str, str]:
        assert main([str(word) for word in argv]) == 0
        return capsys.readouterr()

    return run


def make_folder(root, counts: dict[str, int], *, seed: int) -> None:
    """A tree CLASS/*.png of 40 x 56 grey images."""
    draw = np.random.default_rng(seed)
    for number, (name, count) in enumerate(counts.items()):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(count):
            pixels = draw.integers(0, 60, (40, 56)) + 60 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")


# Usage errors


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("", "COMMAND"),
        ("fly", "invalid choice: 'fly'"),
        ("run", "PRESET"),
        ("run digits --fast", "unrecognized arguments: --fast"),
        ("run digit", "unknown preset 'digit' (did you mean 'digits'?)"),
        ("run replay --set format.codes=truncated", "use format.codes=learned"),
        ("run replay --set format.kind=pixels", "use pretrain.method=reconstruction"),
        (
            "run digits --set format.embedding=online --set loop.classes_per_step=2",
            "loop.classes_per_step=2 sees some",
        ),
        ("run missing.yaml", "cannot read missing.yaml"),
        ("run ./digits", "cannot read ./digits (No such file or directory): name a"),
        ("run digits --set loss.tua=1", "'loss.tua' (did you mean 'tau'?)"),
        ("run digits --set lss.tau=1", "'lss' (did you mean 'loss'?)"),
        ("run digits --set loss.tau", "'loss.tau' has no '='"),
        ("run digits --set loss.tau=hot", "loss.tau is 'hot': expected a number"),
        ("run digits --set loss.tau=0", "loss.tau is 0.0: choose a value above 0"),
        ("run digits --set loss=3", "loss is 3"),
        ("run digits --set =3", "unknown config key"),
        ("run digits --set format.images_per_class=0", "images_per_class is 0"),
        ("run digits --set format.images_per_class=-1", "images_per_class is -1"),
        ("run digits --set format.images_per_class=2000", "fewer than the 2000"),
        ("run digits --set format.images_per_class=1.5", "expected a whole number"),
        ("run digits --set seed=-1", "seed is -1"),
        ("run digits --set evaluate.recipe=best", "unknown recipe 'best'"),
        ("run digits --set evaluate.network=net", "evaluate.network is 'net'"),
        ("run digits --set evaluate.baselines=[best]", "baselines is 'best'"),
        ("run digits --set data.name=digit", "unknown data set 'digit'"),
        ("run digits --set network.name=net", "network.name is 'net'"),
        ("run digits --set data.name=", "data.name is None: expected text"),
        ("run digits --set data.image_size=[0,8]", "image_size is [0, 8]: give"),
        ("run digits --device cuda:99", "device 'cuda:99' is not available"),
        ("run digits --device quantum", "unknown device 'quantum'"),
        ("run mnist-ipc1", "use --data-root DIR"),
        ("run mnist-ipc1 --data-root nowhere", "does not exist: check --data-root"),
        ("evaluate random", "--dataset"),
        ("evaluate best --dataset digits", "unknown WHAT 'best'"),
        ("evaluate a/b.safetensors --dataset digits", "does not exist"),
        ("evaluate random --dataset digit", "did you mean 'digits'"),
        ("evaluate random --dataset mnist", "use --data-root DIR"),
        ("evaluate random --dataset digits --ipc 0", "--ipc is 0"),
        ("evaluate random --dataset digits --ipc x", "invalid int value: 'x'"),
        ("evaluate random --dataset digits --ipc 999", "use at most"),
        ("evaluate random --dataset digits --recipe best", "unknown recipe 'best'"),
        ("evaluate random --dataset digits --repeats 0", "--repeats is 0"),
        ("evaluate random --dataset digits --network net", "unknown network 'net'"),
        ("evaluate random --dataset digits --width 0", "width is 0"),
        ("evaluate random --dataset digits --ensemble pool", "invalid choice: 'pool'"),
        ("evaluate full --dataset digits --max-steps 0", "--max-steps is 0"),
        ("evaluate herding --dataset digits --selection-steps -1", "steps is -1"),
        ("evaluate forgetting --dataset digits --selection-steps 9", "give 12 or more"),
        ("evaluate random --dataset digits --network convnet,net", "network 'net'"),
        ("evaluate random --dataset digits --json .", "--json . is a folder"),
        ("run digits --set format.latent_dim=70000", "latent_dim is 70000"),
        (
            "run digits --set evaluate.baselines=[forgetting] --set teacher.steps=9",
            "give 12 or more",
        ),
        ("evaluate random --dataset digits --device cuda:99", "not available"),
        ("evaluate random --dataset digits --image-size 4 4", "sides must be 8 to 128"),
        ("evaluate random --dataset digits --seed -1", "--seed is -1: choose at least"),
        ("audit a.safetensors --dataset digits --seed -1", "--seed is -1: choose"),
        ("audit a.safetensors", "--dataset"),
        ("audit missing.safetensors --dataset digits", "cannot read missing"),
        ("audit a.safetensors --dataset digits --limit x", "invalid int value: 'x'"),
        ("audit a.safetensors --dataset digits --device cuda:99", "not available"),
        ("inspect missing.safetensors", "cannot read missing.safetensors"),
        ("inspect a.safetensors --config --json -", "not allowed with"),
        ("inspect .", "cannot read ."),
        ("export missing.safetensors --format png --out x", "cannot read missing"),
        ("export a.safetensors --format gif --out x", "invalid choice: 'gif'"),
        ("export a.safetensors --format png", "--out"),
        ("report .", "has no report.json"),
        ("report missing", "has no report.json"),
    ],
)
def test_bad_usage_is_one_line_and_code_2(refused, tmp_path, line, match):
    assert match in refused(*line.split())
    assert list((tmp_path / "here").iterdir()) == []


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"condense {condense_core.__version__}\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("evaluate", "whose test images: digits, mnist,"),
        ("evaluate", "paper-300 or dsa-1000"),
        ("evaluate", "(default: paper-300)"),
        ("evaluate", "convnet, alexnet, vgg11, resnet18, mlp (default: convnet)"),
        ("evaluate", "of several, --json is a list"),
        ("evaluate", "of each kind (default: 20)"),
        ("evaluate", f"or {', '.join(references.REFERENCES)}"),
        ("audit", "what was condensed: digits, mnist,"),
        ("export", RULE),
    ],
)
def test_help_says_what_can_be_given(capsys, monkeypatch, command, said):
    monkeypatch.setenv("COLUMNS", "999")  # no line is broken at a hyphen
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("line", ["--help", "run --help", "evaluate --help"])
def test_help_is_no_error(capsys, line):
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 0
    assert "usage: condense" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("loop: [", "not valid YAML"),
        ("- 1", "no key: value pairs"),
        ("seed: 1\nseed: 2", "key 'seed' is there twice, in lines 1 and 2: keep one"),
        ("loss: {tau: 1, tau: 2}", "key 'tau' is there twice"),
        ("preset: digit", "unknown preset 'digit'"),
        ("preset: 10", "preset is 10: give the name of one"),
        ("preset: [digits]", "give the name of one"),
        ("loop: {restart: 1}", "'loop.restart' (did you mean 'restarts'?)"),
        ("!!python/object/apply:os.system ['touch owned']", "not valid YAML"),
    ],
)
def test_a_bad_config_file_is_one_line(refused, text, match, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    assert match in refused("run", tmp_path / "bad.yaml")
    assert not (tmp_path / "here" / "owned").exists()


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_a_truncated_artefact_is_one_line(refused, artefact, npz_root, kept):
    with open(artefact, "r+b") as file:
        data = file.read()
        file.truncate(len(data[:kept]))
    for line in (
        ["inspect", artefact],
        ["inspect", artefact, "--json", "-"],
        ["export", artefact, "--format", "png", "--out", "x"],
        ["evaluate", artefact, "--dataset", "npz", "--data-root", npz_root],
        ["audit", artefact, "--dataset", "npz", "--data-root", npz_root],
    ):
        assert artefact in refused(*line)


def test_a_damaged_export_is_one_line(refused, npz_root, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK garbage")
    line = ["evaluate", tmp_path / "a.npz", "--dataset", "npz"]
    assert "export it again" in refused(*line, "--data-root", npz_root)


def test_an_artefact_of_other_data_is_one_line(refused, make_condensed, npz_root):
    make_condensed(classes=("a", "b")).save("two.safetensors")
    make_condensed(image_shape=(1, 12, 8)).save("tall.safetensors")
    options = ["--dataset", "npz", "--data-root", npz_root]
    assert "2 classes, test data 3" in refused("evaluate", "two.safetensors", *options)
    assert "(1, 12, 8)" in refused("evaluate", "tall.safetensors", *options)


# Dry runs


def test_a_dry_run_shows_the_config_and_writes_nothing(done, run_line, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    out, err = done(*run_line, "--dry-run", "--set", "optimiser.generator_lr=1e-3")
    assert sorted(tmp_path.rglob("*")) == before
    shown = CondenseConfig.from_dict(yaml.safe_load(out))
    assert shown.optimiser.generator_lr == 0.001
    assert err == (
        "npz: 30 training and 30 test images of 8x8 px, 1 channel, 3 classes -> "
        "2 images a class (generator), 4 updates, in out\n"
    )


def test_a_dry_run_finds_another_run_in_its_folder(refused, done, run_line):
    done(*run_line)
    assert "holds another run" in refused(*run_line, "--dry-run", "--set", "seed=5")
    done(*run_line, "--dry-run")


def test_overrides_apply_in_order(done, run_line):
    out, _ = done(*run_line, "--dry-run", "--set", "seed=1", "--set", "seed=2")
    assert yaml.safe_load(out)["seed"] == 2


def test_the_run_directory_has_the_name_of_the_config(done, run_line):
    line = [word for word in run_line if word not in ("--out", "out")]
    assert done(*line, "--dry-run").err.endswith("in runs/tiny\n")
    _, err = done("run", "digits", "--dry-run")
    assert "1437 training and 360 test images" in err
    assert err.endswith("in runs/digits\n")


def test_a_dry_run_finds_a_class_that_is_too_small(refused, run_line):
    line = [*run_line, "--dry-run", "--set"]
    message = refused(*line, "format.images_per_class=11")
    assert "class 'left' has 10 images, fewer than the 11" in message
    assert f"read the other classes alone, as with {CLASSES}, or use" in message
    line += ["pretrain.method=none", "--set"]
    assert "'random'" in refused(*line, "format.images_per_class=11")


def test_a_class_of_one_image_can_be_left_out(refused, done, config_file, tmp_path):
    make_folder(tmp_path / "images" / "train", {"a b": 5, "c": 6, "one": 1}, seed=0)
    line = ["run", config_file, "--data-root", tmp_path / "images", "--dry-run"]
    line += ["--set", "data.name=imagefolder", "--set"]
    message = refused(*line, "data.flip=false")
    assert "class 'one' has 1 image, fewer than the 2 to condense" in message
    assert "9 training" in done(*line, "data.classes=[a b, c]").err


# Runs


def test_a_run_from_the_command_line(done, run_line, tmp_path):
    out, err = done(*run_line)
    run = tmp_path / "here" / "out"
    assert sorted(p.name for p in run.iterdir()) == [
        "condensed.safetensors",
        "config.yaml",
        "features.json",
        "metrics.jsonl",
        "report.html",
        "report.json",
        "samples.png",
    ]
    report = json.loads((run / "report.json").read_text())
    assert report.keys() >= CONTRACT | {"baselines"}
    assert report["baselines"].keys() == {"random", "full"}
    for row in report["baselines"].values():
        assert row.keys() >= CONTRACT
        assert row["recipe"] == report["recipe"]
        assert row["network"] == report["network"]
    assert report["dataset"] == "npz"
    assert 0 <= report["accuracy_mean"] <= 100
    assert report["accuracy_mean"] == np.mean(report["accuracies"])
    assert report["device"] == "cpu"
    assert "report: out/report.html" in out
    assert "condensed" in out
    assert "\x1b" not in err  # plain lines: this is no terminal
    again, _ = done(*run_line)
    assert again == out
    assert json.loads((run / "report.json").read_text()) == report


def test_another_run_is_not_overwritten(refused, done, run_line, tmp_path):
    done(*run_line)
    run = tmp_path / "here" / "out"
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    message = refused(*run_line, "--set", "loop.association=5")
    assert "loop.association was 4, now 5" in message
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_a_folder_in_use_is_not_touched(refused, run_line, tmp_path):
    run = tmp_path / "here" / "out"
    run.mkdir()
    (run / "thesis.tex").write_text("mine")
    assert "holds no run" in refused(*run_line)
    assert [p.name for p in run.iterdir()] == ["thesis.tex"]


def test_changed_data_are_refused(refused, done, run_line, npz_root):
    done(*run_line)
    with np.load(npz_root / "train.npz") as archive:
        content = dict(archive)
    content["images"][0, 0, 0] ^= 1
    np.savez(npz_root / "train.npz", **content)
    assert "other data" in refused(*run_line)


@pytest.mark.parametrize("name", ["config.yaml", "condensed.safetensors"])
def test_a_full_disk_is_one_line_and_the_run_goes_on(
    capsys, done, run_line, monkeypatch, tmp_path, name
):
    replace = os.replace

    def full(source, target):
        if os.path.basename(target) == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert main(run_line) == 2
    err = capsys.readouterr().err
    assert err.count("error: ") == 1
    assert err.splitlines()[-1].startswith("condense: error: no space left on device")
    if name == "config.yaml":  # before any work: nothing else is shown
        assert err.count("\n") == 1
    assert list((tmp_path / "here" / "out").rglob("*.tmp")) == []
    done(*run_line)
    assert (tmp_path / "here" / "out" / "report.html").exists()


def test_ctrl_c_is_code_1_and_the_run_goes_on(
    capsys, done, run_line, monkeypatch, tmp_path
):
    done(*run_line)
    original = experiment.write_features
    with monkeypatch.context() as patch:

        def interrupt(*_, **__):
            raise KeyboardInterrupt

        patch.setattr(experiment, "write_features", interrupt)
        stopped = ["other" if word == "out" else word for word in run_line]
        assert main(stopped) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "condense: interrupted; the same command goes on"
    )
    assert experiment.write_features is original
    assert (tmp_path / "here" / "other" / "checkpoint").is_dir()
    done(*stopped)
    for name in ("condensed.safetensors", "metrics.jsonl"):
        first, second = (
            (tmp_path / "here" / run / name).read_bytes() for run in ("out", "other")
        )
        assert first == second


@pytest.mark.parametrize("tested", [True, False])
def test_a_folder_of_images_runs_end_to_end(done, config_file, tmp_path, tested):
    root = tmp_path / "images"
    make_folder(root / "train", {"ant": 5, "bee": 9, "cat": 6}, seed=0)
    if tested:
        make_folder(root / "test", {"ant": 2, "bee": 3, "cat": 1}, seed=1)
    line = ["run", config_file, "--data-root", root, "--out", "out", "--device", "cpu"]
    line += ["--set", "data.name=imagefolder", "--set", "loop.restarts=1"]
    _, err = done(*line)
    assert ("no test images found" in err) is not tested
    train, test = (20, 6) if tested else (17, 3)
    assert f"{train} training and {test} test images of 40x56 px, 1 channel" in err
    report = json.loads((tmp_path / "here" / "out" / "report.json").read_text())
    assert report["dataset"] == "imagefolder"
    assert report["images"] == 6
    assert report["baselines"]["random"]["images"] == 6
    assert report["baselines"]["full"]["images"] == train
    condensed = CondensedDataset.load("out/condensed.safetensors")
    assert condensed.image_shape == (1, 40, 56)
    assert condensed.classes == ("ant", "bee", "cat")
    expected = [5, 9, 6] if tested else [4, 8, 5]
    assert condensed.metadata["data"]["images_per_class"] == expected

    # The same images as files, judged on the same held-out images.
    made = "out/condensed.safetensors"
    done("export", made, "--format", "imagefolder", "--out", "set")
    options = ["--dataset", "imagefolder", "--data-root", root, "--device", "cpu"]
    options += ["--recipe", "tiny", "--width", 4, "--repeats", 1, "--json", "-"]
    judged = json.loads(done("evaluate", made, *options).out)
    assert judged["accuracies"] == report["accuracies"]
    files = json.loads(done("evaluate", "set", *options).out)
    assert files["images"] == 6


def test_an_audit_holds_out_the_images_the_run_held_out(done, config_file, tmp_path):
    root = tmp_path / "images"
    make_folder(root / "train", {"ant": 9, "bee": 9, "cat": 9}, seed=0)
    data = ["--data-root", root, "--device", "cpu"]
    line = ["run", config_file, "--out", "out", *data, "--set", "data.name=imagefolder"]
    done(*line, "--set", "seed=3", "--set", "loop.restarts=0")
    line = ["audit", "out/condensed.safetensors", "--dataset", "imagefolder", *data]
    out, err = done(*line, "--json", "-")
    report = json.loads(out)
    assert report["members_match"] is True
    assert report["members"] == 3  # one image of each class was held out
    assert err.startswith("no test images found: 3 of train are held out\n")


# Evaluate, inspect, export, report


@pytest.fixture
def options(npz_root):
    return [
        *["--dataset", "npz", "--data-root", npz_root, "--recipe", "tiny"],
        *["--width", 4, "--repeats", 2, "--device", "cpu"],
    ]


@pytest.mark.parametrize("what", ["random", "full"])
def test_references_are_evaluated(done, options, what):
    out, err = done("evaluate", what, *options, "--ipc", 2, "--json", "-")
    report = json.loads(out)
    assert report.keys() >= CONTRACT
    assert report["images"] == (6 if what == "random" else 30)
    assert err.count("repeat ") == 2
    assert f"{what} on npz: {report['accuracy_mean']:.2f}" in err
    again = json.loads(done("evaluate", what, *options, "--ipc", 2, "--json", "-").out)
    assert again["accuracies"] == report["accuracies"]


@pytest.mark.parametrize("what", ["artefact", "random"])
def test_a_stopped_evaluation_goes_on(done, options, artefact, monkeypatch, what):
    line = ["evaluate", artefact if what == "artefact" else what, *options]
    line += ["--network", "convnet,mlp"]
    expected = json.loads(done(*line, "--json", "-").out)
    tested = []

    def accuracy(*arguments):
        if len(tested) == stop:
            raise KeyboardInterrupt
        tested.append(arguments)
        return real(*arguments)

    module = sys.modules["condense_core.evaluate"]
    real, stop = module.accuracy, 3  # in the midst of the second network
    monkeypatch.setattr(module, "accuracy", accuracy)
    line += ["--json", "report.json"]
    assert main([str(word) for word in line]) == 1
    assert [path.name for path in Path().glob("report.json*")] == [
        "report.json.partial"
    ]
    tested.clear()
    done(*line)
    assert len(tested) == 1
    found = json.loads(Path("report.json").read_text())
    assert [report["accuracies"] for report in found] == [
        report["accuracies"] for report in expected
    ]
    assert not Path("report.json.partial").exists()


@pytest.mark.parametrize("changed", [["--seed", 1], ["--width", 5], ["--no-flip"]])
def test_another_evaluation_begins_anew(done, options, artefact, monkeypatch, changed):
    line = ["evaluate", artefact, *options, "--json", "report.json"]
    with monkeypatch.context() as context:
        context.setattr(Repeats, "close", lambda self: None)
        done(*line)
    assert Path("report.json.partial").exists()
    assert done(*line, *changed).err.count("repeat ") == 2


def test_an_artefact_and_its_exports_are_equals(done, options, artefact):
    for kind in ("npz", "pt"):
        out, _ = done("export", artefact, "--format", kind, "--out", f"set.{kind}")
        assert out == f"set.{kind}\n"
    found = []
    for what in (artefact, "set.npz", "set.pt"):
        line = ["evaluate", what, *options, "--seed", 9, "--json", "report.json"]
        out, _ = done(*line)
        with open("report.json", encoding="utf-8") as file:
            report = json.load(file)
        assert f"{report['accuracy_mean']:.2f} ± " in out
        found.append(report)
    assert found[0]["accuracies"] == found[1]["accuracies"] == found[2]["accuracies"]
    assert found[0]["seed"] == 9
    assert found[0]["bytes"] == os.path.getsize(artefact)
    assert found[1]["bytes"] == 6 * 64


@pytest.mark.parametrize("extractor", [None, "random"])
def test_diversity_is_in_the_report(done, options, artefact, monkeypatch, extractor):
    monkeypatch.setattr(diversity, "EXTRACTOR_STEPS", 2)
    wanted = ["--diversity"] if extractor is None else ["--diversity", extractor]
    line = ["evaluate", artefact, *options, *wanted, "--json", "report.json"]
    out, _ = done(*line)
    with open("report.json", encoding="utf-8") as file:
        report = json.load(file)["diversity"]
    assert report["extractor"]["weights"] == (extractor or "trained")
    assert f"coverage {report['coverage']:.3g} (" in out
    done("export", artefact, "--format", "npz", "--out", "set.npz")
    line[1] = "set.npz"
    done(*line)
    with open("report.json", encoding="utf-8") as file:
        assert json.load(file)["diversity"] == report


@pytest.mark.parametrize("name", ["tiny.YAML", "folder/tiny"])
def test_a_config_is_a_file_by_its_suffix_or_its_folder(done, config_file, name):
    Path("folder").mkdir()
    Path(name).write_text(config_file.read_text())
    line = ["teacher", name, "--set", "data.name=digits", "--out", "t.safetensors"]
    assert "360 test images of digits" in done(*line).out


def test_inspect_is_short_and_shows_the_configuration_on_request(
    done, refused, make_condensed, tiny_config
):
    config = tiny_config.to_dict()
    data = {"name": "npz", "images_per_class": [30, 9, 12], "fingerprint": "0" * 64}
    metadata = {"config": config, "data": data, "versions": {"torch": "2.6"}}
    make_condensed(metadata=metadata).save("a.safetensors")
    out = done("inspect", "a.safetensors").out
    assert max(map(len, out.splitlines())) < 120
    assert "images_per_class 9 to 30, name npz\n" in out
    assert "torch 2.6\n" in out
    assert "print it with --config" in out
    shown = done("inspect", "a.safetensors", "--config").out
    assert CondenseConfig.from_dict(yaml.safe_load(shown)) == tiny_config
    everything = json.loads(done("inspect", "a.safetensors", "--json", "-").out)
    assert (everything["config"], everything["data"]) == (config, data)
    make_condensed(metadata={"config": None}).save("b.safetensors")
    assert "no configuration" in refused("inspect", "b.safetensors", "--config")


def test_a_file_in_the_suffix_of_a_png_is_refused(refused, artefact):
    line = ["export", artefact, "--format", "png", "--out", "a.png"]
    assert "leave its suffix out" in refused(*line)
    assert list(Path().iterdir()) == []


def test_diversity_of_a_reference_is_refused(refused, options):
    assert "not 'random'" in refused("evaluate", "random", *options, "--diversity")


def test_the_network_that_selects_can_be_cut_short(done, options, monkeypatch):
    seen = []
    found = references.select

    def select(*arguments, **settings):
        seen.append((settings["network_width"], settings["max_steps"]))
        return found(*arguments, **settings)

    monkeypatch.setattr(references, "select", select)
    line = ["--selection-width", 4, "--selection-steps", 2]
    done("evaluate", "herding", *options, *line)
    assert seen == [(4, 2)]


def test_several_networks_give_several_reports(done, options):
    line = ["evaluate", "random", *options, "--network", "convnet,mlp", "--json", "-"]
    reports = json.loads(done(*line).out)
    assert [report["network"] for report in reports] == ["convnet", "mlp"]


def test_a_cap_on_steps_is_reported(done, options):
    line = ["evaluate", "full", *options, "--max-steps", 1, "--json", "-"]
    report = json.loads(done(*line).out)
    assert report["max_steps"] == report["steps"] == 1


def test_an_artefact_tells_how_test_images_are_made_alike(
    done, options, make_condensed
):
    config = {"data": {"image_size": [12, 16], "channels": 3}}
    condensed = make_condensed(image_shape=(3, 12, 16), metadata={"config": config})
    condensed.save("wide.safetensors")
    report = json.loads(
        done("evaluate", "wide.safetensors", *options, "--json", "-").out
    )
    assert report["images"] == 6


def test_a_cap_on_steps_holds_for_every_reference(done, options):
    line = ["evaluate", "random", *options, "--max-steps", 1, "--json", "-"]
    report = json.loads(done(*line).out)
    assert report["max_steps"] == report["steps"] == 1


def test_a_wrong_network_is_refused_before_the_first_is_trained(
    refused, options, monkeypatch
):
    monkeypatch.setattr("condense_core.training.train_network", None)
    line = [*options, "--network", "convnet,convent"]
    assert "unknown network 'convent'" in refused("evaluate", "herding", *line)


@pytest.mark.parametrize("flip", [True, False])
def test_an_artefact_is_mirrored_as_its_run_had_it(done, options, make_condensed, flip):
    make_condensed(metadata={"config": {"data": {"flip": flip}}}).save("a.safetensors")
    line = ["evaluate", "a.safetensors", *options, "--json", "-"]
    assert json.loads(done(*line).out)["recipe_settings"]["flip"] is flip
    asked = json.loads(done(*line, "--no-flip").out)
    assert asked["recipe_settings"]["flip"] is False


def test_a_long_list_of_classes_is_no_file(refused, options):
    names = ",".join(f"n{number:08}" for number in range(40))
    message = refused("evaluate", "random", *options, "--classes", names)
    assert "n00000000" in message


def test_interrupting_what_keeps_nothing_does_not_say_it_goes_on(
    options, artefact, monkeypatch, capsys
):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["condense_core.evaluate"], "accuracy", interrupt)
    line = [str(word) for word in ["evaluate", artefact, *options]]
    assert main(line) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "condense: interrupted"
    assert main([*line, "--json", "report.json"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("goes on")


def test_a_report_that_cannot_be_written_is_refused_before_training(refused, tmp_path):
    target = tmp_path / "absent" / "report.json"
    line = ["evaluate", "random", "--dataset", "digits", "--json", str(target)]
    assert "folder does not exist" in refused(*line)


@pytest.fixture
def locked(monkeypatch, tmp_path):
    """A folder without permission to write, also where the tests may do anything."""
    folder = tmp_path / "locked"
    folder.mkdir()
    access = os.access

    def denied(path, mode):
        return Path(path) != folder and access(path, mode)

    monkeypatch.setattr(os, "access", denied)
    return folder


@pytest.mark.parametrize(
    "line",
    [
        "run digits --out LOCKED",
        "run digits --out LOCKED/new/run",
        "run digits --out LOCKED/run --dry-run",
        "teacher digits --out LOCKED/teacher.safetensors",
        "evaluate random --dataset digits --json LOCKED/report.json",
        "audit a.safetensors --dataset digits --json LOCKED/report.json",
    ],
)
def test_a_folder_without_permission_is_refused_before_work(
    refused, locked, monkeypatch, line
):
    monkeypatch.setattr("condense_core.data.sources.SOURCES", {})
    message = refused(*line.replace("LOCKED", str(locked)).split())
    assert f"no permission to write to {locked}; choose another" in message


def test_a_dry_run_finds_a_file_in_the_place_of_a_folder(refused):
    Path("file").touch()
    line = ["run", "digits", "--dry-run", "--out"]
    assert "file is no folder; choose another" in refused(*line, "file/run")


# Caches


@pytest.fixture
def image_root(tmp_path):
    """Twenty image files in two classes; one of them is damaged."""
    root = tmp_path / "images"
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(5):
                pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                path = root / split / name / f"{index}.png"
                Image.fromarray(pixels).save(path)
    (root / "train" / "dog" / "3.png").write_bytes(b"x")
    return root


def test_a_damaged_image_is_skipped_only_on_request(
    refused, done, config_file, image_root
):
    line = ["run", str(config_file), "--data-root", str(image_root), "--dry-run"]
    line += ["--set", "data.name=imagefolder"]
    assert "dog/3.png" in refused(*line)
    assert "9 training and 10 test images" in done(*line, "--skip-corrupt").err


def test_imagenet64_is_cached_in_its_root_or_where_told(done, image_root, tmp_path):
    line = ["evaluate", "random", "--dataset", "imagenet64", "--max-steps", "1"]
    line += ["--data-root", str(image_root), "--repeats", "1", "--recipe", "tiny"]
    line += ["--width", "4", "--device", "cpu", "--skip-corrupt"]
    first = done(*line).out
    kept = [
        path.name.split("-")[0] for path in (image_root / ".condense-cache").iterdir()
    ]
    assert sorted(kept) == ["test", "train"]
    assert done(*line, "--cache", str(tmp_path / "c"), "--classes", "dog,cat").out
    assert len(list((tmp_path / "c").iterdir())) == 2
    assert done(*line).out == first


@pytest.mark.parametrize("remedy", [CHANNELS, IMAGE_SIZE, SHAPE, CLASSES])
def test_the_remedies_of_readers_are_options_of_the_commands(refused, remedy):
    of_run, _, of_evaluate = remedy.rstrip(")").partition(" (with evaluate ")
    line = ["run", "digits", *of_run.split(), "--set", "data.name=digit"]
    assert "unknown data set 'digit'" in refused(*line)
    line = ["evaluate", "random", *of_evaluate.split(), "--dataset", "digit"]
    assert "unknown data set 'digit'" in refused(*line)


def test_a_class_that_does_not_exist_is_named(refused, config_file, image_root):
    line = ["run", str(config_file), "--data-root", str(image_root), "--set"]
    line += ["data.name=imagefolder", "--set", "data.classes=[cat,cow]"]
    assert "no class 'cow'" in refused(*line)


def test_a_teacher_from_the_command_line_serves_a_run(
    done, refused, config_file, npz_root
):
    line = [str(config_file), "--data-root", str(npz_root), "--device", "cpu"]
    out = done("teacher", *line, "--out", "t.safetensors").out
    assert "% of 30 test images" in out
    use = ["--set", "teacher.path=t.safetensors", "--set", "loss.soft_labels=true"]
    assert done("run", *line, *use, "--out", "out").out
    assert "does not exist" in refused("teacher", *line, "--out", "no/t.safetensors")
    line = [*line, "--set", "teacher.path=none.safetensors", "--out", "other"]
    assert "cannot read teacher" in refused("run", *line)


# Time


def test_a_run_says_what_to_expect_and_a_resumed_one_does_not(done, run_line):
    err = done(*run_line).err
    assert "expected: about" in err
    assert "condense (run: about" in err
    assert "expected" not in done(*run_line).err


def test_a_time_budget_sets_the_updates_and_the_same_command_resumes(done, run_line):
    line = [*run_line, "--time-budget", "20", "--set", "loop.network_updates=7"]
    line += ["--set", "evaluate.baselines=[]"]
    from condense_core.runs import pace

    with pytest.MonkeyPatch.context() as context:
        estimate = pace.Estimate({"evaluation": 8.0}, outer=1.0, outers=9)
        context.setattr(pace, "measure", lambda *_, **__: estimate)
        err = done(*line).err
    assert "expected: about 18 s (evaluation 8 s, condensing 10 s)" in err
    written = CondenseConfig.from_yaml("out/config.yaml")
    assert (written.loop.restarts, written.loop.network_updates) == (1, 10)
    assert "expected" not in done(*line).err


def test_a_time_budget_that_is_too_short_is_refused(refused, run_line):
    assert "give at least" in refused(*run_line, "--time-budget", "0.0001")


def test_networks_are_trained_side_by_side_on_request(done, artefact, npz_root):
    def accuracies(mode: str) -> list[float]:
        line = f"evaluate {artefact} --dataset npz --data-root {npz_root} --json -"
        options = f"--recipe tiny --width 4 --repeats 3 --device cpu --ensemble {mode}"
        output, _ = done(*line.split(), *options.split())
        return json.loads(output)["accuracies"]

    assert accuracies("vmap") == accuracies("loop")
