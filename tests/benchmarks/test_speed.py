"""The speed benchmarks run, and what they compare computes the same thing."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from condense_core.augment import SiameseAugment
from condense_core.config import ComputeConfig

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

QUICK = (
    "--set teacher.steps=1 --set loop.generator_updates=2 --set loop.association=4 "
    "--set optimiser.name=sgd"
)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    def call(name, line):
        out = tmp_path / f"{name}.json"
        threads = torch.get_num_threads()
        words = f"{line} --rounds 1 --device cpu --threads {threads} --json {out}"
        monkeypatch.setattr(sys, "argv", [name, *words.split()])
        importlib.import_module(name).main()
        result = json.loads(out.read_text())
        assert json.loads(capsys.readouterr().out) == result
        assert result["reference"]
        return result

    return call


@pytest.mark.parametrize("preset", ["digits", "digits-ipc1"])
def test_the_plain_step_ends_with_the_same_images(run, preset):
    result = run("engine", f"{preset} {QUICK}")
    assert result["ratio_plain_over_ours"] > 0
    assert result["ratio_plain_alone_over_ours"] > 0
    assert result["flops_per_step"] > 0
    assert result["share_of_floor"] > 0
    changed = result["mean_image_change"]
    assert changed > 0
    assert result["mean_image_difference_to_plain"] < 1e-3 * changed


def test_the_plain_step_draws_for_images_anywhere():
    module, draws = importlib.import_module("plain"), torch.Generator().manual_seed(0)
    augment = SiameseAugment.from_text("color_crop_cutout_flip_scale_rotate")
    drawn = [augment.draw(2, draws) for _ in range(20)]
    assert len({one.operations for one in drawn}) == 6
    images = torch.empty(2, 1, 8, 8, device="meta")
    for augmented in module.PerSampleAugment(augment).apply_each(images, drawn):
        assert augmented.device == images.device


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_floor_is_measured_in_the_precision_of_a_step(monkeypatch, precision):
    module, seen = importlib.import_module("engine"), []

    def instead(ways, **_):
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return dict.fromkeys(ways, 1.0)

    monkeypatch.setattr(module, "interleaved", instead)
    monkeypatch.setattr(module.torch, "rand", lambda *_, **__: torch.ones(1))
    module.matrix_rate(torch.device("cuda"), ComputeConfig(precision=precision))
    assert seen == [precision != "fp32"]


def test_a_window_of_students(run):
    result = run("students", "--shape 1 8 8 --images 4 --width 4 --window 2")
    assert result["ratio_plain_over_ours"] > 0
    assert result["relative_difference_of_gradients"] < 1e-3


def test_networks_side_by_side(run):
    result = run(
        "ensemble", "--shape 1 8 8 --ipc 1 --width 4 --networks 2 --recipe paper-300"
    )
    assert result["ratio_loop_over_vmap"] > 0
    assert result["largest_weight_difference"] < 1e-5


def test_augmentation(run):
    result = run("augment", "--images 5 --shape 1 8 8")
    differences = [row["largest_difference"] for row in result["operations"].values()]
    assert len(differences) == 6
    assert max(differences) < 1e-5
    assert result["ratio_list_over_batched"] > 0


def test_pooling(run):
    result = run("pool", "--widths 4 8 --batch 2")
    assert set(result["ratio_avg_pool_over_ours"]) == {"width 4", "width 8"}
    assert min(result["ratio_avg_pool_over_ours"].values()) > 0


def test_loading(run):
    result = run("loader", "--images 50 --shape 1 8 8 --batch 20")
    assert result["ratio_loader_over_batch"] > 0
    assert result["ratio_loader_over_sample"] > 0


def test_the_report_has_a_row_for_every_file(run, tmp_path, monkeypatch):
    run("augment", "--images 4")
    run("engine", f"digits {QUICK}")
    page = tmp_path / "performance.md"
    line = ["performance_report", str(tmp_path), "--out", str(page)]
    monkeypatch.setattr(sys, "argv", line)
    importlib.import_module("performance_report").main()
    text = page.read_text()
    assert "## Augmentation" in text
    assert "| `digits` teacher.steps=1" in text
    assert "## Real images" not in text


def test_a_million_images_in_small(tmp_path, monkeypatch):
    out = tmp_path / "million.json"
    line = f"million --scratch {tmp_path}/scratch --classes 12 --each 4 --size 16"
    line += f" --updates 5 --teacher-steps 1 --evaluation-steps 1 --out {out}"
    monkeypatch.setattr(sys, "argv", line.split())
    importlib.import_module("million").main()
    result = json.loads(out.read_text())
    assert result["images"] == 48
    phases = [row["phase"] for row in result["phases"]]
    assert phases == ["cache", "open again", "teacher", "condense", "evaluate"]
    assert result["peak_gb"] == max(row["peak_gb"] for row in result["phases"]) > 0
    assert not (tmp_path / "scratch").exists()


def test_what_grows(tmp_path, monkeypatch):
    module, out = importlib.import_module("growth"), tmp_path / "growth.json"
    monkeypatch.setattr(module, "SWEEPS", {"ipc": [{"ipc": 1}, {"ipc": 3}]})
    monkeypatch.setattr(module, "memory_of", lambda *_: 1)  # forks: not among threads
    line = f"growth --rounds 1 --width 4 --association 1 --out {out}"
    monkeypatch.setattr(sys, "argv", line.split())
    module.main()
    generator, pixels = json.loads(out.read_text())["growth"]
    assert pixels["learnable"] == pixels["stored"] == 3
    assert 1 < generator["learnable"] < 1.5
    text = importlib.import_module("performance_report").report(
        [json.loads(out.read_text())]
    )
    assert "| pixels | ipc 1 to 3 | 3.00 | 3.00 |" in text
