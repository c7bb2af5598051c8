"""A conversion divided over several processes ends in the bytes of one."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from webdataset.writer import TarWriter

from dcgan_dist.data.claim import Part, claimed, parts_begun
from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.permute import permutation
from dcgan_dist.data.shard_writing import UnreadableImagesError, convert_part, finish, images_of
from dcgan_dist.data.shards import Index
from dcgan_dist.data.sources import SourceSet
from tests.data.made import bytes_of, converted, job, opened, photos, settings


@pytest.fixture
def source(tmp_path: Path) -> SourceSet:
    """40 images, which make shards 0 to 4."""
    return opened("folder", photos(tmp_path / "in"), scratch=tmp_path)


def part_done(source: SourceSet, directory: Path, number: int, count: int, *, skip_bad: bool = False) -> int:
    """Convert a part; the number of images that took."""
    part = Part(number, count)
    with claimed(directory, part) as scratch:
        return convert_part(job(source, directory, scratch, skip_bad=skip_bad), part)[1]


def finished(directory: Path, *, skip_bad: bool = False) -> Index:
    with claimed(directory):
        return finish(directory, skip_bad=skip_bad, report=lambda n: None)


@pytest.mark.parametrize("order", [(1, 2), (2, 1), (3, 1, 2), (5, 4, 6, 2, 1, 3, 7)])
def test_parts_end_in_the_bytes_of_one_process(source: SourceSet, tmp_path: Path, order: tuple[int, ...]) -> None:
    converted(source, tmp_path / "whole" / "set")
    images = [part_done(source, tmp_path / "set", number, len(order)) for number in order]
    assert images == [images_of(Part(number, len(order)), settings(source)) for number in order]
    assert sum(images) == 40
    assert finished(tmp_path / "set").contents.images == 40
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "whole" / "set")
    assert finished(tmp_path / "set").contents.images == 40  # once more does nothing


def test_every_nth_shard_is_of_a_part(source: SourceSet, tmp_path: Path) -> None:
    assert part_done(source, tmp_path / "set", 2, 3) == 16
    assert sorted(path.name for path in tmp_path.glob("set/*.tar")) == ["set-000001.tar", "set-000004.tar"]
    assert parts_begun(tmp_path / "set") == [Part(2, 3)]
    assert part_done(source, tmp_path / "set", 2, 3) == 0


def test_finish_names_the_parts_that_are_not_done(source: SourceSet, tmp_path: Path) -> None:
    part_done(source, tmp_path / "set", 2, 3)
    before = bytes_of(tmp_path / "set")
    message = r"3 shards \(0, 2, 3\) are missing or damaged; run --part 1/3, --part 3/3 and then finish again"
    with pytest.raises(ValueError, match=message):
        finished(tmp_path / "set")
    assert bytes_of(tmp_path / "set") == before
    part_done(source, tmp_path / "set", 1, 3)
    part_done(source, tmp_path / "set", 3, 3)
    shard = tmp_path / "set" / "set-000002.tar"
    flipped = bytearray(shard.read_bytes())
    flipped[600] ^= 1
    shard.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"1 shard \(2\) is missing or damaged; run --part 3/3 and then"):
        finished(tmp_path / "set")
    assert part_done(source, tmp_path / "set", 3, 3) == 8
    finished(tmp_path / "set")
    converted(source, tmp_path / "whole" / "set")
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "whole" / "set")


def test_a_finished_set_is_checked_by_parts_and_finish(source: SourceSet, tmp_path: Path) -> None:
    converted(source, tmp_path / "set")
    assert part_done(source, tmp_path / "set", 1, 2) == 0
    assert parts_begun(tmp_path / "set") == [Part(1, 2)]
    finished(tmp_path / "set")
    assert parts_begun(tmp_path / "set") == []
    (tmp_path / "set" / "set-000002.tar").unlink()
    assert part_done(source, tmp_path / "set", 2, 2) == 0
    for action in (lambda: part_done(source, tmp_path / "set", 1, 2), lambda: finished(tmp_path / "set")):
        with pytest.raises(DamagedError, match=r"is finished, but 1 shard \(2\) is missing or damaged; run the con?"):
            action()
    assert (tmp_path / "set" / "index.json").exists()


def test_one_process_goes_on_where_parts_stopped(source: SourceSet, tmp_path: Path) -> None:
    part_done(source, tmp_path / "set", 1, 2)
    index, count = converted(source, tmp_path / "set")
    assert (index.contents.images, count) == (40, 16)
    converted(source, tmp_path / "whole" / "set")
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "whole" / "set")
    assert parts_begun(tmp_path / "set") == []


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    folder = photos(tmp_path / "in")
    (folder / "cat" / "004.png").write_bytes(b"bad")
    source = opened("folder", folder, scratch=tmp_path)
    bad = [record.name for record in source.records].index("cat/004.png")
    with_it = permutation(40, 0).tolist().index(bad) // 8 % 2 + 1
    with pytest.raises(UnreadableImagesError) as caught:
        part_done(source, tmp_path / "set", with_it, 2)
    assert [image.name for image in caught.value.skipped] == ["cat/004.png"]
    part_done(source, tmp_path / "set", 3 - with_it, 2)
    with pytest.raises(UnreadableImagesError):
        finished(tmp_path / "set")
    assert finished(tmp_path / "set", skip_bad=True).contents.images == 39
    converted(source, tmp_path / "whole" / "set", skip_bad=True)
    assert bytes_of(tmp_path / "set") == bytes_of(tmp_path / "whole" / "set")


def test_parts_with_other_options_are_refused(source: SourceSet, tmp_path: Path) -> None:
    directory = tmp_path / "set"
    part_done(source, directory, 1, 2)
    other = settings(source, size=4)
    with (
        pytest.raises(ValueError, match="size was 8, now 4"),
        claimed(directory, Part(2, 2)) as scratch,
    ):
        convert_part(job(source, directory, scratch, settings=other), Part(2, 2))
    with claimed(tmp_path / "b" / "set", Part(2, 2)) as scratch:  # as if it had begun at the same moment
        convert_part(job(source, tmp_path / "b" / "set", scratch, settings=other), Part(2, 2))
    for path in (tmp_path / "b" / "set").iterdir():
        path.rename(directory / path.name)
    with pytest.raises(ValueError, match="size is 8 in shard 0, 4 in 1; remove the directory and convert again"):
        finished(directory)


def test_parts_of_a_source_that_changed_are_run_again(source: SourceSet, tmp_path: Path) -> None:
    directory = tmp_path / "set"
    part_done(source, directory, 1, 2)
    (tmp_path / "in" / "dog" / "041.png").write_bytes((tmp_path / "in" / "dog" / "001.png").read_bytes())
    changed = opened("folder", tmp_path / "in", scratch=tmp_path)
    part_done(changed, directory, 2, 2)
    with pytest.raises(ValueError, match="the source has changed between parts: run all parts again"):
        finished(directory)
    part_done(changed, directory, 1, 2)
    finished(directory)
    converted(changed, tmp_path / "whole" / "set")
    assert bytes_of(directory) == bytes_of(tmp_path / "whole" / "set")


def test_a_directory_without_parts_cannot_be_finished(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(ValueError, match="has no shard of a conversion with --part"):
        finished(tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())


def test_who_may_write(tmp_path: Path) -> None:
    directory = tmp_path / "set"
    with claimed(directory, Part(1, 2)) as one, claimed(directory, Part(2, 2)) as two:
        assert one != two
        with (
            pytest.raises(ValueError, match="another dcgan-shard is writing part 1/2 here"),
            claimed(directory, Part(1, 2)),
        ):
            pass
        with (
            pytest.raises(ValueError, match="another dcgan-shard is writing part 1/2 here, of other parts"),
            claimed(directory, Part(3, 3)),
        ):
            pass
        with pytest.raises(ValueError, match="another dcgan-shard is writing here"), claimed(directory):
            pass
    with claimed(directory), pytest.raises(ValueError, match="is writing here"), claimed(directory, Part(1, 2)):
        pass


def test_a_part_removes_what_its_own_killed_process_left(tmp_path: Path) -> None:
    directory = tmp_path / "set"
    directory.mkdir()
    left = [
        f".{name}-{number:06d}.{end}.1f.tmp" for number in (0, 1) for name, end in (("set", "tar"), ("note", "json"))
    ]
    for name in (*left, ".index.json.2e.tmp", ".other-000000.tar.3d.tmp"):
        (directory / name).touch()
    with claimed(directory, Part(1, 2)):
        pass
    names = {path.name for path in directory.iterdir()}
    assert names == {*left[2:], ".index.json.2e.tmp", ".other-000000.tar.3d.tmp", ".part-1-of-2"}
    with claimed(directory):
        pass
    assert {path.name for path in directory.iterdir()} == {".other-000000.tar.3d.tmp", ".part-1-of-2"}


def test_a_part_that_fails_at_once_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), claimed(tmp_path / "set", Part(1, 2)):
        raise RuntimeError
    assert not (tmp_path / "set").exists()


def test_a_damaged_note_is_named(source: SourceSet, tmp_path: Path) -> None:
    part_done(source, tmp_path / "set", 1, 2)
    note = tmp_path / "set" / ".note-000002.json"
    values = json.loads(note.read_text())
    note.write_text(json.dumps(values | {"entries": values["entries"][:40]}))
    with pytest.raises(DamagedError, match=r"note-000002.json: entries: must be 8 of this shard"):
        finished(tmp_path / "set")


def test_shards_are_the_bytes_that_webdataset_writes(source: SourceSet, tmp_path: Path) -> None:
    index, _ = converted(source, tmp_path / "set")
    for shard in range(5):
        buffer = io.BytesIO()
        with tarfile.open(index.path(shard)) as ours, TarWriter(buffer, encoder=False, mtime=0) as theirs:
            members = [(member.name, ours.extractfile(member)) for member in ours]
            for name, file in members:
                key, _, suffix = name.rpartition(".")
                assert file is not None
                theirs.write({"__key__": key, suffix: file.read()})
        assert index.path(shard).read_bytes() == buffer.getvalue()
