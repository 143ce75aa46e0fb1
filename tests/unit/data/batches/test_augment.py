import math

import cv2
import numpy as np
import pytest
import torch

from facetrain.core.config import parse_config
from facetrain.core.errors import ConfigError
from facetrain.data.batches.augment import AugmentConfig, AugmentParameters, augment, draw

EVERYTHING = AugmentConfig(
    rotate_degrees=20,
    scale=(0.8, 1.3),
    aspect=(0.9, 1.1),
    translate=0.1,
    brightness=0.3,
    contrast=0.3,
    saturation=0.4,
    gamma=0.2,
    grey_probability=0.2,
    blur_probability=0.5,
    low_resolution_probability=0.5,
    erase_probability=0.5,
)


def random_images(count, size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def plain(image):
    return image.float() / 127.5 - 1


def test_nothing_drawn_is_the_plain_normalisation():
    image = random_images(5)
    parameters = draw(AugmentConfig(flip_probability=0), 5, seed=0, step=0)
    assert parameters == AugmentParameters()
    assert torch.equal(augment(image, parameters), plain(image))


def test_flip_is_exact_and_as_often_as_asked():
    image = random_images(64)
    parameters = draw(AugmentConfig(), 64, seed=0, step=0)
    expected = plain(image)
    expected[parameters.flip] = torch.from_numpy(
        expected[parameters.flip].numpy()[..., ::-1].copy()
    )
    assert torch.equal(augment(image, parameters), expected)
    # Binomial(4096, p) is within 5 sigma but for one seed in a million, and the seed is fixed.
    for probability in (0.2, 0.5, 1.0):
        count = int(draw(AugmentConfig(flip_probability=probability), 4096, 0, 0).flip.sum())
        sigma = math.sqrt(4096 * probability * (1 - probability))
        assert abs(count - 4096 * probability) <= 5 * sigma


def test_drawing_depends_on_seed_and_step_only():
    one = draw(EVERYTHING, 8, seed=1, step=2)
    same = draw(EVERYTHING, 8, seed=1, step=2)
    for seed, step in ((1, 3), (2, 2)):
        other = draw(EVERYTHING, 8, seed=seed, step=step)
        for name in ("affine", "colour", "gamma", "erase_box", "erase_colour"):
            assert torch.equal(getattr(one, name), getattr(same, name))
            assert not torch.equal(getattr(one, name), getattr(other, name))


def test_an_operations_numbers_do_not_depend_on_the_others():
    everything = draw(EVERYTHING, 8, seed=1, step=2)
    alone = draw(AugmentConfig(erase_probability=0.5), 8, seed=1, step=2)
    assert torch.equal(alone.erase_box, everything.erase_box)
    assert alone.affine is None
    assert alone.colour is None


def test_a_rank_slices_what_the_whole_batch_gets():
    image = random_images(7, size=16)
    parameters = draw(EVERYTHING, 7, seed=1, step=2)
    whole = augment(image, parameters)
    parts = [augment(image[a:b], parameters.slice(a, b)) for a, b in ((0, 3), (3, 6), (6, 7))]
    # Matrix products of another batch size may add up in another order: float32 rounding.
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=2e-6)
    padded = parameters.slice(6, 9)  # a rank whose batch is filled up with 2 empty entries
    assert padded.affine.shape == (3, 2, 3)
    assert torch.equal(padded.affine[0], parameters.affine[6])


def bilinear_mirrored(image, x, y):
    """Sample (H, W, 3) at pixel position (x, y); beyond the border the image is mirrored."""
    size = len(image)

    def pixel(row, column):
        # dcba|abcd|dcba: a period of 2 size, its second half reversed
        row, column = row % (2 * size), column % (2 * size)
        return image[min(row, 2 * size - 1 - row), min(column, 2 * size - 1 - column)]

    left, top = math.floor(x), math.floor(y)
    u, v = x - left, y - top
    return (1 - v) * ((1 - u) * pixel(top, left) + u * pixel(top, left + 1)) + v * (
        (1 - u) * pixel(top + 1, left) + u * pixel(top + 1, left + 1)
    )


def test_affine_against_an_oracle_pixel_by_pixel():
    size = 12
    image = random_images(6, size)
    config = AugmentConfig(
        flip_probability=0.5, rotate_degrees=30, scale=(0.7, 1.4), aspect=(0.8, 1.2), translate=0.2
    )
    parameters = draw(config, 6, seed=0, step=0)
    result = augment(image, parameters).permute(0, 2, 3, 1).numpy()
    half = size / 2
    for n in range(6):
        source = plain(image[n]).permute(1, 2, 0).double().numpy()
        affine = parameters.affine[n].double().numpy()
        for row in range(size):
            for column in range(size):
                # in half sides from the centre; a pixel's centre is at + 0.5
                position = ((column + 0.5) / half - 1, (row + 0.5) / half - 1, 1)
                x, y = (affine @ position + 1) * half - 0.5
                expected = bilinear_mirrored(source, x, y)
                # float32 positions: 12 pixels * 2^-24 * a slope of at most 2 a pixel, with room
                assert np.abs(result[n, row, column] - expected).max() < 2e-5


def forward_map(flip, angle, scale, aspect, x, y):
    """Input to output position, step by step, as the configuration describes it."""
    mirror = np.diag([-1.0 if flip else 1.0, 1, 1])
    stretch = np.diag([scale * math.sqrt(aspect), scale / math.sqrt(aspect), 1])
    c, s = math.cos(angle), math.sin(angle)
    rotate = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    shift = np.array([[1, 0, 2 * x], [0, 1, 2 * y], [0, 0, 1.0]])  # a side is 2 half sides
    return shift @ rotate @ stretch @ mirror


def test_the_affine_map_is_what_the_configuration_describes():
    config = AugmentConfig(
        flip_probability=0.5, rotate_degrees=30, scale=(0.7, 1.4), aspect=(0.8, 1.2), translate=0.2
    )
    affine = draw(config, 512, seed=3, step=0).affine.double().numpy()
    seen = []
    for inverse in affine:
        forward = np.linalg.inv(np.vstack([inverse, [0, 0, 1]]))
        flip = np.linalg.det(forward[:2, :2]) < 0
        columns = np.linalg.norm(forward[:2, :2], axis=0)
        scale, aspect = math.sqrt(columns.prod()), columns[0] / columns[1]
        angle = math.atan2(-forward[0, 1], forward[1, 1])
        x, y = forward[:2, 2] / 2
        seen.append((flip, math.degrees(angle), scale, aspect, x, y))
        expected = forward_map(flip, angle, scale, aspect, x, y)
        np.testing.assert_allclose(forward, expected, atol=1e-6)
    ranges = [(0, 1), (-30, 30), (0.7, 1.4), (0.8, 1.2), (-0.2, 0.2), (-0.2, 0.2)]
    for values, (low, high) in zip(np.array(seen, float).T, ranges, strict=True):
        # 512 uniform draws leave a gap of 5 % at an end once in 10^11
        assert low - 1e-6 <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high + 1e-6


def test_affine_corners_by_hand():
    # zoom 1.25 alone: the output's corner shows the input at 1/1.25 = 0.8 of the way out
    zoom = draw(AugmentConfig(flip_probability=0, scale=(1.25, 1.25)), 1, 0, 0).affine[0]
    torch.testing.assert_close(zoom, torch.tensor([[0.8, 0, 0], [0, 0.8, 0]]))
    # twice as wide as high with the area kept: x / sqrt(2), y * sqrt(2)
    wide = draw(AugmentConfig(flip_probability=1, aspect=(2.0, 2.0)), 1, 0, 0).affine[0]
    root = math.sqrt(2)
    torch.testing.assert_close(wide, torch.tensor([[-1 / root, 0, 0], [0, root, 0]]))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_blur_against_an_explicit_convolution(sigma):
    size = 12
    image = random_images(2, size)
    parameters = AugmentParameters(blur_sigma=torch.tensor([sigma, 0.0]))
    result = augment(image, parameters)
    source = plain(image[0]).double().numpy()
    padded = np.pad(source, ((0, 0), (size, size), (size, size)), mode="symmetric")
    offset = np.arange(-size, size + 1)
    kernel = np.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    expected = np.empty_like(source)
    for row in range(size):
        for column in range(size):
            window = padded[:, row : row + 2 * size + 1, column : column + 2 * size + 1]
            expected[:, row, column] = (window * kernel).sum((1, 2))
    # What lies beyond one mirror image, 12 pixels away, weighs exp(-12^2 / (2 * 2.5^2)) = 1e-5.
    np.testing.assert_allclose(result[0], expected, atol=2e-5)
    assert torch.equal(result[1], plain(image[1]))


@pytest.mark.parametrize("small", [3, 5, 12, 15])
def test_low_resolution_against_opencv(small):
    size = 16
    image = random_images(2, size)
    parameters = AugmentParameters(low_resolution=torch.tensor([small / size, 1.0]))
    result = augment(image, parameters)
    source = plain(image[0]).permute(1, 2, 0).numpy()
    shrunk = cv2.resize(source, (small, small), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_LINEAR)
    # Both in float32; OpenCV drops area overlaps below 0.001 of a pixel.
    np.testing.assert_allclose(result[0].permute(1, 2, 0), expected, atol=2e-3)
    assert torch.equal(result[1], plain(image[1]))


def test_blur_and_low_resolution_together_are_one_after_the_other():
    image = random_images(3, 16)
    sigma, scale = torch.tensor([1.0, 0.0, 1.5]), torch.tensor([0.5, 0.5, 1.0])
    both = augment(image, AugmentParameters(blur_sigma=sigma, low_resolution=scale))
    first = augment(image, AugmentParameters(blur_sigma=sigma))
    scale_only = augment(image, AugmentParameters(low_resolution=scale))
    torch.testing.assert_close(both[1], scale_only[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(both[2], first[2], rtol=0, atol=1e-6)
    shrunk = cv2.resize(first[0].permute(1, 2, 0).numpy(), (8, 8), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(shrunk, (16, 16), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(both[0].permute(1, 2, 0), expected, atol=1e-5)


def test_colour_by_hand():
    # One colour all over, light (0.6, 0.4, 0.2) of 1: 153, 102, 51 of 255.
    image = torch.tensor([153, 102, 51], dtype=torch.uint8)[None, :, None, None].repeat(4, 1, 2, 2)
    factors = [[0.5, 1, 1], [1, 0.5, 1], [1, 1, 0.5], [1, 1, 0]]
    result = (augment(image, AugmentParameters(colour=torch.tensor(factors))) + 1) / 2
    # grey = 0.299 * 0.6 + 0.587 * 0.4 + 0.114 * 0.2 = 0.437, also the image's mean grey
    expected = [
        [0.3, 0.2, 0.1],  # half the light
        [0.5185, 0.4185, 0.3185],  # half way to 0.437
        [0.5185, 0.4185, 0.3185],  # the same, where the image is uniform
        [0.437, 0.437, 0.437],  # no saturation
    ]
    torch.testing.assert_close(result[:, :, 0, 0], torch.tensor(expected), rtol=0, atol=1e-6)


def test_colour_against_one_operation_after_the_other():
    image = random_images(16, 6)
    config = AugmentConfig(
        flip_probability=0, brightness=0.5, contrast=0.5, saturation=0.9, grey_probability=0.3
    )
    parameters = draw(config, 16, seed=0, step=0)
    result = augment(image, parameters)
    luma = np.array([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    for n in range(16):
        brightness, contrast, saturation = parameters.colour[n].double().tolist()
        light = image[n].double().numpy() / 255
        grey = (luma * light).sum(0)
        light = grey + saturation * (light - grey)
        light = brightness * light
        mean = (luma * light).sum(0).mean()
        light = (mean + contrast * (light - mean)).clip(0, 1)
        np.testing.assert_allclose(result[n], 2 * light - 1, atol=2e-6)
    grey = parameters.colour[:, 2] == 0
    assert 0 < int(grey.sum()) < 16
    torch.testing.assert_close(result[grey][:, 0], result[grey][:, 2], rtol=0, atol=1e-6)


def test_gamma_by_hand():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    result = augment(image, AugmentParameters(gamma=torch.tensor([2.0])))
    # light 0, 0.2, 1 -> 0, 0.04, 1 -> -1, -0.92, 1
    torch.testing.assert_close(result.flatten(), torch.tensor([-1, -0.92, 1]))


def test_erase_by_hand():
    image = random_images(2, 8)
    box = torch.tensor([[0.25, 0.5, 0.5, 0.25], [0.0, 0.0, 0.0, 0.0]])
    colour = torch.tensor([[0.1, -0.2, 0.3], [1.0, 1.0, 1.0]])
    result = augment(image, AugmentParameters(erase_box=box, erase_colour=colour))
    expected = plain(image)
    # 8 pixels: rows 2 to 5, columns 4 and 5
    expected[0, :, 2:6, 4:6] = colour[0][:, None, None]
    assert torch.equal(result, expected)
    mean = augment(image, AugmentParameters(erase_box=box))
    expected[0, :, 2:6, 4:6] = plain(image)[0].mean((1, 2))[:, None, None]
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-6)


def test_erased_boxes_have_the_area_and_shape_asked_for():
    size, count = 100, 512
    config = AugmentConfig(flip_probability=0, erase_probability=0.5, erase_area=(0.1, 0.3))
    parameters = draw(config, count, seed=0, step=0)
    top, left, height, width = parameters.erase_box.unbind(1)
    erased = height > 0
    assert abs(int(erased.sum()) - 256) <= 5 * math.sqrt(128)  # Binomial(512, 0.5), 5 sigma
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 1 + 1e-6).all()
    assert (left + width <= 1 + 1e-6).all()
    area = (height * width)[erased]
    assert 0.1 - 1e-6 <= area.min() < 0.12
    assert 0.28 < area.max() <= 0.3 + 1e-6
    aspect = (width / height)[erased]
    assert 1 / 3.31 < aspect.min() < 1 / 2.5
    assert 2.5 < aspect.max() < 3.31
    # What is drawn is what is erased: a pixel at most at each of two opposite edges.
    black = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    changed = (augment(black, parameters) != -1).any(1)
    pixels = changed.sum((1, 2))
    assert (pixels[~erased] == 0).all()
    assert ((changed.any(2).sum(1) - height * size).abs() <= 1).all()
    assert ((changed.any(1).sum(1) - width * size).abs() <= 1).all()
    assert torch.equal(changed.any(2).sum(1) * changed.any(1).sum(1), pixels)  # one full box


def test_probabilities_are_kept():
    count = 4096
    config = AugmentConfig(
        grey_probability=0.2,
        blur_probability=0.3,
        blur_sigma=(0.5, 2.0),
        low_resolution_probability=0.4,
        low_resolution_min_scale=0.25,
    )
    parameters = draw(config, count, seed=0, step=0)
    sigma, scale = parameters.blur_sigma, parameters.low_resolution
    for chosen, probability in (
        (parameters.colour[:, 2] == 0, 0.2),
        (sigma > 0, 0.3),
        (scale < 1, 0.4),
    ):
        limit = 5 * math.sqrt(count * probability * (1 - probability))
        assert abs(int(chosen.sum()) - count * probability) < limit
    assert 0.5 <= sigma[sigma > 0].min() < 0.52
    assert 1.98 < sigma.max() <= 2.0
    assert 0.25 <= scale.min() < 0.26


def test_everything_together_stays_an_image_and_ignores_autocast():
    image = random_images(8, 16)
    parameters = draw(EVERYTHING, 8, seed=0, step=0)
    result = augment(image, parameters)
    assert result.dtype == torch.float32
    assert result.abs().max() <= 1
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(image, parameters), result)


@pytest.mark.slow
def test_it_compiles_into_one_graph():
    # fullgraph refuses anything that reads a tensor's value on the host or branches on data.
    compiled = torch.compile(augment, backend="aot_eager", fullgraph=True)
    image = random_images(4, 16)
    parameters = draw(EVERYTHING, 4, seed=0, step=0)
    torch.testing.assert_close(
        compiled(image, parameters), augment(image, parameters), rtol=0, atol=2e-6
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_agrees_with_the_host():
    image = random_images(16, 112)
    parameters = draw(EVERYTHING, 16, seed=0, step=0)
    # float32 on both (TF32 is off unless asked for), sums in another order.
    torch.testing.assert_close(
        augment(image.cuda(), parameters).cpu(), augment(image, parameters), rtol=0, atol=1e-4
    )


def test_the_configuration_is_checked():
    cases = {
        "flip_probability": 1.5,
        "scale": [1.2, 0.8],
        "erase_area": [0.0, 0.2],
        "blur": 1.0,
    }
    for key, value in cases.items():
        with pytest.raises(ConfigError, match=key):
            parse_config(AugmentConfig, {key: value}, "recipe.yaml")
    assert parse_config(AugmentConfig, {"scale": [0.9, 1.1]}, "x").scale == (0.9, 1.1)
