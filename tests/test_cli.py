import dataclasses
import re
from pathlib import Path

import pytest

from dcgan_dist import eval
from dcgan_dist.cli import normalised, parse, read_yaml, settings, to_yaml
from dcgan_dist.config import RunConfig, TrainConfig, changed, leaves
from dcgan_dist.losses import LOSSES
from dcgan_dist.metrics.extractors import EXTRACTORS
from dcgan_dist.metrics.quality import NUMBERS
from dcgan_dist.models import MODELS
from tests.shared import RECIPES, recipe


def test_defaults_then_yaml_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("recipe: mine\nmax_steps: 10\nlr: 1e-4\nbatch_size: 32\n")
    config = parse(["--config", str(file), "--batch_size", "64"])
    assert (config.recipe, config.optim.lr, config.images.batch_size) == ("mine", 1e-4, 64)
    assert config.optim.beta1 == TrainConfig().optim.beta1


@pytest.mark.parametrize(
    "flags",
    [
        ["--batch-size", "64", "--flip", "--value-range", "-0.5", "0.5"],
        ["--batch-size=64", "--flip=True", "--value_range=[-0.5, 0.5]"],
        ["--batch_size=64", "--flip=true", "--value_range=-0.5,0.5"],
        ["--batch_size", "64", "--flip", "True", "--value_range", "-0.5,0.5"],
    ],
)
def test_flags_as_people_and_sweep_agents_write_them(flags: list[str]) -> None:
    config = parse(["--max_steps=1", *flags])
    assert config.images.batch_size == 64
    assert config.images.flip is True
    assert config.network.value_range == (-0.5, 0.5)


@pytest.mark.parametrize("flags", [["--set=smooth_fake=0.2 flip=True"], ["--set", "smooth_fake=0.2 flip=true"]])
def test_several_settings_as_one_parameter(flags: list[str]) -> None:
    wanted = parse(["--max_steps=1", "--lr=1e-3", "--smooth_fake=0.2", "--flip"])
    assert parse(["--max_steps=1", *flags, "--lr=1e-3"]) == wanted
    assert settings(flags) == {"smooth_fake": 0.2, "flip": True}
    assert parse(["--max_steps=1", "--set=", "--lr=1e-3"]) == parse(["--max_steps=1", "--lr=1e-3"])


def test_a_config_among_several_settings_is_read(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("recipe: mine\nmax_steps: 10\nlr: 1e-4\n")
    config = parse([f"--set=config={file} max_steps=20"])
    assert (config.recipe, config.optim.lr, config.max_steps) == ("mine", 1e-4, 20)


@pytest.mark.parametrize("flags", [["--classes", "lily of the valley,rose"], ["--classes=lily of the valley,rose"]])
def test_class_names_reach_the_config_as_they_are(flags: list[str]) -> None:
    assert parse(["--max_steps=1", *flags]).images.classes == "lily of the valley,rose"


def test_a_flag_can_be_turned_off(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("flip: true\nmax_steps: 1\n")
    for form in (["--no_flip"], ["--no-flip"], ["--flip=False"], ["--flip=false"], ["--flip", "false"]):
        assert parse(["--config", str(file), *form]).images.flip is False
    with pytest.raises(ValueError, match="flip must be true or false, got 'maybe'"):
        normalised(["--flip=maybe"])


def test_a_length_on_the_command_line_replaces_that_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("max_epochs: 25\n")
    config = parse([f"--config={file}", "--max-steps=500"])
    assert (config.max_steps, config.max_epochs) == (500, None)


def test_a_written_config_reads_back_the_same(tmp_path: Path) -> None:
    for name in RECIPES:
        config = changed(recipe(name), {"seed": 5, "flip": True, "data": "a b: #c", "value_range": (-0.25, 1.0)})
        config = changed(config, {"classes": 'colt\'s foot, "lily, white", 17/daffodil', "subset_size": 9})
        file = tmp_path / f"{name}.yaml"
        file.write_text(to_yaml(config))
        assert changed(TrainConfig(), read_yaml(file)) == config


def test_the_written_config_leaves_out_what_belongs_to_one_run() -> None:
    text = to_yaml(dataclasses.replace(TrainConfig(), run=RunConfig(run_dir="runs/a", resume=True)))
    assert "run_dir" not in text
    assert "resume" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1e-4\nbach_size: 4\n", "line 2: unknown setting 'bach_size'; did you mean batch_size?"),
        ("batch_size: many\n", "line 1: batch_size must be a whole number, got 'many'"),
        ("batch_size: 1.5\n", "line 1: batch_size must be a whole number, got '1.5'"),
        ("lr: fast\n", "line 1: lr must be a number, got 'fast'"),
        ("lr: -1\n", "lr must be positive, got -1.0"),
        ("flip: 1\n", "line 1: flip must be true or false, got '1'"),
        ("precision: half\n", "line 1: precision must be no or bf16 or fp16 or auto, got 'half'"),
        ("value_range: 1\n", "line 1: value_range must be a list of 2 numbers, got '1'"),
        ("lr: [1, 2]\n", "line 1: lr must be one value, not a list"),
        ("lr: 1\nlr: 2\n", "line 2: lr is given twice"),
        ("optim:\n  lr: 1\n", "line 1: unknown setting 'optim'"),
        ("lr:\n  value: 1\n", "line 1: lr must be one value; settings are not nested"),
        ("run_dir: x\n", "line 1: run_dir belongs on the command line"),
        ("- a\n", "must be lines of 'name: value'"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_a_mistake_in_a_file_is_one_message_and_exit_2(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        parse(["--config", str(file)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert str(file) in error
    assert error.count("error") == 1


def test_numbers_as_yaml_users_write_them(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("lr: 1e-4\nmax_steps: 1e4\nbeta1: .5\nprecision: no\ndata: no\n")
    values = read_yaml(file)
    assert values == {"lr": 1e-4, "max_steps": 10_000, "beta1": 0.5, "precision": "no", "data": "no"}
    assert isinstance(values["max_steps"], int)


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--config", str(tmp_path / "none.yaml")])
    assert stopped.value.code == 2
    assert "none.yaml: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["flowers17-arch1", "flowers17-arch1.yaml", "configs/flowers17-arch1.yaml"])
def test_a_recipe_of_the_package_is_found_from_any_directory(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowers17-arch1").mkdir()  # a run's directory, say: no recipe
    config = parse(["--config", given, "--lr", "3e-4"])
    assert config == changed(recipe("flowers17-arch1"), {"config": given, "lr": 3e-4})


def test_a_file_of_ones_own_comes_before_the_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mnist28.yaml").write_text("recipe: mine\nmax_steps: 7\n")
    assert parse(["--config=configs/mnist28.yaml"]).max_steps == 7
    assert parse(["--config=mnist28"]).recipe == "mnist28"


def test_an_unknown_recipe_gets_a_suggestion_and_all_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--config", "flower17-arch1"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "config flower17-arch1: no such file, nor a recipe of the package; did you mean flowers17-arch1?" in error
    assert ", ".join(RECIPES) in error


def test_a_name_that_no_file_can_have_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--config", "x" * 300])
    assert stopped.value.code == 2
    assert "cannot be read: [Errno 36] File name too long" in capsys.readouterr().err


def test_help_names_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"])
    assert stopped.value.code == 0
    assert ", ".join(RECIPES) in " ".join(capsys.readouterr().out.split())


def test_without_arguments_the_two_commands_that_work_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse([])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "dcgan-shard synthetic --out" in error
    assert "accelerate launch -m dcgan_dist.train --config synthetic-arch1" in error
    assert ", ".join(RECIPES) in " ".join(error.split())


def test_an_unknown_flag_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--bach_size", "4"])
    assert stopped.value.code == 2
    assert "--batch_size" in capsys.readouterr().err


def test_errors_come_from_the_first_process_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    for arguments in ([], ["--bach_size", "4"], ["--config", "/none.yaml"], ["--lr=-1"]):
        with pytest.raises(SystemExit) as stopped:
            parse(arguments)
        assert stopped.value.code == 2
    assert capsys.readouterr() == ("", "")


def test_resume_without_a_config_takes_that_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(recipe("flowers17-arch1")))
    config = parse(["--resume", "--run_dir", str(tmp_path)])
    assert config.network == recipe("flowers17-arch1").network
    assert parse(["--run_dir", str(tmp_path)]).network == TrainConfig().network


def test_every_setting_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help", "all"])
    assert stopped.value.code == 0
    shown = re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE)
    assert shown == [name for name, _ in leaves(TrainConfig())]


def test_help_lists_the_rows_of_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """Their modules import torch, which help must not wait for: so the names stand in its text too."""

    def listed(name: str, text: str) -> list[str]:
        (found,) = re.findall(rf"{name} .*?: ([^;.:]*)[;.]", " ".join(text.split()))
        return re.findall(r"\w+", found.replace(" or ", ", "))

    with pytest.raises(SystemExit):
        parse(["--help", "all"])
    trainer = re.sub(r"\([^)]*\)", "", capsys.readouterr().out)
    assert listed("--model", trainer) == list(MODELS)
    assert listed("--loss", trainer) == list(LOSSES)
    assert listed("--extractor", trainer) == list(EXTRACTORS)
    assert listed("--best_metric", trainer) == [*NUMBERS, "collapse"]
    with pytest.raises(SystemExit):
        eval.main(["--help"])
    assert listed("--extractor NAME", capsys.readouterr().out) == list(EXTRACTORS)


def test_settings_are_what_parse_makes_of_flags(tmp_path: Path) -> None:
    flags = [
        "--batch-size",
        "64",
        "--flip",
        "--value-range",
        "-0.5",
        "0.5",
        "--lr=1e-4",
        "--workers=null",
        "--no_compile",
    ]
    values = settings([*flags, "--max_steps=1"])
    assert values == {
        **{"batch_size": 64, "flip": True, "value_range": (-0.5, 0.5), "lr": 1e-4, "workers": None, "compile": False},
        "max_steps": 1,
    }
    assert changed(TrainConfig(), values) == parse(
        [flag for flag in flags if "workers" not in flag] + ["--max_steps=1"]
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set=lr"], "set must be settings as 'lr=1e-4 seed=1', got 'lr'"),
        (["--set", "lr=x"], "lr must be a number, got 'x'"),
        (["8"], "'8' must come after the --name of a setting"),
        (["--bach_size=8"], "unknown setting 'bach_size'; did you mean batch_size?"),
        (["--seed", "1", "2"], "seed must be one value, got '1 2'"),
        (["--seed=1.5"], "seed must be a whole number, got '1.5'"),
        (["--lr=fast"], "lr must be a number, got 'fast'"),
        (["--value_range=1"], "value_range must be a list of 2 numbers, got '1'"),
    ],
)
def test_settings_that_cannot_be_are_told(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        settings(flags)
    assert str(caught.value) == message
