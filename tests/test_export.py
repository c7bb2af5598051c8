"""The command dcgan-export: three formats, their check, what lies beside them."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

import dcgan_dist
from dcgan_dist import checkpoint, export, sample, sampling, train
from dcgan_dist.config import NetworkConfig
from dcgan_dist.exporting.formats import FORMATS, OPSET
from dcgan_dist.models import MODELS
from dcgan_dist.run_directory import RunDirectory
from tests import jobs
from tests.exports import RECIPES_BY_MODEL, made_run
from tests.shared import REPOSITORY


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)  # training takes what it is told


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run, _ = made_run(tmp_path_factory.mktemp("made") / "run", "flowers17-arch1")
    return run


@pytest.fixture
def run(made: RunDirectory, tmp_path: Path) -> Path:
    """A run at step 2, of one's own."""
    return Path(shutil.copytree(made.path, tmp_path / "run"))


@pytest.fixture(scope="module")
def trained(flower_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps of 8 images on 48 flowers, measured at its end, exported in all formats."""
    path = tmp_path_factory.mktemp("card") / "run"
    measured = {"eval_every": 4, "extractor": "pixels", "eval_count": 24}
    train.main(jobs.flags(flower_shards, path, max_steps=4, latent_dim=9, prior="uniform", **measured))
    for name in FORMATS:
        run_export(path, "--format", name)
    return path


def run_export(*arguments: str | Path) -> None:
    export.main([*map(str, arguments)])


def refused(*arguments: str | Path, code: int = 2, capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a command that must end with this exit code."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run_export(*arguments)
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out) == (code, "")
    assert printed.err.count("error:") == 1
    return printed.err


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


# The files, read by their own libraries


def by_safetensors(path: Path) -> Callable[[Tensor], Tensor]:
    return dcgan_dist.load(path)


def by_onnxruntime(path: Path) -> Callable[[Tensor], Tensor]:
    session = onnxruntime.InferenceSession(path)
    return lambda z: torch.from_numpy(session.run(None, {"z": z.numpy()})[0])


def by_torch(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


READERS = {"safetensors": by_safetensors, "onnx": by_onnxruntime, "export": by_torch}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_model_in_every_format_gives_its_images(model: str, tmp_path: Path) -> None:
    """Of fast tests, the next one has architecture 2's programs, and test_trained.py safetensors of every model."""
    made, network = made_run(tmp_path / "run", RECIPES_BY_MODEL[model])
    directory = made.path / "export" / "step-00000002"
    files = {"README.md", "export.json", "samples.png"}
    for name, reader in READERS.items():
        run_export(made.path, "--format", name)
        files |= {FORMATS[name].file}
        assert {path.name for path in directory.iterdir()} == files
        read = reader(directory / FORMATS[name].file)
        for count in (1, 3, 17):
            z = torch.randn(count, 6, generator=torch.Generator().manual_seed(count))
            with torch.no_grad():
                expected, found = network(z), read(z)
            assert expected.std() > 0.05
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_programs_are_float32(tmp_path: Path) -> None:
    made, network = made_run(tmp_path / "run", "flowers17-arch2", settings={"dtype": "float64", "ema_decay": 0.5})
    for name in ("onnx", "export"):
        run_export(made.path, "--format", name, "--out", tmp_path / "out")
        read = READERS[name](tmp_path / "out" / FORMATS[name].file)
        for count in (1, 3, 17):
            z = torch.rand(count, 6, generator=torch.Generator().manual_seed(count))
            with torch.no_grad():
                expected, found = network(z.double()), read(z)
            assert expected.std() > 0.05
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_every_file_says_which_generator_it_is(trained: Path) -> None:
    directory = trained / "export" / "step-00000004"
    expected = json.loads(json.dumps(dcgan_dist.load(trained).origin.facts()))
    assert (expected["recipe"], expected["step"], expected["weights"]) == ("flowers17-arch1", 4, "average")
    assert expected["network"]["value_range"] == [-0.5, 0.5]

    with safe_open(directory / "generator.safetensors", framework="pt") as file:
        found = json.loads(file.metadata()["dcgan_dist"])
    del found["digest"]
    assert found == expected
    model = onnx.load(directory / "generator.onnx")
    assert [(entry.key, json.loads(entry.value)) for entry in model.metadata_props] == [("dcgan_dist", expected)]
    with zipfile.ZipFile(directory / "generator.pt2") as archive:
        (member,) = [member for member in archive.namelist() if member.endswith("dcgan_dist.json")]
        assert json.loads(archive.read(member)) == expected


def test_an_onnx_file_is_one_whole_model(trained: Path) -> None:
    model = onnx.load(trained / "export" / "step-00000004" / "generator.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    (z,), (images,) = model.graph.input, model.graph.output
    assert [dim.dim_param or dim.dim_value for dim in z.type.tensor_type.shape.dim] == ["batch", 9]
    assert [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim] == ["batch", 3, 32, 32]
    assert images.doc_string == "float32 images (batch, C, H, W): -0.5 is black, 0.5 white"


def test_files_tell_nothing_of_the_machine(trained: Path, flower_shards: Path) -> None:
    found = contents(trained / "export" / "step-00000004")
    assert {Path(path).name for path in found} > {kind.file for kind in FORMATS.values()}
    for path, data in found.items():
        for place in (REPOSITORY, Path(torch.__file__).parent, trained, flower_shards):
            assert str(place).encode() not in data, path


# The check


def reading_with(monkeypatch: pytest.MonkeyPatch, more: float) -> None:
    """Make every file give images that are ``more`` away from the generator's, at one value of the last batch."""
    kind = FORMATS["safetensors"]

    def read(path: Path) -> Callable[[Tensor], Tensor]:
        generator = kind.read(path)

        def images(z: Tensor) -> Tensor:
            found = generator(z).double()
            if len(z) == 1:
                found[0, 1, 2, 3] -= more
            return found

        return images

    monkeypatch.setitem(FORMATS, "safetensors", dataclasses.replace(kind, read=read))


@pytest.mark.parametrize("more", [1.1e-4, float("nan")])
def test_other_images_are_an_error_and_nothing_is_left(
    more: float, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    reading_with(monkeypatch, more)
    said = refused(run, code=1, capsys=capsys)
    assert re.search(r"generator\.safetensors: not written: .* by (0\.00011|nan), at most 0\.0001 is allowed", said)
    assert contents(run) == before
    assert not (run / "export").exists()


def test_the_difference_is_told(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reading_with(monkeypatch, 0.9e-4)
    run_export(run)
    assert "largest difference from the PyTorch generator: 9.0e-05 in batches of 16 and 1" in capsys.readouterr().out
    assert "PyTorch generator, in batches of 16 and 1: 9.0e-05" in (run / "export/step-00000002/README.md").read_text()


def test_a_failure_leaves_earlier_files_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_export(run)
    before = contents(run)
    reading_with(monkeypatch, 1)
    refused(run, code=1, capsys=capsys)
    assert contents(run) == before


# What is written where


def test_json_is_alone_and_is_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_export(run, "--json")
    printed = capsys.readouterr()
    assert printed.err == ""
    found = json.loads(printed.out)
    directory = run / "export" / "step-00000002"
    assert found.pop("directory") == str(directory)
    assert found.pop("checkpoint") == str(run / "checkpoints" / "step-00000002")
    assert found == json.loads((directory / "export.json").read_bytes())
    file = found["files"]["safetensors"]
    assert (file["file"], file["batch_sizes"], file["largest_difference"]) == ("generator.safetensors", [16, 1], 0)
    assert file["bytes"] == (directory / file["file"]).stat().st_size
    state = checkpoint.find(run).state
    assert found["weights_sha256"] == state["sha256"]["generator.safetensors"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Format export without its program, which takes seconds to make."""
    kind = FORMATS["safetensors"]
    quick = dataclasses.replace(FORMATS["export"], write=kind.write, read=kind.read)
    monkeypatch.setitem(FORMATS, "export", quick)


@pytest.mark.usefixtures("quick")
def test_formats_gather_in_one_directory(run: Path) -> None:
    for name in ("export", "safetensors", "export"):
        run_export(run, "--format", name)
    directory = run / "export" / "step-00000002"
    assert set(json.loads((directory / "export.json").read_bytes())["files"]) == {"export", "safetensors"}
    card = (directory / "README.md").read_text()
    assert [FORMATS[name].file in card for name in FORMATS] == [True, False, True]


@pytest.mark.usefixtures("quick")
def test_a_file_that_was_removed_is_forgotten(run: Path) -> None:
    run_export(run, "--format", "export")
    directory = run / "export" / "step-00000002"
    (directory / "generator.pt2").unlink()
    run_export(run)
    assert "generator.pt2" not in (directory / "README.md").read_text()
    assert set(json.loads((directory / "export.json").read_bytes())["files"]) == {"safetensors"}


def test_a_directory_of_something_else_is_left_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    other, _ = made_run(tmp_path / "other", "mnist28")
    run_export(other.path, "--out", out)
    before = contents(tmp_path)
    assert "has files of another generator" in refused(run, "--out", out, capsys=capsys)
    assert "is no directory of dcgan-export" in refused(run, "--out", run, capsys=capsys)
    assert "is no directory of dcgan-export" in refused(run, "--out", out / "README.md", capsys=capsys)
    assert contents(tmp_path) == before
    for text in ("{", "[]", '{"weights_sha256": 1}'):
        (out / "export.json").write_text(text)
        assert f"{out / 'export.json'}: cannot be read" in refused(run, "--out", out, capsys=capsys)


@pytest.mark.parametrize("left", [[], [".generator.onnx.1f2e3d4c.tmp"]], ids=["empty", "after a kill"])
def test_an_empty_directory_is_fine(left: list[str], run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in left:
        (tmp_path / "out" / name).write_bytes(b"half a")
    run_export(run / "checkpoints" / "step-00000002", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "generator.safetensors").exists()


@pytest.mark.parametrize("place", [".", "checkpoints", "checkpoints/step-00000002"])
def test_a_run_is_found_from_inside(place: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run / place)
    run_export(".")
    assert (run / "export" / "step-00000002" / "README.md").exists()


def test_a_directory_that_cannot_be_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run / "metrics.jsonl" / "out"
    assert str(out) in refused(run, "--out", out, code=1, capsys=capsys)


# Mistakes


def test_a_run_without_checkpoints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "checkpoints")
    assert f"{run}: no whole checkpoint here" in refused(run, capsys=capsys)


def test_a_damaged_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints" / "step-00000002" / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path}: sha256" in refused(run, capsys=capsys)


def test_a_checkpoint_without_its_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = Path(shutil.copytree(run / "checkpoints" / "step-00000002", tmp_path / "alone" / "step-00000002"))
    assert f"{alone}: is in no run directory" in refused(alone, capsys=capsys)


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_onnx_without_its_extra(
    package: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'dcgan_dist[onnx]'" in refused(run, "--format", "onnx", capsys=capsys)
    assert not (run / "export").exists()


# The model card


def card(run: Path) -> str:
    (path,) = (run / "export").glob("*/README.md")
    return path.read_text(encoding="utf-8")


def test_a_card_has_the_facts_of_its_run(trained: Path) -> None:
    text = card(trained)
    for fact in (
        "# Generator flowers17-arch1, step 4\n",
        "Draws 32x32 RGB images",
        "| source | The 32x32 flower networks with batch deviation, architecture 1 of S. Tinani (2018, revised 2023)",
        "| input | z, (N, 9), independent draws from U(-1, 1) |",
        "| output | (N, 3, 32, 32), -0.5 is black, 0.5 white; the network reaches -1 to 1, clamp it |",
        "| weights | moving average after step 4 |",
        "| length | 4 steps of 8 images: 32 images, 0.7 passes over the data |",  # 32 / 48
        "smooth_fake 0.1, smooth_real 0.9",
        "| seed | 0 |",
        "| computed | 1 process on ",
        f"| versions | dcgan_dist {dcgan_dist.__version__}, torch {torch.__version__.partition('+')[0]}",
        "`flowers`: 48 images, made from source `synthetic`",
        "24 classes, which the networks are not told: ",
        "licence is not known to the run",
    ):
        assert fact in text
    # 9 * 32, 32 * 16, 16 * 8, 8 * 4 and 4 * 3 kernels of 16 and their biases; two for each of 60 normalised channels
    assert f"{4608 + 32 + 8192 + 16 + 2048 + 8 + 512 + 4 + 192 + 3 + 2 * 60:,} parameters" in text


def test_a_card_has_the_measures_of_its_step_beside_their_floors(trained: Path) -> None:
    *_, row = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    text = card(trained)
    assert row["step"] == 4
    (name,) = [name for name in row if name.startswith("eval/kid_") and not re.search("_(std|floor)", name)]
    (floor,) = [name for name in row if name.startswith("eval/kid_floor_")]
    (std,) = [name for name in row if name.startswith("eval/kid_std_") and "floor" not in name]
    measured = f"{row[name]:.4g} ± {row[std]:.2g} | {row[floor]:.4g} | lower |"
    assert f"| `{name}` | kernel distance of features | {measured}" in text
    measures = [name for name in row if name.startswith("eval/") and not re.search("_(std|floor)", name)]
    assert text.count("\n| `eval/") == len(measures)


def test_a_card_of_another_step_has_no_measures(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1, "eval/fid_pixels_n9": 3.0}\n{"step": 2, "loss/d": 1.0}\n')
    run_export(run)
    text = card(run)
    assert "Not measured at step 2" in text
    assert "eval/fid" not in text


@pytest.mark.parametrize(
    ("score", "verdict"), [(0.35, "**the samples have collapsed**: 0.35"), (0.34, "have not collapsed: 0.35")]
)
def test_a_card_tells_of_collapse(score: float, verdict: str, run: Path) -> None:
    (run / "metrics.jsonl").write_text(json.dumps({"step": 2, "collapse/score_n9": score}) + "\n")
    run_export(run)
    assert f"By a collapse score of {score:.2f}, " in card(run)
    assert verdict in card(run)


def test_a_card_says_when_the_data_are_not_at_hand(run: Path) -> None:
    run_export(run)
    text = card(run)
    assert "Shards named `flowers17-32`, which were not at hand" in text
    assert "passes over the data" not in text


def test_a_card_says_what_the_run_began_with(tmp_path: Path) -> None:
    origin = {"init_from_checkpoint": "/home/her/flowers102/checkpoints/step-00020000"}
    origin |= {"init_from_generator_sha256": "ab" * 32, "init_from_discriminator_sha256": "cd" * 32}
    settings = {"init_from": "/home/her/flowers102", "train_only_g": 2}
    made, _ = made_run(tmp_path / "run", "flowers17-arch1", settings=settings, origin=origin)
    run_export(made.path)
    text = card(made.path)
    place = "`flowers102/checkpoints/step-00020000`"
    assert f"| begun with | the networks of {place}, whose generator.safetensors has sha256 {'ab' * 32} |" in text
    assert "| trained blocks | of the generator the last 2, of the discriminator all |" in text
    assert "/home/her" not in text


@pytest.mark.parametrize("name", FORMATS)
def test_the_code_of_a_card_runs(name: str, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained / "export" / "step-00000004")
    blocks = re.findall(r"```python\n(.*?)```", card(trained), re.DOTALL)
    (code,) = [block for block in blocks if FORMATS[name].file in block]
    assert len([line for line in code.splitlines() if line]) <= 6
    space: dict[str, Any] = {}
    exec(code, space)
    pixels = np.asarray(space["pixels"])
    assert pixels.shape == (16, 3, 32, 32)
    assert pixels.dtype == np.uint8
    images = np.asarray(space["images"], np.float64)
    np.testing.assert_allclose(pixels, np.clip((images + 0.5) * 255, 0, 255), rtol=0, atol=0.5001)


@pytest.mark.slow
def test_programs_do_not_need_us(trained: Path) -> None:
    blocks = [FORMATS[name].usage(dcgan_dist.load(trained).config) for name in ("onnx", "export")]
    script = "import sys\nsys.modules['dcgan_dist'] = None\n" + "\n".join(blocks)
    directory = trained / "export" / "step-00000004"
    job = subprocess.run([sys.executable, "-c", script], cwd=directory, capture_output=True, text=True, timeout=120)
    assert (job.returncode, job.stderr) == (0, "")


def test_samples_are_those_of_dcgan_sample(trained: Path, tmp_path: Path) -> None:
    directory = trained / "export" / "step-00000004"
    for place in (trained, directory / "generator.safetensors"):
        sample.main([str(place), "--out", str(tmp_path / "grid.png")])
        with Image.open(tmp_path / "grid.png") as drawn, Image.open(directory / "samples.png") as kept:
            assert drawn.tobytes() == kept.tobytes()


def test_samples_are_drawn_in_the_memory_layout_of_dcgan_sample(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one gives other last bits, and here and there another pixel."""
    strides, chunk_of = [], sampling.chunk_of

    def noting_chunk_of(generator: nn.Module, z: Tensor, *, network: NetworkConfig) -> Tensor:
        strides.append([parameter.stride() for parameter in generator.parameters()])
        return chunk_of(generator, z, network=network)

    monkeypatch.setattr(sampling, "chunk_of", noting_chunk_of)
    run_export(run)
    sample.main([str(run), "--out", str(tmp_path / "grid.png")])
    exported, drawn = strides[0], strides[-1]
    assert len(strides) == 2 * 64 / sampling.CHUNK
    assert exported == drawn
