"""The benchmark of continual learning: its controls, its resuming, its report."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

# The benchmarks are scripts, not a package: they import each other from their folder.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import continual
from continual_lib.controls.base import ExperienceMemory
from continual_lib.controls.jpeg import JpegExemplarMemory
from continual_lib.controls.packing import pack_rows, unpack_rows
from continual_lib.controls.pca_gaussian import PcaGaussianMemory, gaussian_rows
from continual_lib.controls.pixels import PixelExemplarMemory, herd
from continual_lib.controls.vae_decoder import VaeDecoderMemory
from continual_lib.measure import summarise
from continual_lib.report.groups import read_groups
from continual_lib.report.plot import plot
from continual_lib.report.table import table
from continual_lib.results import Cell, Config, cells_of
from continual_lib.rows import ROWS, bare, label_of, parse_rows
from continual_lib.run import run_cell
from continual_lib.strategies import BUILDERS
from continual_lib.streams import load_data

SIDE = 16
CONTROLS = {
    "pca": (PcaGaussianMemory, {}),
    "mixture": (PcaGaussianMemory, {"components": 2}),
    "vae": (VaeDecoderMemory, {"steps": 3, "batch_size": 8}),
    "pixels": (PixelExemplarMemory, {}),
    "random pixels": (PixelExemplarMemory, {"herded": False}),
    "jpeg": (JpegExemplarMemory, {}),
}


def experience(*labels: int, channels: int = 1, count: int = 30) -> tuple[Tensor, ...]:
    """Smooth images in [-1, 2], bright in a place that tells the class."""
    noise = torch.Generator().manual_seed(labels[0])
    targets = torch.tensor(labels).repeat_interleave(count)
    images = torch.rand(len(targets), channels, SIDE, SIDE, generator=noise) - 1
    for label in labels:
        images[targets == label, :, :, label : label + 4] += 2
    return images, targets, torch.zeros_like(targets)


def build(name: str, mem_bytes: int = 24_000) -> ExperienceMemory:
    kind, options = CONTROLS[name]
    return kind(mem_bytes=mem_bytes, **options)


@pytest.mark.parametrize("expected", [3, None, 1])
@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_keeps_its_bytes_after_every_experience(
    name: str, expected: int | None
) -> None:
    memory = build(name)
    for first in (0, 2, 4):
        memory.observe(*experience(first, first + 1), expected=expected)
        assert 0 < memory.nbytes <= memory.mem_bytes
    assert memory.classes == tuple((label, 0) for label in range(6))


@pytest.mark.parametrize("name", ["vae", "pca"])
def test_a_control_can_say_how_much_its_draws_lack(
    name: str, generator: torch.Generator
) -> None:
    images, labels, tasks = experience(0, 1)
    rough = images + torch.randn(images.shape, generator=generator)
    lacking = []
    for seen in (images, rough):
        memory = build(name)
        memory.measures_missed = True
        memory.observe(seen, labels, tasks, expected=3)
        assert memory.nbytes <= memory.mem_bytes // 3
        lacking.append(memory.missed_energy)
        state = memory.state_dict()
        restored = build(name)
        restored.load_state_dict(state)
        assert restored.missed_energy == memory.missed_energy
    assert 0.0 <= lacking[0] < lacking[1]


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_emits_seen_classes_in_balance_and_within_the_range(
    name: str, generator: torch.Generator
) -> None:
    memory = build(name)
    data = [experience(3, 7), experience(5, 8)]
    for images, labels, tasks in data:
        memory.observe(images, labels, tasks, expected=2)
    images, labels, tasks = memory.sample(42, generator)
    assert images.shape == (42, 1, SIDE, SIDE)
    assert images.dtype == torch.float32
    assert not images.requires_grad
    assert labels.dtype == tasks.dtype == torch.int64
    counts = labels.bincount(minlength=10)
    assert counts.nonzero().flatten().tolist() == [3, 5, 7, 8]
    assert set(counts[counts > 0].tolist()) <= {10, 11}
    seen = torch.cat([images for images, _, _ in data])
    assert images.min() >= seen.min() - 1e-5
    assert images.max() <= seen.max() + 1e-5


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_is_restored_and_draws_from_the_given_generator_alone(
    name: str,
) -> None:
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    memory, restored = build(name), build(name)
    memory.observe(*experience(0, 1), expected=2)
    restored.load_state_dict(memory.state_dict())
    first, second = (
        m.sample(8, torch.Generator().manual_seed(5))[0] for m in (memory, restored)
    )
    assert torch.equal(first, second)
    assert restored.nbytes == memory.nbytes
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("name", CONTROLS)
def test_a_budget_too_small_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="too few"):
        build(name, mem_bytes=100).observe(*experience(0, 1), expected=1)


def test_a_class_seen_under_two_tasks_stays_two_classes(
    generator: torch.Generator,
) -> None:
    memory = build("pixels")
    images, labels, tasks = experience(0, 1)
    memory.observe(images, labels, tasks)
    memory.observe(images, labels, tasks + 1)
    assert memory.classes == ((0, 0), (1, 0), (0, 1), (1, 1))
    _, _, drawn = memory.sample(8, generator)
    assert drawn.bincount().tolist() == [4, 4]


def test_samples_of_a_gaussian_have_its_mean_and_variance(
    generator: torch.Generator,
) -> None:
    images, labels, tasks = experience(0, 1, count=40)
    memory = build("pca", mem_bytes=60_000)
    memory.observe(images, labels, tasks, expected=1)
    rows = gaussian_rows(images[labels == 0].flatten(1), 39, generator)
    total = images[labels == 0].flatten(1).var(dim=0).sum()
    assert torch.isclose(rows[1:].square().sum(), total, rtol=1e-3)
    drawn, drawn_labels, _ = memory.sample(4000, generator)
    for label in (0, 1):
        error = drawn[drawn_labels == label].mean(0) - images[labels == label].mean(0)
        assert error.abs().max() < 0.1


def test_colour_jpeg_tiles_do_not_bleed(generator: torch.Generator) -> None:
    memory = build("jpeg")
    flat = torch.rand(20, 3, 1, 1, generator=generator).expand(-1, -1, SIDE, SIDE)
    labels = torch.zeros(20, dtype=torch.int64)
    memory.observe(flat, labels, labels, expected=1)
    drawn, _, _ = memory.sample(10, generator)
    inner = drawn[:, :, 1:-1, 1:-1]  # the decoder interpolates colour at the edges
    assert inner.flatten(2).std(dim=2).max() < 0.02


def test_herding_follows_the_greedy_definition(generator: torch.Generator) -> None:
    points = torch.rand(30, 5, generator=generator)
    chosen: list[int] = []
    for _ in range(6):
        errors = [
            float("inf")
            if i in chosen
            else float((points[[*chosen, i]].mean(0) - points.mean(0)).norm())
            for i in range(30)
        ]
        chosen.append(errors.index(min(errors)))
    assert herd(points, 6).tolist() == chosen


def test_int8_rows_are_within_half_a_step(generator: torch.Generator) -> None:
    rows = torch.randn(7, 20, generator=generator)
    steps, scale = pack_rows(rows)
    error = (unpack_rows(steps, scale) - rows).abs()
    assert (error <= 0.51 * scale.float()[:, None] + 1e-3).all()


def test_forgetting_is_what_was_lost_since_it_was_learnt() -> None:
    correct = torch.tensor([[8, 9, 0, 0], [4, 5, 10, 6]])
    summary = summarise(correct, torch.full((4,), 10), [[0, 1], [2, 3]])
    assert summary["accuracy"] == pytest.approx(0.625)
    assert summary["accuracy_seen"] == pytest.approx([0.85, 0.625])
    assert summary["forgetting"] == pytest.approx(0.85 - 0.45)


def test_rows_without_a_budget_run_once_a_seed() -> None:
    cells = cells_of("mnist", ["naive", "jpeg", "replay-50"], [1, 2], [0, 1])
    assert len(cells) == 2 * (1 + 2 + 1)
    assert len({cell.file_name for cell in cells}) == len(cells)
    with pytest.raises(SystemExit, match="unknown row"):
        parse_rows("naive,gdumb-balanced", "mnist")
    assert bare("class-balanced") == "class-balanced"


def test_every_row_has_a_strategy_and_a_label() -> None:
    assert list(BUILDERS) == list(ROWS)
    assert label_of("replay-50") == "`ReplayPlugin(50)`"
    assert label_of("der++-balanced") == "DER++, balanced batches"


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["continual.py", *arguments])
    continual.main()


def test_a_finished_cell_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    calls: list[str] = []

    def fake(cell: Cell, config: Config, *_: Any) -> dict:
        calls.append(cell.file_name)
        return result(cell.row, cell.seed, config=vars(config))

    monkeypatch.setattr(continual, "run_cell", fake)
    arguments = ("--dataset", "digits", "--rows", "naive,jpeg", "--out", str(tmp_path))
    run_main(monkeypatch, *arguments, "--seeds", "2")
    assert len(calls) == 4
    (tmp_path / calls[1]).unlink()
    run_main(monkeypatch, *arguments, "--seeds", "2")
    assert calls[4:] == calls[1:2]
    with pytest.raises(SystemExit, match="choose another --out"):
        run_main(monkeypatch, *arguments, "--epochs", "9")


def test_rows_of_avalanche_run_on_digits(tmp_path: Path) -> None:
    pytest.importorskip("avalanche")
    pytest.importorskip("sklearn")
    data = load_data("digits", None, 20)
    config = Config(network="mlp", epochs=1, limit=20)
    for row, bound in {"naive": 0, "joint": 0, "er-ace": 1280, "gdumb": 1280}.items():
        cell = Cell("digits", row, 1280, seed=0)
        content = run_cell(cell, config, data)
        json.dumps(content)
        assert content["stored_bytes"] == bound
        assert 0 <= content["accuracy"] <= 1
        assert (content["forgetting"] is None) == (row == "joint")


def result(row: str, seed: int, accuracy: float = 0.9, **changes: Any) -> dict:
    return {
        "dataset": "mnist",
        "row": row,
        "mem_bytes": None if row == "naive" else 1000,
        "seed": seed,
        "config": vars(Config(network="mlp", epochs=2)),
        "accuracy": accuracy,
        "forgetting": None if row == "joint" else 0.25,
        "stored_bytes": 0 if row == "naive" else 990,
        "seconds": 12.0,
        "seconds_condensing": 0.0,
        "threads": 1,
        "device": "cpu",
        **changes,
    }


def test_the_report_is_made_from_the_files_alone(tmp_path: Path) -> None:
    for seed, accuracy in ((0, 0.90), (1, 0.92)):
        content = json.dumps(result("jpeg", seed, accuracy))
        (tmp_path / f"{seed}.json").write_text(content)
    text = table(read_groups(tmp_path))
    assert "### Split-MNIST" in text
    assert "2 epochs" in text
    line = "| herded exemplars as JPEG | 1,000 | 990 | 91.0 ± 1.4 | 25.0 ± 0.0 | 12 |"
    assert line in text


def test_the_report_refuses_runs_with_different_settings(tmp_path: Path) -> None:
    other = vars(Config(network="mlp", epochs=3))
    (tmp_path / "a.json").write_text(json.dumps(result("naive", 0)))
    (tmp_path / "b.json").write_text(json.dumps(result("jpeg", 0, config=other)))
    with pytest.raises(SystemExit, match="but others have"):
        read_groups(tmp_path)


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for row in ("naive", "jpeg", "ours-shared"):
        (tmp_path / f"{row}.json").write_text(json.dumps(result(row, 0)))
    plot(read_groups(tmp_path), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
