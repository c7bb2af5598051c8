"""What is known of the files that authors published: whether a file is one of them is told, never required."""

from dataclasses import dataclass

from dcgan_dist.data.sources.base import Digests

FLOWERS17 = "Oxford Flowers-17"
FLOWERS102 = "Oxford Flowers-102"
MNIST = "MNIST"
CIFAR10 = "CIFAR-10"
CELEBA = "CelebA"


@dataclass(frozen=True)
class Original:
    """A file as its authors publish it."""

    data_set: str
    name: str


# md5 of each file, as the authors (CIFAR-10) or torchvision's data sets state it; of 17flowers.tgz as five unrelated
# programs do. Fashion-MNIST's and Kuzushiji-MNIST's files have the names of MNIST's.
ORIGINALS = {
    "b59a65d8d1a99cd66944d474e1289eab": Original(FLOWERS17, "17flowers.tgz"),
    "52808999861908f626f3c1f4e79d11fa": Original(FLOWERS102, "102flowers.tgz"),
    "e0620be6f572b9609742df49c70aed4d": Original(FLOWERS102, "imagelabels.mat"),
    "a5357ecc9cb78c4bef273ce3793fc85c": Original(FLOWERS102, "setid.mat"),
    "f68b3c2dcbeaaa9fbdd348bbdeb94873": Original(MNIST, "train-images-idx3-ubyte.gz"),
    "d53e105ee54ea40749a09fcbcd1e9432": Original(MNIST, "train-labels-idx1-ubyte.gz"),
    "9fb629c4189551a2d022fa330f9573f3": Original(MNIST, "t10k-images-idx3-ubyte.gz"),
    "ec29112dd5afa0611ce80d1b7f02629c": Original(MNIST, "t10k-labels-idx1-ubyte.gz"),
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d": Original("Fashion-MNIST", "train-images-idx3-ubyte.gz"),
    "25c81989df183df01b3e8a0aad5dffbe": Original("Fashion-MNIST", "train-labels-idx1-ubyte.gz"),
    "bef4ecab320f06d8554ea6380940ec79": Original("Fashion-MNIST", "t10k-images-idx3-ubyte.gz"),
    "bb300cfdad3c16e7a12a480ee83cd310": Original("Fashion-MNIST", "t10k-labels-idx1-ubyte.gz"),
    "bdb82020997e1d708af4cf47b453dcf7": Original("Kuzushiji-MNIST", "train-images-idx3-ubyte.gz"),
    "e144d726b3acfaa3e44228e80efcd344": Original("Kuzushiji-MNIST", "train-labels-idx1-ubyte.gz"),
    "5c965bf0a639b31b8f53240b1b52f4d7": Original("Kuzushiji-MNIST", "t10k-images-idx3-ubyte.gz"),
    "7320c461ea6c1c855c0b718fb2a4b134": Original("Kuzushiji-MNIST", "t10k-labels-idx1-ubyte.gz"),
    "c58f30108f718f92721af3b95e74349a": Original(CIFAR10, "cifar-10-python.tar.gz"),
    "c32a1d4ab5d03f1284b67883e8d87530": Original(CIFAR10, "cifar-10-binary.tar.gz"),
    "00d2c5bc6d35e252742224ab0c1e8fcb": Original(CELEBA, "img_align_celeba.zip"),
    "75e246fa4810816ffd6ee81facbd244c": Original(CELEBA, "list_attr_celeba.txt"),
    "32bd1bd63d3c78cd57e08160ec5ed1e2": Original(CELEBA, "identity_CelebA.txt"),
    "d32c9cbf5e040fd4025c592c306e6668": Original(CELEBA, "list_eval_partition.txt"),
}

# sha256 of what is inside, however it is packed: MNIST's files without gzip; Flowers-17's images as
# `sha256sum image_*.jpg` lists them.
CONTENTS = {
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db": Original(MNIST, "train-images-idx3-ubyte"),
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5": Original(MNIST, "train-labels-idx1-ubyte"),
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7": Original(MNIST, "t10k-images-idx3-ubyte"),
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2": Original(MNIST, "t10k-labels-idx1-ubyte"),
    "2ce7bf3f3bf8be448ae4535cb2fdc02e3465f831dd9884c4055f3f0f96fe9c37": Original(FLOWERS17, "all images"),
}


def verdict(
    name: str,
    digests: Digests | None,
    *,
    data_set: str,
    held: int = 1,
    total: int = 1,
    what: str = "images",
    content: str = "",
) -> str:
    """Whether a file is what its authors published: one sentence without its subject, the file.

    Args:
        name: Of the file.
        digests: Of the file; None for a folder.
        data_set: What the user says it is.
        held: Images it has.
        total: Images the original has.
        what: What they are, if not the whole set's.
        content: sha256 of what is inside, if CONTENTS knows this file of the original.
    """
    original = ORIGINALS.get(digests.md5) if digests else None
    if original and original.data_set == data_set:
        return f"complete and original, {original.name} of {data_set}"
    if original:
        return f"not what it says: it is {original.name} of {original.data_set}"
    inside = CONTENTS.get(content)
    if inside and inside.data_set == data_set:
        return f"complete and original, {inside.name} of {data_set}, packed anew"
    if held != total:
        return f"part of it: {held:,} of the {total:,} {what} of {data_set}"
    if content:
        return f"not what it says: what is in it differs from {data_set}"
    md5 = next((known for known, each in ORIGINALS.items() if (each.data_set, each.name) == (data_set, name)), None)
    if md5 and digests:
        return f"not what it says: the md5 of {data_set}'s {name} is {md5}, this file's is {digests.md5}"
    if total > 1:
        return f"not in the authors' packing, with all {total:,} {what} of {data_set}"
    return f"not a file of {data_set} that is known here"
