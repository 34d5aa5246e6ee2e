"""The benchmark of bytes: every row on digits, its files, its report."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import frontier
from frontier_lib.report import plot, read, table
from frontier_lib.rows import CURVES, ROWS, preset_of
from image_files import decode, encode

from condense_core.config.presets import PRESETS
from condense_core.seeding import make_generator

QUICK = [
    *("pretrain.steps=1", "teacher.steps=1", "loop.restarts=1", "loss.unrolled=0"),
    *("loop.network_updates=1", "loop.generator_updates=1"),
]


def run(monkeypatch, out, *more):
    arguments = [
        *("--dataset", "digits", "--recipe", "paper-300", "--max-steps", "2"),
        *("--repeats", "2", "--width", "4", "--ipc", "2", "--device", "cpu"),
        *(word for text in QUICK for word in ("--set", text)),
        *("--out", str(out), *more),
    ]
    monkeypatch.setattr(sys, "argv", ["frontier.py", *arguments])
    frontier.main()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, folder, "--rows", "random,herding,pixels", "--sizes", "1,2")
        run(patch, folder, "--rows", "generator", "--sizes", "4,8")
    return folder


def points(results, row, size):
    path = results / f"digits_{row}_{size}_seed0.json"
    return {p["curve"]: p for p in json.loads(path.read_text())["points"]}


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 20, 12)])
def test_png_gives_the_very_images_back_and_jpeg_nearly(shape):
    draw = make_generator(0, "files")
    coarse = torch.rand(5, shape[0], 2, 2, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear")
    images = (255 * smooth).to(torch.uint8)
    assert torch.equal(decode(encode(images, "png"), "png", shape), images)
    again = decode(encode(images, "jpeg"), "jpeg", shape)
    assert again.shape == images.shape
    assert (again.float() - images.float()).abs().mean() < 4


def test_tiles_of_a_jpeg_do_not_bleed_into_each_other():
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    images[1] = 255
    again = decode(encode(images, "jpeg"), "jpeg", (1, 28, 28))
    assert again[0].max() < 3
    assert again[1].min() > 252


def test_every_row_has_its_curves(results):
    found = set()
    for row, size in (("random", 1), ("herding", 2), ("pixels", 2), ("generator", 4)):
        found |= set(points(results, row, size))
    assert found == set(CURVES)


def test_bytes_are_those_of_the_files(results):
    one, two = (points(results, "random", n)["random-png"] for n in (1, 2))
    assert one["images"] == 10
    assert one["bytes"] < two["bytes"] < 10 * (64 + 100) * 2
    generator = points(results, "generator", 8)
    sizes = [generator[f"generator-{p}"]["bytes"] for p in ("fp32", "fp16", "int8")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.6 * sizes[0]
    assert generator["generator-fp16"]["file_bytes"] > sizes[1]
    assert sizes[0] > points(results, "generator", 4)["generator-fp32"]["bytes"]


def test_what_is_there_is_not_made_again(results, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in results.glob("*.json")}
    run(monkeypatch, results, "--rows", "random,herding,pixels", "--sizes", "1,2")
    assert {p: p.stat().st_mtime_ns for p in results.glob("*.json")} == before
    with pytest.raises(SystemExit, match="choose another --out"):
        run(monkeypatch, results, "--rows", "random", "--sizes", "1", "--ipc", "3")


def test_images_from_arrays_with_a_note(tmp_path, monkeypatch):
    labels = np.arange(20) % 10
    images = np.full((20, 8, 8, 1), 255 * (labels % 2)[:, None, None, None])
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for split in ("train", "test"):
        np.savez(data / f"{split}.npz", images=images.astype(np.uint8), labels=labels)
    words = ("--npz", "--data-root", str(data), "--note", "Black or white.")
    run(monkeypatch, out, *words, "--rows", "random", "--sizes", "2")
    (png,) = (p for p in read(out).marks if p.curve == "random-png")
    assert png.images == 20
    assert "Black or white." in table(read(out))


def test_report(results, tmp_path):
    found = read(results)
    text = table(found)
    for label in CURVES.values():
        assert text.count(f"| {label} |") == 2
    assert "at most 2 steps" in text
    plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match="no results"):
        read(tmp_path)


@pytest.mark.parametrize("scale", ["cpu", "full"])
@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10", "cifar100"])
def test_every_size_has_a_preset(dataset, scale):
    for size in ROWS["pixels"].sizes:
        assert preset_of(dataset, size, scale) in PRESETS


def test_unknown_names_are_refused(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="unknown row 'jpeg'"):
        run(monkeypatch, tmp_path, "--rows", "jpeg")
    with pytest.raises(SystemExit, match="data set"):
        run(monkeypatch, tmp_path, "--dataset", "digit")
