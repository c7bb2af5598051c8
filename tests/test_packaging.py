"""What is installed without a clone: sdist, wheel, and the demo from the wheel alone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from dcgan_dist import __version__
from tests.jobs import LAUNCHERS, row_count, status
from tests.shared import RECIPES, REPOSITORY

STEPS = 3


def run(*words: str | Path, cwd: Path) -> str:
    """What a command prints that knows nothing of this clone.

    Raises:
        AssertionError: with all that it printed, when it fails.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "400"}
    job = subprocess.run(words, cwd=cwd, env=kept, capture_output=True, text=True, timeout=240)
    assert job.returncode == 0, job.stdout + job.stderr
    return job.stdout


def test_every_package_is_listed() -> None:
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in (REPOSITORY / "dcgan_dist").rglob("*.py")}
    ours = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders}
    assert sorted(setuptools["packages"]) == sorted(ours | {"dcgan_dist.configs", "dcgan_dist.configs.sweeps"})


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools leaves files beside what it builds."""
    copy = tmp_path_factory.mktemp("sources") / "copy"
    for name in ("configs", "dcgan_dist", "tests"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, copy)
    run(sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('dist')", cwd=copy)
    (found,) = (copy / "dist").glob("*.tar.gz")
    return found


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """Made of the sdist: what is missing there is missing here."""
    folder = sdist.parent
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    run(*pip, "--wheel-dir", folder, sdist, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the wheel, which borrows all other packages from this one."""
    home = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home.parent)
    python = home / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    return python


@pytest.mark.slow
def test_an_sdist_has_what_a_wheel_is_made_of_and_no_part_of_the_tests(sdist: Path) -> None:
    top = f"dcgan_dist-{__version__}"
    with tarfile.open(sdist) as archive:
        held = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    of_setuptools = {"PKG-INFO", "dcgan_dist.egg-info", "setup.cfg"}
    wanted = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "configs", "dcgan_dist", "pyproject.toml"}
    assert sdist.name == f"{top}.tar.gz"
    assert held == wanted | of_setuptools


@pytest.mark.slow
def test_a_wheel_has_the_package_and_its_recipes(wheel: Path) -> None:
    assert wheel.name == f"dcgan_dist-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = [path.relative_to(REPOSITORY) for path in (REPOSITORY / "dcgan_dist").rglob("*") if path.is_file()]
    code = {path for path in package if "__pycache__" not in path.parts}
    recipes = {Path("dcgan_dist") / path.relative_to(REPOSITORY) for path in (REPOSITORY / "configs").rglob("*.yaml")}
    assert held == {str(path) for path in code | recipes}


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel_alone(python: Path, tmp_path: Path) -> None:
    found = Path(run(python, "-c", "import dcgan_dist; print(dcgan_dist.__file__)", cwd=tmp_path).strip())
    assert found.is_relative_to(python.parents[1])
    shards = ("--data", "shards/synthetic-32")
    run(
        python.with_name("dcgan-shard"),
        *("synthetic", "--out", "shards/synthetic-32", "--size", "32", "--count", "64"),
        cwd=tmp_path,
    )
    launcher = LAUNCHERS["accelerate, 1 process"]
    demo = ("-m", "dcgan_dist.train", "--config", "synthetic-arch1", *shards, "--tracker", "none")
    run(python, *launcher, *demo, "--max_steps", str(STEPS), "--log_every", "1", cwd=tmp_path)
    run_dir = tmp_path / "runs" / "synthetic-arch1-001"
    assert status(run_dir)["state"] == "done"
    assert row_count(run_dir) == STEPS
    assert (run_dir / "samples" / f"step-{STEPS:08d}.png").exists()
    assert "recipe synthetic-arch1" in (run_dir / "report.html").read_text()


@pytest.mark.slow
def test_recipes_and_sweeps_go_by_their_names_in_an_empty_directory(python: Path, tmp_path: Path) -> None:
    told = " ".join(run(python, "-m", "dcgan_dist.train", "--help", cwd=tmp_path).split())
    assert all(name in told for name in RECIPES)
    sweep = python.with_name("dcgan-sweep")
    assert run(sweep, "count", "lr_ratio", cwd=tmp_path) == "9\n"
    assert run(sweep, "count", "configs/sweeps/c11_scores_flowers17.yaml", cwd=tmp_path) == "6\n"
    assert json.loads(run(sweep, "status", "lr_ratio", "--json", cwd=tmp_path))["counts"]["left"] == 9
    assert [path.name for path in tmp_path.iterdir()] == []
