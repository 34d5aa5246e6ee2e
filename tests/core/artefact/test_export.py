import numpy as np
import pytest
import torch
from PIL import Image

from condense_core.artefact.export import FORMATS, export, safe_file_name
from condense_core.artefact.stored_sets import load_stored_set
from condense_core.data import as_image_data
from condense_core.errors import ConfigError, RunError
from condense_core.evaluate import evaluate

SHAPES = [("generator", (1, 8, 8)), ("generator", (3, 12, 8)), ("pixels", (3, 8, 9))]


def levels(condensed) -> torch.Tensor:
    return (condensed.images()[0] * 255).round().to(torch.uint8)


def read_png(path) -> torch.Tensor:
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_npz_holds_the_images(make_condensed, tmp_path, kind, shape):
    condensed = make_condensed(kind=kind, image_shape=shape)
    path = export(condensed, format="npz", out=tmp_path / "new" / "a.npz")
    with np.load(path, allow_pickle=False) as archive:
        images = torch.from_numpy(archive["images"]).permute(0, 3, 1, 2)
        assert torch.equal(images, levels(condensed))
        assert archive["images"].dtype == np.uint8
        assert archive["labels"].tolist() == condensed.images()[1].tolist()
        assert archive["classes"].tolist() == list(condensed.classes)
        assert archive["mean"].tolist() == list(condensed.statistics.mean)
        assert archive["std"].tolist() == list(condensed.statistics.std)


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_pt_holds_the_images(make_condensed, tmp_path, kind, shape):
    condensed = make_condensed(kind=kind, image_shape=shape)
    path = export(condensed, format="pt", out=tmp_path / "a.pt")
    content = torch.load(path, weights_only=True)
    assert torch.equal(content["images"], levels(condensed))
    assert torch.equal(content["labels"], condensed.images()[1])
    assert content["classes"] == list(condensed.classes)


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_folders_hold_the_images(make_condensed, tmp_path, kind, shape):
    condensed = make_condensed(kind=kind, image_shape=shape)
    expected = levels(condensed)
    out = export(condensed, format="imagefolder", out=tmp_path / "folder")
    flat = export(condensed, format="png", out=tmp_path / "flat")
    for label, name in enumerate(condensed.classes):
        for k in range(2):
            image = expected[2 * label + k]
            assert torch.equal(read_png(out / name / f"{k:05d}.png"), image)
            one = flat / f"{label:05d}-{name}-{k:05d}.png"
            assert torch.equal(read_png(one), image)
    assert len(list(out.rglob("*.*"))) == len(list(flat.iterdir())) == 6


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_is_the_same_twice(make_condensed, tmp_path, format):
    condensed = make_condensed()
    contents = []
    for name in ("a", "b"):
        out = export(condensed, format=format, out=tmp_path / name / "set")
        files = sorted(p for p in tmp_path.joinpath(name).rglob("*") if p.is_file())
        assert out.exists()
        contents.append(
            [(p.relative_to(tmp_path / name), p.read_bytes()) for p in files]
        )
    assert contents[0] == contents[1]


@pytest.mark.parametrize("format", ["npz", "pt", "imagefolder"])
def test_an_export_is_judged_as_the_artefact_is(
    make_condensed, tmp_path, tiny_images, format
):
    condensed = make_condensed(images_per_class=4)
    suffix = "" if format == "imagefolder" else f".{format}"
    path = export(condensed, format=format, out=tmp_path / f"set{suffix}")
    stored = load_stored_set(path, condensed.classes)
    test = as_image_data(tiny_images, classes=condensed.classes)
    settings = {"recipe": "tiny", "width": 4, "repeats": 3, "seed": 5, "device": "cpu"}
    of_artefact = evaluate(condensed, test, **settings)
    of_export = evaluate(
        stored.data,
        test,
        statistics=stored.statistics or condensed.statistics,
        **settings,
    )
    assert of_export.accuracies == of_artefact.accuracies
    assert of_export.images == of_artefact.images == 12
    assert (stored.statistics is None) == (format == "imagefolder")


def test_names_of_classes_make_file_names(make_condensed, tmp_path):
    names = ("../up", "a/b", ".hidden")
    condensed = make_condensed(classes=names)
    out = export(condensed, format="imagefolder", out=tmp_path / "set")
    assert {p.name for p in out.iterdir()} == {"_up", "a_b", "hidden"}
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    stored = load_stored_set(out, names)
    assert stored.data.classes == names
    order = stored.data.labels.argsort(stable=True)
    assert torch.equal(stored.data.images[order], levels(condensed))


def test_names_that_fall_together_are_numbered(make_condensed, tmp_path):
    names = ("a/b", "a_b", "a:b")
    condensed = make_condensed(classes=names)
    out = export(condensed, format="imagefolder", out=tmp_path / "set")
    folders = sorted(p.name for p in out.iterdir())
    assert folders == ["00000-a_b", "00001-a_b", "00002-a_b"]
    stored = load_stored_set(out, names)
    assert stored.data.classes == names
    assert torch.equal(stored.data.images, levels(condensed))
    assert stored.data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    flat = export(condensed, format="png", out=tmp_path / "flat")
    assert len(list(flat.iterdir())) == 6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"),
        ("great white shark", "great white shark"),
        ("été", "été"),
        ("a/b\\c:d", "a_b_c_d"),
        ("..", "_"),
        ("", "_"),
        (" . ", "_"),
        ("/", "_"),
        ("a\0b\n", "a_b_"),
    ],
)
def test_a_file_name_is_safe(name, expected):
    assert safe_file_name(name) == expected


def test_an_unknown_format_is_refused(make_condensed, tmp_path):
    with pytest.raises(
        ConfigError, match=r"'gif': choose from png, npz, pt, imagefolder"
    ):
        export(make_condensed(), format="gif", out=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["png", "imagefolder"])
def test_a_folder_in_use_is_left_alone(make_condensed, tmp_path, format):
    (tmp_path / "mine.txt").write_text("x")
    for out in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(RunError, match="not an empty folder"):
            export(make_condensed(), format=format, out=out)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    export(make_condensed(), format=format, out=tmp_path / "empty")
    assert len(list((tmp_path / "empty").rglob("*.png"))) == 6


@pytest.mark.parametrize(
    ("format", "out", "written"),
    [
        ("npz", "set", "set.npz"),
        ("npz", "set.NPZ", "set.NPZ"),
        ("pt", "v1.0", "v1.0.pt"),
        ("png", "v1.0", "v1.0"),
    ],
)
def test_a_file_is_given_its_suffix(make_condensed, tmp_path, format, out, written):
    assert export(make_condensed(), format=format, out=tmp_path / out).name == written
    assert [path.name for path in tmp_path.iterdir()] == [written]


@pytest.mark.parametrize(
    ("format", "out", "match"),
    [
        ("png", "a.png", "fill a new or empty folder.: leave its suffix out"),
        ("imagefolder", "a.npz", "leave its suffix out"),
        ("npz", "a.pt", r"end it in \.npz"),
        ("pt", "a.PNG", r"end it in \.pt"),
        ("npz", ".", "is a folder .*: name a file in it"),
    ],
)
def test_a_name_of_another_format_is_refused(
    make_condensed, tmp_path, format, out, match
):
    with pytest.raises(RunError, match=match) as error:
        export(make_condensed(), format=format, out=tmp_path / out)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_place_that_cannot_be_written_is_told(make_condensed, tmp_path, format):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"cannot write .* is writable, or choose"):
        export(make_condensed(), format=format, out=tmp_path / "file" / "below" / "a")
