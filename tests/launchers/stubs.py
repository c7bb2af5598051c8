"""The launchers with stand-ins for Slurm's commands, in a directory that looks like a checkout of the project."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.shared import REPOSITORY

COMMANDS = {
    "srun": """
for word; do printf '%s\\n' "$word"; done >"$STUBS/srun.said.$(date +%s%N)"
env >"$STUBS/environment"
if [[ -e $STUBS/train ]]; then . "$STUBS/train"; fi
""",
    "scontrol": """
case "$1 $2" in
"show hostnames") printf '%s\\n' node-a node-b ;;
"show job") [[ ! -e $STUBS/job ]] || cat "$STUBS/job" ;;
*) echo "$*" >>"$STUBS/scontrol.said"; [[ ! -e $STUBS/refuses ]] ;;
esac
""",
    "squeue": """[[ ! -e $STUBS/running ]] || cat "$STUBS/running" """,
    "sbatch": """
for word; do printf '%s\\n' "$word"; done >"$STUBS/sbatch.said"
echo Submitted batch job 77
""",
}
"""What the stand-ins do: write down how they were called; srun also does what the test says the training does."""

JOB = {
    "SLURM_JOB_ID": "12345",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "node-[a-b]",
    "SLURM_TASKS_PER_NODE": "1(x2)",
    "SLURM_CPUS_ON_NODE": "8",
}
"""What a batch script sees of a job on two nodes."""


@dataclass
class Ended:
    """How a script ended."""

    code: int
    output: str


class Checkout:
    """A project's directory with the launchers, the sweeps and a site file, and stand-ins on PATH."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "project"
        self.stubs = directory / "stubs"
        self.stubs.mkdir()
        for name, body in COMMANDS.items():
            file = self.stubs / name
            file.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{body}\n")
            file.chmod(0o755)
        self.path.mkdir()
        shutil.copytree(REPOSITORY / "launchers", self.path / "launchers", ignore=shutil.ignore_patterns("site.env"))
        for name in ("configs", "dcgan_dist"):
            (self.path / name).symlink_to(REPOSITORY / name)
        self.site(f"PYTHON={sys.executable}")

    def site(self, *lines: str) -> None:
        """Write the site file."""
        (self.path / "launchers" / "site.env").write_text("\n".join(lines) + "\n")

    def trains(self, script: str) -> None:
        """What srun does besides writing down its arguments; $run_dir is the run's directory."""
        head = 'run_dir=${!#}; run_dir=${run_dir#*=}; mkdir -p "$run_dir"\n'
        (self.stubs / "train").write_text(head + script + "\n")

    def run(self, script: str, *arguments: str, **environment: str) -> Ended:
        """A script as Slurm starts it, with nothing in its environment but a job's variables and these."""
        name = environment.get("SLURM_SUBMIT_DIR", str(self.path))
        done = subprocess.run(
            ["bash", str(self.path / "launchers" / script), *arguments],
            cwd=self.path,
            env={"PATH": f"{self.stubs}:{os.defpath}:/usr/bin:/bin", "STUBS": str(self.stubs)}
            | (JOB | {"SLURM_SUBMIT_DIR": name} if script.endswith(".sbatch") else {})
            | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return Ended(done.returncode, done.stdout)

    def steps(self) -> list[list[str]]:
        """The arguments of each call of srun, in their order."""
        return [file.read_text().splitlines() for file in sorted(self.stubs.glob("srun.said.*"))]

    def environment(self) -> dict[str, str]:
        """What srun's last call saw."""
        lines = (self.stubs / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def requeued(self) -> list[str]:
        """What was queued again."""
        file = self.stubs / "scontrol.said"
        return [line.removeprefix("requeue ") for line in file.read_text().splitlines()] if file.exists() else []
