"""MS-SSIM against the formula written out pixel by pixel in float64, and its ends."""

import itertools

import numpy as np
import pytest
import torch

from dcgan_dist.collapse import ssim
from dcgan_dist.collapse.pixels import Doubles, Pixels
from dcgan_dist.collapse.ssim import levels, mean_similarity, scales, similarities
from tests.collapse.made import flowers


def by_definition(left: Pixels, right: Pixels) -> float:
    """MS-SSIM of two images (H, W, C), window by window."""
    a, b = left / 255.0, right / 255.0
    gauss = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(gauss, gauss) / gauss.sum() ** 2
    all_weights = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]
    count = next(n for n in range(5, 0, -1) if min(a.shape[:2]) // 2 ** (n - 1) >= 11)
    weights = np.array(all_weights[:count]) / sum(all_weights[:count])
    result = 1.0
    for scale in range(count):
        whole, contrast = [], []
        for y, x, c in itertools.product(range(a.shape[0] - 10), range(a.shape[1] - 10), range(a.shape[2])):
            p, q = a[y : y + 11, x : x + 11, c], b[y : y + 11, x : x + 11, c]
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            covariance = (window * (p - mean_p) * (q - mean_q)).sum()
            spread = (window * (p - mean_p) ** 2).sum() + (window * (q - mean_q) ** 2).sum()
            contrast.append((2 * covariance + 0.0009) / (spread + 0.0009))
            whole.append(contrast[-1] * (2 * mean_p * mean_q + 0.0001) / (mean_p**2 + mean_q**2 + 0.0001))
        value = float(np.mean(whole if scale == count - 1 else contrast))
        result *= max(value, 0) ** weights[scale]
        a, b = halved(a), halved(b)
    return result


def halved(x: Doubles) -> Doubles:
    height, width, channels = x.shape[0] // 2, x.shape[1] // 2, x.shape[2]
    cut = x[: 2 * height, : 2 * width]
    means: Doubles = cut.reshape(height, 2, width, 2, channels).mean(axis=(1, 3))
    return means


@pytest.mark.parametrize(
    ("side", "expected"), [(11, 1), (21, 1), (22, 2), (28, 2), (32, 2), (64, 3), (176, 5), (999, 5)]
)
def test_scales(side: int, expected: int) -> None:
    assert scales(side) == expected


@pytest.mark.parametrize(("height", "width", "channels"), [(14, 14, 1), (28, 28, 1), (33, 30, 3), (44, 48, 1)])
def test_it_is_what_the_paper_defines(height: int, width: int, channels: int) -> None:
    random = np.random.default_rng(0)
    left = random.integers(0, 256, (height, width, channels), np.uint8)
    right = (left * 0.5 + random.integers(0, 128, left.shape)).astype(np.uint8)
    found = similarities(levels(np.stack([left, right])), levels(np.stack([right, right])))
    assert found[0] == pytest.approx(by_definition(left, right), abs=1e-12)
    assert found[1] == pytest.approx(1, abs=1e-12)
    assert 0.1 < found[0] < 0.99


def test_it_agrees_with_torchmetrics() -> None:
    # Its own MS-SSIM takes the coarsest scale's mean over a padded image too, half of which would be padding here.
    functional = pytest.importorskip("torchmetrics.functional.image")
    images = flowers(8)[0]
    a, b = (torch.tensor(x.transpose(0, 3, 1, 2)).double() / 255 for x in (images[:4], images[4:]))
    _, contrast = functional.structural_similarity_index_measure(
        a, b, data_range=1.0, reduction="none", return_contrast_sensitivity=True
    )
    a, b = (torch.nn.functional.avg_pool2d(x, 2) for x in (a, b))
    _, full = functional.structural_similarity_index_measure(
        a, b, data_range=1.0, reduction="none", return_full_image=True
    )
    whole = full[:, :, 5:-5, 5:-5].mean(dim=(1, 2, 3))
    theirs = contrast.clamp(min=0) ** (0.0448 / 0.3304) * whole.clamp(min=0) ** (0.2856 / 0.3304)
    np.testing.assert_allclose(similarities(levels(images[:4]), levels(images[4:])), theirs.numpy(), atol=1e-9)


def test_an_image_and_its_negative_are_not_alike() -> None:
    image = flowers(1)[0]
    assert similarities(levels(image), levels(255 - image)).tolist() == [0]


def test_the_mean_over_pairs() -> None:
    images = flowers(40)[0]
    # All pairs of five are one or two apart on a ring.
    pairs = list(itertools.combinations(range(5), 2))
    left, right = (levels(images[list(places)]) for places in zip(*pairs, strict=True))
    assert mean_similarity(images[:5], seed=0) == pytest.approx(similarities(left, right).mean(), abs=1e-12)
    assert mean_similarity(images, seed=0) == mean_similarity(images, seed=0)
    assert mean_similarity(images, seed=0) != mean_similarity(images, seed=1)
    assert mean_similarity(images[:1].repeat(12, axis=0), seed=0) == pytest.approx(1, abs=1e-12)
    # Two images in equal shares, in turn or in random order: near half of the pairs are of one image.
    two = mean_similarity(images[:2].repeat(200, axis=0), seed=0)
    apart = similarities(levels(images[:1]), levels(images[1:2]))[0]
    assert two == pytest.approx((1 + apart) / 2, abs=0.03)


def test_the_ring_closes_over_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    images = flowers(40)[0]
    whole = mean_similarity(images, seed=0)
    monkeypatch.setattr(ssim, "_CHUNK", 7)
    assert mean_similarity(images, seed=0) == pytest.approx(whole, abs=1e-12)
