"""Every measure on failures made on purpose: directions, names, floors, and the way through bytes."""

import dataclasses

import cv2
import numpy as np
import pytest

from dcgan_dist.collapse.picture import nearest_picture
from dcgan_dist.collapse.pixels import Pixels
from dcgan_dist.collapse.reference import Reference, colour_modes, fit, measure
from dcgan_dist.collapse.score import ALARM, PARTS, score
from tests.collapse.made import flowers

COUNT = 1000


@pytest.fixture(scope="module")
def reference() -> Reference:
    return fit(flowers(COUNT)[0], samples=256, drawn=True)


def short(measures: dict[str, float]) -> dict[str, float]:
    """Measures by the first words of their names: collapse/bins_js_k25_n256 is bins_js."""
    words = (
        "score",
        *PARTS,
        "ndb",
        "colour_modes",
        "copies",
        "data_distance",
        "sharpness",
        "flower_modes",
        "flower_kl",
        "flower_unknown",
    )
    plain = {name: value for name, value in measures.items() if not name.endswith("_floor")}
    return {word: value for word in words for name, value in plain.items() if name.startswith(f"collapse/{word}_")}


def unseen(keep: range | None = None) -> Pixels:
    """256 flowers that are not in the data, of these modes."""
    pixels, labels = flowers(1400, seed=8)
    chosen = pixels if keep is None else pixels[np.isin(labels, keep)]
    assert len(chosen) >= 256
    return chosen[:256]


def test_names_say_how_a_measure_was_made(reference: Reference) -> None:
    measures = measure(unseen(), reference)
    assert list(measures)[:3] == ["collapse/score_n256", "collapse/ndb_k25_n256", "collapse/ndb_k25_n256_floor"]
    assert reference.score_name == "collapse/score_n256"
    assert {"collapse/bins_js_k25_n256", "collapse/colour_js_k8_n256", "collapse/colour_modes_k8_n256"} < set(measures)
    assert {"collapse/msssim_scales2_n256", "collapse/duplicates_n256", "collapse/copies_m1000_n256"} < set(measures)
    assert {"collapse/flower_modes_n256", "collapse/flower_kl_n256"} < set(measures)
    assert all(isinstance(value, float) for value in measures.values())
    assert sum(name.endswith("_floor") for name in measures) * 2 + 1 == len(measures)


def test_unseen_data_are_near_the_floors_and_raise_no_alarm(reference: Reference) -> None:
    found, floors = short(measure(unseen(), reference)), reference.floors
    assert found["score"] < ALARM / 3
    assert found["bins_js"] == pytest.approx(floors["bins_js"], abs=0.03)
    assert found["msssim"] == pytest.approx(floors["msssim"], abs=0.03)
    assert found["colour_modes"] == floors["colour_modes"] == 1
    assert found["copies"] == found["duplicates"] == 0
    assert found["data_distance"] == pytest.approx(floors["data_distance"], rel=0.05)
    assert found["flower_modes"] >= 22
    assert found["flower_kl"] < 0.15  # 23 / 512 expected


def test_one_colour_only(reference: Reference) -> None:
    found, floors = short(measure(unseen(range(6)), reference)), reference.floors  # yellow
    assert found["score"] > ALARM
    assert found["colour_modes"] <= 3 / 8
    assert found["colour_js"] > 0.3
    assert found["bins_js"] > floors["bins_js"] + 0.2
    assert found["ndb"] > 0.5
    assert found["msssim"] > floors["msssim"] + 0.1
    assert found["flower_modes"] == 6
    assert found["flower_kl"] == pytest.approx(-np.log(0.4), abs=0.1)
    assert found["copies"] == 0


def test_half_of_the_modes_shows_in_bins_and_modes_but_not_in_pairs(reference: Reference) -> None:
    found, floors = short(measure(unseen(range(0, 24, 2)), reference)), reference.floors  # round petals only
    assert found["bins_js"] > 2 * floors["bins_js"]
    assert found["ndb"] > 0.2
    assert found["flower_modes"] == 12
    assert found["flower_kl"] == pytest.approx(-np.log(0.6), abs=0.1)
    assert found["duplicates"] == 0
    assert found["colour_modes"] == 1


def test_a_few_images_repeated(reference: Reference) -> None:
    found = short(measure(np.tile(unseen()[:16], (16, 1, 1, 1)), reference))
    assert found["duplicates"] == 1
    assert found["score"] > 1.5 * ALARM
    assert found["copies"] == 0


def test_copies_of_the_data_are_as_varied_as_the_data_and_are_found(reference: Reference) -> None:
    data = flowers(COUNT)[0]
    rows = reference.rows[:256]
    found = short(measure(data[rows], reference))
    assert found["score"] < ALARM / 3
    assert found["copies"] == 1
    assert found["data_distance"] == 0
    noise = np.random.default_rng(0).normal(0, 15, data[rows].shape)
    assert short(measure(np.clip(data[rows] + noise, 0, 255).astype(np.uint8), reference))["copies"] > 0.9
    assert short(measure(data[rows], reference, rows=rows))["copies"] == 0  # not copies of themselves


def test_mirrored_copies_count_when_training_mirrors(reference: Reference) -> None:
    data = flowers(COUNT)[0]
    mirrored = np.ascontiguousarray(data[reference.rows[:256], :, ::-1])
    assert short(measure(mirrored, reference))["copies"] == 0
    flipping = fit(data, samples=256, flip=True)
    assert short(measure(mirrored, flipping))["copies"] == 1
    assert flipping.floors["copies"] == 0


def test_noise_is_far_from_the_data_in_all_but_likeness(reference: Reference) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), np.uint8)
    found = short(measure(noise, reference))
    assert found["score"] > ALARM
    assert found["bins_js"] > 0.7
    assert found["colour_modes"] == 1 / 8
    assert found["duplicates"] == found["copies"] == 0
    assert found["msssim"] < reference.floors["msssim"]
    assert found["flower_unknown"] == 1
    assert found["flower_modes"] == 0


def test_blur_makes_pairs_alike(reference: Reference) -> None:
    found = [reference.floors["msssim"]]
    for deviation in (1, 2):
        blurred = np.stack([cv2.GaussianBlur(image, (0, 0), deviation) for image in unseen()])
        found.append(short(measure(blurred, reference))["msssim"])
    assert found[0] < found[1] < found[2]


def test_one_image_has_a_score_of_one(reference: Reference) -> None:
    for image in unseen()[:5]:
        assert measure(image[None].repeat(256, axis=0), reference)[reference.score_name] == 1


def test_colour_modes_are_listed_with_their_shares(reference: Reference) -> None:
    modes = colour_modes(unseen(range(6)), reference)
    assert sum(mode.data_share for mode in modes) == pytest.approx(1)
    assert sum(mode.sample_share for mode in modes) == pytest.approx(1)
    assert [mode.data_share for mode in modes] == sorted((mode.data_share for mode in modes), reverse=True)
    assert all(30 < mode.hue < 70 for mode in modes if mode.reached)
    assert any(250 < mode.hue < 300 and not mode.reached for mode in modes)
    assert all(mode.brightness is None for mode in modes)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_data_have_modes_of_brightness(channels: int) -> None:
    grey = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in flowers(COUNT)[0]])
    data = grey[..., None].repeat(channels, axis=3)
    reference = fit(data, samples=256)
    assert reference.grey
    dark = data[np.argsort(data.mean(axis=(1, 2, 3)))[:256]]
    modes = colour_modes(dark, reference)
    assert all(mode.brightness is not None and mode.brightness < 0.5 for mode in modes if mode.reached)
    measures = measure(dark, reference)
    assert short(measures)["colour_modes"] < 1
    assert not any("flower" in name for name in measures)


def test_a_reference_is_a_pure_function_and_survives_its_bytes(reference: Reference) -> None:
    data = reference.to_bytes()
    assert fit(flowers(COUNT)[0], samples=256, drawn=True).to_bytes() == data
    again = Reference.from_bytes(data)
    assert again.to_bytes() == data
    assert measure(unseen(), again) == measure(unseen(), reference)
    assert dataclasses.asdict(fit(flowers(COUNT)[0], samples=256, seed=1))["seed"] == 1


def test_bytes_of_something_else_are_refused(reference: Reference) -> None:
    data = reference.to_bytes()
    for wrong in (b"", data[:1000], data[:-1], b"x" * 100):
        with pytest.raises(ValueError, match="a collapse reference is damaged"):
            Reference.from_bytes(wrong)


def test_what_cannot_be_measured_is_refused(reference: Reference) -> None:
    data = flowers(COUNT)[0]
    with pytest.raises(ValueError, match="data must be at least 40 images to measure collapse against, got 39"):
        fit(data[:39])
    with pytest.raises(ValueError, match="samples must be at least 10, got 9"):
        fit(data, samples=9)
    with pytest.raises(ValueError, match="data must differ from each other"):
        fit(data[:1].repeat(100, axis=0))
    with pytest.raises(
        ValueError, match=r"samples must be uint8 of shape \(256, 32, 32, 3\), got uint8 of shape \(255, "
    ):
        measure(data[:255], reference)


def test_small_data_are_measured_with_what_they_have() -> None:
    reference = fit(flowers(COUNT)[0][:40])
    assert reference.samples == 20
    assert len(reference.bins.counts) == 2
    assert len(measure(flowers(COUNT)[0][:20], reference)) > 10


def test_the_score_runs_from_the_floor_to_the_worst() -> None:
    floors, worst = dict.fromkeys(PARTS, 0.2), dict.fromkeys(PARTS, 0.7)
    assert score(floors, floors=floors, worst=worst) == 0
    assert score(worst, floors=floors, worst=worst) == 1
    assert score(dict.fromkeys(PARTS, 0.1), floors=floors, worst=worst) == 0
    one = floors | {"msssim": 0.9}  # as bad as can be in one of four parts: sqrt(1 / 4)
    assert score(one, floors=floors, worst=worst) == pytest.approx(0.5)
    halfway = floors | {"bins_js": 0.45, "duplicates": 0.35}  # parts 0.5 and 0.3: sqrt(0.34 / 4)
    assert score(halfway, floors=floors, worst=worst) == pytest.approx(0.2915476)


def test_the_picture_has_a_row_for_each_sample(reference: Reference) -> None:
    data = flowers(COUNT)[0]
    samples = unseen().copy()
    samples[7] = data[reference.rows[100]]
    picture = nearest_picture(samples, reference, data=data.__getitem__, rows=3)
    assert picture.shape == (3 * (68 + 16 + 2) + 2, 6 * (68 + 2) + 2, 3)  # 32 px twice and margins
    enlarged = data[reference.rows[100]].repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(picture[4:68, 4:68], enlarged)  # the likeliest copy comes first,
    np.testing.assert_array_equal(picture[4:68, 74:138], enlarged)  # and beside it what it copies
