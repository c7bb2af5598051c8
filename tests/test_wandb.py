"""Weights & Biases, by what W&B's own files hold and what a stand-in server was asked."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
import yaml

from dcgan_dist import train, wandb_sink
from dcgan_dist.cli import read_yaml
from dcgan_dist.images import write_png
from dcgan_dist.loop import Training
from dcgan_dist.sweeps import report as sweep_report
from dcgan_dist.wandb_sink import WandbSink, place_of, wanted_mode
from tests import jobs
from tests.jobs import rows, status
from tests.shared import REPOSITORY, needs_shared
from tests.sweeps.made import kid_rows, made_sweep
from tests.wandb_server import KEY, STAND_IN, Server, served, wandb_command, without_wandb

needs_server = needs_shared(str(STAND_IN))
ROW = {"loss/d": 0.5, "loss/g": 1.25}
CLOSED = "http://127.0.0.1:9"
"""Where nobody listens."""


def flags(shards: Path, run_dir: Path, **settings: object) -> list[str]:
    few = {"ema_decay": 0, "eval_every": 0, "max_steps": 6, "sample_every": 6, "checkpoint_every": 4}
    return jobs.flags(shards, run_dir, **(few | {"tracker": "wandb"} | settings))


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the user's W&B; short waits; and each test's W&B begins anew."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    for name, value in without_wandb(tmp_path / "home").items():
        if name.startswith("WANDB") or name in ("HOME", "NETRC"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
    (tmp_path / "home").mkdir(exist_ok=True)
    monkeypatch.setattr(wandb_sink, "START_SECONDS", 3)
    monkeypatch.setattr(wandb_sink, "FINISH_SECONDS", 3)
    monkeypatch.setattr(wandb_sink, "REFERENCE_SECONDS", 3)
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that this process's W&B talks to."""
    with served(tmp_path / "server") as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield found
        wandb.teardown()


@pytest.fixture
def grid_png(tmp_path: Path) -> Path:
    path = tmp_path / "grid.png"
    write_png(path, np.full((8, 8, 3), 128, np.uint8))
    return path


def at_step(step: int, act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call ``act`` once before the update that follows ``step`` steps."""
    update = Training.update

    def acting(training: Training) -> Any:
        if training.step == step:
            act()
        return update(training)

    monkeypatch.setattr(Training, "update", acting)


def records(segment: Path) -> list[dict[str, Any]]:
    """What a segment of a run holds, by W&B's own reader."""
    command = [wandb_command(), "leet", "inspect", "--json", str(segment)]
    read = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in read.stdout.splitlines()]


def segments(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def steps(history: list[dict[str, Any]]) -> list[int]:
    """Steps of the rows of scalars."""
    return [row["step"] for row in history if "loss/d" in row]


def test_the_mode_is_offline_without_a_key_and_obeys_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wanted_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wanted_mode() == "disabled"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wanted_mode() == "offline"


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_the_mode_in_wandbs_settings_file_is_obeyed(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    subprocess.run([wandb_command(), mode], check=True, capture_output=True, timeout=60)
    assert wanted_mode() == mode
    monkeypatch.setenv("WANDB_MODE", "online")
    assert wanted_mode() == "online"


def sweep_parameters(path: Path, monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    """What W&B's agent leaves for the process that it starts."""
    written = {"wandb_version": 1} | {name: {"value": value} for name, value in values.items()}
    path.write_text(yaml.safe_dump(written))
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(path))
    monkeypatch.setenv("WANDB_SWEEP_ID", "swp00001")


def test_a_point_of_an_agent_has_its_group_and_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "r1"
    assert place_of(run_dir) == wandb_sink.Place(name="r1")
    sweep_parameters(tmp_path / "p.yaml", monkeypatch, lr=1e-4, seed=2, flip=True, value_range=[0, 1])
    place = place_of(run_dir)
    assert place.name == "flip=True,lr=0.0001,seed=2,value_range=%5B0%2C%201%5D"
    assert place.group == "swp00001/flip=True,lr=0.0001,value_range=%5B0%2C%201%5D"
    assert place.job_type == "seed=2"
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    monkeypatch.setenv("WANDB_JOB_TYPE", "yours")
    monkeypatch.setenv("WANDB_NAME", "first")
    assert place_of(run_dir) == wandb_sink.Place(name="first")


def test_names_that_differ_stay_apart_when_the_server_takes_no_longer_ones() -> None:
    first, second = (place_of(Path("x" * 199 + end)).name for end in "ab")
    assert len(first) == len(second) == 128
    assert first != second
    assert place_of(Path("x" * 128)).name == "x" * 128


def test_an_offline_run_holds_rows_pictures_alerts_and_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid_png: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    weights = tmp_path / "a run, k=1" / "generator.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"w" * 3_000_000)
    sink = WandbSink({"lr": 1e-4, "batch_size": 16}, project="flowers", run_dir=tmp_path, run_id="abcd1234")
    sink.reference("best-abcd1234", "model", uris=[weights.as_uri()], metadata={"step": 100})
    sink.reference("data", "dataset", uris=["https://example.org/x/index.json"], metadata={})
    sink.scalars(50, ROW)
    sink.picture(50, "samples", path=grid_png)
    sink.histogram(100, "scores/real", counts=[3, 5], edges=[0, 0.5, 1])
    sink.alert("collapse", "the samples of step 100 have collapsed", level="WARN")
    sink.summary({"share/compute": 0.75})
    sink.close(failed=False)
    assert "wandb sync" in sink.description
    (segment,) = segments(tmp_path)
    assert segment.name.endswith("-abcd1234")
    assert list((segment / "files" / "media").rglob("*.png"))
    held = records(segment)
    text = json.dumps(held)
    assert '"scores/real._type": "histogram", "scores/real.bins": [0, 0.5, 1], "scores/real.values": [3, 5]' in text
    assert '"batch_size"' in text
    assert '"share/compute"' in json.dumps([record for record in held if record["type"] == "summary"])
    (alert,) = [record["alert"] for record in held if record["type"] == "alert"]
    assert (alert["title"], alert["level"]) == ("collapse", "WARN")
    assert alert["text"] == "the samples of step 100 have collapsed"
    assert weights.as_uri() in text
    assert "https://example.org/x/index.json" in text
    copies = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    copies += [path for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in copies) < 1_000_000  # the weights are where they were


TRACE = """
import sys, pathlib
from dcgan_dist import wandb_sink
wandb_sink.START_SECONDS = 3
sink = wandb_sink.WandbSink({}, project="p", run_dir=pathlib.Path(sys.argv[1]), run_id="abcd1234")
sink.scalars(1, {"loss/d": 0.5})
print(sink.description)
"""


def test_nothing_waits_for_wandb_which_gets_all_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowRun:
        def __init__(self) -> None:
            self.answers = threading.Event()
            self.told: list[Any] = []

        def log(self, values: dict[str, float]) -> None:
            self.answers.wait(60)
            if values["step"] == 2:
                raise ConnectionError("no")
            self.told.append(values)

        def alert(self, title: str, text: str, level: str) -> None:
            self.told.append(title)

        def finish(self, exit_code: int) -> None:
            self.told.append(exit_code)

    slow = SlowRun()
    monkeypatch.setattr(WandbSink, "_begun", lambda *_, **__: (slow, "disabled"))
    sink = WandbSink({}, project="p", run_dir=tmp_path, run_id="r")
    sink.scalars(1, ROW)
    sink.scalars(2, ROW)  # what fails keeps nothing back
    sink.alert("late", "text", level="WARN")
    sink.scalars(3, ROW)
    assert slow.told == []
    slow.answers.set()
    sink.close(failed=False)
    assert slow.told == [{"step": 1, **ROW}, "late", {"step": 3, **ROW}, 0]


@pytest.mark.parametrize("mode", [None, "online"])
def test_no_key_and_a_terminal_never_prompt(mode: str | None, tmp_path: Path) -> None:
    """With a real terminal on all three streams; W&B itself would ask for a key and wait for ever."""
    environment = without_wandb(tmp_path / "home") | ({"WANDB_MODE": mode} if mode else {})
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TRACE, str(tmp_path)],
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown, deadline = b"", time.monotonic() + 40
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([controller], [], [], 0.2)
            try:
                piece = os.read(controller, 65536) if ready else b" "
            except OSError:  # closed: the process has ended
                break
            shown += piece.strip()
        assert process.wait(timeout=5) == 0, shown
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    assert b"offline; upload later with" in shown
    assert b"choice" not in shown
    assert (b"there is no key" in shown) == (mode == "online")
    assert len(segments(tmp_path)) == 1


@pytest.mark.parametrize("off", ["disabled", "none"])
def test_off_leaves_nothing_of_wandb(
    off: str, flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = "none" if off == "none" else "wandb"
    if off == "disabled":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(WandbSink, "reference", lambda *_, **__: pytest.fail("checksums that nobody gets"))
    monkeypatch.chdir(tmp_path)
    train.main(flags(flower_shards, tmp_path / "run", max_steps=1, tracker=tracker))
    assert not (tmp_path / "run" / "wandb").exists()
    assert not (tmp_path / "wandb").exists()


@needs_server
def test_an_online_run(server: Server, flower_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train.main(flags(flower_shards, run_dir))
    (run_id,) = server.runs()
    assert (run_dir / "wandb-id").read_text() == f"{run_id}\n"
    history = server.history(run_id)
    assert steps(history) == [1, 2, 3, 4, 5, 6]
    assert [row["loss/d"] for row in history if "loss/d" in row] == [row["loss/d"] for row in rows(run_dir)]
    media = {name: row[name]["_type"] for row in history for name in row if isinstance(row[name], dict)}
    assert media == {
        "samples": "image-file",
        "scores/real": "histogram",
        "scores/fake": "histogram",
        "losses": "image-file",
        "histograms": "image-file",
        "reals-and-fakes": "image-file",
        "progress": "video-file",
    }
    assert server.exit_codes(run_id) == [0]

    config = server.config(run_id)
    own = config.pop("_wandb")
    assert own["cli_version"]
    assert not [name for name, value in config.items() if isinstance(value, dict)]
    settings = read_yaml(run_dir / "config.yaml")
    written = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    assert {name: config[name] for name in written} == written
    environment = json.loads((run_dir / "environment.json").read_text())
    packages = {f"version/{name}": version for name, version in environment.pop("packages").items()}
    del environment["command"], environment["threads"]  # W&B notes the one, and the other is a setting
    packages |= {f"version/{name}": environment.pop(name) for name in ("python", "dcgan_dist")}
    expected = packages | environment | {"image_count": 48, "total_steps": 6, "run_directory": str(run_dir)}
    assert {name: config[name] for name in expected} == expected
    assert set(config) == {*written, *expected, "data_digest", *(name for name in config if config[name] is None)}

    artifacts = {asked["input"]["artifactCollectionName"]: asked["input"] for asked in server.asked("CreateArtifact")}
    assert {name: each["artifactTypeName"] for name, each in artifacts.items()} == {
        "flowers": "dataset",
        f"checkpoint-{run_id}": "model",
    }
    assert json.loads(artifacts["flowers"]["metadata"]) == {"digest": config["data_digest"], "images": 48}
    assert json.loads(artifacts[f"checkpoint-{run_id}"]["metadata"])["step"] == 6
    sent = [request for request in server.requests() if "put" in request]
    assert not [request["put"] for request in sent if "safetensors" in request["put"]]
    assert {request["put"] for request in sent if request["put"].endswith("manifest")} == {"/upload/manifest"}


@needs_server
def test_a_resumed_run_appends_by_its_own_steps(
    server: Server, flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failed after 5 steps, saved after 4: step 5 comes twice, and what may change does."""
    run_dir = tmp_path / "run"

    def fail() -> None:
        raise OSError(28, "No space left on device", "shards")

    with monkeypatch.context() as patched:
        at_step(5, fail, patched)
        with pytest.raises(SystemExit):
            train.main(flags(flower_shards, run_dir))
    (run_id,) = server.runs()
    train.main([*flags(flower_shards, run_dir, max_steps=8), "--resume"])
    assert server.runs() == {run_id}
    history = server.history(run_id)
    assert steps(history) == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    counts = [row["_step"] for row in history]
    assert counts == sorted(set(counts))  # nothing that the server would ignore
    assert server.config(run_id)["max_steps"] == 8
    assert server.exit_codes(run_id) == [1, 0]


def test_a_run_that_died_before_its_first_checkpoint_keeps_its_id(
    flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"

    def fail() -> None:
        raise OSError(28, "No space left on device", "shards")

    with monkeypatch.context() as patched:
        at_step(2, fail, patched)
        with pytest.raises(SystemExit):
            train.main(flags(flower_shards, run_dir))
    train.main([*flags(flower_shards, run_dir, max_steps=1), "--resume"])
    train.main(flags(flower_shards, tmp_path / "other", max_steps=1))
    first, second = segments(run_dir)
    (other,) = segments(tmp_path / "other")
    ids = [each.name.split("-")[3] for each in (first, second, other)]  # offline-run-TIME-ID, and -1 in the same second
    assert ids[0] == ids[1] != ids[2]
    (alert,) = [record["alert"] for record in records(first) if record["type"] == "alert"]
    assert (alert["title"], alert["level"]) == ("failed", "ERROR")
    assert "No space left on device" in alert["text"]


@needs_server
def test_a_stopped_run_is_preempted(
    server: Server, flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B calls a run preempted that was marked so and ends with another exit code than 0."""
    run_dir, seen = tmp_path / "run", []
    close = WandbSink.close

    def look_and_close(sink: WandbSink, *, failed: bool) -> None:
        seen.append((status(run_dir)["state"], (run_dir / "requeue").exists()))
        close(sink, failed=failed)

    monkeypatch.setattr(WandbSink, "close", look_and_close)
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    train.main(flags(flower_shards, run_dir))
    (run_id,) = server.runs()
    assert server.exit_codes(run_id) == [1]
    streams = [request for request in server.requests() if f"/{run_id}/" in request.get("stream", "")]
    assert streams
    assert seen == [("stopped", True)]  # a batch script need not wait for the server
    (segment,) = (run_dir / "wandb").glob("run-*")
    held = records(segment)
    assert [record for record in held if record["type"] == "preempting"]
    (alert,) = [record["alert"] for record in held if record["type"] == "alert"]
    assert (alert["title"], alert["text"]) == ("stopped", "SIGTERM at step 4")


OUTAGES = [
    pytest.param("hang", 3, id="hang in the middle"),
    *(
        pytest.param(kind, step, marks=pytest.mark.slow, id=f"{kind} at {'the start' if step is None else step}")
        for kind in ("500", "hang", "killed")
        for step in (None, 3, 5)
        if (kind, step) != ("hang", 3)
    ),
]


@needs_server
@pytest.mark.parametrize(("kind", "step"), OUTAGES)
def test_an_outage_neither_blocks_nor_ends_training(
    kind: str,
    step: int | None,
    server: Server,
    flower_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At the start, in the middle, and before the last step: then at the finish."""
    run_dir = tmp_path / "run"
    if step is None:
        server.switch(kind)
    else:
        at_step(step, lambda: server.switch(kind), monkeypatch)
    begin = time.monotonic()
    train.main(flags(flower_shards, run_dir))
    assert time.monotonic() - begin < 40  # 3 s for the start, 3 + 3 s for the end; and a busy machine
    assert [row["step"] for row in rows(run_dir)] == [1, 2, 3, 4, 5, 6]
    assert status(run_dir)["state"] == "done"
    told = capsys.readouterr().err
    if step is None:
        assert "warning: W&B:" in told
        assert "going on offline" in told
        assert len(segments(run_dir)) == 1
    else:
        assert "warning: W&B: not all was uploaded in 3 s; later: wandb sync" in told
        assert max(row["time/step"] for row in rows(run_dir)) < 3
    assert told.count("warning: W&B") <= 2  # an artifact, and the end


@pytest.mark.slow
@needs_server
def test_a_report_that_the_server_does_not_take_is_kept_offline(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)  # where the sweep's recipe is
    html = wandb.Html

    def hanging(*arguments: Any, **options: Any) -> wandb.Html:
        server.switch("killed")
        return html(*arguments, **options)

    monkeypatch.setattr(wandb, "Html", hanging)
    made = made_sweep(tmp_path, rows=kid_rows)
    told = sweep_report.write_sweep_report(made, tmp_path / "runs", wandb=True)
    assert capsys.readouterr().err.count("going on offline") == 1
    assert "W&B: offline; upload later with: wandb sync" in told[-1]
    (segment,) = segments(tmp_path / "runs" / "made")
    assert len(list((segment / "files" / "media").rglob("*.html"))) == 1


DYING = """
import os, signal, subprocess, sys, pathlib
from dcgan_dist.wandb_sink import WandbSink
sink = WandbSink({}, project="p", run_dir=pathlib.Path(sys.argv[1]), run_id="abcd1234")
found = subprocess.check_output(["pgrep", "-P", str(os.getpid()), "-f", "wandb-core"])
os.kill(int(found), signal.SIGKILL)
for step in range(5):
    sink.scalars(step, {"loss/d": 0.5})
sink.stopped("SIGTERM")
sink.close(failed=False)
print("went on")
"""


def test_the_end_of_wandbs_own_process_ends_nothing(tmp_path: Path) -> None:
    """As when memory runs out."""
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path)],
        env=without_wandb(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "went on\n"
    assert done.stderr.count("warning: W&B") == 1


@needs_server
@pytest.mark.slow
def test_two_processes_make_one_run(server: Server, flower_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, *jobs.LAUNCHERS["torchrun"], "-m", "dcgan_dist.train", *flags(flower_shards, run_dir)]
    environment = server.environment() | jobs.EXPORTED
    subprocess.run(command, cwd=REPOSITORY, env=environment, timeout=120, check=True, capture_output=True)
    (run_id,) = server.runs()
    assert steps(server.history(run_id)) == [1, 2, 3, 4, 5, 6]
    assert server.config(run_id)["world_size"] == 2
    assert len(server.asked("RunResumeStatus")) == 1  # one process asked
    assert server.exit_codes(run_id) == [0]


@needs_server
@pytest.mark.slow
@pytest.mark.parametrize("command", [["sync"], ["beta", "sync"]], ids=["sync", "beta sync"])
def test_offline_segments_of_a_resumed_run_become_one_run(
    command: list[str], server: Server, flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    monkeypatch.setenv("WANDB_MODE", "offline")
    with monkeypatch.context() as patched:
        at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM), patched)
        train.main(flags(flower_shards, run_dir))
    train.main([*flags(flower_shards, run_dir), "--resume"])
    found = [str(segment) for segment in segments(run_dir)]
    assert len(found) == 2
    done = subprocess.run(
        [wandb_command(), *command, *found],
        env=server.environment(),
        cwd=tmp_path,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (run_id,) = server.runs()
    assert steps(server.history(run_id)) == [1, 2, 3, 4, 5, 6]


@needs_server
@pytest.mark.slow
def test_the_documented_commands_upload_a_killed_run_once(server: Server, flower_shards: Path, tmp_path: Path) -> None:
    """Its first segment ends in half a record, at which W&B's own command stops."""
    run_dir = tmp_path / "runs" / "killed"
    arguments = flags(flower_shards, run_dir, max_steps=900, sample_every=1000, checkpoint_every=300)
    offline = server.environment(WANDB_MODE="offline")
    command = [sys.executable, "-m", "dcgan_dist.train", *arguments]
    with subprocess.Popen(command, cwd=REPOSITORY, env=offline, stdout=subprocess.DEVNULL) as process:
        while jobs.row_count(run_dir) < 800:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    subprocess.run([*command, "--resume"], cwd=REPOSITORY, env=offline, stdout=subprocess.DEVNULL, check=True)
    (script,) = [
        block.partition("```")[0]
        for block in (REPOSITORY / "docs" / "wandb.md").read_text().split("```sh\n")
        if "read -r file" in block
    ]
    path = f"{Path(wandb_command()).parent}:{os.environ['PATH']}"
    for _ in range(2):  # the second time there is nothing to do
        environment = server.environment(PATH=path)
        subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, timeout=120, check=False)
    (run_id,) = server.runs()
    done = steps(server.history(run_id))
    first = next(place for place, step in enumerate(done) if step != place + 1)  # rows of the first segment
    assert 100 < first <= 820  # the kill has lost some seconds of them
    assert done == [*range(1, first + 1), *range(601, 901)]
    assert server.exit_codes(run_id) == [1, 0]
