"""What started this process, and whether what runs is what it was asked for.

Several launch forms silently start one process in place of many, or many that each think they are alone. Such a run
trains, says nothing, and is another run than the one asked for; so the trainer refuses it.
"""

import ctypes
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from dcgan_dist.config import ComputeConfig

EXPECTED = "DCGAN_EXPECT_WORLD_SIZE"
"""Environment variable with the number of processes that a launch script means to start; it overrules all guesses."""

MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""What mpirun exports; PMI_SIZE is srun's too."""
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", *MPI_SIZES)  # in Accelerate's order
LAUNCHER_NAMES = ("RANK", "WORLD_SIZE", "FORK_LAUNCHED", EXPECTED)
LAUNCHER_PREFIXES = (
    *("ACCELERATE_", "GROUP_", "LOCAL_", "MASTER_", "MPI_", "MV2_", "OMPI_", "PET_", "PMI", "ROLE_", "SLURM_"),
    "TORCHELASTIC_",
)
"""Variables by which a launcher tells a process what it is one of."""
ON_ONE_MACHINE = """start it with
  torchrun --standalone --nproc_per_node {number} -m dcgan_dist.train ...
or with
  accelerate launch --multi_gpu --num_processes {number} -m dcgan_dist.train ..."""
UNDER_SRUN = """start one launcher a node, P processes each:
  srun --ntasks-per-node=1 torchrun --nnodes=$SLURM_NNODES --nproc_per_node=P --rdzv_backend=c10d \\
      --rdzv_id=$SLURM_JOB_ID --rdzv_endpoint=FIRST_NODE:PORT -m dcgan_dist.train ..."""


def check_world_size(world_size: int) -> None:
    """Refuse to run when the launcher was asked for another number of processes than run together.

    Raises:
        ValueError: naming who asked for how many, and commands that work.
    """
    for number, who in _asked_for():
        if number != world_size:
            here = "1 process runs alone" if world_size == 1 else f"{world_size} processes run together"
            remedy = UNDER_SRUN if _in_srun() else ON_ONE_MACHINE.format(number=number)
            alone = f"\nIf {here} as it should, export {EXPECTED}={world_size}"
            raise ValueError(f"{who} asks for {number} processes, but {here} here; {remedy}{alone}")


def _asked_for() -> Iterator[tuple[int, str]]:
    """Pairs (number of processes, who asks for it)."""
    environment = os.environ
    if EXPECTED in environment:
        text = environment[EXPECTED]
        if not text.isdigit() or int(text) < 1:
            raise ValueError(f"{EXPECTED} must be a whole number of processes, got {text!r}")
        yield int(text), f"{EXPECTED}={text}"
        return
    if "WORLD_SIZE" in environment:
        yield int(environment["WORLD_SIZE"]), f"WORLD_SIZE={environment['WORLD_SIZE']}"
    elif "TORCHELASTIC_RUN_ID" not in environment:
        for name in MPI_SIZES:
            if name in environment:
                yield int(environment[name]), f"mpirun ({name}={environment[name]})"
    if _in_srun():
        tasks = int(environment["SLURM_STEP_NUM_TASKS"])
        launcher = "TORCHELASTIC_RUN_ID" in environment  # between srun and this process
        each = int(environment["LOCAL_WORLD_SIZE"]) if launcher else 1
        yield tasks * each, f"srun with {tasks} tasks" + f", {each} processes each," * launcher
    yield from _asked_by(_parent())


def _in_srun() -> bool:
    """Whether this process belongs to a step that srun started; a batch script has no such variable."""
    return "SLURM_STEP_NUM_TASKS" in os.environ


def _asked_by(command: list[str]) -> Iterator[tuple[int, str]]:
    """The number of processes that a launcher's command line names."""
    words = " ".join(command)
    if re.search(r"\baccelerate\b.* launch\b|accelerate[-.]launch|accelerate\.commands\.launch", words):
        if number := _flag(command, "num_processes"):
            yield number, f"accelerate launch --num_processes {number}"
    elif re.search(r"\btorchrun\b|torch\.distributed\.run", words):
        number, machines = _flag(command, "nproc_per_node"), _flag(command, "nnodes", default=1)
        if number and machines:
            yield number * machines, f"torchrun --nproc_per_node {number}" + f" --nnodes {machines}" * (machines > 1)


def _flag(command: list[str], name: str, *, default: int | None = None) -> int | None:
    """The whole number that ``--name N`` or ``--name=N`` gives, with - or _; None for anything else it gives."""
    for position, argument in enumerate(command):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") == name:
            text = value if equals else "".join(command[position + 1 : position + 2])
            return int(text) if text.isdigit() else None
    return default


def _parent() -> list[str]:
    """The command line of the process that started this one; empty where it cannot be read."""
    try:
        return Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def launched_processes() -> int:
    """How many processes the launcher's variables say there are."""
    return next((int(os.environ[name]) for name in WORLD_SIZES if name in os.environ), 1)


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` as a process has it that no launcher started."""
    return {
        name: value
        for name, value in environment.items()
        if name == "ACCELERATE_USE_CPU" or not (name in LAUNCHER_NAMES or name.startswith(LAUNCHER_PREFIXES))
    }


def launcher_disagreements(compute: ComputeConfig) -> list[str]:
    """Sentences on what ``accelerate launch`` was told that the run does not follow: it follows its config alone."""
    told = []
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", compute.precision):
        told.append(f"mixed precision {precision} of accelerate launch is ignored; use --precision {precision}")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO" and not compute.compile:
        told.append("the dynamo backend of accelerate launch is ignored; use --compile")
    return told


def end_with_launcher() -> None:
    """Ask Linux for SIGTERM when the launcher dies: accelerate launch with one process would leave an orphan."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()


def end_with_parent() -> None:
    """Ask Linux for SIGTERM when the process that started this one dies; what this one becomes by exec keeps it."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
