"""Original data sets, as their authors publish them, as lists of records that can be read independently.

To add one: a file with a function from a Request to a SourceSet, a row in SOURCES, a tiny fixture for its test.
"""

from dcgan_dist.data import synthetic
from dcgan_dist.data.sources import celeba, cifar10, drawn, flowers, folder, mnist, web
from dcgan_dist.data.sources.base import (
    ALL,
    Option,
    Record,
    Request,
    Source,
    SourceFile,
    SourceSet,
    Subset,
)

__all__ = [
    "ALL",
    "SOURCES",
    "Option",
    "Record",
    "Request",
    "Source",
    "SourceFile",
    "SourceSet",
    "Subset",
]

SOURCES: dict[str, Source] = {
    "flowers17": Source(
        flowers.flowers17,
        help="Oxford Flowers-17: 1,360 photographs, 17 classes",
        example="17flowers.tgz --out shards/flowers17-32 --size 32",
        inputs="17flowers.tgz as the authors publish it, or with fewer images; or the folder that was in it",
        options={},
        decodes=True,
    ),
    "flowers102": Source(
        flowers.flowers102,
        help="Oxford Flowers-102: 8,189 photographs, 102 classes",
        example="102flowers.tgz imagelabels.mat --out shards/flowers102-32 --size 32",
        inputs="102flowers.tgz, imagelabels.mat and, for --split, setid.mat; or a folder with them",
        options={"split": flowers.SPLIT_OPTION},
        decodes=True,
    ),
    "flowers": Source(
        flowers.flowers,
        help="Flowers-17 and Flowers-102 as one set: 9,549 photographs, classes 17/daffodil ... 102/blackberry lily",
        example="17flowers.tgz 102flowers.tgz imagelabels.mat --out shards/flowers-64 --size 64 --crop center",
        inputs="17flowers.tgz, 102flowers.tgz and imagelabels.mat; or a folder with them",
        options={},
        decodes=True,
    ),
    "mnist": Source(
        mnist.mnist,
        help="MNIST: 70,000 handwritten digits",
        example="train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz --out shards/mnist-28 --size 28 --gray",
        inputs="the images and labels files, with or without .gz, or a folder with them",
        options={"split": mnist.SPLIT_OPTION},
        decodes=True,
        grey=True,
    ),
    "cifar10": Source(
        cifar10.cifar10,
        help="CIFAR-10: 60,000 tiny photographs, 10 classes",
        example="cifar-10-binary.tar.gz --out shards/cifar10-64 --size 64 --resize bilinear",
        inputs="cifar-10-binary.tar.gz or cifar-10-python.tar.gz, packed in any way, or the folder that was in it",
        options={"split": cifar10.SPLIT_OPTION},
        decodes=True,
    ),
    "celeba": Source(
        celeba.celeba,
        help="CelebA: 202,599 aligned faces, labelled by identity or attribute on demand",
        example="img_align_celeba.zip list_attr_celeba.txt --label Smiling --out shards/celeba-32 --size 32 "
        "--crop center",
        inputs="img_align_celeba.zip or its folder, and the authors' lists that --label or --split needs",
        options={"label": celeba.LABEL_OPTION, "split": celeba.SPLIT_OPTION},
        decodes=True,
    ),
    "folder": Source(
        folder.folder,
        help="any folders, tars, tgzs or zips of images; class = folder name",
        example="photos.zip --out shards/photos-64 --size 64 --crop center",
        inputs="folders or archives; images in no folder get the one class 'all', or with several inputs the class "
        "that is called as the input",
        options={},
        decodes=True,
    ),
    "webdataset": Source(
        web.webdataset,
        help="the tars of another WebDataset: KEY.jpg, .png or .webp, and KEY.cls with the class number",
        example="train-000.tar train-001.tar --out shards/train-64 --size 64 --crop center",
        inputs="tars, or a folder of them; what else is in them is told and ignored, and nothing is unpickled",
        options={},
        decodes=True,
    ),
    "synthetic": Source(
        drawn.synthetic_flowers,
        help="flowers drawn by a program: known modes with known shares, nothing to download",
        example="--out shards/synthetic-32 --size 32 --count 4000",
        inputs="",
        options={"count": Option(4000, "images"), "seed": Option(0, "seed of the drawings")},
        decodes=False,
        smallest_size=synthetic.SMALLEST_SIZE,
    ),
}
