import math
from pathlib import Path

import numpy as np
import pytest
import torch

from condense_core.data import ImageData, mapped
from condense_core.data.class_sampler import ClassSampler
from condense_core.data.mapped import (
    chunks,
    expecting,
    gather,
    is_mapped,
    map_images,
)
from condense_core.seeding import make_generator

SHAPE = (50, 3, 8, 8)


@pytest.fixture
def pair(tmp_path):
    """The same images in memory and mapped."""
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    path = tmp_path / "images.u8"
    pixels.tofile(path)
    return torch.from_numpy(pixels), map_images(path, SHAPE)


@pytest.fixture
def tell(monkeypatch):
    """What the kernel is advised, in order; everything is handed back at once."""
    told = []
    advise = mapped._advise

    def record(mapping, advice, part=None):
        told.append(advice)
        advise(mapping, advice, part)

    monkeypatch.setattr(mapped, "_advise", record)
    monkeypatch.setattr(mapped, "MOST_RESIDENT", 0)
    return told


def test_reads_are_those_of_a_tensor_in_memory(pair, tell):
    plain, images = pair
    index = torch.tensor([[3, 3], [49, 0]])
    assert torch.equal(gather(images, index), plain[index])
    for mine, theirs in zip(chunks(images, 7), plain.split(7), strict=True):
        assert torch.equal(mine, theirs)
    assert tell.count("MADV_DONTNEED") == 4 + 8  # one by one


def test_handing_pages_back_changes_no_pixel(pair, tell):
    plain, images = pair
    gather(images, torch.arange(50))
    assert "MADV_DONTNEED" in tell
    assert torch.equal(images, plain)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="of Linux")
def test_what_is_resident_stays_within_bounds(tmp_path, monkeypatch):
    """Also where the file lies in the page cache in huge pages: just written."""
    shape = (5_000, 3, 64, 64)
    path = tmp_path / "images.u8"
    path.write_bytes(b"7" * math.prod(shape))
    images = map_images(path, shape)
    monkeypatch.setattr(mapped, "MOST_RESIDENT", 2**23)
    draw, before = make_generator(0, "x"), resident()
    for count in (2,) * 50 + (500,):
        index = torch.randint(5_000, (count,), generator=draw)
        assert (gather(images, index) == 55).all()
        assert resident() - before < 2**25
    labels = torch.zeros(5_000, dtype=torch.int64)
    data = ImageData(images=images, labels=labels, classes=("a",))
    for index in (torch.arange(0, 5_000, 10), torch.arange(5_000) % 10 == 0):
        assert (data.subset(index).images == 55).all()
        assert resident() - before < 2**25
    for first in range(0, 5_000, 100):
        assert (expecting(images[first : first + 4]) == 55).all()
        assert resident() - before < 2**25


def resident() -> int:
    """Bytes of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssFile"))
    return 1024 * int(line.split()[1])


def test_a_view_is_known_by_its_storage_and_a_copy_is_not(pair):
    plain, images = pair
    assert is_mapped(images)
    assert is_mapped(images[10:])
    assert not is_mapped(images.clone())
    assert not is_mapped(plain)


def test_chunks_of_a_view_start_at_its_offset(pair, tell):
    plain, images = pair
    got = torch.cat(list(chunks(images[11:40], 10)))
    assert torch.equal(got, plain[11:40])


def test_the_map_ends_with_its_last_tensor(tmp_path):
    (tmp_path / "x").write_bytes(b"abcd")
    before = len(mapped._MAPS)
    images = map_images(tmp_path / "x", (4,))
    view = images[1:]
    del images
    assert len(mapped._MAPS) == before + 1
    assert view.tolist() == list(b"bcd")
    del view
    assert len(mapped._MAPS) == before


def test_a_file_that_is_too_short_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    with pytest.raises(ValueError, match="length"):
        map_images(tmp_path / "x", (4,))


def test_a_sampler_draws_the_same_from_both_and_copies_nothing(pair):
    plain, images = pair
    labels = torch.arange(5).repeat_interleave(10)
    samplers = [
        ClassSampler(ImageData(images=i, labels=labels, classes=tuple("abcde")), "cpu")
        for i in (plain, images)
    ]
    assert samplers[1].images.data_ptr() == images.data_ptr()
    one, two = (s.sample(4, make_generator(0, "x")) for s in samplers)
    assert torch.equal(one, two)
    one, two = (s.batch(4, make_generator(0, "x"))[0] for s in samplers)
    assert torch.equal(one, two)


def test_reading_class_by_class_hands_pages_back_too(pair, tell):
    plain, images = pair
    labels = torch.arange(5).repeat_interleave(10)
    data = ImageData(images=images, labels=labels, classes=tuple("abcde"))
    sampler = ClassSampler(data, "cpu")
    got = torch.cat([sampler.all_of(label) for label in range(5)])
    assert torch.equal(got, plain)
    assert tell.count("MADV_DONTNEED") == 5


def test_statistics_and_fingerprint_are_the_same_from_both(pair):
    plain, images = pair
    labels = torch.arange(5).repeat_interleave(10)
    one, two = (
        ImageData(images=i, labels=labels, classes=tuple("abcde"))
        for i in (plain, images)
    )
    assert one.statistics() == two.statistics()
    assert one.fingerprint() == two.fingerprint()
