import json
import math
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from condense_core.data.png import to_png
from condense_core.errors import RunError
from condense_core.report.charts import Scale, line_chart, number, scatter, thin
from condense_core.report.page import (
    results_table,
    write_features,
    write_report,
    write_samples_png,
)

REPORT = {
    "accuracy_mean": 91.37,
    "accuracy_std": 0.62,
    "accuracies": [90.8, 91.4, 91.9],
    "repeats": 3,
    "recipe": "paper-300",
    "network": "convnet",
    "dataset": "digits",
    "ipc": 10,
    "images": 40,
    "bytes": 61432,
    "bits_per_class": 122864.0,
    "seed": 0,
    "seconds": 192.4,
    "device": "cpu",
    "versions": {"python": "3.11.7", "torch": "2.14.1"},
    "command": "condense run digits --out runs/demo",
    "baselines": {
        "random": {
            "accuracy_mean": 84.02,
            "accuracy_std": 1.31,
            "repeats": 3,
            "images": 40,
            "bytes": 2560,
        },
        "full": {
            "accuracy_mean": 98.21,
            "accuracy_std": 0.22,
            "repeats": 3,
            "images": 1437,
            "bytes": 91968,
        },
    },
}


@dataclass
class FakeCondensed:
    """Blurred strokes, one per class, in place of a trained artefact."""

    classes: tuple[str, ...] = ("zero", "one", "<b>&\"two'", "drei")
    images_per_class: int = 10
    image_shape: tuple[int, int, int] = (1, 8, 8)
    metadata: dict[str, Any] = field(
        default_factory=lambda: {"format_version": 1, "config": {"seed": 0}}
    )
    parts: dict[str, int] = field(
        default_factory=lambda: {
            "codebook": 2560,
            "class_embedding": 1024,
            "generator": 56320,
            "metadata": 1528,
        }
    )

    def images(self) -> tuple[Tensor, Tensor]:
        channels, height, width = self.image_shape
        count = len(self.classes)
        labels = torch.arange(count).repeat_interleave(self.images_per_class)
        noise = torch.Generator().manual_seed(0)
        images = torch.rand(len(labels), channels, height, width, generator=noise) / 3
        for place, label in enumerate(labels.tolist()):
            images[place, :, :, label % width] += 0.6
        return (images * 255).round() / 255, labels

    def bytes_by_part(self) -> dict[str, int]:
        return self.parts


def write_metrics(path: Path, steps: int = 2000) -> None:
    noise = torch.Generator().manual_seed(0)
    lines = []
    for step in range(0, steps, 10):
        wobble = 1 + 0.2 * torch.randn((), generator=noise).item()
        decay = math.exp(-step / 400)
        line: dict[str, float | None] = {
            "step": step,
            "loss/matching": (3 * decay + 0.02) * wobble,
            "loss/adversarial": 0.69 + 0.1 * wobble - 0.1,
            "loss/classification": 2.3 * decay * abs(wobble) + 0.001,
            "loss/intra": 1.1 + 0.3 * decay * wobble,
            "loss/inter": max(0.0, decay - 0.3),
            "grad_norm/matching": 0.4 * decay * abs(wobble) + 0.01,
            "grad_norm/intra": 0.003 * abs(wobble) + 1e-5,
            "grad_norm/classification": 2.0 * abs(wobble),
        }
        if step % 200 == 0:
            line["probe_accuracy"] = 92 - 60 * decay
        lines.append(json.dumps(line))
    lines[3] = '{"step": 30, "loss/matching": null}'
    path.write_text("\n".join(lines) + '\n{"step": 2000, "lo')


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return fill(tmp_path)


def fill(folder: Path) -> Path:
    (folder / "config.yaml").write_text("data:\n  name: digits # <tag>\nseed: 0\n")
    (folder / "report.json").write_text(json.dumps(REPORT))
    (folder / "condensed.safetensors").write_bytes(b"read by the fake loader")
    write_metrics(folder / "metrics.jsonl")
    points = torch.Generator().manual_seed(0)
    centres = 9 * torch.randn(4, 16, generator=points)
    labels = torch.arange(4).repeat_interleave(60)
    few = torch.arange(4).repeat_interleave(10)
    write_features(
        folder,
        real_ND=centres[labels] + 2 * torch.randn(240, 16, generator=points),
        real_labels_N=labels,
        synthetic_MD=centres[few] + torch.randn(40, 16, generator=points),
        synthetic_labels_M=few,
    )
    return folder


def page_of(run_dir: Path, condensed: FakeCondensed | None = None) -> str:
    path = write_report(run_dir, load=lambda _: condensed or FakeCondensed())
    return path.read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Fails on tags that do not nest, which browsers would repair silently."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing_from_outside(run_dir):
    parser = Balance()
    page = page_of(run_dir)
    parser.feed(page)
    assert parser.open == []
    assert len(parser.sources) == 40
    assert all(s.startswith("data:image/png;base64,") for s in parser.sources)
    assert "<script" not in page
    assert "url(" not in page
    assert "http" not in page


def test_the_summary_says_what_was_condensed_and_how_good_it_is(run_dir):
    page = page_of(run_dir).replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "1,437 real images in 4 classes were condensed to 10 synthetic images" in page
    )
    assert "91.4 ± 0.6 % of the test images correctly" in page
    assert "trained on as many random real images, 84.0 ± 1.3 %;" in page
    assert "trained on all real images, 98.2 ± 0.2 %." in page


def test_the_summary_admits_a_result_below_random(run_dir):
    worse = REPORT | {"accuracy_mean": 80.0}
    (run_dir / "report.json").write_text(json.dumps(worse))
    assert "do not beat random real ones" in page_of(run_dir)


def test_text_from_files_is_escaped(run_dir):
    page = page_of(run_dir)
    assert "&lt;b&gt;&amp;&quot;two&#x27;" in page
    assert "# &lt;tag&gt;" in page
    assert "<b>" not in page
    assert "<tag>" not in page


def test_an_artefact_larger_than_its_pixels_says_so(run_dir):
    assert "24.0 times as large as the uint8 pixels" in page_of(run_dir)
    small = FakeCondensed(parts={"codebook": 640, "metadata": 640})
    assert "would take 2.0 times the room of the artefact" in page_of(run_dir, small)


def test_every_metric_gets_a_chart_and_a_lost_value_is_counted(run_dir):
    page = page_of(run_dir)
    assert page.count("<polyline") == 9
    assert "probe accuracy, %" in page
    assert ", 1 not finite" in page


def test_many_classes_are_cut_with_a_note(run_dir):
    many = FakeCondensed(classes=tuple(f"class {i}" for i in range(30)))
    page = page_of(run_dir, many)
    assert page.count("<img") == 200
    assert "The first 20 of 30 classes." in page


def test_a_run_without_curves_features_or_baselines_has_a_page(run_dir):
    (run_dir / "metrics.jsonl").unlink()
    (run_dir / "features.json").unlink()
    bare = {key: value for key, value in REPORT.items() if key != "baselines"}
    (run_dir / "report.json").write_text(json.dumps(bare))
    page = page_of(run_dir)
    assert "Training" not in page
    assert "<polyline" not in page
    assert "two dimensions" not in page


@pytest.mark.parametrize(
    "name", ["config.yaml", "report.json", "condensed.safetensors"]
)
def test_an_unfinished_run_is_named(run_dir, name):
    (run_dir / name).unlink()
    (run_dir / "checkpoint").mkdir()
    with pytest.raises(RunError, match=f"has no {name}: give the folder"):
        page_of(run_dir)


def test_a_run_of_the_python_function_is_told_to_have_no_report(run_dir):
    (run_dir / "report.json").unlink()
    with pytest.raises(RunError, match=r"has no report\.json: condense\(\) in Python"):
        page_of(run_dir)


def test_a_file_in_the_place_of_a_run_is_named(run_dir):
    with pytest.raises(RunError, match=r"report\.json is a file: give the folder"):
        page_of(run_dir / "report.json")


def test_a_broken_report_is_named(run_dir):
    (run_dir / "report.json").write_text("{")
    with pytest.raises(RunError, match=r"report\.json is not valid JSON"):
        page_of(run_dir)


def test_the_table_is_aligned_with_baselines_below():
    assert results_table(REPORT).splitlines() == [
        "set        accuracy %    repeats  images   bytes",
        "condensed  91.37 ± 0.62        3      40  61,432",
        "random     84.02 ± 1.31        3      40   2,560",
        "full       98.21 ± 0.22        3   1,437  91,968",
    ]


def test_one_repeat_shows_no_deviation():
    entry = {"accuracy_mean": 91.0, "accuracy_std": float("nan"), "repeats": 1}
    assert results_table(entry).splitlines()[1].split() == [
        *("condensed", "91.00", "1", "–", "–")
    ]


def test_the_features_lie_on_the_principal_axes_of_the_real_ones(tmp_path):
    noise = torch.Generator().manual_seed(0)
    stretch = torch.tensor([1.0, 9.0, 3.0])
    real = torch.randn(200, 3, generator=noise) * stretch + 5
    one = torch.tensor([[5.0, 5.0 + 9.0, 5.0]])
    write_features(
        tmp_path,
        real_ND=real,
        real_labels_N=torch.zeros(200, dtype=torch.int64),
        synthetic_MD=one,
        synthetic_labels_M=torch.tensor([2]),
    )
    features = json.loads((tmp_path / "features.json").read_text())
    x, y, label = features["synthetic"][0]
    assert label == 2
    assert x == pytest.approx(9.0, abs=1.5)
    assert abs(y) < 1.5
    assert features["explained"][0] > 0.8


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (2, 8, 8)])
def test_the_samples_grid_has_a_row_a_class(tmp_path, shape):
    condensed = FakeCondensed(images_per_class=12, image_shape=shape)
    images, labels = condensed.images()
    path = tmp_path / "samples.png"
    write_samples_png(images, labels, condensed.classes, path)
    zoom = -(-32 // max(shape[1:]))
    with Image.open(path) as grid:
        assert grid.height == 4 * (shape[1] * zoom + 2) + 2
        assert 0 < grid.width - 10 * (shape[2] * zoom + 2) < 80


def test_a_tile_keeps_every_pixel_exactly(tmp_path):
    image = torch.arange(192, dtype=torch.uint8).view(3, 8, 8)
    for given in (image, image.float() / 255):
        path = tmp_path / "a.png"
        path.write_bytes(to_png(given))
        with Image.open(path) as back:
            assert torch.equal(
                torch.tensor(list(back.tobytes())),
                torch.tensor(image.permute(1, 2, 0).flatten().tolist()),
            )


@pytest.mark.parametrize("values", [[0.0, 0.0], [-3.0, 5.0], [1e-6, 10.0], [7, 7.01]])
def test_a_scale_keeps_its_values_and_ticks_inside(values):
    scale = Scale(values, (100, 0))
    for value in [*values, *scale.ticks]:
        assert -1e-6 <= scale(value) <= 100 + 1e-6
    assert 2 <= len(scale.ticks) <= 7


def test_a_scale_is_logarithmic_only_over_a_wide_positive_range():
    assert Scale([0.01, 1.0], (0, 1)).log
    assert not Scale([0.5, 1.0], (0, 1)).log
    assert not Scale([0.0, 1000.0], (0, 1)).log


def test_charts_of_a_single_point_can_be_drawn():
    assert "<svg" in line_chart([(0.0, 1.0)], label="<x>")
    assert "<x>" not in line_chart([(0.0, 1.0)], label="<x>")
    assert "<svg" in scatter([], [(0.0, 0.0, 0)], labels=("a", "b"), coloured=True)


def test_thinning_keeps_the_last_point():
    assert thin(list(range(1001)), 400)[-1] == 1000
    assert len(thin(list(range(1001)), 400)) <= 400


def test_numbers_are_short():
    assert [number(v) for v in (1e-5, 0, 100, 2e9)] == ["1e−5", "0", "100", "2e9"]
