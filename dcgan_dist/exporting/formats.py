"""The files a generator is exported to: how each is written, read back and used. Written files are checked."""

import copy
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from dcgan_dist import trained
from dcgan_dist.config import NetworkConfig
from dcgan_dist.files import whole_file
from dcgan_dist.trained import METADATA_KEY, TrainedGenerator

BATCH_SIZES = (16, 1)
"""Images at once that a written file is checked with."""
TOLERANCE = 1e-4
"""Largest difference from the PyTorch generator that a file may have, in units of the images' values."""
DYNAMIC = {"z": {0: Dim("batch")}}
"""What may vary in a program: the number of images."""
OPSET = 20
"""Version of ONNX's operators, said here so that it does not change with torch."""


class UnequalError(Exception):
    """A file gives other images than the generator it was written from."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of file."""

    file: str
    write: Callable[[TrainedGenerator], bytes]
    """The contents of the file."""
    read: Callable[[Path], Callable[[Tensor], Tensor]]
    """From the file to a function of float z (N, latent_dim) whose values are images (N, C, H, W)."""
    usage: Callable[[NetworkConfig], str]
    """Lines of Python that end in ``pixels``, uint8 (16, C, H, W), run beside the file."""
    needs: str
    """What these lines need."""


@dataclass(frozen=True)
class Written:
    """A file that was written and checked."""

    file: str
    bytes: int
    sha256: str
    largest_difference: float
    """From the PyTorch generator, in units of the images' values."""
    batch_sizes: tuple[int, ...]
    """Of the batches it was found in."""


def write_checked(generator: TrainedGenerator, name: str, directory: Path) -> Written:
    """The file of format ``name`` in ``directory``, whole or absent, once it gives the generator's images.

    Raises:
        ValueError: A package that the format needs is missing.
        UnequalError: It does not, by more than TOLERANCE.
        OSError: The file cannot be written.
    """
    kind = FORMATS[name]
    data = kind.write(generator)
    path = directory / kind.file
    with whole_file(path) as file:
        file.write(data)
        file.flush()
        difference = _largest_difference(generator, kind.read(Path(file.name)))
        if not difference <= TOLERANCE:
            raise UnequalError(
                f"{path}: not written: its images differ from the PyTorch generator's by {difference:.2g}, "
                f"at most {TOLERANCE:g} is allowed"
            )
    return Written(kind.file, len(data), hashlib.sha256(data).hexdigest(), difference, BATCH_SIZES)


@torch.no_grad()
def _largest_difference(generator: TrainedGenerator, read: Callable[[Tensor], Tensor]) -> float:
    """Largest absolute difference over all values of all images; not a number if any is none."""
    z = generator.noise(max(BATCH_SIZES))
    differences = [(read(z[:size]).double() - generator(z[:size]).double()).abs().max() for size in BATCH_SIZES]
    return torch.stack(differences).max().item()


def _network(generator: TrainedGenerator) -> tuple[nn.Module, tuple[Tensor]]:
    """The network in float32 on the CPU, and arguments for it."""
    network = copy.deepcopy(generator.network).to("cpu", torch.float32)
    return network, (torch.zeros(max(BATCH_SIZES), generator.latent_dim),)


def _facts(generator: TrainedGenerator) -> str:
    return json.dumps(generator.origin.facts())


def _write_export(generator: TrainedGenerator) -> bytes:
    program = torch.export.export(*_network(generator), dynamic_shapes=DYNAMIC)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has the paths of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={f"{METADATA_KEY}.json": _facts(generator)})
    return buffer.getvalue()


def _read_export(path: Path) -> Callable[[Tensor], Tensor]:
    module = torch.export.load(io.BytesIO(path.read_bytes())).module()
    return lambda z: module(z.float())


def _write_onnx(generator: TrainedGenerator) -> bytes:
    try:
        import onnxruntime  # noqa: F401 (the file is checked with it)
        import onnxscript  # noqa: F401
    except ModuleNotFoundError:
        raise ValueError("format onnx needs the extra onnx: pip install 'dcgan_dist[onnx]'") from None
    program = torch.onnx.export(
        *_network(generator),
        input_names=["z"],
        output_names=["images"],
        dynamic_shapes=DYNAMIC,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model
    for node in model.graph:
        node.metadata_props.clear()  # notes for debugging, with the paths of this machine
    low, high = generator.value_range
    model.graph.outputs[0].doc_string = f"float32 images (batch, C, H, W): {low} is black, {high} white"
    model.metadata_props[METADATA_KEY] = _facts(generator)
    data: bytes = program.model_proto.SerializeToString()
    return data


def _read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda z: torch.from_numpy(session.run(["images"], {"z": z.float().numpy()})[0])


def _use_safetensors(config: NetworkConfig) -> str:
    low, high = config.value_range
    return f"""import dcgan_dist

generator = dcgan_dist.load("generator.safetensors")  # an nn.Module
images = generator(generator.noise(16, seed=0))  # float {_shape(config)}: {low} is black, {high} white
pixels = generator.to_pixels(images)  # uint8
"""


def _use_onnx(config: NetworkConfig) -> str:
    size = f"(16, {config.latent_dim})"
    z = f"standard_normal({size})" if config.prior == "normal" else f"uniform(-1, 1, {size})"
    return f"""import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("generator.onnx")
z = np.random.default_rng(0).{z}.astype(np.float32)
images = session.run(["images"], {{"z": z}})[0]  # float32 {_shape(config)}
pixels = ({_unit(config)} * 255).round().clip(0, 255).astype(np.uint8)
"""


def _use_export(config: NetworkConfig) -> str:
    size = f"16, {config.latent_dim}"
    z = f"torch.randn({size})" if config.prior == "normal" else f"2 * torch.rand({size}) - 1"
    return f"""import torch

generator = torch.export.load("generator.pt2").module()
images = generator({z})  # float32 {_shape(config)}
pixels = ({_unit(config)} * 255).round().clamp(0, 255).to(torch.uint8)
"""


def _shape(config: NetworkConfig) -> str:
    return f"(16, {config.channels}, {config.image_size}, {config.image_size})"


def _unit(config: NetworkConfig) -> str:
    """``images`` with black at 0 and white at 1."""
    low, high = config.value_range
    return f"(images {'-' if low > 0 else '+'} {abs(low)}) / {high - low}"


FORMATS = {
    "safetensors": Format(
        file="generator.safetensors",
        write=trained.to_bytes,
        read=trained.load,
        usage=_use_safetensors,
        needs="dcgan_dist; of its dependencies torch, safetensors and numpy are imported",
    ),
    "onnx": Format(
        file="generator.onnx",
        write=_write_onnx,
        read=_read_onnx,
        usage=_use_onnx,
        needs="onnxruntime or another program that reads ONNX; no PyTorch",
    ),
    "export": Format(
        file="generator.pt2",
        write=_write_export,
        read=_read_export,
        usage=_use_export,
        needs="torch alone",
    ),
}
"""The values of dcgan-export's ``--format``."""
