"""A sweep file becomes numbered, named points; mistakes in it are told with the key."""

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from dcgan_dist import sweep
from dcgan_dist.cli import parse
from dcgan_dist.sweeps.file import DEFAULT_COMMAND, Sweep, read_sweep
from dcgan_dist.sweeps.points import checked_sweep, config_of
from tests.shared import RECIPES, REPOSITORY

SWEEPS = sorted((REPOSITORY / "configs" / "sweeps").glob("*.yaml"))


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def grid(parameters: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"method": "grid", "parameters": parameters, **keys}


def made(tmp_path: Path, content: Any) -> Sweep:
    return read_sweep(written(tmp_path, content))


def test_a_grid_counts_with_the_last_parameter_fastest(tmp_path: Path) -> None:
    found = made(
        tmp_path, grid({"batch_size": {"values": [8, 16]}, "lr": {"value": "1e-4"}, "seed": {"values": [0, 1, 2]}})
    )
    assert found.count == 6
    assert [found.point(i).name for i in range(6)] == [
        *("batch_size=8,seed=0", "batch_size=8,seed=1", "batch_size=8,seed=2"),
        *("batch_size=16,seed=0", "batch_size=16,seed=1", "batch_size=16,seed=2"),
    ]
    assert list(found.point(4).parameters.items()) == [("batch_size", 16), ("lr", "1e-4"), ("seed", 1)]
    assert found.point(4).flags == ("--batch_size=16", "--lr=1e-4", "--seed=1")
    assert found.name == "mine"
    assert found.command == DEFAULT_COMMAND
    for index in (-1, 6):
        with pytest.raises(ValueError, match=f"point must be 0 to 5 in sweep mine, got {index}"):
            found.point(index)


def test_flags_stand_where_the_command_has_them(tmp_path: Path) -> None:
    command = [
        "${env}",
        "torchrun",
        "-m",
        "dcgan_dist.train",
        "--config",
        "configs/mnist28.yaml",
        "${args}",
        "--max_steps=5",
    ]
    found = made(tmp_path, grid({"flip": {"values": [True, False]}}, command=command))
    assert found.point(1).flags == ("--config", "configs/mnist28.yaml", "--flip=False", "--max_steps=5")


def test_a_grid_of_ranges(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        grid(
            {"seed": {"min": 3, "max": 5}, "lr_ratio": {"distribution": "q_uniform", "min": 0.1, "max": 0.3, "q": 0.1}}
        ),
    )
    assert found.count == 9
    assert [found.point(i).parameters["seed"] for i in (0, 3, 6)] == [3, 4, 5]
    assert [found.point(i).parameters["lr_ratio"] for i in range(3)] == [0.1, 0.2, 0.3]


def test_run_cap_shortens_a_grid(tmp_path: Path) -> None:
    assert made(tmp_path, grid({"seed": {"values": [1, 2, 3]}}, run_cap=2)).count == 2
    assert made(tmp_path, grid({"seed": {"values": [1, 2, 3]}}, run_cap=20)).count == 3


def test_names_are_safe_in_paths_and_differ(tmp_path: Path) -> None:
    values = ["a/b", "a b", "../a", "a,b=c", "ä", "x" * 300, "x" * 299 + "y"]
    found = made(tmp_path, grid({"classes": {"values": values}}))
    names = [found.point(i).name for i in range(found.count)]
    assert len(set(names)) == len(values)
    assert names[:5] == [f"classes={text}" for text in ("a%2Fb", "a%20b", "..%2Fa", "a%2Cb%3Dc", "%C3%A4")]
    assert max(map(len, names)) <= 200
    assert made(tmp_path, grid({"seed": {"value": 1}})).point(0).name == "only"


RANDOM = {
    "name": "drawn",
    "method": "random",
    "run_cap": 4000,
    "parameters": {
        "lr": {"distribution": "log_uniform_values", "min": "1e-5", "max": "1e-3"},
        "beta1": {"min": 0.0, "max": 0.9},
        "batch_size": {"distribution": "q_uniform", "min": 8, "max": 64, "q": 8},
        "seed": {"min": 0, "max": 3},
        "loss": {"values": ["a", "b"], "probabilities": [0.25, 0.75]},
        "latent_dim": {"distribution": "q_log_uniform_values", "min": 10, "max": 1000, "q": 10},
        "lr_ratio": {"distribution": "log_normal", "mu": 0, "sigma": 0.5},
    },
}


def test_random_points_follow_their_distributions(tmp_path: Path) -> None:
    found = made(tmp_path, RANDOM)
    points = [found.point(i).parameters for i in range(found.count)]
    log_lr = [math.log10(point["lr"]) for point in points]
    assert -5 <= min(log_lr) < -4.99
    assert -3.01 < max(log_lr) <= -3
    assert statistics.fmean(log_lr) == pytest.approx(-4, abs=0.03)
    assert statistics.fmean(point["beta1"] for point in points) == pytest.approx(0.45, abs=0.02)
    assert {point["batch_size"] for point in points} == set(range(8, 65, 8))
    assert {point["latent_dim"] % 10 for point in points} == {0}
    for seed in range(4):
        assert sum(point["seed"] == seed for point in points) == pytest.approx(1000, abs=100)
    assert sum(point["loss"] == "a" for point in points) == pytest.approx(1000, abs=100)
    logs = [math.log(point["lr_ratio"]) for point in points]
    assert statistics.fmean(logs) == pytest.approx(0, abs=0.03)
    assert statistics.stdev(logs) == pytest.approx(0.5, abs=0.03)
    assert abs(statistics.correlation(log_lr, [point["beta1"] for point in points])) < 0.05


def test_a_random_point_depends_on_nothing_but_the_file_and_its_number(tmp_path: Path) -> None:
    point = made(tmp_path, RANDOM).point(7)
    assert point.flags[:2] == ("--lr=0.000429053", "--beta1=0.0102581")  # for ever: runs lie under these names
    assert point.name.startswith("0007,lr=0.000429053,beta1=0.0102581,")
    fewer = RANDOM | {"run_cap": 8, "parameters": {"beta1": RANDOM["parameters"]["beta1"]}}  # type: ignore[index]
    assert made(tmp_path, fewer).point(7).parameters["beta1"] == point.parameters["beta1"]
    assert made(tmp_path, RANDOM | {"name": "other"}).point(7).parameters["beta1"] != point.parameters["beta1"]


SEEDS = {"seed": {"values": [0, 1]}}
MISTAKES = {
    "not a mapping": ("- a\n", "must be lines of 'key: value'"),
    "not yaml": ("a: [\n", "cannot be read"),
    "twice": ("method: grid\nparameters:\n  seed: {value: 1}\nmethod: random\n", "line 4: method is given twice"),
    "a parameter twice": (
        "method: grid\nparameters:\n  seed: {value: 1}\n  seed: {value: 2}\n",
        "line 4: seed is given twice",
    ),
    "unknown key": (grid(SEEDS, metod="x"), "unknown key 'metod'; did you mean method?"),
    "bayes": (grid(SEEDS) | {"method": "bayes"}, "method bayes needs W&B's server"),
    "no method": ({"parameters": SEEDS}, "method must be grid or random, got None"),
    "early_terminate": (
        grid(SEEDS, early_terminate={"type": "hyperband"}),
        "early_terminate stops runs by what W&B's server",
    ),
    "controller": (grid(SEEDS, controller={"type": "local"}), "controller is W&B's, which needs its server"),
    "no parameters": ({"method": "grid"}, "parameters must be names with their values, got None"),
    "nested": (grid({"optim": {"parameters": SEEDS}}), "parameters: optim: parameters are not nested"),
    "nothing": (grid({"seed": {}}), "parameters: seed: must have value, values, or min and max, got {}"),
    "bare": (grid({"seed": 3}), "parameters: seed: must have value, values, or min and max, got 3"),
    "values": (grid({"seed": {"values": 3}}), "parameters: seed: values must be a list, got 3"),
    "a value": (grid({"seed": {"values": [{"a": 1}]}}), "parameters: seed: a value must be a number, a word"),
    "lines": (grid({"data": {"value": "a\nb"}}), "parameters: data: a value must be on one line, got 'a\\nb'"),
    "lines in a list": (grid({"betas": {"value": ["1\n", 2]}}), "parameters: betas: a value must be on one line"),
    "same": (grid({"seed": {"values": [8, "8"]}}), "parameters: seed: values has 8 twice"),
    "typo": (
        grid({"seed": {"value": 1, "vals": 2}}),
        "parameters: seed: unknown key 'vals'; distribution constant has value",
    ),
    "distribution": (
        grid({"seed": {"distribution": "unifrm", "min": 1, "max": 2}}),
        "parameters: seed: unknown distribution 'unifrm'; did you mean uniform?",
    ),
    "distributions": (
        grid({"seed": {"distribution": ["uniform"], "min": 1, "max": 2}}),
        "parameters: seed: unknown distribution ['uniform']",
    ),
    "beta": (
        grid({"seed": {"distribution": "beta", "a": 1, "b": 2}}),
        "distribution beta is drawn by W&B's agents alone",
    ),
    "missing": (
        grid({"seed": {"distribution": "q_uniform", "min": 1}}),
        "parameters: seed: distribution q_uniform needs max",
    ),
    "continuous": (
        grid({"lr": {"min": 0.1, "max": 0.2}}),
        "parameters: lr: a grid needs value, values, int_uniform or",
    ),
    "order": (grid({"seed": {"min": 2, "max": 1}}), "parameters: seed: min must be below max, got 2 and 1"),
    "number": (
        grid({"seed": {"min": 2, "max": "many", "distribution": "int_uniform"}}),
        "seed: max must be a number, got 'many'",
    ),
    "probabilities": (
        RANDOM | {"parameters": {"seed": {"values": [1, 2], "probabilities": [0.5, 0.6]}}},
        "parameters: seed: probabilities must be zero or more and add up to 1",
    ),
    "in a grid": (grid({"seed": {"values": [1, 2], "probabilities": [0.5, 0.5]}}), "seed: a grid needs value, values"),
    "exponents": (
        RANDOM | {"parameters": {"seed": {"distribution": "log_uniform", "min": 1, "max": 1000}}},
        "parameters: seed: min and max of log_uniform are exponents of e",
    ),
    "negative": (
        RANDOM | {"parameters": {"lr": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
        "parameters: lr: min must be positive for log_uniform_values, got 0",
    ),
    "run_dir": (grid({"run_dir": {"value": "x"}}), "parameters: run_dir: each point has its own directory"),
    "cap": (grid(SEEDS, run_cap=0), "run_cap must be a positive whole number, got 0"),
    "no cap": ({"method": "random", "parameters": SEEDS}, "run_cap: method random needs it: how many points?"),
    "metric": (grid(SEEDS, metric={"goal": "minimize"}), "metric must have a name"),
    "goal": (
        grid(SEEDS, metric={"name": "loss/g", "goal": "min"}),
        "metric: goal must be minimize or maximize, got 'min'",
    ),
    "name": (grid(SEEDS, name="a/b"), "name must be letters, digits, '-', '_' and '.', got 'a/b'"),
    "no module": (grid(SEEDS, command=["python", "train.py", "${args}"]), "command must contain -m, dcgan_dist.train"),
    "no args": (
        grid(SEEDS, command=["-m", "dcgan_dist.train"]),
        "command must have ${args} once after dcgan_dist.train",
    ),
    "macro": (
        grid(SEEDS, command=["-m", "dcgan_dist.train", "${args}", "${args_json}"]),
        "command: only ${args} may stand after dcgan_dist.train, got '${args_json}'",
    ),
    "resume": (grid(SEEDS, command=["-m", "dcgan_dist.train", "${args}", "--resume"]), "command: leave out resume"),
    "double": (
        grid(SEEDS, command=["-m", "dcgan_dist.train", "--seed=1", "${args}"]),
        "command: seed is one of parameters",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_file_and_key(name: str, tmp_path: Path) -> None:
    content, message = MISTAKES[name]
    with pytest.raises(ValueError) as caught:
        made(tmp_path, content)
    assert str(caught.value).startswith(f"sweep {tmp_path / 'mine.yaml'}: ")
    assert message in str(caught.value)


def test_a_mapping_may_be_merged_into_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("method: grid\nparameters:\n  seed: &few {values: [0, 1]}\n  batch_size: {<<: *few, values: [8]}\n")
    assert read_sweep(path).count == 2


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.yaml: no such file"):
        read_sweep(tmp_path / "none.yaml")
    with pytest.raises(
        ValueError, match=r"^sweep batch_sizes: no such file, nor .*; did you mean batch_size\? there are "
    ):
        read_sweep(Path("batch_sizes"))


@pytest.mark.parametrize("given", ["c11_scores_flowers17", "configs/sweeps/c11_scores_flowers17.yaml"])
def test_a_sweep_of_the_package_and_its_recipes_are_found_from_any_directory(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = checked_sweep(Path(given))
    assert found == read_sweep(REPOSITORY / "configs" / "sweeps" / "c11_scores_flowers17.yaml")
    assert config_of(found.point(5)).recipe == "flowers17-arch2"


# The command


SETTINGS_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": (
        {"bach_size": {"values": [8]}},
        "point 0 (only): unknown setting 'bach_size'; did you mean batch_size?",
    ),
    "type": ({"seed": {"values": [0, 1.5]}}, "point 1 (seed=1.5): seed must be a whole number, got '1.5'"),
    "rule": ({"batch_size": {"values": [8, 1]}}, "point 1 (batch_size=1): batch_size must be at least 2"),
    "file": ({"config": {"values": ["none.yaml"]}}, "point 0 (only): config none.yaml: no such file"),
    "directory in set": (
        {"set": {"values": ["seed=1", "run_dir=x"]}},
        "parameters: set: each point has its own directory, and resumes there, got 'run_dir=x'",
    ),
    "dry run": ({"dry_run": {"value": True}}, "mine.yaml: dry_run: trains nothing, and no point would ever be done"),
    "summary in set": ({"set": {"values": ["seed=1 summary=true"]}}, "mine.yaml: summary: trains nothing"),
    "one number": (
        {"lr": {"values": ["1e-4", 0.0002, 0.0001]}},
        "mine.yaml: points 0 (lr=1e-4) and 2 (lr=0.0001) are the same run: write each value once",
    ),
    "one switch": (
        {"seed": {"value": 1}, "flip": {"values": [True, "true"]}},
        "points 0 (flip=True) and 1 (flip=true) are the same run",
    ),
    "twice": (
        {"lr": {"values": [0.1, 0.2]}, "set": {"values": ["", "seed=1 lr=0.3"]}},
        "parameters: set: lr is in command or one of parameters already, got 'seed=1 lr=0.3'",
    ),
}


@pytest.mark.parametrize("name", SETTINGS_MISTAKES)
def test_a_setting_that_no_run_could_have_is_found_before_anything_is_queued(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters, message = SETTINGS_MISTAKES[name]
    file = str(written(tmp_path, grid(parameters)))
    for command in (["count", file], ["list", file], ["args", file, "0"]):
        with pytest.raises(SystemExit) as ended:
            sweep.main(command)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_a_random_sweep_may_draw_a_point_twice(tmp_path: Path) -> None:
    lr = {"values": ["1e-4", 0.0001], "probabilities": [0.5, 0.5]}
    assert checked_sweep(written(tmp_path, RANDOM | {"run_cap": 8, "parameters": {"lr": lr}})).count == 8


def test_a_flag_for_all_points_does_not_replace_what_set_gives_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(written(tmp_path, grid({"set": {"values": ["", "smooth_fake=0.2"]}})))
    for command in (["count", file], ["args", file, "0"]):
        with pytest.raises(SystemExit) as ended:
            sweep.main([*command, "--", "--smooth_fake=0.1"])
        assert ended.value.code == 2
        assert f"smooth_fake: sweep {file} gives it already" in capsys.readouterr().err


def test_a_list_in_a_pipe_has_whole_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "smooth_fake=0.15 smooth_real=0.85 lr=0.00025 lr_ratio=1.25"
    file = written(tmp_path, grid({"set": {"values": ["", words]}}))
    sweep.main(["list", str(file)])
    assert f"mine/{read_sweep(file).point(1).name}" in capsys.readouterr().out


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_our_sweeps_are_runs_that_could_start(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    sweep.main(["count", str(path)])
    count = int(capsys.readouterr().out)
    assert read_sweep(path).name == path.stem
    sweep.main(["list", str(path)])
    assert capsys.readouterr().out.count(f"{path.stem}/") == count
    sweep.main(["args", str(path), str(count - 1), "--runs", "/x/runs"])
    run_dir, *flags = capsys.readouterr().out.splitlines()
    point = read_sweep(path).point(count - 1)
    assert run_dir == f"--run_dir=/x/runs/{path.stem}/{point.name}"
    parsed = parse(flags)
    assert parsed == config_of(point)
    assert parsed.seed == 2
    assert parsed.recipe in RECIPES


def test_the_flagship_sweeps() -> None:
    counts = {path.stem: read_sweep(path).count for path in SWEEPS}
    assert counts | {"batch_size": 9, "lr_ratio": 9, "batch_size_lr_ratio": 18} == counts
    last = read_sweep(REPOSITORY / "configs" / "sweeps" / "batch_size_lr_ratio.yaml").point(17)
    assert last.name == "batch_size=32,lr_ratio=2,seed=2"
    assert last.flags == ("--config", "configs/flowers17-arch1.yaml", "--batch_size=32", "--lr_ratio=2", "--seed=2")


def test_a_point_that_is_not_there_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        sweep.main(["args", str(SWEEPS[0]), "99"])
    assert ended.value.code == 2
    assert "point must be 0 to" in capsys.readouterr().err
