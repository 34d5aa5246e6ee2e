import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from condense_core.data import (
    ImageData,
    PixelStatistics,
    as_image_data,
    to_bytes,
    to_unit,
)
from condense_core.data.images import MIN_STD
from condense_core.errors import DataError


def make_images(count=6, channels=3, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, side, side)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def make_data(labels=(1, 0, 2, 0, 1, 0), **kwargs):
    labels = torch.tensor(labels)
    names = tuple("abcdefgh"[: int(labels.max()) + 1])
    return ImageData(
        images=make_images(len(labels), **kwargs), labels=labels, classes=names
    )


def one_line(error):
    assert "\n" not in str(error.value)
    return True


def test_bytes_survive_the_round_trip_through_floats():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_unit(every)), every)


def test_bytes_saturate_outside_the_unit_range():
    assert to_bytes(torch.tensor([-1.0, 2.0])).tolist() == [0, 255]


def test_image_data_knows_its_shape_and_counts():
    data = make_data()
    assert (len(data), data.num_classes, data.image_shape) == (6, 3, (3, 8, 8))
    assert data.counts.tolist() == [3, 2, 1]


def test_image_data_refuses_float_images():
    with pytest.raises(DataError, match=r"torch.float32.*as_image_data") as error:
        ImageData(
            images=torch.zeros(1, 1, 8, 8), labels=torch.zeros(1).long(), classes=("a",)
        )
    assert one_line(error)


def test_image_data_refuses_labels_beyond_the_classes():
    with pytest.raises(DataError, match=r"0\.\.2 do not fit 2 class names"):
        ImageData(
            images=make_images(2), labels=torch.tensor([0, 2]), classes=("a", "b")
        )


def test_image_data_refuses_an_empty_set():
    with pytest.raises(DataError, match="empty data set"):
        make_data().subset(torch.tensor([], dtype=torch.long))


def test_a_channels_last_array_is_told_to_permute():
    with pytest.raises(DataError, match=r"permute\(0, 3, 1, 2\)"):
        as_image_data((np.zeros((2, 8, 8, 3), np.uint8), [0, 1]))


def test_subset_keeps_class_names_and_picks_rows():
    data = make_data()
    part = data.subset(torch.tensor([2, 0]))
    assert part.labels.tolist() == [2, 1]
    assert part.classes == data.classes
    assert torch.equal(part.images[0], data.images[2])


def test_fingerprint_is_the_same_for_equal_sets():
    assert make_data().fingerprint() == make_data().fingerprint()


@pytest.mark.parametrize("what", ["pixel", "label", "class", "shape"])
def test_fingerprint_changes_with(what):
    data = make_data()
    images, labels, classes = data.images.clone(), data.labels.clone(), data.classes
    if what == "pixel":
        images[3, 1, 2, 5] ^= 1
    elif what == "label":
        labels[0] = 2
    elif what == "class":
        classes = ("a", "b", "x")
    else:
        images = images.reshape(6, 3, 4, 16)
    other = ImageData(images=images, labels=labels, classes=classes)
    assert other.fingerprint() != data.fingerprint()


def test_statistics_equal_the_direct_computation():
    data = make_data()
    unit = data.images.double() / 255
    statistics = data.statistics()
    torch.testing.assert_close(
        torch.tensor(statistics.mean, dtype=torch.double), unit.mean((0, 2, 3))
    )
    torch.testing.assert_close(
        torch.tensor(statistics.std, dtype=torch.double),
        unit.std((0, 2, 3), correction=0),
    )


def test_a_constant_channel_gets_the_smallest_deviation():
    images = torch.full((2, 1, 8, 8), 7, dtype=torch.uint8)
    assert as_image_data((images, [0, 1])).statistics().std == (MIN_STD,)


def test_normalised_images_have_zero_mean_and_unit_deviation():
    data = make_data()
    normal = data.statistics().normalise(to_unit(data.images))
    torch.testing.assert_close(
        normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(normal.std((0, 2, 3), correction=0), torch.ones(3))


def test_normalising_passes_gradients_after_use_in_inference_mode():
    statistics = PixelStatistics((0.125,), (0.25,))
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    with torch.inference_mode():
        statistics.normalise(images)
    statistics.normalise(images).sum().backward()
    assert torch.equal(images.grad, torch.full_like(images, 4.0))


def test_statistics_refuse_images_with_other_channels():
    with pytest.raises(DataError, match=r"data\.channels=3"):
        make_data().statistics().normalise(torch.rand(2, 1, 8, 8))


def test_statistics_refuse_a_zero_deviation():
    with pytest.raises(DataError, match="positive std"):
        PixelStatistics((0.5,), (0.0,))


def test_image_data_passes_through_unchanged():
    data = make_data()
    assert as_image_data(data) is data


def test_float_images_are_rounded_to_bytes():
    images = make_images()
    data = as_image_data((to_unit(images), torch.arange(6)))
    assert torch.equal(data.images, images)


def test_grey_images_without_a_channel_axis_get_one():
    data = as_image_data((np.zeros((3, 8, 9), np.uint8), np.arange(3)))
    assert data.image_shape == (1, 8, 9)


def test_labels_with_gaps_are_mapped_and_kept_as_names():
    data = as_image_data((make_images(4), [7, 3, 7, -1]))
    assert data.labels.tolist() == [2, 1, 2, 0]
    assert data.classes == ("-1", "3", "7")


def test_text_labels_become_class_names():
    data = as_image_data((make_images(3), ["dog", "cat", "dog"]))
    assert (data.labels.tolist(), data.classes) == ([1, 0, 1], ("cat", "dog"))


def test_text_labels_follow_the_order_of_given_classes():
    data = as_image_data((make_images(2), ["cat", "dog"]), classes=["dog", "cat"])
    assert (data.labels.tolist(), data.classes) == ([1, 0], ("dog", "cat"))


def test_given_classes_stay_in_line_when_one_has_no_image():
    data = as_image_data((make_images(2), [0, 2]), classes=["a", "b", "c"])
    assert (data.labels.tolist(), data.num_classes) == ([0, 2], 3)


def test_labels_counted_from_one_fit_as_many_names():
    data = as_image_data((make_images(3), [1, 2, 3]), classes=["a", "b", "c"])
    assert data.labels.tolist() == [0, 1, 2]


def test_labels_that_do_not_fit_the_names_are_refused():
    with pytest.raises(DataError, match="do not fit 2 class names"):
        as_image_data((make_images(3), [0, 1, 2]), classes=["a", "b"])


def test_one_hot_labels_are_told_to_argmax():
    with pytest.raises(DataError, match=r"argmax\(1\)"):
        as_image_data((make_images(3), torch.eye(3)))


def test_a_length_mismatch_names_both_lengths():
    with pytest.raises(DataError, match="6 images but 5 labels") as error:
        as_image_data((make_images(6), torch.zeros(5).long()))
    assert one_line(error)


def test_a_single_class_works():
    data = as_image_data((make_images(2), [4, 4]))
    assert (data.num_classes, data.classes) == (1, ("4",))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_pixels_are_refused(value):
    images = torch.rand(2, 1, 8, 8)
    images[1, 0, 3, 3] = value
    with pytest.raises(DataError, match=r"(NaN|infinite) pixels"):
        as_image_data((images, [0, 1]))


def test_float_images_in_byte_range_are_told_to_divide():
    with pytest.raises(DataError, match=r"0 to 254.*divide them by 255"):
        as_image_data((torch.tensor([0.0, 254.0]).expand(2, 1, 8, 2), [0, 1]))


def test_normalised_images_are_told_to_leave_it_out():
    with pytest.raises(DataError, match=r"-1\.5 to 2.*leave out the normalisation"):
        as_image_data((torch.tensor([-1.5, 2.0]).expand(2, 1, 8, 2), [0, 1]))


def test_wide_integer_images_are_refused():
    with pytest.raises(DataError, match=r"torch\.int64"):
        as_image_data((torch.zeros(2, 1, 8, 8).long(), [0, 1]))


@pytest.mark.parametrize("source", [(make_images(6)[:0], []), []])
def test_an_empty_source_is_refused(source):
    with pytest.raises(DataError, match="empty data set"):
        as_image_data(source)


def pil_sample(pixels):
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


@pytest.mark.parametrize(
    "convert",
    [
        pil_sample,
        lambda pixels: pixels.permute(1, 2, 0).numpy(),
        lambda pixels: pixels,
        lambda pixels: pixels.float() / 255,
    ],
    ids=["pil", "array", "tensor", "float"],
)
def test_a_map_style_set_is_read_whatever_its_images_are(convert):
    images = make_images(4)
    samples = [
        (convert(image), index % 2, "task") for index, image in enumerate(images)
    ]
    data = as_image_data(samples)
    assert torch.equal(data.images, images)
    assert data.labels.tolist() == [0, 1, 0, 1]


def test_a_tensor_dataset_is_used_without_reading_samples():
    images, labels = make_images(4), torch.tensor([0, 1, 0, 1])
    data = as_image_data(TensorDataset(images, labels))
    assert data.images.data_ptr() == images.data_ptr()


def test_a_set_keeps_the_names_of_the_classes_it_holds():
    class Experience(list):
        classes = ("ant", "bee", "cat")

    data = as_image_data(Experience([(make_images(1)[0], 2), (make_images(1)[0], 0)]))
    assert (data.labels.tolist(), data.classes) == ([1, 0], ("ant", "cat"))


def test_samples_of_mixed_sizes_are_told_how_to_resize():
    samples = [(make_images(1)[0], 0), (make_images(1, side=9)[0], 1)]
    with pytest.raises(DataError, match=r"\(3, 9, 9\).*in the transform") as error:
        as_image_data(samples)
    assert one_line(error)


def test_a_sample_that_is_no_pair_is_refused():
    with pytest.raises(DataError, match="sample 0 is a Tensor"):
        as_image_data([make_images(1)[0]] * 3)


def test_a_sample_with_a_one_hot_label_is_refused():
    with pytest.raises(DataError, match=r"label of sample 0 is a Tensor.*argmax"):
        as_image_data([(make_images(1)[0], torch.eye(3)[0])])


def test_an_iterable_without_length_is_refused():
    with pytest.raises(DataError, match="generator is not a map-style data set"):
        as_image_data(sample for sample in [])


def test_images_have_standard_strides_wherever_they_come_from():
    last = torch.zeros(4, 8, 8, 1, dtype=torch.uint8)
    for images in (last.permute(0, 3, 1, 2), last.permute(0, 3, 1, 2).contiguous()):
        data = ImageData(images=images, labels=torch.zeros(4).long(), classes=("a",))
        assert data.images.stride() == (64, 64, 8, 1)
