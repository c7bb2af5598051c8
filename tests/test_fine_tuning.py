"""Runs that begin with another run's networks, and train their last blocks alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from dcgan_dist import checkpoint, preparation, train
from dcgan_dist.config import TrainConfig, changed
from dcgan_dist.files import sha256_of
from dcgan_dist.fine_tuning import find_origin, load_origin
from dcgan_dist.loop import Training
from dcgan_dist.sampling import sample_pixels
from tests import jobs, tiny
from tests.jobs import rows, status

STATE = {"best": None, "data_digest": "digest of the images"}
RUN: dict[str, Any] = {"max_steps": 4, "sample_every": 2, "checkpoint_every": 2}


def origin_of(directory: Path, config: TrainConfig) -> tuple[Path, dict[str, Tensor]]:
    """A checkpoint after two steps with other noise, and its tensors."""
    training = tiny.training(changed(config, {"seed": 5}), tiny.runtime())
    for _ in range(2):
        training.update()
    saver = checkpoint.Saver()
    saver.save(directory, training.gan, step=2, state=STATE, keep=1)
    saver.wait()
    return directory / "step-00000002", tiny.tensors(training.gan)


def begun(config: TrainConfig, origin: Path) -> Training:
    training = tiny.training(config, tiny.runtime())
    assert load_origin(find_origin(str(origin)), training.gan) == []
    return training


def part(tensors: dict[str, Tensor], network: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{network}."): t for name, t in tensors.items() if name.startswith(f"{network}.")}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# What a run begins with


@pytest.mark.parametrize("has_average", [False, True])
@pytest.mark.parametrize("had_average", [False, True])
def test_networks_are_those_of_the_checkpoint(had_average: bool, has_average: bool, tmp_path: Path) -> None:
    config = tiny.narrow("flowers17-arch1")
    path, expected = origin_of(tmp_path, changed(config, {"ema_decay": 0.9 * had_average}))
    training = begun(changed(config, {"ema_decay": 0.9 * has_average}), path)
    found = tiny.tensors(training.gan)
    for network in ("generator", "discriminator"):
        assert len(part(found, network)) > 10
        assert equal(part(found, network), part(expected, network))
    if has_average:
        assert equal(part(found, "ema"), part(expected, "ema" if had_average else "generator"))
    for player in (training.gan.generator, training.gan.discriminator):
        assert not player.optimizer.state
    assert training.step == 0


def test_weights_of_another_type_are_converted(tmp_path: Path) -> None:
    path, expected = origin_of(tmp_path, tiny.narrow("mnist28", dtype="float32"))
    found = tiny.tensors(begun(tiny.narrow("mnist28", dtype="float64"), path).gan)
    assert found["generator.head.weight"].dtype == torch.float64
    assert torch.equal(found["generator.head.weight"].float(), expected["generator.head.weight"])


@pytest.mark.parametrize(
    ("name", "differing", "message"),
    [
        ("mnist28", {"base_channels": 2}, "base_channels was 2, now 4"),
        ("mnist28", {"latent_dim": 5, "dropout": 0.0}, "latent_dim was 5, now 6"),
        ("mnist28", {"channels": 3}, "channels was 3, now 1"),
        ("mnist-pooled", {"image_size": 32}, "image_size was 32, now 28"),
        ("flowers17-arch2", {"batch_deviation": 1.0, "base_channels": 4}, "batch_deviation was 1.0, now 0.0"),
        (
            "mnist28",
            {"model": "pooled", "base_channels": 3},
            "model was pooled, now mnist28; base_channels was 3, now 4",
        ),
    ],
)
def test_networks_of_other_shapes_are_refused(
    name: str, differing: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path, _ = origin_of(tmp_path, tiny.narrow(name, **differing))
    with pytest.raises(ValueError) as raised:
        begun(tiny.narrow(name), path)
    assert str(raised.value) == f"init_from {path}: its networks have other shapes: {message}"


def test_other_settings_of_networks_that_fit_are_told(tmp_path: Path) -> None:
    path, _ = origin_of(tmp_path, tiny.narrow("flowers17-arch1", prior="uniform"))
    gan = tiny.training(tiny.narrow("flowers17-arch1", value_range=(-1.0, 1.0)), tiny.runtime()).gan
    assert load_origin(find_origin(str(path)), gan) == [
        f"init_from {path}: value_range was (-0.5, 0.5), now (-1.0, 1.0)",
        f"init_from {path}: prior was uniform, now normal",
    ]


# What is trained

GENERATOR_5TH, DISCRIMINATOR_5TH = {"head.weight", "head.bias"}, {"head.weight", "head.bias"}
FOURTH = {"body.3.0.weight", "body.3.0.bias", "body.3.1.weight", "body.3.1.bias"} | {
    f"body.3.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
}
"""The fourth block of either network of architecture 1."""


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
@pytest.mark.parametrize(
    ("counts", "generator", "discriminator"),
    [
        ((1, 2), GENERATOR_5TH, DISCRIMINATOR_5TH | FOURTH),
        ((2, 1), GENERATOR_5TH | FOURTH, DISCRIMINATOR_5TH),
    ],
)
def test_the_last_blocks_change_and_nothing_else(
    counts: tuple[int, int], generator: set[str], discriminator: set[str], update: str, tmp_path: Path
) -> None:
    config = tiny.narrow("flowers17-arch1", update=update)
    path, before = origin_of(tmp_path, config)
    settings = {"init_from": str(path), "train_only_g": counts[0], "train_only_d": counts[1]}
    training = begun(changed(config, settings), path)
    for _ in range(3):
        training.update()
    sample_pixels(training.gan.sampled, range(3), seed=0, network=config.network)  # in evaluation mode, and back
    training.update()
    after = tiny.tensors(training.gan)
    for network, player, expected in (
        ("generator", training.gan.generator, generator),
        ("discriminator", training.gan.discriminator, discriminator),
    ):
        first, last = part(before, network), part(after, network)
        assert {name for name in first if not torch.equal(first[name], last[name])} == expected
        parameters = dict(player.plain.named_parameters())
        trained = [name for name in parameters if name in expected]
        assert {name for name, parameter in parameters.items() if parameter.grad is not None} == set(trained)
        (group,) = player.optimizer.param_groups
        assert [id(parameter) for parameter in group["params"]] == [id(parameters[name]) for name in trained]
        assert len(player.optimizer.state) == len(trained)


def two_runs(tmp_path: Path, name: str = "mnist28", **settings: Any) -> tuple[Training, Training]:
    """From the same networks, one with all of D trained, one with its last block alone; mnist28's has no batch norm."""
    config = tiny.narrow(name, optimizer="sgd", lr=0.1, **settings)
    path, _ = origin_of(tmp_path, config)
    return begun(config, path), begun(changed(config, {"init_from": str(path), "train_only_d": 1}), path)


def test_a_frozen_discriminator_gives_the_generator_the_same_gradients(tmp_path: Path) -> None:
    whole, frozen = two_runs(tmp_path, update="simultaneous")
    assert whole.update()["loss/g"] == frozen.update()["loss/g"]
    pairs = zip(whole.gan.generator.parameters, frozen.gan.generator.parameters, strict=True)
    for parameter, other in pairs:
        assert parameter.grad is not None
        assert other.grad is not None
        assert torch.equal(parameter.grad, other.grad)
    assert equal(*(part(tiny.tensors(each.gan), "generator") for each in (whole, frozen)))


@pytest.mark.parametrize("name", ["mnist28", "flowers17-arch1", "flowers-dcgan64", "mnist-pooled"])
def test_a_frozen_discriminator_judges_with_the_same_gradients(name: str, tmp_path: Path) -> None:
    whole, frozen = two_runs(tmp_path, name)
    for layer in whole.gan.discriminator.plain.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    found = []
    for training in (whole, frozen):
        size, channels = training.gan.config.network.image_size, training.gan.config.network.channels
        fake = torch.rand(8, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        fake.requires_grad_()
        draws = tiny.step_draws(training.gan.config, 0)
        if training is frozen:
            logits = training.gan.judge(fake, draws=draws)
        else:
            training.gan.discriminator.key_dropout(draws, "dropout_judge")
            logits = training.gan.discriminator.plain(fake)
        logits.sum().backward()
        assert fake.grad is not None
        found.append(fake.grad)
    assert found[0].abs().amax(dim=(1, 2, 3)).min() > 0
    assert torch.equal(*found)


def test_the_gradient_norm_is_that_of_what_is_trained(tmp_path: Path) -> None:
    whole, frozen = two_runs(tmp_path, update="simultaneous")
    for training in (whole, frozen):
        training.update()
    head = whole.gan.discriminator.plain.get_submodule("head")
    squares = sum(parameter.grad.square().sum() for parameter in head.parameters() if parameter.grad is not None)
    assert squares > 0
    torch.testing.assert_close(frozen.gan.discriminator.gradient_norm() ** 2, squares)


def test_the_learning_rate_begins_anew(tmp_path: Path) -> None:
    config = tiny.narrow("mnist28", lr=1e-4, lr_ratio=2.0, lr_decay_d=1.0)
    path, _ = origin_of(tmp_path, config)
    training = begun(changed(config, {"init_from": str(path), "train_only_d": 1}), path)
    found = []
    for _ in range(2):
        training.update()
        found.append(training.gan.discriminator.optimizer.param_groups[0]["lr"])
    assert found == [2e-4, 1e-4]


# Whole runs


def flags(shards: Path, run_dir: Path, **settings: object) -> list[str]:
    return jobs.flags(shards, run_dir, **(RUN | settings))


@pytest.fixture(scope="module")
def source(flower_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "source"
    train.main(flags(flower_shards, run_dir, seed=3))
    return run_dir


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        train.main(arguments)
    assert stopped.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def networks_at(run_dir: Path, step: int) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run_dir / "checkpoints" / f"step-{step:08d}").glob("*.safe*")}


def test_a_run_begins_where_the_other_ended_and_says_so(
    source: Path, flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    train.main(flags(flower_shards, run_dir, seed=3, init_from=source, train_only_g=2, on_divergence="rollback"))
    last = source / "checkpoints" / "step-00000004"
    # G's fourth block: 8 * 4 * 16 + 4 = 516 and 2 * 4 of its batch norm; its head: 4 * 3 * 16 + 3 = 195
    text = capsys.readouterr().out
    assert f"begun with the networks of {last}; trained are 719 of 62,327 parameters of the generator, " in text
    assert "12,145 of 12,145 of the discriminator" in text
    # the same seed has the same fixed z
    first, others = ((each / "samples") for each in (run_dir, source))
    assert (first / "step-00000000.png").read_bytes() == (others / "step-00000004.png").read_bytes()
    for name in ("generator", "discriminator", "ema"):
        begun_with = load_file(run_dir / "checkpoints" / "step-00000000" / f"{name}.safetensors")
        assert equal(begun_with, load_file(last / f"{name}.safetensors"))
    state = json.loads((run_dir / "checkpoints" / "step-00000004" / "state.json").read_text())
    assert state["may_collapse"]  # its first images are no single one
    facts = json.loads((run_dir / "environment.json").read_text())
    assert facts["init_from_checkpoint"] == str(last)
    for name in ("generator", "discriminator", "ema"):
        assert facts[f"init_from_{name}_sha256"] == sha256_of(last / f"{name}.safetensors")
    assert (facts["trained_parameters_g"], facts["trained_parameters_d"]) == (719, 12_145)
    written = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert (written["init_from"], written["train_only_g"], written["train_only_d"]) == (str(source), 2, 0)
    page = (run_dir / "report.html").read_text()
    assert str(last) in page
    assert "719" in page


def test_a_resumed_run_is_the_uninterrupted_one_and_needs_no_source(
    source: Path, flower_shards: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    settings = {"init_from": copy, "train_only_g": 1, "train_only_d": 2}
    train.main(flags(flower_shards, tmp_path / "whole", **settings))
    train.main(flags(flower_shards, tmp_path / "parts", **settings, max_steps=2))
    shutil.rmtree(copy)
    train.main(["--resume", f"--run_dir={tmp_path / 'parts'}", "--max_steps=4"])
    expected = networks_at(tmp_path / "whole", 4)
    assert len(expected) == 5
    assert networks_at(tmp_path / "parts", 4) == expected
    whole, parts = (json.loads((tmp_path / name / "environment.json").read_text()) for name in ("whole", "parts"))
    names = [name for name in whole if name.startswith("init_from")]
    assert len(names) == 4
    assert [parts[name] for name in names] == [whole[name] for name in names]


def test_a_run_begins_with_the_checkpoint_that_it_names(
    source: Path, flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier run gets a newer one while precision auto is timed, after which the networks are loaded anew."""
    run_dir, checkpoints = tmp_path / "run", shutil.copytree(source, tmp_path / "source") / "checkpoints"

    def chosen(config: TrainConfig, *_: object) -> tuple[TrainConfig, str]:
        shutil.copytree(checkpoints / "step-00000002", checkpoints / "step-00000005")
        return changed(config, {"precision": "no"}), "precision no was chosen"

    monkeypatch.setattr(preparation, "chosen", chosen)
    settings = {"init_from": tmp_path / "source", "precision": "auto", "on_divergence": "rollback", "max_steps": 1}
    train.main(flags(flower_shards, run_dir, **settings))
    assert (checkpoints / "step-00000005").exists()
    named = checkpoints / "step-00000004"
    assert json.loads((run_dir / "environment.json").read_text())["init_from_checkpoint"] == str(named)
    for name in ("generator", "discriminator", "ema"):
        begun_with = load_file(run_dir / "checkpoints" / "step-00000000" / f"{name}.safetensors")
        assert equal(begun_with, load_file(named / f"{name}.safetensors"))


def test_a_new_run_that_may_be_resumed_begins_with_the_networks(
    source: Path, flower_shards: Path, tmp_path: Path
) -> None:
    settings = {"init_from": source, "train_only_d": 1, "max_steps": 2}
    train.main(flags(flower_shards, tmp_path / "new", **settings))
    train.main([*flags(flower_shards, tmp_path / "point", **settings), "--resume"])  # as sweeps start each point
    assert networks_at(tmp_path / "point", 2) == networks_at(tmp_path / "new", 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_from": "/no/run"}, "init_from /no/run: no whole checkpoint here"),
        ({"train_only_g": 6}, "train_only_g must be at most 5, the generator's blocks (see --summary), got 6"),
        ({"base_channels": 8}, "checkpoints/step-00000004: its networks have other shapes: base_channels was 4, now 8"),
        ({"init_from": "", "train_only_d": 1}, "train_only_d needs init_from"),
        ({"train_only_d": -1}, "train_only_d must be zero or more, got -1"),
    ],
)
def test_what_cannot_be_fine_tuned_is_one_message_before_anything_is_written(
    settings: dict[str, object],
    message: str,
    source: Path,
    flower_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = flags(flower_shards, tmp_path / "run", **({"init_from": source} | settings))
    for more in ([], ["--dry_run"], ["--resume"]):
        assert message in refused([*arguments, *more], capsys)
        assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_may_not_be_fine_tuned_otherwise(
    source: Path, flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    train.main(flags(flower_shards, run_dir, init_from=source, train_only_g=2, max_steps=2))
    other = flags(flower_shards, run_dir, init_from=tmp_path / "other", train_only_g=1, train_only_d=1)
    message = refused([*other, "--resume"], capsys)
    assert f"init_from: was {source}, now {tmp_path / 'other'}" in message
    assert "train_only_g: was 2, now 1; train_only_d: was 0, now 1" in message


def test_a_rollback_goes_back_to_the_networks_it_began_with(source: Path, flower_shards: Path, tmp_path: Path) -> None:
    wild = {"optimizer": "sgd", "on_divergence": "rollback", "rollback_lr_factor": 1e-8, "checkpoint_every": 100}
    fine_tuning = {"init_from": source, "train_only_g": 1, "train_only_d": 1}
    train.main(flags(flower_shards, tmp_path / "wild", lr=1e30, **wild, **fine_tuning))
    state = json.loads((tmp_path / "wild" / "checkpoints" / "step-00000004" / "state.json").read_text())
    assert state["rollbacks"] > 0
    assert status(tmp_path / "wild")["state"] == "done"
    train.main(flags(flower_shards, tmp_path / "calm", lr=1e30 * state["lr_factor"], optimizer="sgd", **fine_tuning))
    found, expected = ([row["loss/g"] for row in rows(tmp_path / name)] for name in ("wild", "calm"))
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_dry_run_is_of_the_networks_that_are_trained(
    source: Path, flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*flags(flower_shards, tmp_path / "run", init_from=source, train_only_g=1), "--dry_run"])
    text = capsys.readouterr().out
    assert "trained are 195 of 62,327 parameters of the generator" in text
    assert "train_only_g: 1" in text
    assert not (tmp_path / "run").exists()


def test_the_summary_shows_what_is_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = train.__file__.replace("dcgan_dist/train.py", "configs/flowers17-arch1.yaml")
    train.main([f"--config={recipe}", "--summary", "--init_from=a-run", "--train_only_g=2", "--train_only_d=1"])
    generator, discriminator = capsys.readouterr().out.split("discriminator")
    assert generator.count("frozen") == 3
    assert discriminator.count("frozen") == 4
    # G: 18,456 of its fourth layer, 48 of that's batch norm, 1,155 of its head
    assert "19,659 trained" in " ".join(generator.split())
    assert "773 trained" in " ".join(discriminator.split())


# In processes of their own


@pytest.mark.slow
@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_compiled_networks_are_fine_tuned_alike(source: Path, flower_shards: Path, tmp_path: Path, update: str) -> None:
    settings = {"init_from": source, "train_only_g": 2, "train_only_d": 2, "update": update}
    train.main(flags(flower_shards, tmp_path / "eager", **settings))
    arguments = flags(flower_shards, tmp_path / "compiled", **settings, compile=True)
    with jobs.started("python", arguments, run_dir=tmp_path / "compiled") as job:
        assert job.launcher.wait(timeout=240) == 0, job.output
    losses = [[(row["loss/d"], row["loss/g"]) for row in rows(tmp_path / name)] for name in ("compiled", "eager")]
    assert len(losses[0]) == 4
    assert losses[0] == [pytest.approx(pair, rel=1e-4) for pair in losses[1]]


@pytest.mark.slow
def test_two_processes_under_torchrun_give_the_run_of_one(source: Path, flower_shards: Path, tmp_path: Path) -> None:
    settings = {"init_from": source, "train_only_g": 1, "train_only_d": 3, "dtype": "float64"}
    train.main(flags(flower_shards, tmp_path / "one", **settings))
    arguments = flags(flower_shards, tmp_path / "two", **settings, max_steps=2)
    with jobs.started("torchrun", arguments, run_dir=tmp_path / "two") as job:
        assert job.launcher.wait(timeout=120) == 0, job.output
        assert job.output.count("begun with the networks of") == 1
    with jobs.started(
        "torchrun", ["--resume", f"--run_dir={tmp_path / 'two'}", "--max_steps=4"], run_dir=tmp_path
    ) as job:
        assert job.launcher.wait(timeout=120) == 0, job.output
    losses = [[(row["loss/d"], row["loss/g"]) for row in rows(tmp_path / name)] for name in ("two", "one")]
    assert losses[0] == [pytest.approx(pair, rel=1e-9) for pair in losses[1]]
    assert len(losses[0]) == 4


@pytest.mark.slow
def test_networks_that_do_not_fit_are_told_once_by_two_processes(
    source: Path, flower_shards: Path, tmp_path: Path
) -> None:
    arguments = flags(flower_shards, tmp_path / "run", init_from=source, latent_dim=7)
    with jobs.started("torchrun", arguments, run_dir=tmp_path / "run") as job:
        assert job.launcher.wait(timeout=120) != 0
        assert job.output.count("its networks have other shapes: latent_dim was 100, now 7") == 1
    assert not (tmp_path / "run").exists()
