"""The image's files as they read, its entry point with stubs; built and run for real by make test-containers."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from dcgan_dist import __version__
from tests import builder
from tests.builder import local_build, mounted, must, running, stopped
from tests.jobs import row_count, rows, status
from tests.shared import REPOSITORY

DOCKER = REPOSITORY / "docker"
WORDS = ["train", "shard", "sample", "eval", "export", "report", "doctor", "sweep"]
DEMO = ["--config", "configs/synthetic-arch1.yaml", "--data", "shards/demo"]


# ---- what can be read ----


def instructions() -> list[tuple[str, str]]:
    """Pairs (instruction, rest) of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def arguments() -> dict[str, str]:
    """Defaults of the build arguments."""
    pairs = [rest.partition("=") for name, rest in instructions() if name == "ARG"]
    return {name: value for name, equals, value in pairs if equals}


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    return found[max(place for place, (name, _) in enumerate(found) if name == "FROM") :]


def test_every_stage_comes_from_the_base_that_is_an_argument() -> None:
    first, *_ = instructions()
    assert first[0] == "ARG"
    assert first[1].startswith("BASE_IMAGE=nvidia/cuda:13.")
    assert "# syntax" not in (DOCKER / "Dockerfile").read_text()  # would be fetched, where there is no network
    stages = {"${BASE_IMAGE}"}
    for base, _, name in (rest.partition(" AS ") for word, rest in instructions() if word == "FROM"):
        assert base in stages
        stages.add(name)


def test_what_changes_often_comes_after_what_is_large() -> None:
    text = [rest for _, rest in last_stage()]
    places = [
        next(place for place, rest in enumerate(text) if sign in rest)
        for sign in ('"torch==${TORCH_VERSION}"', "/requirements.txt", "g++", "/wheel/*.whl", "configs configs")
    ]
    assert places == sorted(places)
    before_the_project = text[: places[3]]
    assert not any("dcgan_dist" in rest or "pyproject" in rest for rest in before_the_project)


def test_the_torch_is_one_the_project_takes() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (least,) = (re.findall(r"[\d.]+", name)[0] for name in project["dependencies"] if re.match(r"torch\W", name))
    chosen = arguments()["TORCH_VERSION"]
    assert [int(part) for part in chosen.split(".")] >= [int(part) for part in least.split(".")]


def test_the_image_runs_as_nobody_in_particular_behind_an_init() -> None:
    stage = dict(last_stage())
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"])
    assert json.loads(stage["ENTRYPOINT"]) == ["tini", "-s", "--", "dcgan-entrypoint"]
    assert "HEALTHCHECK" not in stage
    assert "HOME=/tmp" in stage["ENV"].split()
    assert not re.search(r"NCCL|OMP_NUM_THREADS|PYTORCH_VERSION", stage["ENV"])
    assert f'image.version="{__version__}"' in stage["LABEL"]


def test_no_compiler_unless_asked_for() -> None:
    assert arguments()["WITH_COMPILER"] == "0"
    for name, rest in last_stage():
        if name == "RUN" and re.search(r"g\+\+|gcc|build-essential|python3-dev", rest):
            assert rest.startswith('case "${WITH_COMPILER}"')


def in_context(path: str) -> bool:
    """Whether a file goes to the engine: the last pattern that fits it or a folder it is in decides."""
    included = True
    parents = [path, *(str(parent) for parent in Path(path).parents)]
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.lstrip("!").removeprefix("**/")
            names = [part for name in parents for part in (name, Path(name).name if "**/" in line else name)]
            if any(name not in ("", ".") and fnmatch(name, pattern) for name in names):
                included = line.startswith("!")
    return included


def test_the_context_holds_no_data_no_runs_and_no_history() -> None:
    for path in ("shards/a/a-000000.tar", "runs/x/config.yaml", ".git/HEAD", ".venv/bin/python", "data/x.tgz", ".env",
                 "dcgan_dist/__pycache__/train.pyc", "wandb/x", "launchers/site.env", "tests/jobs.py"):  # fmt: skip
        assert not in_context(path), path
    for path in ("dcgan_dist/train.py", "configs/mnist28.yaml", "pyproject.toml", "README.md", "docker/entrypoint"):
        assert in_context(path), path


def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    return services


@pytest.mark.parametrize("name", ["train", "train-2", "sweep", "shard"])
def test_a_service_has_time_to_save_and_memory_to_share(name: str) -> None:
    service = compose()[name]
    shutdown = re.search(r"SHUTDOWN_TIMEOUT:-(\d+)", (DOCKER / "entrypoint").read_text())
    assert shutdown
    minutes = re.fullmatch(r"(\d+)m", service["stop_grace_period"])
    assert minutes
    assert int(minutes[1]) * 60 > int(shutdown[1])
    assert service["shm_size"] == "1gb"
    assert service["read_only"]
    assert service["tmpfs"].startswith("/tmp:exec")
    assert service["user"].startswith("${DCGAN_USER:?")
    assert service["entrypoint"][:4] == ["tini", "-s", "--", "dcgan-entrypoint"]
    assert service["entrypoint"][4] in (*WORDS, "torchrun")
    assert ("deploy" in service) == (name != "shard")


def test_the_variant_for_cpus_takes_the_gpus_from_every_service_that_asks_for_them() -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!reset", lambda loader, node: "reset")
    without = yaml.load((DOCKER / "compose.cpu.yaml").read_text(), Loader)["services"]
    assert without == {name: {"deploy": "reset"} for name, service in compose().items() if "deploy" in service}


def requirements(folder: Path, extras: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    program = [sys.executable, str(DOCKER / "requirements.py"), extras]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=30)


def test_requirements_are_those_of_the_project_and_the_extras(tmp_path: Path) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert requirements(tmp_path, arguments()["EXTRAS"]).returncode == 0
    assert (tmp_path / "requirements.txt").read_text().splitlines() == project["dependencies"] + extras["efflite0"]
    assert (tmp_path / "build-requirements.txt").read_text() == "setuptools>=77\n"
    assert requirements(tmp_path, "eval,video").returncode == 0
    lines = (tmp_path / "requirements.txt").read_text().splitlines()[len(project["dependencies"]) :]
    assert lines == [*extras["efflite0"], *extras["eval"][1:], *extras["video"]]
    assert requirements(tmp_path, "").returncode == 0
    assert (tmp_path / "requirements.txt").read_text().splitlines() == project["dependencies"]
    wrong = requirements(tmp_path, "efflite0,remotes")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: EXTRAS must be of efflite0, eval, onnx, remote")
    assert wrong.stderr.endswith("got 'remotes'\n")


# ---- the entry point, with stubs ----


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """Programs that print what they were called with; python counts as many GPUs as $GPUS says."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("torchrun", "nproc", *(f"dcgan-{word}" for word in WORDS if word != "train")):
        (directory / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
    (directory / "python").write_text('#!/bin/sh\nif [ "$1" = -c ]; then echo "$GPUS"; else echo python "$@"; fi\n')
    (directory / "env").write_text('#!/bin/sh\necho "$PET_SIGNALS_TO_HANDLE $TORCH_ELASTIC_SHUTDOWN_TIMEOUT"\n')
    (directory / "cat").symlink_to(shutil.which("cat") or "")
    for path in directory.iterdir():
        if not path.is_symlink():
            path.chmod(0o755)
    return directory


def entrypoint(stubs: Path, *words: str, gpus: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(DOCKER / "entrypoint"), *words],
        env={"PATH": str(stubs), "GPUS": str(gpus), **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_word_is_the_command_of_its_name(stubs: Path) -> None:
    for word in ("shard", "sample", "eval", "export", "report"):
        assert entrypoint(stubs, word, "a b", "--c").stdout == f"dcgan-{word} a b --c\n"


@pytest.mark.parametrize("word", ["train", "doctor"])
@pytest.mark.parametrize(
    ("gpus", "starts"),
    [(0, "python -m"), (1, "python -m"), (2, "torchrun --standalone --nproc_per_node 2 -m"),
     (8, "torchrun --standalone --nproc_per_node 8 -m")],
)  # fmt: skip
def test_one_process_a_gpu(stubs: Path, word: str, gpus: int, starts: str) -> None:
    assert entrypoint(stubs, word, "--x=1", gpus=gpus).stdout == f"{starts} dcgan_dist.{word} --x=1\n"


def test_a_process_of_another_launcher_starts_no_more(stubs: Path) -> None:
    assert entrypoint(stubs, "train", gpus=8, RANK="3").stdout == "python -m dcgan_dist.train\n"


def test_anything_else_runs_as_it_stands(stubs: Path) -> None:
    assert entrypoint(stubs, "torchrun", "--nproc_per_node", "2", "x y").stdout == "torchrun --nproc_per_node 2 x y\n"


@pytest.mark.parametrize("words", [[], ["help"], ["--help"]])
def test_without_a_word_all_are_listed(stubs: Path, words: list[str]) -> None:
    told = entrypoint(stubs, *words)
    assert told.returncode == 0
    for word in WORDS:
        assert re.search(rf"\b{word}\b", told.stdout)


@pytest.mark.parametrize(("word", "command"), [("trian", "trian"), ("dcgan-trian", "dcgan-trian")])
def test_a_word_the_image_does_not_have(stubs: Path, word: str, command: str) -> None:
    told = entrypoint(stubs, word, "--x")
    assert told.returncode == 2
    assert told.stderr.startswith(f"error: there is no command {command} in this image; words are train, shard,")
    assert told.stderr.count("\n") == 1


def test_launchers_hand_signals_on_and_wait_unless_told_otherwise(stubs: Path) -> None:
    assert entrypoint(stubs, "env").stdout == "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2 110\n"
    told = entrypoint(stubs, "env", PET_SIGNALS_TO_HANDLE="SIGTERM", TORCH_ELASTIC_SHUTDOWN_TIMEOUT="5")
    assert told.stdout == "SIGTERM 5\n"


# ---- built and run ----


real = [
    pytest.mark.containers,
    pytest.mark.timeout(2700),
    pytest.mark.skipif(bool(builder.why_not()), reason=builder.why_not()),
]


def containers(test: Any) -> Any:
    for mark in real:
        test = mark(test)
    return test


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """A base image without a registry; the engine ends with the tests, unless it ran before."""
    must("install", seconds=900)
    ran = local_build("status").returncode == 0
    must("base", seconds=900)
    yield
    if not ran:
        must("down")


def built(tag: str, *arguments: str) -> str:
    begin = time.monotonic()
    must("build", "docker/Dockerfile", ".", tag, *arguments, seconds=1500)
    size = int(must("docker", "image", "inspect", "--format", "{{.Size}}", tag)) / 1e6
    print(f"{tag}: {size:,.0f} MB, built in {time.monotonic() - begin:.0f} s")
    return tag


@pytest.fixture(scope="session")
def image(engine: None) -> str:
    return built("localhost/dcgan_dist:ci")


@pytest.fixture(scope="session")
def folder(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards that were drawn in a container, and an empty folder for runs; both belong to the unknown user."""
    folder = tmp_path_factory.mktemp("mounted")
    for name in ("shards", "runs"):
        (folder / name).mkdir()
        os.chown(folder / name, 4711, 4711)
    draw = ["shard", "synthetic", "--out", "shards/demo", "--size", "32", "--count", "200", "--quiet"]
    must("run", *mounted(folder), image, *draw)
    return folder


def wait_for_rows(run_dir: Path) -> None:
    for _ in range(600):
        if row_count(run_dir):
            return
        time.sleep(0.2)
    raise AssertionError(f"no row in {run_dir} after two minutes")


@containers
def test_hadolint_finds_nothing() -> None:
    must("lint", "docker/Dockerfile")


@containers
def test_the_demo_trains_as_an_unknown_user_with_a_read_only_root(image: str, folder: Path) -> None:
    told = must(
        "run", *mounted(folder), image, "train", *DEMO, "--run_dir=runs/demo", "--max_steps=20", "--log_every=1"
    )
    assert "done: 20 steps" in told
    run = folder / "runs" / "demo"
    assert status(run)["state"] == "done"
    assert [row["step"] for row in rows(run) if "loss/d" in row] == list(range(1, 21))
    assert (run / "checkpoints" / "step-00000020" / "generator.safetensors").stat().st_uid == 4711
    assert list(run.glob("wandb/offline-run-*"))
    must("run", *mounted(folder), image, "sample", "runs/demo", "--count", "4", "--out", "runs/grid.png")
    assert (folder / "runs" / "grid.png").read_bytes().startswith(b"\x89PNG")


@containers
def test_the_words_but_not_the_entry_point_are_needed(image: str, folder: Path) -> None:
    """As under Apptainer and pyxis: the command line of bare metal, no entry point, no capabilities."""
    must("hpc", image, "python", "-m", "dcgan_dist.train", "--help")
    for word in WORDS:
        if word != "train":
            must("hpc", image, f"dcgan-{word}", "--help")
    draw = "dcgan-shard synthetic --out s --size 32 --count 32 --quiet"
    settings = "--config /workspace/configs/synthetic-arch1.yaml --data s --tracker none --max_steps 2 --run_dir r"
    train = f"torchrun --standalone --nproc_per_node 2 -m dcgan_dist.train {settings}"
    must("hpc", image, "sh", "-c", f"{draw} && {train} && grep done r/status.json")


@containers
@pytest.mark.parametrize(
    ("name", "starts", "code"),
    [("one", ["train"], 0), ("two", ["torchrun", "--standalone", "--nproc_per_node=2", "-m", "dcgan_dist.train"], 1)],
)
def test_a_stop_saves(image: str, folder: Path, name: str, starts: list[str], code: int) -> None:
    run = folder / "runs" / name
    words = [*starts, *DEMO, f"--run_dir=runs/{name}", "--max_steps=100000", "--log_every=1", "--tracker=none"]
    with running(f"dcgan-test-{name}", *mounted(folder), image, *words):
        wait_for_rows(run)
        found, seconds, output = stopped(f"dcgan-test-{name}")
    assert found == code, output  # torchrun makes 1 of all that is not done
    assert seconds < 60
    state = status(run)
    assert state["state"] == "stopped"
    step = int(state["reason"].removeprefix("SIGTERM at step "))
    assert (run / "checkpoints" / f"step-{step:08d}" / "state.json").exists()
    assert (run / "requeue").exists()


@containers
def test_a_stop_while_it_starts_ends_it(image: str, folder: Path) -> None:
    with running("dcgan-test-early", *mounted(folder), image, "train", *DEMO, "--run_dir=runs/early"):
        time.sleep(0.5)
        code, seconds, output = stopped("dcgan-test-early")
    assert code == 143, output
    assert seconds < 5
    assert not (folder / "runs" / "early").exists()


@containers
def test_there_is_no_compiler_and_compiling_says_so_once(image: str, folder: Path) -> None:
    told = local_build("run", *mounted(folder), image, "train", *DEMO, "--run_dir=runs/compiled", "--compile")
    assert told.returncode == 2
    assert told.stderr.startswith("error: compile needs a C++ compiler, and there is no g++ here")
    assert told.stderr.count("\n") == 1
    assert not (folder / "runs" / "compiled").exists()
    found = must(
        "run", image, "sh", "-c", "for name in cc gcc g++ clang make pip python; do command -v $name; done; true"
    )
    assert found.split() == ["/opt/venv/bin/python"]


@containers
def test_with_a_compiler_it_compiles(image: str, folder: Path) -> None:
    tag = built("localhost/dcgan_dist:compiler", "WITH_COMPILER=1")
    must(
        *("run", *mounted(folder), tag, "train", *DEMO, "--run_dir=runs/compiled"),
        *("--compile", "--max_steps=2", "--tracker=none"),
        seconds=1200,  # two minutes on two idle cores
    )
    assert status(folder / "runs" / "compiled")["state"] == "done"


@containers
def test_without_a_folder_for_runs_it_says_so(image: str, folder: Path) -> None:
    options = mounted(folder)[:-2]
    told = local_build("run", *options, image, "train", *DEMO, "--max_steps=2", "--tracker=none")
    assert told.returncode == 1
    assert "Traceback" not in told.stderr
    assert "Read-only file system" in told.stderr


@containers
def test_what_we_add_to_base_and_torch(image: str) -> None:
    """Packed, as a registry and a .sqsh or .sif keep it: docs/containers.md."""
    script = (
        "cd / && tar c --exclude='*/torch' --exclude='*/nvidia' --exclude='*/triton' --exclude='*/sympy' "
        "--exclude='*/networkx' opt/venv usr/lib/python3* | gzip -6 | wc -c"
    )
    packed = int(must("run", image, "sh", "-c", script, seconds=600))
    assert packed < 300e6
    print(f"added: {packed / 1e6:.0f} MB packed")


@containers
def test_the_engine_gets_nothing_but_the_project(engine: None, tmp_path: Path) -> None:
    context = tmp_path / "context"
    shutil.copytree(REPOSITORY, context, ignore=shutil.ignore_patterns(".git", ".venv", "shards", "runs"))
    for name in ("shards/a/a-000000.tar", "runs/x/config.yaml", ".git/HEAD", ".venv/bin/python", "data/x.tgz"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text("x")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    must("docker", "build", "--file", f"{tmp_path}/Dockerfile", "--output", f"{tmp_path}/sent", str(context))
    sent = {path.name for path in (tmp_path / "sent").iterdir()}
    assert sent == {"LICENSE", "README.md", "configs", "dcgan_dist", "docker", "pyproject.toml"}
    assert {path.name for path in (tmp_path / "sent" / "docker").iterdir()} == {"entrypoint", "requirements.py"}
    assert not list((tmp_path / "sent").rglob("__pycache__"))


@contextmanager
def composed(image: str, folder: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Compose without GPUs, on these folders; what it made is gone after the block."""
    settings = {
        "DCGAN_IMAGE": image,
        "DCGAN_USER": builder.USER,
        "DCGAN_SHARDS": f"{folder}/shards",
        "DCGAN_RUNS": f"{folder}/runs",
    }
    files = ["compose", "-f", "docker/compose.yaml", "-f", "docker/compose.cpu.yaml"]

    def compose(*words: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return local_build(*files, *words, environment=settings | changed)

    try:
        yield compose
    finally:
        compose("down")


@containers
def test_compose_trains_on_two_processes(image: str, folder: Path) -> None:
    words = [*DEMO, "--run_dir=runs/composed", "--max_steps=2", "--tracker=none"]
    with composed(image, folder) as compose:
        result = compose("run", "--rm", "-T", "train-2", *words)
        assert result.returncode == 0, result.stdout + result.stderr
        told = compose("config", "--quiet", DCGAN_USER="")
    run = folder / "runs" / "composed"
    assert json.loads((run / "environment.json").read_text())["world_size"] == 2
    assert told.returncode != 0
    assert "export DCGAN_USER=$(id -u):$(id -g)" in told.stderr


@containers
def test_compose_trains_a_sweep(image: str, folder: Path) -> None:
    (folder / "runs" / "tiny.yaml").write_text("method: grid\nparameters:\n  seed: {values: [0, 1]}\n")
    flags = [*DEMO, "--max_steps=2", "--tracker=none"]
    with composed(image, folder) as compose:
        result = compose("run", "--rm", "-T", "sweep", "run", "runs/tiny.yaml", "--jobs=2", "--", *flags)
    assert result.returncode == 0, result.stdout + result.stderr
    assert [status(folder / "runs" / "tiny" / f"seed={seed}")["state"] for seed in (0, 1)] == ["done", "done"]
