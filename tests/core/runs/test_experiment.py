import json
import pkgutil
import sys

import pytest
import torch

from condense_core.artefact import CondensedDataset
from condense_core.config import CondenseConfig
from condense_core.data import ImageData
from condense_core.errors import ConfigError, DataError, RunError
from condense_core.evaluate import evaluate
from condense_core.references import evaluate_reference
from condense_core.runs.experiment import (
    check_experiment,
    hold_out,
    load_splits,
    run_experiment,
)
from condense_core.runs.run import condense

# The module: as an attribute of the package, the name is the function.
ENSEMBLE = sys.modules["condense_core.ensemble"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package catches it."""


@pytest.fixture(autouse=True)
def few_feature_steps(monkeypatch):
    monkeypatch.setattr("condense_core.runs.experiment.FEATURE_STEPS", 1)


@pytest.fixture
def tiny_config(tiny_config) -> CondenseConfig:
    return tiny_config.with_overrides(
        [
            "loop.restarts=1",
            "loop.network_updates=1",
            "loss.unrolled=0",
            "evaluate.repeats=2",
        ]
    )


@pytest.fixture
def test_data(tiny_data) -> ImageData:
    return tiny_data.subset(torch.arange(0, 30, 2))


def lasting(report: dict) -> dict:
    """A report without what differs from one process to the next."""
    plain = {k: v for k, v in report.items() if k not in ("seconds", "baselines")}
    rows = {
        name: {k: v for k, v in row.items() if k != "seconds"}
        for name, row in report["baselines"].items()
    }
    return plain | {"baselines": rows}


def test_a_run_directory_is_complete(tiny_config, tiny_data, test_data, tmp_path):
    started = []
    report = run_experiment(
        tiny_data,
        test_data,
        tiny_config,
        out=tmp_path,
        device="cpu",
        on_start=lambda: started.append(sorted(p.name for p in tmp_path.iterdir())),
    )
    assert started == [["checkpoint", "config.yaml"]]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "condensed.safetensors",
        "config.yaml",
        "features.json",
        "metrics.jsonl",
        "report.html",
        "report.json",
        "samples.png",
    ]
    assert json.loads((tmp_path / "report.json").read_text()) == report
    condensed = CondensedDataset.load(tmp_path / "condensed.safetensors")
    assert report["bytes"] == (tmp_path / "condensed.safetensors").stat().st_size
    assert report["bytes_by_part"] == condensed.bytes_by_part()
    assert report["digest"] == condensed.digest
    assert report["pixel_bytes"] == 6 * 64
    assert report["ipc"] == 2
    assert report["images"] == 6
    assert report["seed"] == 0
    assert list(report["baselines"]) == ["random", "full"]


def test_the_numbers_are_those_of_evaluate(tiny_config, tiny_data, test_data, tmp_path):
    config = tiny_config.with_overrides(["seed=4", "evaluate.baselines=[herding,full]"])
    report = run_experiment(tiny_data, test_data, config, out=tmp_path, device="cpu")
    statistics = tiny_data.statistics()
    settings = {
        "recipe": "tiny",
        "width": 4,
        "repeats": 2,
        "seed": 4,
        "flip": False,
        "statistics": statistics,
        "device": torch.device("cpu"),
    }
    condensed = CondensedDataset.load(tmp_path / "condensed.safetensors")
    own = evaluate(condensed, test_data, **settings)
    assert report["accuracies"] == list(own.accuracies)
    for name, row in report["baselines"].items():
        reference = evaluate_reference(
            name,
            tiny_data,
            test_data,
            images_per_class=2,
            selection_width=4,
            selection_steps=2,
            full_max_steps=3,
            **settings,
        )
        assert row["accuracies"] == list(reference.accuracies)
        assert row["recipe"] == "tiny"
        assert row["bytes"] == (6 if name == "herding" else 30) * 64


MOMENTS = [
    ("condense_core.runs.experiment.write_samples_png", 1, False),
    ("condense_core.evaluate.accuracy", 1, False),
    ("condense_core.runs.directory.RunDirectory.write_json", 3, True),
    ("condense_core.evaluate.accuracy", 4, False),
    ("condense_core.evaluate.accuracy", 6, True),
    ("condense_core.runs.experiment.write_features", 1, True),
    ("condense_core.runs.experiment.write_report", 1, False),
    ("condense_core.runs.experiment.write_report", 1, True),
    ("condense_core.runs.directory.RunDirectory.finish", 1, False),
    ("condense_core.runs.directory.shutil.rmtree", 2, False),
]


@pytest.fixture(scope="module")
def whole_run() -> dict:
    return {}


@pytest.mark.parametrize(("target", "call", "after"), MOMENTS)
def test_a_killed_experiment_ends_as_the_whole_one(
    tiny_config, tiny_data, test_data, tmp_path, whole_run, target, call, after
):
    def run(out) -> dict:
        report = run_experiment(
            tiny_data, test_data, tiny_config, out=out, device="cpu"
        )
        return lasting(report)

    if not whole_run:
        whole_run |= run(tmp_path / "whole")
    holder, _, name = target.rpartition(".")
    owner = sys.modules.get(holder) or pkgutil.resolve_name(holder)
    original = getattr(owner, name)
    calls = []

    def killer(*args, **kwargs):
        calls.append(None)
        if len(calls) == call and not after:
            raise Killed
        result = original(*args, **kwargs)
        if len(calls) == call:
            raise Killed
        return result

    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, killer)
        with pytest.raises(Killed):
            run(out)
    assert run(out) == whole_run
    assert not (out / "checkpoint").exists()
    assert (out / "report.html").exists()
    assert lasting(json.loads((out / "report.json").read_text())) == whole_run


def test_networks_that_were_evaluated_are_not_trained_again(
    tiny_config, tiny_data, test_data, tmp_path, monkeypatch
):
    calls, original = [], ENSEMBLE.train_network

    def counting(*args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(ENSEMBLE, "train_network", counting)
    with pytest.raises(Killed):
        run_experiment(tiny_data, test_data, tiny_config, out=tmp_path, device="cpu")
    run_experiment(tiny_data, test_data, tiny_config, out=tmp_path, device="cpu")
    assert len(calls) == 1 + 6  # two of each of three rows; the fourth was begun twice


def test_a_finished_experiment_is_read_not_made_again(
    tiny_config, tiny_data, test_data, tmp_path, monkeypatch
):
    first = run_experiment(
        tiny_data, test_data, tiny_config, out=tmp_path, device="cpu"
    )
    page = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()

    def never(*_, **__):
        pytest.fail("this was done before")

    monkeypatch.setattr("condense_core.runs.run._condense", never)
    monkeypatch.setattr(ENSEMBLE, "train_network", never)
    again = run_experiment(
        tiny_data, test_data, tiny_config, out=tmp_path, device="cpu"
    )
    assert again == first
    assert (tmp_path / "report.html").read_bytes() == page
    assert not (tmp_path / "checkpoint").exists()


def test_a_finished_experiment_of_other_data_is_refused(
    tiny_config, tiny_data, test_data, tmp_path
):
    run_experiment(tiny_data, test_data, tiny_config, out=tmp_path, device="cpu")
    with pytest.raises(RunError, match="other data"):
        run_experiment(test_data, test_data, tiny_config, out=tmp_path, device="cpu")


def test_a_condensed_directory_can_be_evaluated_later(
    tiny_config, tiny_data, test_data, tmp_path
):
    made = condense(tiny_data, tiny_config, out=tmp_path, device="cpu")
    report = run_experiment(
        tiny_data, test_data, tiny_config, out=tmp_path, device="cpu"
    )
    assert report["digest"] == made.digest
    again = condense(tiny_data, tiny_config, out=tmp_path, device="cpu")
    assert again.digest == made.digest
    assert not (tmp_path / "checkpoint").exists()


def test_a_refused_run_does_not_start(tiny_config, tiny_data, test_data, tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(RunError, match="holds no run"):
        run_experiment(
            tiny_data,
            test_data,
            tiny_config,
            out=tmp_path,
            on_start=lambda: pytest.fail("it started"),
        )


# Checks


def test_a_reference_without_enough_images_is_found_first(tiny_config, tiny_data):
    config = tiny_config.with_overrides(
        ["pretrain.method=none", "format.images_per_class=11"]
    )
    with pytest.raises(DataError, match=r"10 images, fewer than the 11 .* 'random'"):
        check_experiment(tiny_data, config)
    check_experiment(tiny_data, config.with_overrides(["evaluate.baselines=[full]"]))
    check_experiment(tiny_data, config.with_overrides(["evaluate.baselines=[]"]))


def test_what_cannot_be_condensed_cannot_be_run(tiny_config, tiny_data):
    config = tiny_config.with_overrides(["network.depth=9"])
    with pytest.raises(ConfigError, match="depth 9"):
        check_experiment(tiny_data, config)


# Splits


def test_a_fifth_of_each_class_is_held_out(tiny_data):
    index = torch.cat([torch.arange(11), torch.arange(20, 27)])
    data = ImageData(
        images=tiny_data.images[index],
        labels=torch.tensor([0] * 10 + [1] + [2] * 7),
        classes=tiny_data.classes,
    )
    kept, held = hold_out(data, seed=3)
    assert held.counts.tolist() == [2, 0, 1]
    assert kept.counts.tolist() == [8, 1, 6]
    assert kept.classes == held.classes == data.classes

    def rows(data: ImageData) -> list:
        pairs = zip(data.images.flatten(1).tolist(), data.labels.tolist(), strict=True)
        return [(*pixels, label) for pixels, label in pairs]

    assert sorted(rows(kept) + rows(held)) == sorted(rows(data))
    again = hold_out(data, seed=3)
    assert torch.equal(again[1].images, held.images)
    others = [hold_out(data, seed=seed)[1].images for seed in range(4, 8)]
    assert any(not torch.equal(other, held.images) for other in others)


def test_splits_of_a_source_are_read(tiny_config, npz_root, tiny_data):
    train, test, note = load_splits(tiny_config, data_root=npz_root)
    assert torch.equal(train.images, tiny_data.images)
    assert torch.equal(test.labels, tiny_data.labels)
    assert note is None


def test_a_source_without_a_root_is_refused(tiny_config):
    with pytest.raises(DataError, match="--data-root"):
        load_splits(tiny_config, data_root=None)


def test_a_big_set_without_test_images_is_not_copied(
    tiny_config, npz_root, monkeypatch
):
    (npz_root / "test.npz").unlink()
    assert load_splits(tiny_config, data_root=npz_root)[2] is not None
    monkeypatch.setattr("condense_core.runs.experiment.HOLD_OUT_BYTES", 1000)
    with pytest.raises(DataError, match="too much to hold some out"):
        load_splits(tiny_config, data_root=npz_root)
