"""Evaluations: the same on any number of ranks, kept features, floors, and a run that does not notice."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from dcgan_dist import files
from dcgan_dist.config import DataConfig, EvaluationConfig, NetworkConfig
from dcgan_dist.data.shards import read_images, read_index
from dcgan_dist.distributed import collectives
from dcgan_dist.distributed.draws import sample_latent
from dcgan_dist.evaluation import kept as kept_files
from dcgan_dist.evaluation.quality import Quality, measure_quality, prepare_quality
from dcgan_dist.evaluation.real_features import RealFeatures, RealImages, open_real_images, real_features
from dcgan_dist.images import to_pixels
from dcgan_dist.metrics.extractors import Extractor, build_extractor
from dcgan_dist.metrics.features import FeatureSet, extract
from dcgan_dist.metrics.moments import Moments
from dcgan_dist.metrics.quality import quality
from dcgan_dist.models import build_networks
from tests import tiny
from tests.distributed.ranks import run_ranks

CPU = torch.device("cpu")
NETWORK = tiny.narrow("flowers17-arch1").network
MEASURES = ["fid", "kid", "kid_std", "is", "is_std", "precision", "recall", "density", "coverage"]


class Own(nn.Module):
    """An extractor of a user: random convolutions, 12 features, 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.convolution = nn.Conv2d(3, 12, 5, stride=4)
            self.classifier = nn.Linear(12, 5)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.convolution(pixels.float() / 255).relu().mean(dim=(2, 3))
        return features, self.classifier(features) * 10


OWN = Extractor("own", 12, 5, Own())


def generator() -> nn.Module:
    return build_networks(NETWORK, seed=1)[0].double()


def reals(directory: Path, **changes: Any) -> RealImages:
    return open_real_images(DataConfig(data=str(directory), **changes), NETWORK)


def own_real_features(directory: Path, count: int) -> RealFeatures:
    return real_features(OWN, reals(directory), count=count, device=CPU, report=lambda done, total: None)


def copied(shards: Path, tmp_path: Path) -> Path:
    """A copy with nothing kept."""
    return Path(shutil.copytree(shards, tmp_path / "shards", ignore=shutil.ignore_patterns(".*")))


def evaluated(directory: Path, count: int) -> Quality:
    return measure_quality(generator(), own_real_features(directory, count), seed=3, network=NETWORK)


# Ranks


def on_ranks(directory: Path, count: int) -> tuple[dict[str, float], dict[str, float]]:
    found = evaluated(directory / str(collectives.world_size()) / "shards", count)
    return found.measures, found.floor


@pytest.mark.parametrize("count", [20, 40, 70])
def test_an_evaluation_is_the_same_on_any_number_of_ranks(flower_shards: Path, tmp_path: Path, count: int) -> None:
    """48 real images are three chunks, 20 fakes two: of four ranks some have nothing to do."""
    for world_size in (1, 2, 4):
        copied(flower_shards, tmp_path / str(world_size))
    ((expected, expected_floor),) = run_ranks(on_ranks, 1, tmp_path, count)
    assert list(expected) == MEASURES
    for world_size in (2, 4):
        for measures, floor in run_ranks(on_ranks, world_size, tmp_path, count):
            assert measures == pytest.approx(expected, rel=1e-9, abs=1e-12)
            assert floor == pytest.approx(expected_floor, rel=1e-9, abs=1e-12)


def extracted(fail: bool) -> FeatureSet:
    def pixels(start: int, stop: int) -> Tensor:
        if fail and start == 16:
            raise OSError("shard 3 has gone")
        numbers = torch.arange(start, stop, dtype=torch.uint8)
        return numbers[:, None, None, None].expand(-1, 3, 8, 8)

    return extract(OWN, 20, pixels=pixels, device=CPU, report=lambda done: None)


def features_on_ranks(fail: bool) -> tuple[Tensor, Tensor]:
    found = extracted(fail)
    assert found.logits is not None
    return found.features, found.logits


@pytest.mark.parametrize("world_size", [2, 4])
def test_features_have_the_same_bits_on_any_number_of_ranks(world_size: int) -> None:
    ((features, logits),) = run_ranks(features_on_ranks, 1, False)
    assert features.unique(dim=0).shape == (20, 12)
    for found in run_ranks(features_on_ranks, world_size, False):
        assert torch.equal(found[0], features)
        assert torch.equal(found[1], logits)


def test_every_chunk_is_as_large() -> None:
    """Small networks may give the same bits whatever the size; large ones do not."""
    seen: list[int] = []
    hook = OWN.network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    extracted(fail=False)
    hook.remove()
    assert seen == [16, 16]


def failing_on_rank_1() -> str:
    try:
        extracted(fail=True)
    except OSError as error:
        return str(error)
    return ""


def test_an_image_that_cannot_be_read_fails_on_every_rank() -> None:
    assert run_ranks(failing_on_rank_1, 2) == ["rank 1: shard 3 has gone"] * 2


# What is measured


def features_of(pixels: Tensor) -> FeatureSet:
    features, logits = OWN(pixels)
    return FeatureSet(features, logits, Moments.of(features))


def close(found: dict[str, float], expected: dict[str, float]) -> None:
    """Other batches were computed: last bits of float32 features."""
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_fakes_are_compared_with_the_first_images_and_halves_with_each_other(
    flower_shards: Path, tmp_path: Path
) -> None:
    shards = copied(flower_shards, tmp_path)
    images = torch.from_numpy(read_images(read_index(shards))).permute(0, 3, 1, 2)
    z = sample_latent(3, range(40), latent_dim=NETWORK.latent_dim, prior=NETWORK.prior, stream="evaluation")
    with torch.no_grad():
        fakes = to_pixels(generator().eval()(z.double()), NETWORK.value_range)
    found = evaluated(shards, 40)
    assert (found.count, found.images, found.floor_images) == (40, 40, 24)
    close(found.measures, quality(features_of(images[:40]), features_of(fakes)))
    close(found.floor, quality(features_of(images[:24]), features_of(images[24:48])))

    enough = evaluated(shards, 22)  # the data have 2 x 22 images
    assert (enough.images, enough.floor_images) == (22, 22)
    close(enough.measures, quality(features_of(images[:22]), features_of(fakes[:22])))
    close(enough.floor, quality(features_of(images[:22]), features_of(images[22:44])))

    more = evaluated(shards, 70)
    assert (more.images, more.floor_images) == (48, 24)


def test_names_say_extractor_count_and_floor(flower_shards: Path, tmp_path: Path) -> None:
    found = evaluated(copied(flower_shards, tmp_path), 40)
    scalars = found.scalars()
    assert scalars["eval/fid_own_n40"] == found.measures["fid"]
    assert scalars["eval/kid_std_floor_own_n24"] == found.floor["kid_std"]
    assert len(scalars) == 2 * len(MEASURES)


def test_an_extractor_without_classes_has_no_is(flower_shards: Path, tmp_path: Path) -> None:
    settings = EvaluationConfig(extractor="pixels", eval_resize=8, eval_count=30)
    real = prepare_quality(settings, reals(copied(flower_shards, tmp_path)), device=CPU)
    found = measure_quality(generator(), real, seed=0, network=NETWORK)
    assert list(found.measures) == list(found.floor) == [name for name in MEASURES if not name.startswith("is")]
    assert "eval/coverage_pixels_r8_n30" in found.scalars()


def test_the_data_themselves_score_best(flower_shards: Path) -> None:
    """Identity as a generator: its images are the data's, then one of them for ever."""
    images = torch.from_numpy(read_images(read_index(flower_shards))).permute(0, 3, 1, 2)
    data, one = features_of(images), features_of(images[:1].expand(48, -1, -1, -1))
    same, collapsed = quality(data, data), quality(data, one)
    assert same["fid"] == pytest.approx(0, abs=1e-6)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    assert collapsed["fid"] > 1e-3
    assert collapsed["precision"] == 1
    assert collapsed["recall"] < 0.1
    assert collapsed["coverage"] < 0.3


def test_progress_is_told(flower_shards: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    settings = EvaluationConfig(extractor="pixels", eval_count=20)
    directory = copied(flower_shards, tmp_path)
    real = prepare_quality(settings, reals(directory), device=CPU, report=lambda *what: told.append(what))
    measure_quality(generator(), real, seed=0, network=NETWORK, report=lambda *what: told.append(what))
    assert told[-1] == ("fakes", 20, 20)
    assert told[:3] == [("real images", 16, 40), ("real images", 32, 40), ("real images", 40, 40)]


def test_a_generator_with_images_in_0_to_1_and_grey_ones(flower_shards: Path, tmp_path: Path) -> None:
    grey = tiny.narrow("flowers17-arch1", channels=1, value_range=(0.0, 1.0)).network
    found = open_real_images(DataConfig(data=str(copied(flower_shards, tmp_path))), grey)
    assert found.pixels(0, 5).shape == (5, 1, 32, 32)
    real = prepare_quality(EvaluationConfig(extractor="pixels", eval_count=20), found, device=CPU)
    measures = measure_quality(build_networks(grey, seed=1)[0], real, seed=0, network=grey).measures
    assert measures["fid"] > 0


# Real images


def test_parts_and_mirrored_images(flower_shards: Path) -> None:
    images = torch.from_numpy(read_images(read_index(flower_shards))).permute(0, 3, 1, 2)
    labels = torch.from_numpy(read_index(flower_shards).labels)
    assert torch.equal(reals(flower_shards).pixels(3, 40), images[3:40])
    mirrored = reals(flower_shards, flip=True).pixels(3, 7)
    assert torch.equal(mirrored, torch.stack([images[3].flip(-1), images[4], images[5].flip(-1), images[6]]))
    name = read_index(flower_shards).contents.settings.classes[int(labels[0])]
    part = reals(flower_shards, classes=f'"{name}"')
    assert torch.equal(part.pixels(0, part.count), images[labels == labels[0]])


def test_too_few_images_are_a_mistake(flower_shards: Path) -> None:
    with pytest.raises(ValueError, match="data must have at least 40 images to be measured against, has 39"):
        prepare_quality(EvaluationConfig(extractor="pixels"), reals(flower_shards, subset_size=39), device=CPU)
    with pytest.raises(ValueError, match="eval_count must be at least 20, got 19"):
        prepare_quality(EvaluationConfig(extractor="pixels", eval_count=19), reals(flower_shards), device=CPU)


# Kept features


def kept(directory: Path) -> list[Path]:
    return sorted(directory.glob(".features-*"))


def test_features_are_kept_beside_the_shards(flower_shards: Path, tmp_path: Path) -> None:
    shards = copied(flower_shards, tmp_path)
    first = own_real_features(shards, 40)
    assert first.told == f"computed, and kept in {shards}"
    assert len(kept(shards)) == 1
    assert kept(shards)[0].name.startswith(".features-own-n40-")
    second = own_real_features(shards, 40)
    assert second.told == f"read from {shards}"
    assert second.floor == first.floor
    assert first.features is not None
    assert second.features is not None
    assert torch.equal(second.features.features, first.features.features)
    assert torch.equal(second.features.moments.scatter, first.features.moments.scatter)
    assert measure_quality(generator(), second, seed=3, network=NETWORK).measures == evaluated(shards, 40).measures


@pytest.mark.parametrize("damage", ["truncated", "bit", "empty", "floor", "bare"])
def test_a_damaged_file_is_made_again(flower_shards: Path, tmp_path: Path, damage: str) -> None:
    shards = copied(flower_shards, tmp_path)
    expected = own_real_features(shards, 40)
    (path,) = kept(shards)
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[-1] ^= 1
    if damage == "floor":
        data[data.index(b"floor/fid")] ^= 1
    contents = {"truncated": data[:-1], "empty": b"", "bare": save({"features": torch.zeros(1)})}
    path.write_bytes(bytes(contents.get(damage, data)))
    found = own_real_features(shards, 40)
    assert found.told.startswith("computed")
    assert found.floor == expected.floor
    assert own_real_features(shards, 40).told.startswith("read from")


def test_runs_that_begin_together_keep_one_file(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like the points of a sweep: while one writes, another writes the same file and is done first."""
    shards, sync = copied(flower_shards, tmp_path), os.fsync
    others: list[RealFeatures] = []

    def other_comes_first(handle: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        others.append(own_real_features(shards, 40))
        sync(handle)

    monkeypatch.setattr(os, "fsync", other_comes_first)
    first = own_real_features(shards, 40)
    assert [first.told, others[0].told] == [f"computed, and kept in {shards}"] * 2
    assert len(kept(shards)) == 1
    assert own_real_features(shards, 40).told == f"read from {shards}"


def test_other_settings_have_files_of_their_own(flower_shards: Path, tmp_path: Path) -> None:
    shards = copied(flower_shards, tmp_path)
    settings: list[tuple[int, dict[str, Any]]]
    settings = [(40, {}), (30, {}), (40, {"flip": True}), (40, {"subset_size": 44})]
    for number, (count, changes) in enumerate(settings, start=1):
        real = real_features(OWN, reals(shards, **changes), count=count, device=CPU, report=lambda done, total: None)
        assert real.told.startswith("computed")
        assert len(kept(shards)) == number
    whole = reals(shards)
    for changed in ({"digest": "of other shards"}, {"images": whole.images[::-1].copy()}, {"channels": 1}):
        others = replace(whole, **changed)
        real = real_features(OWN, others, count=40, device=CPU, report=lambda done, total: None)
        assert real.told.startswith("computed"), changed
    trained = Own()
    nn.init.zeros_(trained.classifier.bias)
    other = Extractor("own", 12, 5, trained)
    assert real_features(other, reals(shards), count=40, device=CPU, report=lambda done, total: None).told.startswith(
        "computed"
    )


def test_features_go_to_the_cache_where_shards_cannot_be_written(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, write = copied(flower_shards, tmp_path), files.write_whole

    def written(path: Path, data: bytes) -> None:
        if path.parent == shards:
            raise PermissionError(13, "read-only", str(path))
        write(path, data)

    monkeypatch.setattr(kept_files, "write_whole", written)
    found = reals(shards, cache_dir=str(tmp_path / "cache"))
    for told in ("computed, and kept in", "read from"):
        real = real_features(OWN, found, count=40, device=CPU, report=lambda done, total: None)
        assert real.told == f"{told} {tmp_path / 'cache' / 'kept'}"
    nowhere = reals(shards, cache_dir=str(tmp_path / "shards" / "index.json"))
    real = real_features(OWN, nowhere, count=40, device=CPU, report=lambda done, total: None)
    assert real.told.startswith("computed, and not kept: none of ")


def keep_on_ranks(directory: Path) -> tuple[str, bool]:
    real = own_real_features(directory, 40)
    return real.told, real.features is None


def test_all_ranks_use_what_one_process_kept(flower_shards: Path, tmp_path: Path) -> None:
    shards = copied(flower_shards, tmp_path)
    own_real_features(shards, 40)
    told = f"read from {shards}"
    assert run_ranks(keep_on_ranks, 2, shards) == [(told, False), (told, True)]


# The run


def test_an_evaluation_does_not_change_the_run(flower_shards: Path, tmp_path: Path) -> None:
    config = tiny.narrow("flowers17-arch1", base_channels=2, dropout=0.2)
    one, other = (tiny.training(config, tiny.runtime()) for _ in range(2))
    real = own_real_features(copied(flower_shards, tmp_path), 20)
    state = torch.random.get_rng_state()
    for _ in range(2):
        one.update()
        other.update()
        measure_quality(other.gan.sampled, real, seed=config.seed, network=config.network)
    assert torch.equal(torch.random.get_rng_state(), state)
    expected = tiny.tensors(one.gan)
    for name, value in tiny.tensors(other.gan).items():
        assert torch.equal(value, expected[name]), name


def test_evaluated_images_are_not_those_of_the_grids() -> None:
    network: NetworkConfig = NETWORK
    z = [
        sample_latent(3, range(4), latent_dim=network.latent_dim, prior=network.prior, stream=stream)
        for stream in ("sample", "evaluation")
    ]
    assert not torch.isclose(z[0], z[1]).any()


def test_threads_of_the_process_are_left_alone(flower_shards: Path, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    try:
        extractor = build_extractor("pixels", device=CPU)
        found = reals(copied(flower_shards, tmp_path))
        real = real_features(extractor, found, count=20, device=CPU, report=lambda done, total: None)
        measure_quality(generator(), real, seed=0, network=NETWORK)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
