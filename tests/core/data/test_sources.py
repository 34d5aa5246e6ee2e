import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from condense_core.data.options import CHANNELS, IMAGE_SIZE, SHAPE
from condense_core.data.sources import SOURCES, load_source
from condense_core.errors import DataError

RGB = (8, 8, 3)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_image(path, array, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **kwargs)


def make_tree(root, shape=RGB, classes=("cat", "dog"), splits=("train", "test")):
    for split in splits:
        for label, name in enumerate(classes):
            for index in range(2):
                path = root / split / name / f"{index}.png"
                write_image(path, pixels(*shape, seed=10 * label + index))
    return root


def write_npz(path, count=4, shape=RGB, labels=None, seed=0, **arrays):
    labels = np.arange(count) % 2 if labels is None else np.asarray(labels)
    np.savez(path, images=pixels(count, *shape, seed=seed), labels=labels, **arrays)


def load(name, root, split="train", **kwargs):
    return load_source(name, split=split, data_root=root, **kwargs)


def refusal(*args, **kwargs):
    with pytest.raises(DataError) as error:
        load(*args, **kwargs)
    text = str(error.value)
    assert "\n" not in text
    return text


# Any source


def test_an_unknown_name_lists_the_choices_and_the_nearest():
    text = refusal("cifar-10", None)
    assert "did you mean 'cifar10'?" in text
    assert all(name in text for name in SOURCES)


def test_an_unknown_split_is_refused():
    assert "unknown split 'valid'" in refusal("digits", None, "valid")


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "digits"])
def test_a_source_of_files_needs_a_data_root(name):
    assert "--data-root DIR" in refusal(name, None)


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "digits"])
def test_a_data_root_that_does_not_exist_is_named(name, tmp_path):
    assert f"{str(tmp_path / 'no')!r} does not exist" in refusal(name, tmp_path / "no")


def test_a_data_root_that_is_a_file_is_refused(tmp_path):
    write_npz(tmp_path / "train.npz")
    assert "is a file, not a folder" in refusal("npz", tmp_path / "train.npz")


def test_images_too_large_are_told_to_resize(tmp_path):
    write_npz(tmp_path / "train.npz", shape=(8, 129, 3))
    text = refusal("npz", tmp_path)
    assert "8x129" in text
    assert IMAGE_SIZE in text


def test_a_target_size_out_of_range_is_refused_before_reading():
    assert "4x8 pixels" in refusal("digits", None, image_size=(4, 8))


def test_two_channels_are_refused():
    assert "channels=2" in refusal("digits", None, channels=2)


def test_a_train_class_without_images_is_named(tmp_path):
    write_npz(tmp_path / "train.npz", classes=np.array(["a", "b", "c"]))
    assert "class 'c' has no images" in refusal("npz", tmp_path)


def test_importing_sources_imports_no_optional_package():
    code = (
        "import sys, condense_core.data.sources\n"
        "bad = {'torchvision', 'sklearn', 'PIL', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# digits


def test_digits_split_is_stratified_and_fixed():
    pytest.importorskip("sklearn")
    train, test = load("digits", None), load("digits", None, "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.image_shape == (1, 8, 8)
    share = test.counts / (test.counts + train.counts)
    assert share.min() > 0.19
    assert share.max() < 0.21
    assert load("digits", None, "test").fingerprint() == test.fingerprint()


def test_digits_splits_make_up_the_whole_set():
    datasets = pytest.importorskip("sklearn.datasets")
    parts = [load("digits", None, split).images for split in ("train", "test")]
    both = torch.cat(parts).float().mul(16 / 255).round().flatten(1)
    whole = torch.from_numpy(datasets.load_digits().data).float()
    assert sorted(both.tolist()) == sorted(whole.tolist())


def test_digits_without_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "pip install gencondense[demo]" in refusal("digits", None)


def test_arrays_are_resized_and_converted_to_rgb():
    pytest.importorskip("sklearn")
    data = load("digits", None, "test", image_size=(16, 12), channels=3)
    assert data.image_shape == (3, 16, 12)
    assert torch.equal(data.images[:, 0], data.images[:, 2])


# Image folders


def test_an_image_folder_gives_exact_pixels_and_sorted_classes(tmp_path):
    make_tree(tmp_path)
    data = load("imagefolder", tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1, 1]
    expected = torch.from_numpy(pixels(*RGB, seed=11)).permute(2, 0, 1)
    assert torch.equal(data.images[3], expected)


def test_val_stands_in_for_test(tmp_path):
    make_tree(tmp_path, splits=("train", "val"))
    assert len(load("imagefolder", tmp_path, "test")) == 4


def test_a_tree_without_test_or_val_explains_the_layout(tmp_path):
    make_tree(tmp_path, splits=("train",))
    assert "test/CLASS/*.png or val/CLASS" in refusal("imagefolder", tmp_path, "test")


def test_class_folders_at_the_root_explain_the_layout(tmp_path):
    make_tree(tmp_path, splits=(".",))
    text = refusal("imagefolder", tmp_path)
    assert "found: cat, dog" in text
    assert "train/CLASS/*.png" in text


def test_test_classes_are_numbered_as_in_train(tmp_path):
    make_tree(tmp_path, splits=("train",))
    make_tree(tmp_path, splits=("test",), classes=("dog",))
    data = load("imagefolder", tmp_path, "test")
    assert (data.labels.tolist(), data.classes) == ([1, 1], ("cat", "dog"))


def test_a_test_class_absent_from_train_is_named(tmp_path):
    make_tree(tmp_path, splits=("train",))
    make_tree(tmp_path, splits=("test",), classes=("emu",))
    assert "class 'emu'" in refusal("imagefolder", tmp_path, "test")


def test_hidden_files_and_other_files_are_ignored(tmp_path):
    make_tree(tmp_path)
    folder = tmp_path / "train" / "cat"
    (folder / ".DS_Store.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    (tmp_path / "train" / ".cache").mkdir()
    assert len(load("imagefolder", tmp_path)) == 4


def test_images_in_sub_folders_of_a_class_are_found(tmp_path):
    make_tree(tmp_path)
    write_image(tmp_path / "train" / "cat" / "images" / "x.PNG", pixels(*RGB))
    assert load("imagefolder", tmp_path).counts.tolist() == [3, 2]


def test_an_empty_class_folder_is_named(tmp_path):
    make_tree(tmp_path)
    (tmp_path / "train" / "empty").mkdir()
    text = refusal("imagefolder", tmp_path)
    assert "empty' has no images" in text
    assert "png" in text


@pytest.fixture
def denied(monkeypatch):
    """Make a folder unreadable, also where the tests may read anything."""

    def deny(folder):
        real = os.scandir

        def scandir(path):
            if Path(path) == folder:
                raise PermissionError(errno.EACCES, "Permission denied", str(folder))
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)

    return deny


def test_a_class_folder_without_permission_is_not_taken_as_empty(tmp_path, denied):
    dog = make_tree(tmp_path) / "train" / "dog"
    denied(dog)
    text = refusal("imagefolder", tmp_path)
    assert f"cannot read {str(dog)!r} (Permission denied): check the folder" in text


def test_a_data_root_without_permission_is_one_line(tmp_path, monkeypatch):
    def is_dir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", is_dir)
    for name in SOURCES:
        if name != "digits":
            assert "(Permission denied): check the" in refusal(name, tmp_path)


def test_a_train_folder_without_classes_is_an_empty_set(tmp_path):
    (tmp_path / "train").mkdir()
    assert "empty data set" in refusal("imagefolder", tmp_path)


def test_a_single_class_folder_works(tmp_path):
    make_tree(tmp_path, classes=("only",))
    assert load("imagefolder", tmp_path).classes == ("only",)


@pytest.mark.parametrize("keep", [0, 40])
def test_a_truncated_image_file_is_named(tmp_path, keep):
    path = make_tree(tmp_path) / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:keep])
    text = refusal("imagefolder", tmp_path)
    assert "cannot read image" in text
    assert str(path) in text


def test_mixed_sizes_name_both_files_and_the_remedy(tmp_path):
    make_tree(tmp_path)
    write_image(tmp_path / "train" / "dog" / "1.png", pixels(9, 8, 3))
    text = refusal("imagefolder", tmp_path)
    assert "8x8 and 9x8" in text
    assert IMAGE_SIZE in text


def test_mixed_sizes_are_resized_on_request(tmp_path):
    make_tree(tmp_path)
    write_image(tmp_path / "train" / "dog" / "1.png", pixels(9, 300, 3))
    data = load("imagefolder", tmp_path, image_size=(10, 12))
    assert data.image_shape == (3, 10, 12)


def test_shrinking_averages_rather_than_skips_pixels(tmp_path):
    board = np.indices((32, 32)).sum(0) % 2 * 255
    write_image(tmp_path / "train" / "a" / "0.png", board.astype(np.uint8))
    data = load("imagefolder", tmp_path, image_size=(8, 8))
    assert data.images[0, 0, 2:6, 2:6].float().sub(127.5).abs().max() < 8


def test_grey_and_colour_together_offer_a_conversion(tmp_path):
    make_tree(tmp_path)
    write_image(tmp_path / "train" / "dog" / "1.png", pixels(8, 8))
    assert CHANNELS in refusal("imagefolder", tmp_path)


def test_mixed_sizes_and_channels_are_told_together(tmp_path):
    make_tree(tmp_path)
    write_image(tmp_path / "train" / "dog" / "1.png", pixels(9, 8))
    text = refusal("imagefolder", tmp_path)
    assert "3 and 1 channels, 8x8 and 9x8 pixels" in text
    assert SHAPE in text


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_together_are_converted_on_request(tmp_path, channels):
    make_tree(tmp_path)
    write_image(tmp_path / "train" / "dog" / "1.png", pixels(8, 8))
    data = load("imagefolder", tmp_path, channels=channels)
    assert data.image_shape[0] == channels


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGBA", 3), ("RGB", 3)],
)
def test_pixel_modes_become_grey_or_rgb(tmp_path, mode, channels):
    path = tmp_path / "train" / "a" / "0.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels(*RGB)).convert(mode).save(path)
    assert load("imagefolder", tmp_path).image_shape == (channels, 8, 8)


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, :8] = 255  # the left half is white
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    (tmp_path / "train/a").mkdir(parents=True)
    image.save(tmp_path / "train/a/1.png", exif=exif)
    data = load("imagefolder", tmp_path)
    assert data.image_shape == (3, 16, 8)
    assert (data.images[0, :, :8] == 255).all()
    assert (data.images[0, :, 8:] == 0).all()


def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path):
    values = np.full((8, 8), 257 * 100, dtype=np.uint16)
    write_image(tmp_path / "train" / "a" / "0.png", values)
    assert load("imagefolder", tmp_path).images.unique().tolist() == [100]


# npz


def test_npz_files_are_concatenated_by_name(tmp_path):
    write_npz(tmp_path / "train_1.npz", seed=1)
    write_npz(tmp_path / "train_0.npz", seed=0)
    data = load("npz", tmp_path)
    expected = np.concatenate([pixels(4, *RGB, seed=s) for s in (0, 1)])
    assert np.array_equal(data.images.permute(0, 2, 3, 1).numpy(), expected)


def test_npz_images_without_channels_are_grey(tmp_path):
    write_npz(tmp_path / "train.npz", shape=(8, 9))
    assert load("npz", tmp_path).image_shape == (1, 8, 9)


@pytest.mark.parametrize("name", ["test.npz", "val.npz"])
def test_npz_test_split_is_test_or_val(tmp_path, name):
    write_npz(tmp_path / "train.npz", count=6)
    write_npz(tmp_path / name, count=2)
    assert len(load("npz", tmp_path, "test")) == 2


def test_npz_without_the_split_names_the_pattern(tmp_path):
    write_npz(tmp_path / "train.npz")
    assert "no test*.npz or val*.npz" in refusal("npz", tmp_path, "test")


def test_npz_labels_are_mapped_the_same_in_both_splits(tmp_path):
    write_npz(tmp_path / "train.npz", labels=[1, 5, 9, 9])
    write_npz(tmp_path / "test.npz", count=2, labels=[9, 5])
    test = load("npz", tmp_path, "test")
    assert (test.labels.tolist(), test.classes) == ([2, 1], ("1", "5", "9"))


def test_npz_labels_from_one_stay_in_line_when_test_lacks_a_class(tmp_path):
    names = np.array(["a", "b", "c"])
    write_npz(tmp_path / "train.npz", 3, labels=[1, 2, 3], classes=names)
    write_npz(tmp_path / "test.npz", 2, labels=[1, 2], classes=names)
    assert load("npz", tmp_path, "test").labels.tolist() == [0, 1]


def test_npz_classes_in_another_order_are_matched_by_name(tmp_path):
    write_npz(tmp_path / "train.npz", classes=np.array(["a", "b"]))
    write_npz(tmp_path / "test.npz", 2, labels=[0, 1], classes=np.array(["b", "a"]))
    test = load("npz", tmp_path, "test")
    assert (test.labels.tolist(), test.classes) == ([1, 0], ("a", "b"))


def test_npz_label_absent_from_train_is_named(tmp_path):
    write_npz(tmp_path / "train.npz", labels=[0, 1, 0, 1])
    write_npz(tmp_path / "test.npz", 2, labels=[1, 2])
    assert "class '2' is not among" in refusal("npz", tmp_path, "test")


def test_npz_with_object_arrays_is_refused_without_unpickling(tmp_path):
    np.savez(tmp_path / "train.npz", images=np.array([{}]), labels=np.arange(1))
    text = refusal("npz", tmp_path)
    assert "cannot read 'images'" in text
    assert "plain arrays" in text


def test_a_truncated_npz_is_named(tmp_path):
    path = tmp_path / "train.npz"
    write_npz(path)
    path.write_bytes(path.read_bytes()[:200])
    assert str(path) in refusal("npz", tmp_path)


def test_npz_without_labels_lists_what_it_has(tmp_path):
    np.savez(tmp_path / "train.npz", images=pixels(2, *RGB))
    assert "no array 'labels' (found: images)" in refusal("npz", tmp_path)


def test_npz_with_channels_first_says_the_layout(tmp_path):
    write_npz(tmp_path / "train.npz", shape=(3, 8, 8))
    assert "write (N, H, W, C)" in refusal("npz", tmp_path)


def test_npz_with_too_few_labels_is_refused(tmp_path):
    write_npz(tmp_path / "train.npz", labels=[0, 1])
    assert "4 images but 2 labels" in refusal("npz", tmp_path)


def test_npz_files_of_different_sizes_offer_to_resize(tmp_path):
    write_npz(tmp_path / "train_0.npz")
    write_npz(tmp_path / "train_1.npz", shape=(9, 9, 3))
    assert SHAPE in refusal("npz", tmp_path)
    assert len(load("npz", tmp_path, image_size=(8, 8))) == 8


def test_an_empty_npz_is_refused(tmp_path):
    write_npz(tmp_path / "train.npz", count=0)
    assert "empty data set" in refusal("npz", tmp_path)


# imagenet64


def write_imagenet(path, labels, seed=0):
    rows = pixels(len(labels), 3 * 64 * 64, seed=seed)
    np.savez(path, data=rows, labels=np.array(labels), mean=np.zeros(3))
    return rows.reshape(-1, 3, 64, 64)


def test_imagenet64_reads_the_published_batches(tmp_path):
    write_imagenet(tmp_path / "train_data_batch_1.npz", [1, 2, 3])
    second = write_imagenet(tmp_path / "train_data_batch_2.npz", [3, 1], seed=1)
    write_imagenet(tmp_path / "val_data.npz", [2])
    train, test = load("imagenet64", tmp_path), load("imagenet64", tmp_path, "test")
    assert train.labels.tolist() == [0, 1, 2, 2, 0]
    assert np.array_equal(train.images[3:].numpy(), second)
    assert (test.labels.tolist(), test.num_classes) == ([1], 3)


def test_imagenet64_reads_an_image_folder(tmp_path):
    make_tree(tmp_path)
    assert load("imagenet64", tmp_path).name == "imagenet64"


# torchvision


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("mnist", "MNIST/raw"),
        ("fashionmnist", "FashionMNIST/raw"),
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("svhn", "train_32x32.mat"),
    ],
)
def test_missing_torchvision_files_say_where_and_how(tmp_path, name, where):
    pytest.importorskip("torchvision")
    pytest.importorskip("scipy")
    text = refusal(name, tmp_path)
    assert where in text
    assert str(tmp_path) in text
    assert "--download" in text


def test_npz_files_under_a_torchvision_name_are_pointed_to_npz(tmp_path):
    pytest.importorskip("torchvision")
    write_npz(tmp_path / "train_0.npz")
    assert "--set data.name=npz" in refusal("cifar100", tmp_path)


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")

    def fail(self):
        raise OSError("HTTP Error 404:\nNot Found")

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    text = refusal("cifar10", tmp_path / "new", download=True)
    assert "cannot download or read" in text
    assert "404: Not Found" in text


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim])
    head += b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(head + array.tobytes())


def make_mnist(root):
    raw = root / "MNIST" / "raw"
    for prefix, count in (("train", 20), ("t10k", 10)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels(count, 28, 28))
        labels = np.arange(count, dtype=np.uint8) % 10
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)
    return raw


def test_mnist_is_read_from_idx_files(tmp_path):
    pytest.importorskip("torchvision")
    make_mnist(tmp_path)
    data = load("mnist", tmp_path, "test")
    assert np.array_equal(data.images[:, 0].numpy(), pixels(10, 28, 28))
    assert data.classes[3] == "3 - three"


def test_a_truncated_mnist_file_is_reported_as_unreadable(tmp_path):
    pytest.importorskip("torchvision")
    path = make_mnist(tmp_path) / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:500])
    assert "cannot read MNIST/raw" in refusal("mnist", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashionmnist"])
def test_the_real_set_has_its_published_size(name):
    pytest.importorskip("torchvision")
    root = os.environ.get("CONDENSE_DATA_ROOT")
    if not root:
        pytest.skip("CONDENSE_DATA_ROOT names no folder")
    train, test = load(name, Path(root)), load(name, Path(root), "test")
    assert (len(train), len(test), train.image_shape) == (60000, 10000, (1, 28, 28))
    assert test.classes == train.classes
    mean = {"mnist": 0.1307, "fashionmnist": 0.2860}[name]
    assert train.statistics().mean[0] == pytest.approx(mean, abs=1e-4)


def test_real_cifar10_has_its_published_statistics():
    pytest.importorskip("torchvision")
    root = os.environ.get("CONDENSE_CIFAR10_ROOT")
    if not root:
        pytest.skip("CONDENSE_CIFAR10_ROOT names no folder")
    train = load("cifar10", Path(root))
    assert (len(train), train.counts.unique().tolist()) == (50000, [5000])
    assert train.classes[0] == "airplane"
    expected = (0.4914, 0.4822, 0.4465)
    assert train.statistics().mean == pytest.approx(expected, abs=1e-4)
