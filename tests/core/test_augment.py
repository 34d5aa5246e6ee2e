"""Each operation against a slow reference that treats one sample at a time."""

import math

import pytest
import torch
from torch.nn import functional as F

from condense_core import augment
from condense_core.augment import OPERATIONS, SiameseAugment
from condense_core.errors import ConfigError

ALL = "color_crop_cutout_flip_scale_rotate"
SIZES = [(8, 8), (9, 7), (10, 16)]


@pytest.fixture(params=SIZES, ids=str)
def images(request, generator):
    return torch.randn(6, 3, *request.param, generator=generator, dtype=torch.float64)


@pytest.fixture
def uniforms(generator):
    drawn = torch.rand(6, 3, generator=generator, dtype=torch.float64)
    drawn[0], drawn[1] = 0.0, 1 - 2.0**-24  # the ends of what torch.rand can give
    return drawn


def color_one(image, u):
    image = image + (u[0] - 0.5)
    grey = image.sum(dim=0) / len(image)
    image = torch.stack([(channel - grey) * 2 * u[1] + grey for channel in image])
    return (image - image.mean()) * (u[2] + 0.5) + image.mean()


def crop_one(image, u):
    _, height, width = image.shape
    reach_y, reach_x = (math.floor(side * 0.125 + 0.5) for side in (height, width))
    down = math.floor(u[0] * (2 * reach_y + 1)) - reach_y
    right = math.floor(u[1] * (2 * reach_x + 1)) - reach_x
    moved = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y + down < height and 0 <= x + right < width:
                moved[:, y, x] = image[:, y + down, x + right]
    return moved


def cutout_one(image, u):
    _, height, width = image.shape
    cut = image.clone()
    sizes = [math.floor(side / 2 + 0.5) for side in (height, width)]
    centres = [
        math.floor(value * (side + 1 - size % 2))
        for value, side, size in zip(u, (height, width), sizes, strict=False)
    ]
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            y, x = centres[0] - sizes[0] // 2 + i, centres[1] - sizes[1] // 2 + j
            if 0 <= y < height and 0 <= x < width:
                cut[:, y, x] = 0
    return cut


def flip_one(image, u):
    if u[0] >= 0.5:
        return image
    return torch.stack([column for column in image.unbind(2)][::-1], dim=2)


def sample_one(image, source_of):
    """Bilinear look-up of ``source_of(y, x)``, in pixels from the image's centre."""
    channels, height, width = image.shape
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            y, x = source_of(row - (height - 1) / 2, column - (width - 1) / 2)
            y, x = y + (height - 1) / 2, x + (width - 1) / 2
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        share = (1 - abs(y - i)) * (1 - abs(x - j))
                        result[:, row, column] += share * image[:, i, j]
    assert len(result) == channels
    return result


def scale_one(image, u):
    factors = [value * (1.2 - 1 / 1.2) + 1 / 1.2 for value in u[:2]]
    return sample_one(image, lambda y, x: (factors[0] * y, factors[1] * x))


def rotate_one(image, u):
    angle = math.radians((u[0] - 0.5) * 30)
    cosine, sine = math.cos(angle), math.sin(angle)
    return sample_one(
        image, lambda y, x: (sine * x + cosine * y, cosine * x - sine * y)
    )


REFERENCES = {
    "color": color_one,
    "crop": crop_one,
    "cutout": cutout_one,
    "flip": flip_one,
    "scale": scale_one,
    "rotate": rotate_one,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_matches_a_loop_over_samples(name, images, uniforms, device):
    expected = torch.stack(
        [
            REFERENCES[name](image, u)
            for image, u in zip(images, uniforms.tolist(), strict=True)
        ]
    )
    result = OPERATIONS[name](images.to(device), uniforms.to(device)).cpu()
    torch.testing.assert_close(result, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_changes_some_image_by_its_parameters(name, images, uniforms):
    result = OPERATIONS[name](images, uniforms)
    assert result.shape == images.shape
    assert not torch.allclose(result, images)
    same = OPERATIONS[name](images[:1].expand(6, -1, -1, -1), uniforms)
    assert not torch.allclose(same[0], same[1])


@pytest.mark.parametrize("name", ["crop", "scale", "rotate"])
def test_affine_operation_matches_a_grid_a_sample_with_torch(name, generator):
    """On square images the protocol's own 2 x 3 matrices apply."""
    images = torch.randn(5, 2, 8, 8, generator=generator)
    uniforms = torch.rand(5, 3, generator=generator)
    expected = []
    for image, u in zip(images, uniforms.tolist(), strict=True):
        angle = (u[0] - 0.5) * 2 * 15 / 180 * math.pi
        shifts = [math.floor(value * 3) - 1 for value in u[:2]]
        factors = [value * (1.2 - 1 / 1.2) + 1 / 1.2 for value in u[:2]]
        theta = {
            "crop": [[1, 0, shifts[1] / 4], [0, 1, shifts[0] / 4]],
            "scale": [[factors[1], 0, 0], [0, factors[0], 0]],
            "rotate": [
                [math.cos(angle), math.sin(-angle), 0],
                [math.sin(angle), math.cos(angle), 0],
            ],
        }[name]
        grid = F.affine_grid(torch.tensor([theta]), [1, 2, 8, 8], align_corners=False)
        expected.append(F.grid_sample(image[None], grid, align_corners=False)[0])
    result = OPERATIONS[name](images, uniforms)
    torch.testing.assert_close(result, torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_whole_cut_is_half_of_each_side(size):
    images = torch.ones(1, 2, *size)
    cut = augment.cutout(images, torch.full((1, 3), 0.5))
    rows, columns = (math.floor(side / 2 + 0.5) for side in size)
    assert (cut == 0).sum() == 2 * rows * columns


def test_cut_images_lose_a_rectangle_and_keep_the_rest(generator):
    images = torch.rand(40, 1, 8, 8, generator=generator) + 1
    cut = augment.cutout(images, torch.rand(40, 3, generator=generator))
    hole = cut[:, 0] == 0
    box = hole.any(dim=2, keepdim=True) & hole.any(dim=1, keepdim=True)
    assert torch.equal(hole, box)
    assert torch.equal(cut[:, 0][~hole], images[:, 0][~hole])
    assert 4 <= hole.sum(dim=(1, 2)).min() < hole.sum(dim=(1, 2)).max() == 16


def test_half_of_the_images_are_mirrored(generator):
    images = torch.tensor([[[[1.0, 2.0]]]]).expand(400, 1, 1, 2)
    result = augment.flip(images, torch.rand(400, 3, generator=generator))
    assert 150 < (result[:, 0, 0, 0] == 2).sum() < 250


def test_one_row_is_the_same_transformation_of_batches_of_any_size(generator):
    siamese = SiameseAugment.from_text(ALL)
    images = torch.randn(5, 3, 8, 8, generator=generator)
    for seed in range(6):
        draw = torch.Generator().manual_seed(seed)
        parameters = siamese.draw(1, draw)
        whole = siamese.apply(images, parameters)
        parts = [siamese.apply(part, parameters) for part in images.split([2, 3])]
        torch.testing.assert_close(torch.cat(parts), whole)
        assert not torch.equal(whole, images) or parameters.operations == ("flip",)


@pytest.mark.parametrize("name", OPERATIONS)
def test_rows_transform_their_own_image_only(name, generator):
    siamese = SiameseAugment((name,))
    images = torch.randn(3, 1, 8, 8, generator=generator)
    parameters = siamese.draw(3, generator)
    result = siamese.apply(images, parameters)
    changed = images.clone()
    changed[0] = 0
    torch.testing.assert_close(siamese.apply(changed, parameters)[1:], result[1:])


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradient_flows_to_the_images(name, generator):
    images = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    uniforms = torch.rand(2, 3, generator=generator, dtype=torch.float64)
    images.requires_grad_()
    result = OPERATIONS[name](images, uniforms)
    (slope,) = torch.autograd.grad(result.square().sum(), images)
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        ends = [
            OPERATIONS[name](images + step * direction, uniforms).square().sum()
            for step in (1e-5, -1e-5)
        ]
    expected = (ends[0] - ends[1]) / 2e-5
    assert expected.abs() > 1e-3
    torch.testing.assert_close((slope * direction).sum(), expected, rtol=1e-6, atol=0)


def test_same_seed_draws_the_same_and_another_something_else():
    siamese = SiameseAugment.from_text(ALL)
    drawn = [siamese.draw(4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert drawn[0].operations == drawn[1].operations
    assert torch.equal(drawn[0].uniforms[0], drawn[1].uniforms[0])
    assert not torch.equal(drawn[0].uniforms[0], drawn[2].uniforms[0])


def test_a_draw_is_of_one_operation_and_every_one_has_its_turn(generator):
    siamese = SiameseAugment.from_text(ALL)
    drawn = [siamese.draw(1, generator).operations for _ in range(100)]
    assert {operation for (operation,) in drawn} == set(ALL.split("_"))


def test_flip_is_left_out_where_left_and_right_differ():
    assert "flip" in SiameseAugment.from_text(ALL).operations
    without = SiameseAugment.from_text(ALL, flip=False).operations
    assert without == ("color", "crop", "cutout", "scale", "rotate")


@pytest.mark.parametrize("text", [None, "", "none"])
def test_no_operation_is_the_identity(text, generator):
    images = torch.randn(2, 1, 8, 8, generator=generator)
    assert torch.equal(
        SiameseAugment.from_text(text).augment(images, generator), images
    )


def test_augment_is_draw_and_apply_with_one_row_an_image(generator):
    siamese = SiameseAugment.from_text("color")
    images = torch.randn(3, 1, 8, 8, generator=generator)
    drawn = siamese.draw(3, torch.Generator().manual_seed(7))
    result = siamese.augment(images, torch.Generator().manual_seed(7))
    assert torch.equal(result, siamese.apply(images, drawn))


@pytest.mark.parametrize("shared", [True, False])
def test_draws_applied_together_are_those_applied_one_by_one(shared, generator):
    augmentation = SiameseAugment(tuple(OPERATIONS))
    batches = torch.randn(9, 2, 3, 8, 8, generator=generator)
    drawn = [augmentation.draw(2, generator) for _ in batches]
    together = augmentation.apply_each(batches[0] if shared else batches, drawn)
    for row, parameters in enumerate(drawn):
        images = batches[0 if shared else row]
        alone = augmentation.apply(images, parameters)
        torch.testing.assert_close(together[row], alone)


def test_unknown_operation_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"'blur'.*color, crop, cutout, flip"):
        SiameseAugment.from_text("color_blur")


@pytest.mark.usefixtures("untouched_global_rng")
def test_global_generator_is_left_alone(generator):
    images = torch.rand(4, 3, 8, 8, generator=generator)
    siamese = SiameseAugment.from_text(ALL)
    assert siamese.augment(images, generator).shape == images.shape
