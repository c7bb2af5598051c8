"""Inputs of dcgan-shard changed at random, or made to do harm: from a random number generator, files and arguments."""

import gzip
import io
import os
import pickle
import struct
import subprocess
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.data.made import noise, tar

CANARY = "canary"
"""A file that an attack would make: code by running, a member by its name."""

Dice = np.random.Generator
Change = Callable[[Path, Dice], list[str]]
"""Writes inputs into a folder; the arguments of dcgan-shard for them."""


def some(dice: Dice, *choices: Any) -> Any:
    return choices[int(dice.integers(len(choices)))]


def mutated(data: bytes, dice: Dice) -> bytes:
    """Some bytes become others, come, or go; more often near the beginning, where headers are."""
    made = bytearray(data)
    for _ in range(some(dice, 1, 1, 2, 5)):
        if not made:
            break
        place = int(dice.integers(min(len(made), some(dice, 32, 600, len(made)))))
        length = some(dice, 1, 2, 4, 8, 100)
        match some(dice, "set", "set", "number", "number", "cut", "insert", "drop", "repeat"):
            case "set":
                made[place : place + length] = dice.bytes(min(length, len(made) - place))
            case "number":
                width = some(dice, 1, 2, 4, 8)
                number = some(
                    dice, 0, 1, 127, 255, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1
                )
                made[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, some(dice, "big", "little"))
            case "cut":
                del made[int(dice.integers(len(made))) :]
            case "insert":
                made[place:place] = dice.bytes(length)
            case "drop":
                del made[place : place + length]
            case "repeat":
                made[place:place] = made[place : place + 600] * some(dice, 1, 3)
    return bytes(made)


class Attack:
    """Makes the canary when it is unpickled."""

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (make, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def attacks(canary: Path) -> list[Any]:
    """Objects, or whole pickles, that run code in an ordinary unpickler, or cost it memory without end."""
    command = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    return [
        Attack(os.system, command),
        Attack(eval, code),
        Attack(exec, code),
        Attack(subprocess.Popen, command, -1, None, None, None, None, None, True, True),
        Attack(getattr, Path, "touch"),
        Attack(np.save, str(canary), np.zeros(1)),
        Attack(np.memmap, str(canary), "u1", "w+", 0, (100,)),
        Attack(np.zeros, (10**12,), "u1"),
        Attack(np.ndarray, (10**12,), "u1"),
        Attack(bytes, 10**12),
        Attack(np.dtype, "O"),
        np.array([Attack(os.system, command)], object),
        f"cposix\nsystem\n(S'{command}'\ntR.".encode(),
        f"c__builtin__\neval\n(S{code!r}\ntR.".encode(),
        f"(S'{command}'\nios\nsystem\n.".encode(),
        b"\x80\x04\x8c\x05numpy\x8c\x14ma.core.os.path.join\x93.",
        b"\x80\x02cnumpy\ndtype\n}X\x08\x00\x00\x00__init__K\x01sb.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(N}X\x08\x00\x00\x00__code__K\x01stb.",
        b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.",
        b"\x80\x02" + b"]" * 1_200_000 + b".",
        b"\x80\x02]r\xff\xff\xff\x7f.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x04\x8e" + b"\xff" * 8 + b".",
        b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    ]


def poisoned(canary: Path, dice: Dice) -> bytes:
    """One of the attacks as a pickle."""
    attack = some(dice, *attacks(canary))
    if isinstance(attack, bytes):
        return attack
    content = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}
    content[some(dice, b"data", b"labels", b"more")] = attack
    return pickle.dumps(content, protocol=int(dice.integers(6)))


def a_picture(dice: Dice, *kinds: str) -> tuple[str, bytes]:
    """An image file of a random kind and mode, and its suffix."""
    kind = some(dice, *(kinds or ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")))
    image = Image.fromarray(noise(int(dice.integers(1000)), height=24, width=20))
    image = image.convert(some(dice, "RGB", "L", "P", "1" if kind != "WEBP" else "RGB", "RGB"))
    options: dict[str, Any] = {}
    if kind in ("PNG", "TIFF", "WEBP") and dice.random() < 0.3:
        image = image.convert("RGBA")
    if kind == "JPEG":
        image = image.convert(some(dice, "RGB", "L", "CMYK"))
        options = {"progressive": dice.random() < 0.3}
    if kind in ("GIF", "WEBP", "PNG") and dice.random() < 0.3:
        options = {"save_all": True, "append_images": [image.rotate(90)]}
    if kind == "TIFF":
        options = {"compression": some(dice, None, "tiff_lzw", "tiff_adobe_deflate", "packbits")}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return kind.lower(), buffer.getvalue()


def with_checksums(data: bytes) -> bytes:
    """A PNG whose checksums are right, so that what is in its chunks is looked at."""
    made, place = bytearray(data), 8
    while place + 12 <= len(made):
        length = int.from_bytes(made[place : place + 4], "big")
        end = place + 8 + length
        made[end : end + 4] = zlib.crc32(made[place + 4 : end]).to_bytes(4, "big")[: max(0, len(made) - end)]
        place = end + 4
    return bytes(made)


def lying_tiff(dice: Dice) -> bytes:
    """A TIFF with tags of nonsense: sizes, strips, tiles, bits."""
    _, data = a_picture(dice, "TIFF")
    made = bytearray(data)
    order = "<" if made[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", made, 4)
    (tags,) = struct.unpack_from(order + "H", made, first)
    for _ in range(some(dice, 1, 2, 4)):
        entry = first + 2 + 12 * int(dice.integers(tags))
        if dice.random() < 0.3:  # another tag: tiles, planes, predictor, sample format
            struct.pack_into(order + "H", made, entry, some(dice, 322, 323, 324, 325, 284, 317, 339, 338, 330, 34665))
        number = some(dice, 0, 1, 3, 16, 32, 7_999, 60_000, 65_535, 2**31 - 1, 2**32 - 1)
        struct.pack_into(
            order + "HII", made, entry + 2, some(dice, 3, 4, 4, 5, 7, 12), some(dice, 1, 1, 3, 10**6), number
        )
    return bytes(made)


def large_gif(dice: Dice) -> bytes:
    """A GIF of a few bytes that claims up to 65,535 x 65,535 pixels, on its screen or in its frame."""
    width, height = (some(dice, 1, 976, 8_000, 20_000, 65_535) for _ in range(2))
    screen = struct.pack("<HHBBB", *some(dice, (width, height), (1, 1)), 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
    return b"GIF89a" + screen + frame + b"\x02\x02\x4c\x01\x00;"


def images(folder: Path, dice: Dice) -> list[str]:
    """A folder of image files, most of them changed."""
    for number in range(4):
        suffix, data = a_picture(dice)
        how = dice.random()
        if how < 0.2:
            suffix, data = "tiff", lying_tiff(dice)
        elif how < 0.3:
            suffix, data = "gif", large_gif(dice)
        elif how < 0.9:
            data = mutated(data, dice)
            if suffix == "png" and dice.random() < 0.8:
                data = with_checksums(data)
        name = f"{number}.{suffix if dice.random() < 0.9 else 'png'}"
        (folder / name).write_bytes(data)
    return ["folder", str(folder), *some(dice, [], ["--skip-bad"], ["--skip-bad", "--resize=lanczos", "--crop=square"])]


def member(folder: Path, dice: Dice) -> tuple[str, bytes]:
    """A file for an archive; some have names that lead elsewhere or content that runs."""
    canary = folder.parent / CANARY
    name = some(dice, "a/1", "a/2", "b/3", "4", "a/1.x")
    if dice.random() < 0.1:
        deep = "../" * int(dice.integers(1, 5))
        odd = some(
            dice, deep + CANARY, str(canary), f"a/{deep}{CANARY}", f"..\\{CANARY}", f"C:{CANARY}", "a\nb", "\x1b[2J"
        )
        name = some(dice, odd, odd, odd, "x" * some(dice, 200, 2000), "\u202eb", "\udcff", ".", "", "a//./1", "__x__/1")
    if dice.random() < 0.15:
        suffix = some(dice, "pyd", "pickle", "pkl", "pth", "npy", "cls", "png", "json")
        return f"{name}.{suffix}", poisoned(canary, dice)
    if dice.random() < 0.1:
        return f"{name}.cls", some(dice, b"1", b"0", b"-1", b"x", b"", b"1" * 30, dice.bytes(3))
    suffix, data = a_picture(dice, "PNG", "JPEG")
    return f"{name}.{suffix}", data if dice.random() < 0.9 else mutated(data, dice)


def tar_bytes(folder: Path, dice: Dice) -> bytes:
    """A tar of a few members, now and then with links, devices and headers of nonsense."""
    buffer = io.BytesIO()
    kinds = (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
        b"S",
        b"x",
        b"L",
        b"Z",
    )
    form = some(dice, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as archive:
        for _ in range(some(dice, 1, 3, 6)):
            name, data = member(folder, dice)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if dice.random() < 0.06:
                info.type = some(dice, *kinds, b"S", b"x", b"L", b"Z")
                info.linkname = some(dice, "..", f"../{CANARY}", str(folder.parent), "/etc/passwd", "a/1.png")
            if dice.random() < 0.05 and form == tarfile.PAX_FORMAT:
                info.pax_headers = {
                    some(dice, "path", "size", "GNU.sparse.map", "x"): some(dice, f"../{CANARY}", "-1", "9" * 20)
                }
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_bytes(folder: Path, dice: Dice) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are there twice
        for _ in range(some(dice, 1, 3, 6)):
            name, data = member(folder, dice)
            info = zipfile.ZipInfo(name.encode(errors="replace").decode() or "x")
            info.compress_type = some(dice, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED)
            if dice.random() < 0.05:
                info.external_attr = some(dice, 0o120777, 0o020666, 0o010666) << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def archived(pack: Callable[[Path, Dice], bytes], compress: Callable[[bytes], bytes] | None = None) -> Change:
    def write(folder: Path, dice: Dice) -> list[str]:
        data = pack(folder, dice)
        if dice.random() < 0.6:
            data = mutated(data, dice)
        if compress:
            data = compress(data)
            if dice.random() < 0.4:
                data = mutated(data, dice)
        (folder / "given").write_bytes(data)
        return [some(dice, "folder", "folder", "webdataset"), str(folder / "given"), *some(dice, [], ["--skip-bad"])]

    return write


def idx(folder: Path, dice: Dice) -> list[str]:
    count, height, width = (int(dice.integers(1, 6)) for _ in range(3))
    pictures = struct.pack(">IIII", 2051, count, height, width) + dice.bytes(count * height * width)
    labels = struct.pack(">II", 2049, count) + bytes(dice.integers(0, 10, count).tolist())
    which = dice.random()
    if which < 0.4:
        pictures = mutated(pictures, dice)
    elif which < 0.8:
        labels = mutated(labels, dice)
    for name, data in (("train-images-idx3-ubyte", pictures), ("train-labels-idx1-ubyte", labels)):
        if dice.random() < 0.5:
            (folder / name).write_bytes(data)
        else:
            packed = gzip.compress(data, mtime=0)
            (folder / f"{name}.gz").write_bytes(mutated(packed, dice) if dice.random() < 0.3 else packed)
    return ["mnist", str(folder)]


def pickles(folder: Path, dice: Dice) -> list[str]:
    if dice.random() < 0.5:
        data = poisoned(folder.parent / CANARY, dice)
    else:
        content = {b"data": dice.integers(0, 256, (2, 3072), np.uint8), b"labels": [1, 2], b"filenames": [b"a", b"b"]}
        data = pickle.dumps(content, protocol=int(dice.integers(6)))
        if dice.random() < 0.9:
            head = int(dice.integers(200, 400))  # what is not pixels
            data = mutated(data[:head], dice) + data[head:]
    name = "cifar-10-batches-py/data_batch_1"
    if dice.random() < 0.5:
        tar(folder / "cifar-10-python.tar.gz", {name: data})
        return ["cifar10", str(folder / "cifar-10-python.tar.gz")]
    (folder / "data_batch_1").write_bytes(data)
    return ["cifar10", str(folder)]


def mats(folder: Path, dice: Dice) -> list[str]:
    tar(folder / "102flowers.tgz", {f"jpg/image_{n:05d}.jpg": a_picture(dice, "JPEG")[1] for n in (1, 2)})
    for name, variables in (
        ("imagelabels", {"labels": np.array([[1, 2, 102]], np.uint8)}),
        ("setid", {"trnid": np.array([[1.0, 2.0]]), "valid": np.array([[3]]), "tstid": np.array([[3]])}),
    ):
        buffer = io.BytesIO()
        savemat(buffer, variables, do_compression=dice.random() < 0.4)
        data = buffer.getvalue()
        (folder / f"{name}.mat").write_bytes(data[:120] + mutated(data[120:], dice) if dice.random() < 0.7 else data)
    return ["flowers102", str(folder), f"--split={some(dice, 'all', 'train')}"]


def celeba(folder: Path, dice: Dice) -> list[str]:
    names = [f"{n:06d}.jpg" for n in (1, 2, 3)]
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for name in names:
            archive.writestr(f"img_align_celeba/{name}", a_picture(dice, "JPEG")[1])
    lists = {
        "list_attr_celeba.txt": "3\nMale Young\n" + "".join(f"{name} -1  1\n" for name in names),
        "identity_CelebA.txt": "".join(f"{name} {n}\n" for n, name in enumerate(names)),
        "list_eval_partition.txt": "".join(f"{name} 0\n" for name in names),
    }
    for name, text in lists.items():
        data = text.encode()
        if dice.random() < 0.5:
            data = some(
                dice, mutated(data, dice), mutated(data, dice), data * 2, data.replace(b" ", b"\0"), b"a\n" * 1_100_000
            )
        (folder / name).write_bytes(data)
    options = [f"--label={some(dice, 'none', 'identity', 'Male', 'Young')}", f"--split={some(dice, 'all', 'train')}"]
    return ["celeba", str(folder), *options]


KINDS: dict[str, Change] = {
    "images": images,
    "tar": archived(tar_bytes),
    "pickle": pickles,
    "zip": archived(zip_bytes),
    "idx": idx,
    "tgz": archived(tar_bytes, gzip.compress),
    "mat": mats,
    "celeba": celeba,
}
