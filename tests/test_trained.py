"""A trained generator from a run, a checkpoint or an exported file."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import dcgan_dist
from dcgan_dist import trained
from dcgan_dist.config import TrainConfig
from dcgan_dist.distributed.collectives import digest
from dcgan_dist.distributed.draws import sample_latent
from dcgan_dist.models import empty_generator
from dcgan_dist.sampling import sample_pixels
from dcgan_dist.trained import METADATA_KEY
from tests.exports import RECIPES_BY_MODEL, made_run
from tests.shared import REPOSITORY


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A run of architecture 1, whose values lie in [-0.5, 0.5] and whose network reaches beyond."""
    run, network = made_run(tmp_path_factory.mktemp("trained") / "run", "flowers17-arch1")
    return run.path, network


@pytest.fixture
def file(made: tuple[Path, nn.Module], tmp_path: Path) -> Path:
    path = tmp_path / "flowers.safetensors"
    path.write_bytes(trained.to_bytes(trained.load(made[0])))
    return path


def noise(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(5)).to(dtype)


@pytest.mark.parametrize("recipe", RECIPES_BY_MODEL.values(), ids=RECIPES_BY_MODEL)
def test_the_generator_of_a_run_and_of_its_file(recipe: str, tmp_path: Path) -> None:
    run, network = made_run(tmp_path / "run", recipe)
    path = tmp_path / "generator.safetensors"
    path.write_bytes(trained.to_bytes(dcgan_dist.load(run.path)))
    z = 2 * noise(5)
    with torch.no_grad():
        expected = network(z)
    assert expected.std() > 0.1
    for place in (run.path, run.checkpoints, run.checkpoints / "step-00000002", path, str(path)):
        generator = dcgan_dist.load(place)
        assert not generator.training
        torch.testing.assert_close(generator(z), expected)


@pytest.mark.parametrize(
    ("settings", "steps", "dtype"),
    [
        ({"dtype": "float64"}, 2, torch.float64),
        ({"precision": "bf16"}, 2, torch.float32),
        ({"memory_format": "contiguous"}, 2, torch.float32),
        ({"compile": True}, 0, torch.float32),
        ({"ema_decay": 0.5}, 2, torch.float32),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_however_it_was_trained(settings: dict[str, Any], steps: int, dtype: torch.dtype, tmp_path: Path) -> None:
    run, network = made_run(tmp_path / "run", "mnist28", steps=steps, settings=settings)
    path = tmp_path / "generator.safetensors"
    path.write_bytes(trained.to_bytes(dcgan_dist.load(run.path)))
    generator = dcgan_dist.load(path)
    assert generator.noise(1).dtype == dtype
    network = empty_generator(generator.config).to(dtype).to_empty(device="cpu").eval()  # neither compiled nor average
    network.load_state_dict(load_file(run.checkpoints / f"step-{steps:08d}" / _weights(settings)))
    with torch.no_grad():
        torch.testing.assert_close(generator(noise(3, dtype)), network(noise(3, dtype)))


@pytest.mark.parametrize("count", [0, -1])
def test_no_images_are_no_images_to_draw(count: int, file: Path) -> None:
    generator = dcgan_dist.load(file)
    for draw in (generator.noise, generator.sample):
        with pytest.raises(ValueError, match=f"^count must be at least 1, got {count}$"):
            draw(count)


def _weights(settings: dict[str, Any]) -> str:
    return "ema.safetensors" if "ema_decay" in settings else "generator.safetensors"


def test_the_average_is_another_generator(tmp_path: Path) -> None:
    run, _ = made_run(tmp_path / "run", "mnist28", settings={"ema_decay": 0.5})
    averaged, last = (run.checkpoints / "step-00000002" / f"{name}.safetensors" for name in ("ema", "generator"))
    assert dcgan_dist.load(run.path).origin.weights == "average"
    assert not torch.equal(load_file(averaged)["stem.dense.weight"], load_file(last)["stem.dense.weight"])


def test_it_says_what_it_is(file: Path) -> None:
    generator = dcgan_dist.load(file)
    assert (generator.origin.recipe, generator.origin.step, generator.origin.weights) == ("flowers17-arch1", 2, "last")
    assert (generator.latent_dim, generator.prior, generator.value_range) == (6, "normal", (-0.5, 0.5))
    assert generator.config.generator_slope == 0.2
    assert not any(parameter.requires_grad for parameter in generator.parameters())


def test_noise_and_pixels_are_those_of_dcgan_sample(file: Path) -> None:
    generator = dcgan_dist.load(file)
    z = generator.noise(20, seed=7)
    assert torch.equal(z[:16], sample_latent(7, range(16), latent_dim=6, prior="normal"))
    pixels = generator.to_pixels(generator(z[:16])).permute(0, 2, 3, 1).numpy()
    assert (pixels == sample_pixels(generator, range(16), seed=7, network=generator.config)).all()


def test_pixels_are_clamped(file: Path) -> None:
    values = torch.tensor([-0.9, -0.5, 0.0, 0.3, 0.5, 2.0])
    # (0.3 + 0.5) * 255 = 204, 127.5 to the even number
    assert dcgan_dist.load(file).to_pixels(values).tolist() == [0, 0, 128, 204, 255, 255]


# Files that are refused


def rewritten(file: Path, *, tensors: dict[str, Tensor] | None = None, **facts: Any) -> None:
    """``file`` with other facts, or tensors, and a digest that fits them unless ``facts`` have one."""
    generator = trained.load(file)
    found = {**generator.network.state_dict(), **(tensors or {})}
    signed(file, found, {**generator.origin.facts(), **facts})


def signed(file: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """A file of these tensors and facts, with a digest of both."""
    text = json.dumps(facts, sort_keys=True) + digest(tensors)
    facts = {"digest": hashlib.sha256(text.encode()).hexdigest()[:16], **facts}
    save_file(tensors, file, {METADATA_KEY: json.dumps(facts)})


def without(config: Any, *names: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in {**config, **more}.items() if name not in names}


NETWORK = {**dataclasses.asdict(TrainConfig().network), "model": "flowers_arch1", "image_size": 32}
NETWORK |= {"base_channels": 4, "latent_dim": 6, "generator_slope": 0.2, "value_range": [-0.5, 0.5]}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"format": 1}, "metadata: format 1, this version reads 2"),
        ({"step": "two"}, "metadata: step: must be of type int, got 'two'"),
        ({"step": -1}, "metadata: step: must be zero or more, got -1"),
        ({"weights": "best"}, "metadata: weights: must be one of average, last, got 'best'"),
        ({"digest": "0123456789abcdef"}, "is damaged: its contents are not what was written"),
        ({"network": []}, "metadata: network: must be of type dict"),
        ({"network": {**NETWORK, "attention": 1}}, "network: has settings of another version: ['attention']"),
        ({"network": {**NETWORK, "model": "vgg"}}, "model must be one of dcgan64"),
        ({"network": {**NETWORK, "base_channels": 10**9}}, "base_channels 1000000000 and latent_dim 6 are too large"),
        ({"network": {**NETWORK, "base_channels": 10**30}}, "are too large for model flowers_arch1"),
        ({"network": {**NETWORK, "base_channels": 1.5}}, "base_channels: must be of type int, got 1.5"),
        ({"network": {**NETWORK, "value_range": [0.0]}}, "value_range must be two rising numbers"),
        (
            {"network": {**NETWORK, "base_channels": 8}},
            "'body.0.0.bias': must be F32 (64,) in this network, is F32 (32,)",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_facts_that_do_not_hold(facts: dict[str, Any], said: str, file: Path) -> None:
    rewritten(file, **facts)
    refused(file, said)


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        (
            "head.bias",
            torch.zeros(3, dtype=torch.float16),
            "'head.bias': must be F32 (3,) in this network, is F16 (3,)",
        ),
        ("head.bias", torch.zeros(4), "'head.bias': must be F32 (3,) in this network, is F32 (4,)"),
        ("tail.bias", torch.zeros(1), "'tail.bias': must be absent in this network, is F32 (1,)"),
    ],
    ids=["type", "shape", "name"],
)
def test_tensors_of_another_network(name: str, tensor: Tensor, said: str, file: Path) -> None:
    rewritten(file, tensors={name: tensor})
    refused(file, said)


def test_a_file_that_lacks_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    del tensors["head.bias"]
    signed(file, tensors, trained.load(file).origin.facts())
    refused(file, "'head.bias': must be F32 (3,) in this network, is absent")


def test_a_setting_that_a_file_lacks_is_as_its_default(file: Path) -> None:
    """As one does that an earlier version wrote."""
    expected = trained.load(file).network.state_dict()
    rewritten(file, network=without(NETWORK, "prior", "upsampling"))
    found = trained.load(file)
    assert (found.prior, found.config.upsampling) == ("normal", "nearest")
    assert all(torch.equal(value, expected[name]) for name, value in found.network.state_dict().items())


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {METADATA_KEY: "{"}, {METADATA_KEY: "[" * 10**5}])
def test_safetensors_that_are_not_ours(metadata: dict[str, str] | None, file: Path) -> None:
    save_file(load_file(file), file, metadata)
    refused(file, "metadata")


def test_damaged_files(file: Path) -> None:
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 0x40  # in the last tensor
    for data in (whole[:-1], whole[:50], b"", b"PK\3\4" + whole, b"\xff" * 100):
        file.write_bytes(data)
        refused(file, "is no safetensors file, or a damaged one")
    settings = whole.replace(b'\\"generator_slope\\": 0.2', b'\\"generator_slope\\": 0.3')
    for data in (bytes(flipped), settings):
        assert data != whole
        file.write_bytes(data)
        refused(file, "is damaged: its contents are not what was written")


def refused(file: Path, said: str) -> None:
    with pytest.raises(ValueError) as raised:
        dcgan_dist.load(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert str(raised.value).count(str(file)) == 1
    assert said in str(raised.value)


def test_nothing_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        refused(path, "no whole checkpoint here")


def test_a_damaged_checkpoint_is_passed_over(made: tuple[Path, nn.Module], tmp_path: Path) -> None:
    run = Path(shutil.copytree(made[0], tmp_path / "run"))
    one = run / "checkpoints" / "step-00000002"
    two = Path(shutil.copytree(one, run / "checkpoints" / "step-00000003"))
    (two / "generator.safetensors").write_bytes(b"")
    assert dcgan_dist.load(run).origin.step == 2
    with pytest.raises(ValueError, match=r"step-00000003/generator\.safetensors: sha256"):
        dcgan_dist.load(two)


# What is imported

SCRIPT = """
import sys
import dcgan_dist

print(*{"torch", "numpy", "safetensors"} & set(sys.modules))
for path in sys.argv[1:]:
    generator = dcgan_dist.load(path)
    generator.to_pixels(generator(generator.noise(2)))
print(*{"accelerate", "cv2", "matplotlib", "PIL", "rich", "scipy", "tyro", "wandb", "yaml"} & set(sys.modules))
"""


def test_loading_imports_torch_and_safetensors_alone(made: tuple[Path, nn.Module], file: Path) -> None:
    arguments = [sys.executable, "-c", SCRIPT, str(made[0]), str(file)]
    job = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert (job.stdout, job.stderr) == ("\n\n", "")
