import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from condense_core.artefact.export import export
from condense_core.artefact.stored_sets import KINDS, load_stored_set
from condense_core.errors import ArtefactError, CondenseError, DataError

CLASSES = ("left", "middle", "right")


def arrays(**changes) -> dict:
    images = np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8)
    content = {"images": images, "labels": np.arange(6) // 2, **changes}
    return {name: value for name, value in content.items() if value is not None}


def test_an_artefact_brings_statistics_and_config(make_condensed, tmp_path):
    condensed = make_condensed(metadata={"config": {"data": {"channels": 1}}})
    condensed.save(tmp_path / "a.safetensors")
    stored = load_stored_set(tmp_path / "a.safetensors", CLASSES)
    assert stored.data.digest == condensed.digest
    assert stored.statistics == condensed.statistics
    assert stored.config == {"data": {"channels": 1}}
    assert stored.image_shape == (1, 8, 8)


@pytest.mark.parametrize("config", [None, 3, "text", [1]])
def test_a_config_that_is_none_is_left_out(make_condensed, tmp_path, config):
    make_condensed(metadata={"config": config}).save(tmp_path / "a.safetensors")
    assert load_stored_set(tmp_path / "a.safetensors", CLASSES).config == {}


def test_any_npz_of_images_and_labels_is_read(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    stored = load_stored_set(tmp_path / "a.npz", CLASSES)
    assert stored.data.images.shape == (6, 1, 8, 8)
    assert stored.data.images[:, 0].numpy().tolist() == arrays()["images"].tolist()
    assert stored.data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert stored.statistics is None


def test_class_folders_are_matched_by_name(make_condensed, tmp_path):
    condensed = make_condensed()
    export(condensed, format="imagefolder", out=tmp_path / "set" / "train")
    for folder in (tmp_path / "set", tmp_path / "set" / "train"):
        turned = load_stored_set(folder, ("right", "left", "middle")).data
        assert turned.classes == ("right", "left", "middle")
        # Folders are read in the order of their names: left, middle, right.
        assert turned.labels.tolist() == [1, 1, 2, 2, 0, 0]


def test_other_names_are_taken_in_order(make_condensed, tmp_path):
    export(make_condensed(), format="imagefolder", out=tmp_path / "set")
    data = load_stored_set(tmp_path / "set", ("x", "y", "z")).data
    assert data.classes == ("x", "y", "z")
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_folder_that_is_no_class_is_refused(make_condensed, tmp_path):
    export(make_condensed(), format="imagefolder", out=tmp_path / "set")
    with pytest.raises(DataError, match=r"'middle' .* is not a class of the data set"):
        load_stored_set(tmp_path / "set", ("left", "right"))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"images": None}, "no array 'images'"),
        ({"labels": None}, "no array 'labels'"),
        ({"labels": np.arange(5)}, "6 images but 5 labels"),
        ({"images": np.zeros((6, 8, 8, 2), np.uint8)}, "2 channels"),
        ({"images": np.zeros(6, np.uint8)}, "6"),
        ({"images": np.array([None] * 6)}, "cannot read"),
        ({"mean": np.array(0.5), "std": np.array(0.5)}, "one value for each"),
        ({"mean": np.array([0.5] * 3), "std": np.array([0.5] * 3)}, "each of the 1"),
        ({"mean": np.array([0.5]), "std": np.array([0.0])}, "unusable"),
        ({"classes": np.array("left")}, "1 class names"),
        ({"classes": np.array(["left"])}, "1 class names"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_arrays_that_do_not_fit_are_refused(tmp_path, changes, match):
    np.savez(tmp_path / "a.npz", **arrays(**changes))
    with pytest.raises(DataError, match=match) as caught:
        load_stored_set(tmp_path / "a.npz", CLASSES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["npz", "pt", "safetensors", "txt"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 99, b"PK\x03\x04" + b"\0" * 99])
def test_damaged_files_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(CondenseError, match=str(path)) as caught:
        load_stored_set(path, CLASSES)
    assert "\n" not in str(caught.value)
    kind = DataError if suffix in ("npz", "pt") else ArtefactError
    assert isinstance(caught.value, kind)


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_truncated_exports_are_refused(make_condensed, tmp_path, suffix):
    path = export(make_condensed(), format=suffix, out=tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="export it again"):
        load_stored_set(path, CLASSES)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"images": 3}])
def test_a_pt_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(DataError):
        load_stored_set(tmp_path / "a.pt", CLASSES)


def test_a_pt_file_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("owned").touch, ())

    torch.save({"images": Evil()}, tmp_path / "a.pt")
    with pytest.raises(DataError, match="cannot read"):
        load_stored_set(tmp_path / "a.pt", CLASSES)
    assert not (tmp_path / "owned").exists()


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_stored_set(tmp_path / "a.npz", CLASSES)
    with pytest.raises(DataError, match="no class folders"):
        load_stored_set(tmp_path, CLASSES)


def test_what_can_be_read_is_named(make_condensed, tmp_path):
    flat = export(make_condensed(), format="png", out=tmp_path / "flat")
    (tmp_path / "text.txt").write_text("mine")
    for path in (flat, tmp_path / "text.txt", tmp_path / "none.npz"):
        with pytest.raises(CondenseError) as caught:
            load_stored_set(path, CLASSES)
        assert str(path) in str(caught.value)
        assert str(caught.value).endswith(f": name {KINDS}")


def test_a_suffix_counts_in_any_case(make_condensed, tmp_path):
    condensed = make_condensed()
    for name in ("a.NPZ", "a.Pt"):
        path = export(condensed, format=name[2:].lower(), out=tmp_path / name)
        images, _ = load_stored_set(path, CLASSES).tensors()
        assert torch.equal(images, condensed.images()[0])


def test_a_folder_without_permission_is_one_line(tmp_path, monkeypatch):
    def iterdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(DataError, match="Permission denied"):
        load_stored_set(tmp_path, CLASSES)
