import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcgan_dist.data.archives import list_archive, unpacked
from dcgan_dist.data.errors import DamagedError
from dcgan_dist.data.transforms import Target
from dcgan_dist.shard import main
from tests.data.made import bytes_of, files, opened, tar, zipped
from tests.shared import SHARED, needs_shared

ARCHIVE = SHARED / "data/cifar10/cifar-10-binary-part.tar.xz"
RGB = Target(32, 3, "none", "area")


def records(seed: int, count: int) -> np.ndarray:
    """(count, 3073): a label, then 1,024 red, green and blue bytes."""
    made = np.random.default_rng(seed).integers(0, 256, (count, 3073), dtype=np.uint8)
    made[:, 0] %= 10
    return made


BATCHES = {f"data_batch_{n}": records(n, 3) for n in range(1, 6)} | {"test_batch": records(6, 2)}
BINARY = {f"cifar-10-batches-bin/{name}.bin": batch.tobytes() for name, batch in BATCHES.items()}


def python2_pickle(batch: np.ndarray, name: str) -> bytes:
    """As cPickle of Python 2 wrote the authors' files, opcode by opcode."""
    labels, pixels = batch[:, 0].tolist(), batch[:, 1:].tobytes()
    rows = len(batch)

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    return b"".join(
        [
            b"\x80\x02}q\x01(",
            text(b"batch_label") + b"q\x02" + text(name.encode()) + b"q\x03",
            text(b"labels") + b"q\x04]q\x05(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e",
            text(b"data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08",
            b"K\x00\x85" + text(b"b") + b"\x87Rq\x09(K\x01K" + bytes([rows]) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nq\x0a" + text(b"u1") + b"K\x00K\x01\x87Rq\x0b(K\x03" + text(b"|"),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(pixels)) + pixels + b"tb",
            text(b"filenames") + b"q\x0c]q\x0d(" + b"".join(text(b"a_s_%06d.png" % n) for n in range(rows)) + b"eu.",
        ]
    )


def python3_pickle(batch: np.ndarray, name: str, *, protocol: int, fortran: bool = False) -> bytes:
    pixels = np.asfortranarray(batch[:, 1:]) if fortran else batch[:, 1:].copy()
    content = {
        b"batch_label": name.encode(),
        b"labels": batch[:, 0].tolist(),
        b"data": pixels,
        b"filenames": [b"x.png"],
    }
    return pickle.dumps(content, protocol=protocol)


PICKLERS = {f"protocol {n}": lambda b, m, n=n: python3_pickle(b, m, protocol=n) for n in range(6)} | {
    "Python 2": python2_pickle,
    "Fortran order": lambda b, m: python3_pickle(b, m, protocol=2, fortran=True),
}


def python(name: str) -> dict[str, bytes]:
    return {f"cifar-10-batches-py/{batch}": PICKLERS[name](rows, batch) for batch, rows in BATCHES.items()}


@pytest.mark.parametrize("packing", ["binary folder", "binary tgz", "binary zip", *PICKLERS])
@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_both_versions_give_the_same_images(packing: str, split: str, tmp_path: Path, scratch: Path) -> None:
    if packing == "binary folder":
        path = files(tmp_path / "in", BINARY)
    elif packing == "binary tgz":
        path = tar(tmp_path / "cifar-10-binary.tar.gz", BINARY | {"cifar-10-batches-bin/readme.html": b"x"})
    elif packing == "binary zip":
        path = zipped(tmp_path / "c.zip", BINARY)
    else:
        path = tar(tmp_path / "cifar-10-python.tar.xz", python(packing), mode="w:xz")
    found = opened("cifar10", path, scratch=scratch, split=split)
    names = ["test_batch"] if split == "test" else [*BATCHES][: 5 + (split == "all")]
    expected = np.concatenate([BATCHES[name] for name in names])
    assert [r.label for r in found.records] == expected[:, 0].tolist()
    assert [r.key for r in found.records[:2]] == [f"{names[0]}/00000", f"{names[0]}/00001"]
    pixels = expected[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal([r.image.pixels(RGB) for r in found.records], pixels)
    assert found.notes == ()
    assert "of CIFAR-10" in found.files[0].known


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


GOOD = python2_pickle(records(1, 3), "x")
PLAIN = {b"data": records(1, 3)[:, 1:].copy(), b"labels": [1, 2, 3]}


def bad_pickles() -> dict[str, tuple[bytes, str]]:
    def dumped(**changes: Any) -> bytes:
        return pickle.dumps(PLAIN | {name.encode(): value for name, value in changes.items()}, protocol=2)

    nested = b"\x80\x02}(" + b")" + b"".join(b"q%c\x85" % n for n in range(3)) + b"K\x01u."
    pairs = b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(200)) + b"K\x01s."
    return {
        "a module": (dumped(labels=np.random.default_rng), "'numpy.random.default_rng' is refused"),
        "os.system": (b"cos\nsystem\n(S'echo'\ntR.", "'os.system' is refused"),
        "eval": (b"c__builtin__\neval\n(S'1'\ntR.", "'__builtin__.eval' is refused"),
        "stacked global": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "'os.system' is refused"),
        "an attribute of a stand-in": (
            b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
            "'numpy.dtype.__init__' is refused",
        ),
        "an instance": (b"(i__main__\nX\n.", "the opcode INST is refused"),
        "an object": (b"\x80\x02(cnumpy\ndtype\no.", "the opcode OBJ is refused"),
        "a persistent id": (b"Pabc\n.", "the opcode PERSID is refused"),
        "an extension": (b"\x80\x02\x82\x01.", "the opcode EXT1 is refused"),
        "a set": (dumped(labels={1}), "is refused"),
        "an object array": (dumped(data=np.array([None] * 3, object)), r"arrays of bytes \(u1\) alone"),
        "floats": (dumped(data=np.zeros((3, 3072))), r"arrays of bytes \(u1\) alone"),
        "another shape": (dumped(data=np.zeros((3, 3071), np.uint8)), "must have 'data' of 3,072 bytes an image"),
        "no data": (dumped(data=None), "must have 'data' of 3,072 bytes an image"),
        "no images": (
            pickle.dumps(PLAIN | {b"data": np.zeros((0, 3072), np.uint8)}, protocol=3),
            "must have 'data' of 3,072 bytes an image",
        ),
        "few labels": (dumped(labels=[1]), "must have 'labels', a list of 3 whole numbers"),
        "text for labels": (dumped(labels=["1", "2", "3"]), "must have 'labels', a list of 3 whole numbers"),
        "large labels": (dumped(labels=[1, 10, 3]), "labels must be 0 to 9"),
        "huge labels": (dumped(labels=[1, 2**80, 3]), "labels must be 0 to 9"),
        "a list": (b"].", "must have 'data'"),
        "a shape that lies": (GOOD.replace(b"M\x00\x0c\x86", b"M\x00\x0d\x86"), "is no pickle of plain values"),
        "cut": (GOOD[:-40], "is no pickle of plain values"),
        "empty": (b"", "is no pickle of plain values"),
        "text": (b"Hello", "is no pickle of plain values"),
        "memory without end": (b"\x80\x02]r\xff\xff\xff\xff.", "must use memory place by place, got 4,294,967,295"),
        "a state for a function": (
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x04evilK\x01sb.",
            "must give a state to arrays and types alone",
        ),
        "a state for a class": (
            b"\x80\x02cnumpy\ndtype\n}U\x04evilK\x01sb.",
            "must give a state to arrays and types alone",
        ),
        "tuples in tuples without end": (b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.", "1,000 for tuples"),
        "lists without end": (b"\x80\x02" + b"]" * 1_000_001 + b".", "must have at most 1,000,000 opcodes"),
        "a hash without end": (pairs, "must not use a tuple twice"),
        "nothing on the stack": (b"\x80\x02e.", "is no pickle of plain values"),
        "nested tuples": (nested, "is no pickle of plain values|must have 'data'"),
    }


@pytest.mark.parametrize("name", bad_pickles())
def test_other_pickles_are_damage(name: str, tmp_path: Path, scratch: Path) -> None:
    data, message = bad_pickles()[name]
    path = tar(tmp_path / "c.tgz", {"cifar-10-batches-py/data_batch_1": data})
    with pytest.raises(DamagedError, match=rf"c\.tgz/cifar-10-batches-py/data_batch_1: .*({message})"):
        opened("cifar10", path, scratch=scratch)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_never_run_code(protocol: int, tmp_path: Path, scratch: Path) -> None:
    data = pickle.dumps(PLAIN | {b"labels": Evil(tmp_path / "ran")}, protocol=protocol)
    with pytest.raises(DamagedError):
        opened("cifar10", tar(tmp_path / "c.tgz", {"data_batch_1": data}), scratch=scratch)
    assert not (tmp_path / "ran").exists()


def test_mutated_pickles_are_read_or_damage(tmp_path: Path, scratch: Path) -> None:
    from dcgan_dist.data.sources.pickled import plain_values

    generator = np.random.default_rng(0)
    head = python2_pickle(records(1, 1), "x")
    good = 0
    for _ in range(500):
        data = bytearray(head)
        for _ in range(generator.integers(1, 4)):
            place = generator.integers(0, 150) if generator.random() < 0.8 else generator.integers(0, len(data))
            data[place] = generator.integers(0, 256)
        try:
            plain_values(bytes(data))
            good += 1
        except DamagedError:
            pass
    assert 0 < good < 500


BAD_BINARIES = {
    "cut": (BINARY["cifar-10-batches-bin/test_batch.bin"][:-1], "must have 3,073 bytes for each image, has 6,145"),
    "empty": (b"", "must have 3,073 bytes for each image, has 0"),
    "label 200": (b"\xc8" + bytes(3072), "labels must be 0 to 9, got 200"),
}


@pytest.mark.parametrize("name", BAD_BINARIES)
def test_damaged_binary_batches_are_named(name: str, tmp_path: Path, scratch: Path) -> None:
    data, message = BAD_BINARIES[name]
    with pytest.raises(DamagedError, match=rf"in/data_batch_1\.bin: {message}"):
        opened("cifar10", files(tmp_path / "in", {"data_batch_1.bin": data}), scratch=scratch)


def test_missing_and_double_batches_are_named(tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(ValueError, match=r"train images are in data_batch_1, .* \(\.bin or not\); none is there"):
        opened("cifar10", tar(tmp_path / "cifar-100-python.tar.gz", {"cifar-100-python/train": b"x"}), scratch=scratch)
    both = files(tmp_path / "in", BINARY | python("Python 2"))
    with pytest.raises(ValueError, match="are the same batch; give one"):
        opened("cifar10", both, scratch=scratch)
    one, two = (tar(tmp_path / f"{n}.tgz", BINARY) for n in "ab")
    with pytest.raises(ValueError, match=r"b\.tgz: data_batch_1 is in another input too"):
        opened("cifar10", one, two, scratch=scratch)


TRAIN_COUNTS = [396, 366, 420, 384, 422, 393, 414, 385, 407, 413]
TEST_COUNTS = [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the real archive, by name."""
    plain = unpacked(ARCHIVE, tmp_path_factory.mktemp("cifar10"))
    return {Path(m.name).name: m.read(ARCHIVE) for m in list_archive(ARCHIVE, plain).members}


def rows_of(batch: bytes) -> np.ndarray:
    return np.frombuffer(batch, np.uint8).reshape(-1, 3073)


@needs_shared("data/cifar10")
def test_the_real_cifar10(real: dict[str, bytes], scratch: Path) -> None:
    found = opened("cifar10", ARCHIVE, scratch=scratch, split="all")
    rows = np.concatenate([rows_of(real["data_batch_1.bin"]), rows_of(real["test_batch.bin"])])
    assert len(found.records) == len(rows) == 5000
    assert [r.label for r in found.records] == rows[:, 0].tolist()
    for place in (0, 1, 3999, 4000, 4999):
        expected = rows[place, 1:].reshape(3, 32, 32).transpose(1, 2, 0)
        np.testing.assert_array_equal(found.records[place].image.pixels(RGB), expected)
    assert found.classes == tuple(real["batches.meta.txt"].decode().split())
    # the first images of both batches, as everybody knows them
    assert [found.classes[r.label] for r in found.records[:5]] == ["frog", "truck", "truck", "deer", "automobile"]
    assert [found.classes[r.label] for r in found.records[4000:4004]] == ["cat", "ship", "ship", "airplane"]
    train, test = (np.bincount(part, minlength=10).tolist() for part in (rows[:4000, 0], rows[4000:, 0]))
    assert train == TRAIN_COUNTS
    assert test == TEST_COUNTS
    assert found.files[0].known == "part of it: 5,000 of the 60,000 images of CIFAR-10"
    assert found.notes == ()


@needs_shared("data/cifar10")
def test_the_real_batches_as_pickles_give_the_same_shards(real: dict[str, bytes], tmp_path: Path) -> None:
    rows = {name: rows_of(real[f"{name}.bin"])[:250] for name in ("data_batch_1", "test_batch")}
    binary = tar(tmp_path / "b.tar.gz", {f"{name}.bin": batch.tobytes() for name, batch in rows.items()})
    pickled = {f"py/{name}": python2_pickle(batch, name) for name, batch in rows.items()}
    shards = []
    for archive in (binary, tar(tmp_path / "p.tar.xz", pickled, mode="w:xz")):
        out = tmp_path / archive.name[0] / "set"
        main(["cifar10", str(archive), "--split=all", "--out", str(out), "--size=32", "--workers=1", "--quiet"])
        shards.append({name: data for name, data in bytes_of(out).items() if name != "index.json"})
    assert shards[0] == shards[1]
    assert sorted(shards[0]) == ["index.npy", "set-000000.tar"]
