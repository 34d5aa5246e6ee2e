import pytest
import torch

from condense_core.data import ImageData, to_unit
from condense_core.data.class_sampler import ClassSampler
from condense_core.errors import DataError


def labelled(labels=(1, 0, 2, 0, 1, 0)):
    labels = torch.tensor(labels)
    draw = torch.Generator().manual_seed(0)
    shape = (len(labels), 3, 8, 8)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=draw)
    return ImageData(images=images, labels=labels, classes=("a", "b", "c"))


def test_it_draws_only_images_of_the_asked_class():
    data = labelled((1, 0, 2, 0, 1, 0))
    drawn = ClassSampler(data, "cpu").sample(20, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 20, 3, 8, 8)
    for label in range(3):
        own = to_unit(data.images[data.labels == label]).flatten(1).tolist()
        assert all(row in own for row in drawn[label].flatten(1).tolist())


def test_it_reaches_every_image_of_a_class():
    drawn = ClassSampler(labelled(), "cpu").sample(60, torch.Generator().manual_seed(0))
    assert [len(d.flatten(1).unique(dim=0)) for d in drawn] == [3, 2, 1]


def test_it_draws_selected_classes_in_their_order():
    data = labelled()
    generator = torch.Generator().manual_seed(0)
    drawn = ClassSampler(data, "cpu").sample(2, generator, torch.tensor([2]))
    assert torch.equal(drawn[0, 0], to_unit(data.images[2]))
    assert drawn.shape[:2] == (1, 2)


def test_it_draws_the_same_for_the_same_seed():
    sampler = ClassSampler(labelled(), "cpu")
    first, again = (
        sampler.sample(5, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, again)


def test_a_batch_pairs_images_with_their_labels():
    data = labelled()
    images, labels = ClassSampler(data, "cpu").batch(
        50, torch.Generator().manual_seed(0)
    )
    for image, label in zip(images, labels, strict=True):
        match = (to_unit(data.images) == image).flatten(1).all(1)
        assert data.labels[match].tolist() == [label]
    assert labels.unique().tolist() == [0, 1, 2]


def test_it_gives_every_image_of_a_class():
    data = labelled()
    found = ClassSampler(data, "cpu").all_of(0)
    assert torch.equal(found, data.images[data.labels == 0])


def test_it_refuses_a_class_without_images():
    with pytest.raises(DataError, match="class 'b' has no images"):
        ClassSampler(labelled((0, 2)), "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_sampling_never_waits_for_the_device():
    sampler = ClassSampler(labelled(), "cuda")
    statistics = labelled().statistics()
    generator = torch.Generator("cuda").manual_seed(0)
    statistics.normalise(sampler.batch(2, generator)[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        statistics.normalise(sampler.batch(2, generator)[0])
        sampler.sample(3, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
