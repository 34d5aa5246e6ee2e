import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from condense_core.data import ImageData, cache
from condense_core.data.mapped import is_mapped
from condense_core.data.options import IMAGE_SIZE
from condense_core.data.readers import imagefolder
from condense_core.data.sources import load_source
from condense_core.errors import DataError, RunError

CLASSES = ("cat", "dog", "emu")
EACH = 5


class Killed(BaseException):
    """Stands for SIGKILL."""


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def tree(tmp_path):
    """Fifteen images in three classes to train, three to test."""
    root = tmp_path / "data"
    for split, each in (("train", EACH), ("val", 1)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for index in range(each):
                image = Image.fromarray(pixels(8, 8, 3, seed=100 * label + index))
                image.save(root / split / name / f"{index}.png")
    return root


@pytest.fixture
def load(tree, tmp_path):
    def load(name="imagefolder", split="train", **options) -> ImageData:
        options = {"cache": tmp_path / "cache"} | options
        return load_source(name, split=split, data_root=tree, **options)

    return load


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(imagefolder, "PART_FILES", 4)
    monkeypatch.setattr(imagefolder, "all_cores", lambda: 1)


def the_cache(tmp_path):
    (folder,) = [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]
    return folder


def refusal(call, *args, **kwargs):
    with pytest.raises(DataError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def same(one: ImageData, two: ImageData) -> bool:
    return (
        torch.equal(one.images, two.images)
        and torch.equal(one.labels, two.labels)
        and one.classes == two.classes
    )


# What a cache gives


def test_a_cache_holds_what_reading_gives(load):
    plain, cached = load(cache=None), load()
    assert same(plain, cached)
    assert is_mapped(cached.images)
    assert cached.name == "imagefolder"
    assert cached.fingerprint() == plain.fingerprint()
    assert cached.statistics() == plain.statistics()


def test_a_cache_is_written_once(load, monkeypatch):
    first = load()
    monkeypatch.setattr(imagefolder, "decode_files", None)  # would fail if called
    assert same(first, load())


def test_known_facts_need_no_reading_and_other_content_forgets_them(load, monkeypatch):
    data = load()
    expected = data.fingerprint()
    part = data.subset(torch.arange(4))
    assert part.fingerprint() != expected
    assert data.to("cpu").fingerprint() == expected

    def fail(*_):
        raise AssertionError("read")

    monkeypatch.setattr("condense_core.data.images.chunks", fail)
    assert data.fingerprint() == expected
    data.statistics()
    with pytest.raises(AssertionError, match="read"):
        part.statistics()


def test_the_test_split_has_its_own_cache(load, tmp_path):
    load()
    assert load(split="test").labels.tolist() == [0, 1, 2]
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("cached", [True, False])
def test_classes_are_chosen_and_ordered_by_name(load, cached):
    options = {} if cached else {"cache": None}
    data = load(classes=("emu", "cat"), **options)
    whole = load(cache=None)
    assert data.classes == ("emu", "cat")
    assert data.labels.tolist() == [0] * EACH + [1] * EACH
    assert torch.equal(data.images[:EACH], whole.images[whole.labels == 2])
    assert load(split="test", classes=("emu", "cat"), **options).labels.tolist() == [
        0,
        1,
    ]


def test_an_unknown_or_repeated_class_is_named(load):
    text = refusal(load, classes=("cat", "dgo"))
    assert "no class 'dgo' (did you mean 'dog'?)" in text
    assert "'cat' twice" in refusal(load, classes=("cat", "cat"))


def test_two_folders_with_the_same_names_do_not_share_a_cache(load, tree, tmp_path):
    first = load()
    other = tmp_path / "other"
    shutil.copytree(tree, other)
    Image.fromarray(pixels(8, 8, 3, seed=9)).save(other / "train" / "cat" / "0.png")
    second = load_source(
        "imagefolder", split="train", data_root=other, cache=tmp_path / "cache"
    )
    assert not torch.equal(first.images, second.images)


def test_a_new_file_gets_a_new_cache(load, tree):
    load()
    Image.fromarray(pixels(8, 8, 3, seed=9)).save(tree / "train" / "cat" / "9.png")
    assert load().counts.tolist() == [EACH + 1, EACH, EACH]


def test_imagenet64_is_rgb_of_64_px_from_any_file(load, tree):
    Image.fromarray(pixels(30, 90)).save(tree / "train" / "cat" / "9.png")  # grey
    data = load("imagenet64")
    assert data.image_shape == (3, 64, 64)
    assert len(data) == 3 * EACH + 1


def test_worker_processes_give_the_same(load, monkeypatch):
    expected = load(cache=None)
    monkeypatch.setattr(imagefolder, "all_cores", lambda: 2)
    assert same(load(), expected)


# npz batches


@pytest.fixture
def batches(tmp_path):
    """Two files of downsampled ImageNet, labels from 1, in mixed order."""
    root = tmp_path / "npz"
    root.mkdir()
    for number, labels in enumerate(([3, 1, 2, 1], [2, 3, 3, 1, 1])):
        rows = pixels(len(labels), 3 * 64 * 64, seed=number)
        np.savez(root / f"train_data_batch_{number + 1}.npz", data=rows, labels=labels)
    return root


@pytest.mark.parametrize("classes", [None, ("3", "1")])
def test_npz_batches_are_sorted_by_class_in_the_cache(batches, tmp_path, classes):
    read = {"split": "train", "data_root": batches, "classes": classes}
    plain = load_source("imagenet64", **read)
    cached = load_source("imagenet64", cache=tmp_path / "cache", **read)
    order = plain.labels.argsort(stable=True)
    assert torch.equal(cached.images, plain.images[order])
    assert torch.equal(cached.labels, plain.labels[order])
    assert cached.classes == plain.classes
    assert cached.statistics() == plain.statistics()


def test_an_open_cache_reads_no_npz_image(batches, tmp_path, monkeypatch):
    read = {"split": "train", "data_root": batches, "cache": tmp_path / "cache"}
    first = load_source("imagenet64", **read)
    monkeypatch.setattr("condense_core.data.readers.npz._images", None)
    assert same(load_source("imagenet64", **read), first)


def test_npz_batches_of_two_sizes_are_refused(batches, tmp_path):
    np.savez(
        batches / "train_data_batch_3.npz", data=pixels(2, 3 * 32 * 32), labels=[1, 2]
    )
    with pytest.raises(DataError, match=r"--set data\.image_size"):
        load_source(
            "imagenet64", split="train", data_root=batches, cache=tmp_path / "cache"
        )


def test_npz_batches_go_on_after_the_last_file(batches, tmp_path, monkeypatch):
    read = {"split": "train", "data_root": batches, "cache": tmp_path / "cache"}
    put = cache._put

    def killed(target, part, images, image_bytes):
        if images:
            raise Killed
        put(target, part, images, image_bytes)

    with monkeypatch.context() as context:
        context.setattr(cache, "_put", killed)
        with pytest.raises(Killed):
            load_source("imagenet64", **read)
    data = load_source("imagenet64", **read)
    expected = load_source("imagenet64", split="train", data_root=batches)
    order = expected.labels.argsort(stable=True)
    assert torch.equal(data.images, expected.images[order])


# Stopped and resumed


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_killed_cache_goes_on_and_ends_the_same(load, tmp_path, monkeypatch, at):
    expected = load(cache=None)
    decoded = []
    decode = imagefolder.decode_files

    def counting(paths, *args, **kwargs):
        decoded.extend(paths)
        return decode(paths, *args, **kwargs)

    monkeypatch.setattr(imagefolder, "decode_files", counting)
    write, calls = cache.atomic_write_text, []

    def killed(*args):
        if len(calls) == at:
            raise Killed
        calls.append(write(*args))

    with monkeypatch.context() as context:
        context.setattr(cache, "atomic_write_text", killed)
        with pytest.raises(Killed):
            load()
    assert the_cache(tmp_path).name.endswith(".partial")
    decoded.clear()
    data = load()
    assert same(data, expected)
    assert data.fingerprint() == expected.fingerprint()
    assert len(decoded) == len(expected) - 4 * at
    assert not the_cache(tmp_path).name.endswith(".partial")


@pytest.mark.slow
def test_kill_9_leaves_a_cache_that_resumes(tree, tmp_path, load):
    code = (
        "import sys, time\n"
        "from condense_core.data import cache\n"
        "from condense_core.data.readers import imagefolder\n"
        "from condense_core.data.sources import load_source\n"
        "imagefolder.PART_FILES, imagefolder.all_cores = 4, lambda: 1\n"
        "write = cache.atomic_write_text\n"
        "def slow(*a):\n"
        "    write(*a); print('part', flush=True); time.sleep(5)\n"
        "cache.atomic_write_text = slow\n"
        f"load_source('imagefolder', split='train', data_root={str(tree)!r},"
        f" cache={str(tmp_path / 'cache')!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"part\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert same(load(), load(cache=None))


# Bad input


def test_unreadable_files_are_all_listed_and_skipped_only_on_request(load, tree):
    bad = [tree / "train" / "cat" / "1.png", tree / "train" / "emu" / "4.png"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:40])
    text = refusal(load)
    assert all(str(path) in text for path in bad)
    assert "--skip-corrupt" in text
    data = load(skip_corrupt=True)
    assert data.counts.tolist() == [EACH - 1, EACH, EACH - 1]
    plain = load(cache=None, skip_corrupt=True)
    assert same(data, plain)
    assert data.fingerprint() == plain.fingerprint()
    # A finished cache does not forget what it lacks.
    assert str(bad[0]) in refusal(load)
    assert str(bad[1]) in refusal(load, cache=None)


def test_skipping_after_a_refusal_decodes_nothing_again(load, tree, monkeypatch):
    (tree / "train" / "cat" / "1.png").write_bytes(b"x")
    refusal(load)
    monkeypatch.setattr(imagefolder, "decode_files", None)
    assert len(load(skip_corrupt=True)) == 3 * EACH - 1


def test_a_repaired_file_is_read_again(load, tree):
    path = tree / "train" / "dog" / "2.png"
    content = path.read_bytes()
    path.write_bytes(b"x")
    refusal(load)
    path.write_bytes(content)
    assert same(load(), load(cache=None))


def test_a_split_without_a_readable_file_is_refused(load, tree):
    for path in (tree / "train").rglob("*.png"):
        path.write_bytes(b"x")
    assert "can be read" in refusal(load, skip_corrupt=True)


def test_mixed_sizes_are_refused_as_without_a_cache(load, tree):
    Image.fromarray(pixels(9, 8, 3)).save(tree / "train" / "emu" / "9.png")
    assert IMAGE_SIZE in refusal(load)


def test_a_cache_of_another_version_is_refused(load, tmp_path):
    load()
    path = the_cache(tmp_path) / "cache.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    text = refusal(load)
    assert "version 99" in text
    assert str(path.parent) in text


def test_an_unfinished_cache_of_another_version_is_refused(load, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_finish", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        load()
    path = the_cache(tmp_path) / "progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    assert "version 99" in refusal(load)


@pytest.mark.parametrize(
    ("content", "part"),
    [("[]", "incomplete"), ('{"version": 1}', "lacks 'changed_ns'")],
)
def test_a_cache_with_a_changed_description_is_refused(load, tmp_path, content, part):
    load()
    (the_cache(tmp_path) / "cache.json").write_text(content)
    assert part in refusal(load)


def test_a_torn_progress_file_starts_anew(load, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_finish", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        load()
    (the_cache(tmp_path) / "progress.json").write_text('{"version":')
    monkeypatch.undo()
    assert same(load(), load(cache=None))


def test_a_truncated_cache_is_refused(load, tmp_path):
    load()
    os.truncate(the_cache(tmp_path) / "images.u8", 700)
    text = refusal(load)
    assert "700 bytes, not 2,880" in text
    assert "delete" in text


def test_a_cache_without_its_description_is_refused(load, tmp_path):
    load()
    (the_cache(tmp_path) / "cache.json").unlink()
    assert "incomplete" in refusal(load)


def test_a_copied_cache_is_checked_once_and_damage_is_found(load, tmp_path):
    load()
    file = the_cache(tmp_path) / "images.u8"
    os.utime(file, ns=(1, 1))
    assert same(load(), load(cache=None))
    assert json.loads((file.parent / "cache.json").read_text())["changed_ns"] == 1
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(content)
    assert "checksum differs" in refusal(load)


def test_too_little_disk_is_said_before_anything_is_written(
    load, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage)
    text = refusal(load)
    assert "15 images of 8x8 px" in text
    assert "0.07 GB" in text
    assert "--cache DIR" in text
    assert not list(tmp_path.rglob("images.u8"))


def test_a_cache_folder_that_cannot_be_made_is_named(load, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="choose another folder with --cache"):
        load(cache=tmp_path / "file" / "cache")


def test_a_second_writer_waits_and_then_reads(tree, tmp_path):
    """Two processes, one cache: both end with the same images."""
    code = (
        "import sys\n"
        "from condense_core.data.sources import load_source\n"
        f"data = load_source('imagefolder', split='train', data_root={str(tree)!r},"
        f" cache={str(tmp_path / 'cache')!r})\n"
        "print(data.fingerprint())\n"
    )
    start = [sys.executable, "-c", code]
    both = [subprocess.Popen(start, stdout=subprocess.PIPE) for _ in range(2)]
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1] != b""
