"""A sweep by W&B's own ``wandb sweep`` and ``wandb agent``, against the stand-in server."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dcgan_dist.cli import read_yaml
from tests import jobs
from tests.jobs import row_count, rows, status
from tests.shared import needs_shared
from tests.wandb_server import STAND_IN, Server, served, wandb_command

pytestmark = [pytest.mark.slow, needs_shared(str(STAND_IN))]

SWEEP = "swp00001"
POINT = {"lr": 1e-05, "flip": True, "value_range": [0, 1], "optimizer": "rmsprop", "seed": 3, "workers": None}
"""Of each kind of value that an agent writes as a flag."""


def sweep_file(path: Path, shards: Path, **settings: object) -> Path:
    """A sweep whose points run on two processes, tiny."""
    flags = jobs.flags(shards, path, **({"ema_decay": 0, "eval_every": 0, "tracker": "wandb"} | settings))
    flags = [flag for flag in flags if not flag.startswith("--run_dir=")]
    content = {
        "method": "grid",
        "parameters": {name: {"values": [value]} for name, value in POINT.items()},
        "command": [
            "${env}",
            sys.executable,
            *jobs.LAUNCHERS["torchrun"],
            "-m",
            "dcgan_dist.train",
            *flags,
            "${args}",
        ],
    }
    path.write_text(yaml.safe_dump(content))
    return path


def handed_out(run_id: str, **parameters: object) -> dict[str, Any]:
    """A point as the stand-in hands it to an agent."""
    return {"run_id": run_id, "program": "none", "args": {name: {"value": value} for name, value in parameters.items()}}


@contextlib.contextmanager
def agent(server: Server, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``wandb agent`` in ``directory``; nothing of it outlives the block."""
    log = directory / "agent.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [wandb_command(), "agent", "--forward-signals", f"ent/project/{SWEEP}"],
            cwd=directory,
            env=server.environment() | jobs.EXPORTED,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    except BaseException:
        print(log.read_text(errors="replace")[-6000:])
        raise
    finally:
        for pid in clients(server):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def clients(server: Server) -> set[int]:
    """Processes that were started to talk to the server: an agent, launchers, trainers."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended, or is another user's
                if f"WANDB_BASE_URL={server.url}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return found


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, "the agent has ended"
        assert time.monotonic() < deadline, f"not in {seconds} s"
        time.sleep(0.02)


def test_a_sweep_by_wandbs_own_commands(flower_shards: Path, tmp_path: Path) -> None:
    sweep = sweep_file(tmp_path / "sweep.yaml", flower_shards, max_steps=2)
    other = POINT | {"lr": 2e-4, "flip": False, "seed": 4}
    points = [handed_out("point1", **POINT), handed_out("point2", **other)]
    with served(tmp_path / "server", sweep=sweep, runs=points) as server:
        command = [wandb_command(), "sweep", "--entity", "ent", "--project", "project", str(sweep)]
        made = subprocess.run(
            command, env=server.environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        assert SWEEP in made.stderr
        (upserted,) = server.asked("UpsertSweep")
        assert yaml.safe_load(upserted["config"])["parameters"]["value_range"] == {"values": [[0, 1]]}
        with agent(server, tmp_path) as process:
            assert process.wait(timeout=150) == 0
        assert server.runs() == {"point1", "point2"}
        for run_id, point in (("point1", POINT), ("point2", other)):
            run_dir = tmp_path / "runs" / SWEEP / run_id
            assert status(run_dir)["state"] == "done", (tmp_path / "agent.log").read_text()
            settings = read_yaml(run_dir / "config.yaml")  # of all ranks, else they would not have begun
            expected = point | {"value_range": (0.0, 1.0)}
            assert {name: settings[name] for name in expected} == expected
            shown = server.config(run_id)
            assert {name: shown[name] for name in point} == point
            assert shown["world_size"] == 2
            first = next(asked for asked in server.asked("UpsertBucket") if asked["name"] == run_id)
            words = f"lr={point['lr']},flip={point['flip']},value_range=%5B0%2C%201%5D,optimizer=rmsprop"
            assert first["groupName"] == f"{SWEEP}/{words},workers=None"
            assert first["displayName"] == f"{words},seed={point['seed']},workers=None"
            assert first["jobType"] == f"seed={point['seed']}"
            assert first["sweep"] == SWEEP
            history = server.history(run_id)
            assert [row["step"] for row in history if "loss/d" in row] == [1, 2]
            assert server.exit_codes(run_id) == [0]


def test_signals_save_and_a_point_that_is_handed_out_again_goes_on(flower_shards: Path, tmp_path: Path) -> None:
    """USR2 stops a run and the agent goes on; TERM stops both."""
    sweep = sweep_file(tmp_path / "sweep.yaml", flower_shards)
    points = [handed_out("point1", seed=1)] * 2
    run_dir = tmp_path / "runs" / SWEEP / "point1"
    with served(tmp_path / "server", sweep=sweep, runs=points) as server, agent(server, tmp_path) as process:
        wait_for(lambda: row_count(run_dir) >= 5, process)
        process.send_signal(signal.SIGUSR2)
        wait_for((run_dir / "requeue").exists, process)
        assert status(run_dir)["state"] == "stopped"
        saved = len(rows(run_dir))
        wait_for(lambda: row_count(run_dir) >= saved + 5, process)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        assert status(run_dir)["state"] == "stopped"
        assert [row["step"] for row in rows(run_dir)] == list(range(1, 1 + len(rows(run_dir))))
        assert server.runs() == {"point1"}
        assert server.exit_codes("point1") == [1, 1]
