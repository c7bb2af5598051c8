"""A launcher that starts another number of processes than it was asked for is found out."""

import subprocess
import sys
from pathlib import Path

import pytest

from dcgan_dist.distributed import launcher
from tests import jobs

VARIABLES = (
    "OMPI_COMM_WORLD_SIZE",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "TORCHELASTIC_RUN_ID",
    "SLURM_STEP_NUM_TASKS",
    launcher.EXPECTED,
)
TORCHRUN = ["/usr/bin/python3", "/opt/bin/torchrun"]
ACCELERATE = ["/usr/bin/python3", "/opt/bin/accelerate", "launch"]
TRAIN = ["-m", "dcgan_dist.train", "--batch_size", "8"]
ELASTIC_2 = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}


def checked(
    monkeypatch: pytest.MonkeyPatch, world_size: int, *, parent: list[str] | None = None, **variables: str
) -> None:
    """The check in a process with just these launcher variables and this parent."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launcher, "_parent", lambda: parent or ["bash"])
    launcher.check_world_size(world_size)


FITTING = {
    "bare python": (1, None, {}),
    "told how many": (4, None, {launcher.EXPECTED: "4"}),
    "alone on purpose, in srun": (1, None, {launcher.EXPECTED: "1", "SLURM_STEP_NUM_TASKS": "4"}),
    "torchrun": (2, [*TORCHRUN, "--nproc_per_node=2", *TRAIN], ELASTIC_2),
    "torchrun, dashes": (2, [*TORCHRUN, "--nproc-per-node", "2", *TRAIN], ELASTIC_2),
    "torchrun, as many as GPUs": (2, [*TORCHRUN, "--nproc-per-node=gpu", *TRAIN], ELASTIC_2),
    "torchrun, two nodes": (
        4,
        [*TORCHRUN, "--nnodes=2", "--nproc-per-node=2", *TRAIN],
        ELASTIC_2 | {"WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "2"},
    ),
    "torchrun, one to four nodes": (6, [*TORCHRUN, "--nnodes=1:4", "--nproc-per-node=2", *TRAIN], {"WORLD_SIZE": "6"}),
    "accelerate": (2, [*ACCELERATE, "--multi_gpu", "--num_processes", "2", *TRAIN], ELASTIC_2),
    "accelerate by its config file": (1, [*ACCELERATE, *TRAIN], {}),
    "srun starts the ranks": (4, ["slurmstepd"], {"WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "4"}),
    "batch script": (1, ["/bin/bash", "job.sh"], {}),
    "mpirun with ranks by hand": (4, ["orted"], {"OMPI_COMM_WORLD_SIZE": "4", "WORLD_SIZE": "4"}),
    "a script of the user's": (1, ["python", "sweep.py", "--num_processes", "2"], {}),
}


@pytest.mark.parametrize("name", FITTING)
def test_what_fits_is_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world_size, parent, variables = FITTING[name]
    checked(monkeypatch, world_size, parent=parent, **variables)


MISTAKEN = {
    "told how many": (1, None, {launcher.EXPECTED: "4"}, "DCGAN_EXPECT_WORLD_SIZE=4 asks for 4 processes, but 1"),
    "not a number": (1, None, {launcher.EXPECTED: "four"}, "must be a whole number of processes, got 'four'"),
    "zero": (1, None, {launcher.EXPECTED: "0"}, "must be a whole number of processes, got '0'"),
    "accelerate alone": (
        1,
        [*ACCELERATE, "--cpu", "--num_processes", "2", *TRAIN],
        {},
        "accelerate launch --num_processes 2 asks for 2 processes, but 1 process runs alone here",
    ),
    "each alone": (1, [*TORCHRUN, "--nproc_per_node=2", *TRAIN], ELASTIC_2, "WORLD_SIZE=2 asks for 2 processes"),
    "torchrun": (1, [*TORCHRUN, "--nproc_per_node=3", *TRAIN], {}, "torchrun --nproc_per_node 3 asks for 3"),
    "nodes apart": (2, [*TORCHRUN, "--nproc_per_node=2", "--nnodes=3"], {}, "--nproc_per_node 2 --nnodes 3 asks for 6"),
    "mpirun, each alone": (1, ["orted"], {"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun (OMPI_COMM_WORLD_SIZE=4) asks for 4"),
    "srun, each alone": (1, ["slurmstepd"], {"SLURM_STEP_NUM_TASKS": "4"}, "srun with 4 tasks asks for 4 processes"),
    "srun, each node alone": (
        2,
        [*TORCHRUN, "--standalone", "--nproc_per_node=2"],
        ELASTIC_2 | {"SLURM_STEP_NUM_TASKS": "2"},
        "srun with 2 tasks, 2 processes each, asks for 4 processes, but 2 processes run together",
    ),
}


@pytest.mark.parametrize("name", MISTAKEN)
def test_what_does_not_fit_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world_size, parent, variables, message = MISTAKEN[name]
    with pytest.raises(ValueError, match=r"(?s)^.*") as caught:
        checked(monkeypatch, world_size, parent=parent, **variables)
    assert message in str(caught.value)
    if "number" not in message:
        assert ("srun --ntasks-per-node=1 torchrun" if "srun" in name else "torchrun --standalone") in str(caught.value)


def test_accelerate_that_starts_one_process_of_two_is_refused(flower_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1"]
    command += ["--mixed_precision=no", "--dynamo_backend=no", "-m", "dcgan_dist.train"]
    done = subprocess.run(
        [*command, *jobs.flags(flower_shards, run_dir)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert done.stderr.count("error: accelerate launch --num_processes 2 asks for 2 processes, but 1 process") == 1
    assert not run_dir.exists()
