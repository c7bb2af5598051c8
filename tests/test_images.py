from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_dist.files import whole_file, write_whole
from dcgan_dist.images import grid, to_images, to_pixels, write_png


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0), (-0.5, 2.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_pixel_value_comes_back(value_range: tuple[float, float], dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    images = to_images(pixels, value_range, dtype=dtype)
    assert (images.min().item(), images.max().item()) == value_range
    assert images.dtype == dtype
    assert torch.equal(to_pixels(images, value_range), pixels)


def test_pixels_are_rounded_and_clamped() -> None:
    images = torch.tensor([-9.0, -1.0, 0.0, 0.999, 9.0])  # 0.0 is 127.5, which rounds to even; 0.999 is 254.87
    assert to_pixels(images, (-1.0, 1.0)).tolist() == [0, 0, 128, 255, 255]
    assert to_pixels(torch.tensor([0.5], dtype=torch.bfloat16), (0.0, 1.0)).tolist() == [128]


def test_grid_has_a_margin_and_grey_becomes_rgb() -> None:
    picture = grid(np.array([10, 20, 30], np.uint8).reshape(3, 1, 1, 1), 2, scale=1)
    expected = np.full((8, 8), 255)
    expected[2, 2], expected[2, 5], expected[5, 2] = 10, 20, 30
    np.testing.assert_array_equal(picture, np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize(("size", "side"), [(28, 3 * 28 * 3), (64, 3 * 64), (100, 3 * 100)])
def test_grid_is_square_and_small_images_are_enlarged(size: int, side: int) -> None:
    assert grid(np.zeros((9, size, size, 3), np.uint8)).shape == (side + 8, side + 8, 3)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (4, 4, 3), (2, 4, 4, 2)])
def test_grid_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(N, H, W, 1 or 3\)"):
        grid(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
def test_png_is_lossless(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "a.png", pixels)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_file_keeps_its_old_content_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, b"old")

    def interrupted() -> None:
        with whole_file(path) as file:
            file.write(b"new")
            file.flush()
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == [path]
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_two_that_write_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole_file(path) as first:
        first.write(b"first")
        with whole_file(path) as second:
            second.write(b"2")
        assert path.read_bytes() == b"2"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "no" / "a", b"")
    assert caught.value.filename == str(tmp_path / "no" / "a")
    with pytest.raises(OSError) as full, whole_file(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert full.value.filename == str(tmp_path / "a")
