"""A stand-in for the trainer that starts in a moment: it locks, logs, saves, stops and fails as the trainer does.

It writes every step that it does to the file ``steps``, so that a test can see whether one was done twice.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dcgan_dist.files import write_whole
from dcgan_dist.run_lock import training_alone

STEPS = 12
STEP_SECONDS = 0.1
EXPORTED = ("CUDA_VISIBLE_DEVICES", "DCGAN_EXPECT_WORLD_SIZE", "RANK", "WANDB_JOB_TYPE", "WANDB_RUN_GROUP")


def main(arguments: list[str]) -> int:
    values = dict(word[2:].split("=", 1) for word in arguments if "=" in word)
    run_dir = Path(values["run_dir"])
    if run_dir.exists() and "--resume" not in arguments:
        print("error: exists and is not empty")
        return 2
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with training_alone(run_dir):
            return _train(run_dir, values)
    except ValueError as error:
        print(f"error: {error}\na line that follows")
        return 2


def _train(run_dir: Path, values: dict[str, str]) -> int:
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    exported = {name: os.environ.get(name) for name in EXPORTED}
    (run_dir / "started").write_text(json.dumps(exported | {"arguments": sys.argv[1:]}))
    settings = {name: value for name, value in values.items() if name != "run_dir"}
    (run_dir / "config.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    total = int(values.get("max_steps", STEPS))
    _say(run_dir, "running", total)
    metrics = run_dir / "metrics.jsonl"
    done = len(metrics.read_bytes().splitlines()) if metrics.exists() else 0
    for step in range(done + 1, total + 1):
        time.sleep(STEP_SECONDS)
        if values.get("seed") in ("13", "16") and step == 5:
            while values.get("seed") == "16" and not (run_dir / "go").exists():  # failing takes its time
                time.sleep(0.02)
            _say(run_dir, "failed", total, "DivergenceError: the loss of D\nis not finite")
            return 1
        if values.get("seed") == "14":
            os.kill(os.getpid(), signal.SIGKILL)
        with (run_dir / "steps").open("a") as file:
            file.write(f"{step}\n")
        with metrics.open("a") as file:
            row: dict[str, Any] = {"step": step, "loss/g": 1 / step, "time/step": STEP_SECONDS, "time/pause": 0.0}
            file.write(json.dumps(row) + "\n")
        if signals:
            while values.get("seed") == "15" and not (run_dir / "go").exists():  # saving takes its time
                time.sleep(0.02)
            _say(run_dir, "stopped", total, f"SIGTERM at step {step}")
            return 0
    _say(run_dir, "done", total)
    return 0


def _say(run_dir: Path, state: str, total: int, reason: str = "") -> None:
    told = {"state": state, "reason": reason, "total_steps": total}
    write_whole(run_dir / "status.json", json.dumps(told).encode())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
