import json
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest

from dcgan_dist.data.claim import claimed
from dcgan_dist.data.encoding import made_with
from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.permute import permutation
from dcgan_dist.data.shard_writing import UnreadableImagesError
from dcgan_dist.data.shards import read_images
from dcgan_dist.data.sources import SOURCES, Request, SourceSet
from tests.data.made import bytes_of, converted, noise, opened, photos, settings


@pytest.fixture
def source(tmp_path: Path) -> SourceSet:
    return SOURCES["folder"].open(Request((photos(tmp_path / "in"),), {}, tmp_path))


def test_slots_follow_the_permutation(source: SourceSet, tmp_path: Path) -> None:
    index, count = converted(source, tmp_path / "set")
    assert count == 40
    assert [shard.file for shard in index.contents.shards] == [f"set-{n:06d}.tar" for n in range(5)]
    names = [source.records[i].name for i in permutation(40, 0)]
    expected = np.stack([noise(int(Path(name).stem)) for name in names])
    np.testing.assert_array_equal(read_images(index), expected)


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

    with pytest.raises(KeyboardInterrupt):
        converted(source, directory, report=stop)
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
    with pytest.raises(ValueError, match="shard_images was 8, now 16; size was 8, now 4"):
        converted(source, directory, settings=other)
    (tmp_path / "in" / "cat" / "000.png").write_bytes(b"other")
    changed = SOURCES["folder"].open(Request((tmp_path / "in",), {}, tmp_path))
    with pytest.raises(ValueError, match="source_files was"):
        converted(changed, directory)
    assert bytes_of(directory) == before


def test_an_unfinished_conversion_goes_on_when_a_bad_image_was_replaced(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in")
    good = (folder / "cat" / "004.png").read_bytes()
    (folder / "cat" / "004.png").write_bytes(b"bad")
    with pytest.raises(UnreadableImagesError):
        converted(opened("folder", folder, scratch=tmp_path), tmp_path / "set")
    (folder / "cat" / "004.png").write_bytes(good)
    source = opened("folder", folder, scratch=tmp_path)
    index, count = converted(source, tmp_path / "set")
    assert (count, index.contents.images) == (8, 40)  # the one shard with that image
    converted(source, tmp_path / "other" / "set")
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "other" / "set")


@pytest.mark.parametrize("remove", [("cat/004.png",), ("cat/004.png", *(f"dog/{n:03d}.png" for n in range(1, 24, 2)))])
def test_an_unfinished_conversion_goes_on_when_bad_images_were_removed(remove: tuple[str, ...], tmp_path: Path) -> None:
    folder = photos(tmp_path / "in")
    (folder / "cat" / "004.png").write_bytes(b"bad")
    with pytest.raises(UnreadableImagesError):
        converted(opened("folder", folder, scratch=tmp_path), tmp_path / "set")
    for name in remove:
        (folder / name).unlink()
    source = opened("folder", folder, scratch=tmp_path)
    index, _ = converted(source, tmp_path / "set")
    assert index.contents.images == 40 - len(remove)
    converted(source, tmp_path / "other" / "set")
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "other" / "set")  # shards too many are gone


def test_an_unfinished_conversion_with_other_options_is_refused(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in")
    (folder / "cat" / "004.png").write_bytes(b"bad")
    source = opened("folder", folder, scratch=tmp_path)
    with pytest.raises(UnreadableImagesError):
        converted(source, tmp_path / "set")
    before = bytes_of(tmp_path / "set")
    with pytest.raises(ValueError, match="size was 8, now 4"):
        converted(source, tmp_path / "set", settings=settings(source, size=4), skip_bad=True)
    assert bytes_of(tmp_path / "set") == before


def test_a_set_finished_without_bad_images_stays_when_they_are_not_skipped(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in")
    (folder / "cat" / "004.png").write_bytes(b"bad")
    source = opened("folder", folder, scratch=tmp_path)
    converted(source, tmp_path / "set", skip_bad=True)
    before = bytes_of(tmp_path / "set")
    with pytest.raises(UnreadableImagesError) as caught:
        converted(source, tmp_path / "set")
    assert caught.value.finished
    assert [image.name for image in caught.value.skipped] == ["cat/004.png"]
    (tmp_path / "set" / "set-000001.tar").unlink()
    with pytest.raises(UnreadableImagesError):  # a repair would lose the index first
        converted(source, tmp_path / "set")
    assert (tmp_path / "set" / "index.json").exists()
    converted(source, tmp_path / "set", skip_bad=True)
    assert bytes_of(tmp_path / "set") == before


def test_each_shard_says_what_made_it(source: SourceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = converted(source, tmp_path / "set")
    (made,) = {shard.made_with for shard in index.contents.shards}
    assert made == made_with()
    assert all(name in made for name in ("dcgan_dist ", f"opencv {cv2.__version__}", f"pillow {PIL.__version__}"))
    (tmp_path / "set" / "set-000001.tar").unlink()
    monkeypatch.setattr("dcgan_dist.data.shard_writing.made_with", lambda: "newer versions")
    repaired, _ = converted(source, tmp_path / "set")
    assert [shard.made_with for shard in repaired.contents.shards] == [made, "newer versions", made, made, made]


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in")
    (folder / "cat" / "004.png").write_bytes(b"bad")
    source = opened("folder", folder, scratch=tmp_path)
    with pytest.raises(UnreadableImagesError):
        converted(source, tmp_path / "set")
    (tmp_path / "set" / ".note-000002.json").write_text("{")
    with pytest.raises(DamagedError, match=r"\.note-000002\.json: damaged: .*; remove it"):
        converted(source, tmp_path / "set")


def test_an_index_of_an_older_version_is_read_and_repaired(source: SourceSet, tmp_path: Path) -> None:
    converted(source, tmp_path / "set")
    whole = bytes_of(tmp_path / "set")
    data = json.loads(whole["index.json"])
    del data["settings"]["subset"], data["settings"]["target"]["format"]
    for file in data["settings"]["source_files"]:
        del file["known"]
    for shard in data["shards"]:
        del shard["made_with"]
    (tmp_path / "set" / "index.json").write_text(json.dumps(data))
    assert converted(source, tmp_path / "set")[1] == 0
    (tmp_path / "set" / "set-000001.tar").unlink()
    assert converted(source, tmp_path / "set")[1] == 8
    now = bytes_of(tmp_path / "set")
    assert {name: now[name] for name in now if name != "index.json"} == {
        name: whole[name] for name in whole if name != "index.json"
    }


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
        stopped.setattr("dcgan_dist.data.shard_writing._Shards._write", killed)
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
