"""What is kept beside the shards: whole or not there, and somewhere else where the shards cannot be written."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dcgan_dist.config import DataConfig
from dcgan_dist.data.loader import open_shards
from dcgan_dist.evaluation import kept, real_variety
from dcgan_dist.evaluation.kept import KeptFile
from dcgan_dist.evaluation.real_features import RealImages, open_real_images
from dcgan_dist.evaluation.real_variety import UnfitDataError, Variety
from dcgan_dist.files import write_whole
from tests import tiny

NETWORK = tiny.narrow("flowers17-arch1").network


@pytest.fixture
def shards(flower_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(flower_shards, tmp_path / "shards"))


def kept_file(shards: Path, cache: Path) -> KeptFile:
    return KeptFile("numbers", open_shards(DataConfig(data=str(shards))), cache_dir=str(cache))


def test_what_was_written_is_read(shards: Path, tmp_path: Path) -> None:
    file = kept_file(shards, tmp_path / "cache")
    assert file.read() is None
    assert file.write(b"1 2 3") == f"computed, and kept in {shards}"
    assert file.read() == (b"1 2 3", f"read from {shards}")


@pytest.mark.parametrize("at", [0, 31, 32, -1])
def test_a_damaged_file_is_none(shards: Path, tmp_path: Path, at: int) -> None:
    file = kept_file(shards, tmp_path / "cache")
    file.write(b"1 2 3")
    data = bytearray((shards / "numbers").read_bytes())
    data[at] ^= 1
    (shards / "numbers").write_bytes(data)
    assert file.read() is None
    (shards / "numbers").write_bytes(data[:20])
    assert file.read() is None


def test_where_shards_cannot_be_written_the_cache_is_used(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        if path.parent == shards:
            raise OSError("read-only")
        write_whole(path, data)

    monkeypatch.setattr(kept, "write_whole", refuse)
    file = kept_file(shards, tmp_path / "cache")
    assert file.write(b"1 2 3") == f"computed, and kept in {tmp_path / 'cache' / 'kept'}"
    assert file.read() == (b"1 2 3", f"read from {tmp_path / 'cache' / 'kept'}")
    (tmp_path / "file").touch()
    assert "not kept: none of " in kept_file(shards, tmp_path / "file").write(b"1 2 3")


# The variety of the data


def reals(shards: Path, *, flip: bool = False, subset_size: int = 0) -> RealImages:
    return open_real_images(DataConfig(data=str(shards), flip=flip, subset_size=subset_size), NETWORK)


def test_what_was_fitted_is_read_the_next_time(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = real_variety.real_variety(reals(shards))
    monkeypatch.delattr(real_variety, "fit")
    again = real_variety.real_variety(reals(shards))
    assert again.reference.to_bytes() == first.reference.to_bytes()
    assert again.reference.drawn
    of_data = reals(shards).pixels(0, 48).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(again.pixels(np.array([40, 3, 7])), of_data[[40, 3, 7]])


@pytest.mark.parametrize("change", [{"flip": True}, {"subset_size": 44}])
def test_other_images_are_fitted_anew(shards: Path, change: dict[str, int]) -> None:
    def fitted(**change: int) -> Variety:
        return real_variety.real_variety(reals(shards, **change))  # type: ignore[arg-type]

    plain, other = fitted(), fitted(**change)
    assert len(list(shards.glob(".collapse-n1024-*"))) == 2
    assert (other.reference.flip, len(other.reference.rows)) == (
        change.get("flip", False),
        change.get("subset_size", 48),
    )
    assert not plain.reference.flip
    places = np.arange(44)
    np.testing.assert_array_equal(other.pixels(places), plain.pixels(places))  # never mirrored themselves


def test_too_few_images_are_said_to_be_unfit(shards: Path) -> None:
    with pytest.raises(UnfitDataError, match="data must be at least 40 images to measure collapse against, got 39"):
        real_variety.real_variety(reals(shards, subset_size=39))
