from pathlib import Path

import numpy as np
import pytest

from dcgan_dist.data.convert import UnreadableImagesError, claimed, convert
from dcgan_dist.data.permute import permutation
from dcgan_dist.data.shards import Index, read_pixels
from dcgan_dist.data.sources import SOURCES, Request, SourceSet
from tests.data.made import bytes_of, noise, photos, settings


@pytest.fixture
def source(tmp_path: Path) -> SourceSet:
    return SOURCES["folder"].open(Request((photos(tmp_path / "in"),), {}, tmp_path))


def converted(source: SourceSet, directory: Path, *, workers: int = 1, skip_bad: bool = False) -> tuple[Index, int]:
    """The index and the number of images converted; five shards of 8."""
    with claimed(directory):
        return convert(
            source.records,
            directory,
            settings=settings(source),
            workers=workers,
            skip_bad=skip_bad,
            report=lambda n: None,
        )


def test_slots_follow_the_permutation(source: SourceSet, tmp_path: Path) -> None:
    index, count = converted(source, tmp_path / "set")
    assert count == 40
    assert [shard.file for shard in index.contents.shards] == [f"set-{n:06d}.tar" for n in range(5)]
    names = [source.records[i].name for i in permutation(40, 0)]
    expected = np.stack([noise(int(Path(name).stem)) for name in names])
    np.testing.assert_array_equal(read_pixels(index), expected)


def test_the_bytes_do_not_depend_on_the_workers(source: SourceSet, tmp_path: Path) -> None:
    results = []
    for workers in (1, 2, 3):
        directory = tmp_path / str(workers) / "set"
        converted(source, directory, workers=workers)
        results.append(bytes_of(directory))
    assert results[0] == results[1] == results[2]
    assert sorted(results[0]) == ["index.json", "index.npy", *(f"set-{n:06d}.tar" for n in range(5))]


def test_a_second_run_converts_what_is_missing_or_damaged(source: SourceSet, tmp_path: Path) -> None:
    directory = tmp_path / "set"
    converted(source, directory)
    whole = bytes_of(directory)
    assert converted(source, directory)[1] == 0
    (directory / "set-000001.tar").unlink()
    (directory / "set-000003.tar").write_bytes(whole["set-000003.tar"][:2000])
    flipped = bytearray(whole["set-000004.tar"])
    flipped[600] ^= 1
    (directory / "set-000004.tar").write_bytes(flipped)
    assert converted(source, directory)[1] == 24
    assert bytes_of(directory) == whole


@pytest.mark.parametrize("stop_after", [0, 1, 8, 9, 39, 40])
def test_an_interrupted_conversion_goes_on_to_the_same_bytes(
    source: SourceSet, tmp_path: Path, stop_after: int
) -> None:
    converted(source, tmp_path / "whole" / "set")
    directory = tmp_path / "set"
    done = 0

    def stop(count: int) -> None:
        nonlocal done
        done += count
        if done >= stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), claimed(directory):
        convert(source.records, directory, settings=settings(source), workers=1, skip_bad=False, report=stop)
    if directory.exists():
        assert not (directory / "index.json").exists()
        assert not list(directory.glob(".*.tmp"))
    assert converted(source, directory)[1] == 40 - 8 * (max(0, stop_after - 1) // 8)
    assert bytes_of(directory) == bytes_of(tmp_path / "whole" / "set")


def test_other_settings_are_refused_and_named(source: SourceSet, tmp_path: Path) -> None:
    directory = tmp_path / "set"
    converted(source, directory)
    before = bytes_of(directory)
    other = settings(source, shard_images=16, size=4)
    with pytest.raises(ValueError, match="shard_images was 8, now 16; size was 8, now 4"), claimed(directory):
        convert(source.records, directory, settings=other, workers=1, skip_bad=False, report=lambda n: None)
    (tmp_path / "in" / "cat" / "000.png").write_bytes(b"other")
    changed = SOURCES["folder"].open(Request((tmp_path / "in",), {}, tmp_path))
    with pytest.raises(ValueError, match="source_files was"):
        converted(changed, directory)
    assert bytes_of(directory) == before


def test_a_directory_with_other_files_is_refused(source: SourceSet, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set-000000.tar").write_bytes(b"mine")
    with pytest.raises(ValueError, match="must be empty or hold this conversion"):
        converted(source, tmp_path / "set")
    assert bytes_of(tmp_path / "set") == {"set-000000.tar": b"mine"}


def test_a_directory_is_claimed_once(tmp_path: Path) -> None:
    directory = tmp_path / "set"
    with claimed(directory) as scratch:
        (scratch / "spool").touch()
        with pytest.raises(ValueError, match="another dcgan-shard is writing here"), claimed(directory):
            pass
        assert (scratch / "spool").exists()
    assert not directory.exists()


def test_bad_images_are_all_named_and_skipped_on_demand(tmp_path: Path) -> None:
    good = SOURCES["folder"].open(Request((photos(tmp_path / "in"),), {}, tmp_path))
    converted(good, tmp_path / "good" / "set")
    (tmp_path / "in" / "cat" / "000.png").write_bytes(b"")
    (tmp_path / "in" / "dog" / "039.png").write_bytes(b"x")
    source = SOURCES["folder"].open(Request((tmp_path / "in",), {}, tmp_path))
    directory = tmp_path / "set"
    for _ in range(2):  # the second run has nothing to convert and fails as well
        with pytest.raises(UnreadableImagesError) as caught:
            converted(source, directory)
        assert {image.name for image in caught.value.skipped} == {"cat/000.png", "dog/039.png"}
        assert not (directory / "index.json").exists()

    index, count = converted(source, directory, skip_bad=True)
    assert (count, index.contents.images, index.contents.class_counts) == (0, 38, (19, 19))
    assert all("is not an image" in image.reason for image in index.contents.skipped)
    order = permutation(40, 0).tolist()
    assert [source.records[order[image.slot]].name for image in index.contents.skipped] == [
        image.name for image in index.contents.skipped
    ]
    # a skipped image leaves its slot empty, so the other shards are those of the good set
    touched = {image.slot // 8 for image in index.contents.skipped}
    for number in set(range(5)) - touched:
        name = f"set-{number:06d}.tar"
        assert (directory / name).read_bytes() == (tmp_path / "good" / "set" / name).read_bytes()


def test_a_set_of_bad_images_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"x")
    source = SOURCES["folder"].open(Request((tmp_path / "in",), {}, tmp_path))
    with pytest.raises(ValueError, match="no image of the source can be read"):
        converted(source, tmp_path / "set", skip_bad=True)


@pytest.mark.parametrize("damage", ["missing", "longer"])
def test_a_damaged_list_of_entries_is_made_again(source: SourceSet, tmp_path: Path, damage: str) -> None:
    directory = tmp_path / "set"
    converted(source, directory)
    whole = bytes_of(directory)
    if damage == "missing":
        (directory / "index.npy").unlink()
    else:
        (directory / "index.npy").write_bytes(whole["index.npy"] + b"x")
    assert converted(source, directory)[1] == 40
    assert bytes_of(directory) == whole


def test_a_repair_that_is_stopped_before_its_first_shard_goes_on(
    source: SourceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "set"
    converted(source, directory)
    whole = bytes_of(directory)
    for path in directory.glob("*.tar"):
        path.write_bytes(b"damaged")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr("dcgan_dist.data.convert._write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            converted(source, directory)
    assert not (directory / "index.json").exists()
    assert converted(source, directory)[1] == 40
    assert bytes_of(directory) == whole


def test_a_disk_that_fails_is_not_a_bad_image(source: SourceSet, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    lost = folder / "cat" / "004.png"
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(OSError, match=r"004\.png"):
        converted(source, tmp_path / "set", skip_bad=True)
    lost.write_bytes(content)
    index, _ = converted(source, tmp_path / "set", skip_bad=True)
    assert (index.contents.images, index.contents.skipped) == (40, ())
