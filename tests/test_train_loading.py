"""Whole runs that differ in the way their images come."""

import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import yaml

from dcgan_dist import train
from dcgan_dist.data.shards import read_index
from tests.data.servers import serving
from tests.data.sets import rewrite_shard
from tests.data.test_remote import needs_http
from tests.jobs import flags, processes_of, row_count, rows, started, status
from tests.test_train import flags as short
from tests.test_train import generator_bytes, losses, refused


@pytest.fixture(scope="module")
def resident(flower_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "resident"
    train.main(short(flower_shards, run_dir))
    return run_dir


def written(run_dir: Path) -> tuple[str, int | None]:
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    return config["loader"], config["workers"]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_indexed_run_is_the_resident_one(
    workers: int, resident: Path, flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(short(flower_shards, tmp_path / "run", loader="indexed", workers=workers))
    assert losses(tmp_path / "run") == losses(resident)
    assert generator_bytes(tmp_path / "run", 6) == generator_bytes(resident, 6)
    assert (tmp_path / "run" / "reals.png").read_bytes() == (resident / "reals.png").read_bytes()
    assert written(tmp_path / "run") == ("indexed", workers)
    assert written(resident) == ("resident", None)
    assert f"indexed, {workers or 'no'} worker process" in " ".join(capsys.readouterr().out.split())


def test_what_auto_chose_is_kept_and_may_be_changed(
    resident: Path, flower_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    monkeypatch.setattr("dcgan_dist.data.loader.free_memory", lambda: 1000)
    train.main(short(flower_shards, run_dir, max_steps=2, workers=0))
    assert written(run_dir) == ("indexed", 0)
    monkeypatch.undo()  # there is memory enough now
    train.main([*short(flower_shards, run_dir, max_steps=3), "--resume"])
    assert written(run_dir)[0] == "indexed"
    train.main(["--run_dir", str(run_dir), "--resume", "--max_steps", "4"])
    assert written(run_dir)[0] == "indexed"
    train.main(["--run_dir", str(run_dir), "--resume", "--max_steps", "6", "--loader", "resident"])
    assert written(run_dir)[0] == "resident"
    assert losses(run_dir) == losses(resident)
    assert generator_bytes(run_dir, 6) == generator_bytes(resident, 6)


@needs_http
def test_a_run_from_a_server_is_the_same(
    resident: Path, flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(flower_shards) as server:
        train.main(short(Path("x"), tmp_path / "run", data=server.url, cache_dir=tmp_path / "cache"))
        url = server.url
    assert losses(tmp_path / "run") == losses(resident)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"] == url


def test_a_run_rolled_back_reads_the_same_images_again(flower_shards: Path, tmp_path: Path) -> None:
    wild = {"optimizer": "sgd", "lr": 1e8, "on_divergence": "rollback", "rollback_lr_factor": 1e-5, "max_steps": 8}
    for kind in ("resident", "indexed"):
        train.main(short(flower_shards, tmp_path / kind, loader=kind, **wild))
    assert losses(tmp_path / "indexed") == losses(tmp_path / "resident")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "pipe:cat shards"}, "https://, http://, s3:// or file://, got one that starts with pipe:"),
        ({"data": "https://me:hunter2@host/set"}, "without user name, password, query and fragment"),
        ({"workers": -1}, "workers must be zero or more, got -1"),
        ({"cache_gigabytes": 0}, "cache_gigabytes must be positive, got 0"),
    ],
)
def test_mistakes_are_one_message(
    settings: dict[str, object],
    message: str,
    flower_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "workers" in settings or "cache_gigabytes" in settings:  # tyro's own frame, more than one line
        with pytest.raises(SystemExit) as stopped:
            train.main(short(flower_shards, tmp_path / "run", **settings))
        assert stopped.value.code == 2
        assert message in " ".join(capsys.readouterr().err.replace("│", "").split())
    else:
        told = refused(short(flower_shards, tmp_path / "run", **settings), capsys)
        assert message in told
        assert "hunter2" not in told
    assert not (tmp_path / "run").exists()


def test_settings_without_effect_are_told(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"loader": "resident", "workers": 2, "cache_dir": "x", "cache_gigabytes": 3, "max_steps": 1}
    train.main(short(flower_shards, tmp_path / "run", **settings))
    told = capsys.readouterr().out
    assert "workers has no effect with loader resident" in told
    assert "cache_dir has no effect with data on this machine" in told
    assert "cache_gigabytes has no effect" in told


def test_a_damaged_image_in_the_middle_ends_the_run_with_its_name(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, run_dir = shutil.copytree(flower_shards, tmp_path / "shards"), tmp_path / "run"
    place = rewrite_shard(shards, 2, {5: b"nothing"})
    settings = {"loader": "indexed", "workers": 1, "sample_count": 1, "max_steps": 100}
    message = refused(short(shards, run_dir, **settings), capsys, code=1)
    path = read_index(shards).path(2)
    found = f"{path}: image {place.key} (number {place.image}, at byte {place.offset:,}) is not a PNG, JPEG or WEBP"
    assert f"error: {found}" in " ".join(message.split())
    assert found in status(run_dir)["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["python", "torchrun"])
def test_a_damaged_image_in_the_middle_ends_the_job_with_its_name(
    launcher: str, flower_shards: Path, tmp_path: Path
) -> None:
    shards, run_dir = shutil.copytree(flower_shards, tmp_path / "shards"), tmp_path / "run"
    place = rewrite_shard(shards, 2, {5: b"nothing"})
    settings = {"loader": "indexed", "workers": 1, "sample_count": 1}
    with started(launcher, flags(shards, run_dir, **settings), run_dir=run_dir) as job:
        job.seconds_to_the_end()
        path = read_index(shards).path(2)
        assert job.output.count(f"error: {path}: image {place.key} (number {place.image}, at byte") == 1
        assert "is not a PNG, JPEG or WEBP image" in job.output
        assert "dcgan_dist/" not in job.output.replace(str(path.parent), "")  # no traceback but torchrun's own
        assert job.launcher.returncode == 1
    assert status(run_dir)["state"] == "failed"
    assert place.key in status(run_dir)["reason"]


def workers_of(process: int) -> list[int]:
    """Children of a process that decode for it."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [
        pid for pid in map(int, children) if b"dcgan_dist.data.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_a_worker_that_is_killed_ends_the_run(
    flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the kernel does that has no memory left."""
    run_dir = tmp_path / "run"

    def kill_one() -> None:
        while row_count(run_dir) < 3:
            time.sleep(0.01)
        os.kill(workers_of(os.getpid())[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    settings = {"loader": "indexed", "workers": 2, "max_steps": 100_000, "log_every": 1}
    message = refused(short(flower_shards, run_dir, **settings), capsys, code=1)
    killer.join()
    assert re.search(r"worker process \d+ was killed by SIGKILL \(out of memory\?\)", message)
    assert "Traceback" not in message
    assert status(run_dir)["state"] == "failed"
    assert not workers_of(os.getpid())


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["python", "torchrun"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_or_killed_job_leaves_no_worker(
    launcher: str, number: signal.Signals, flower_shards: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    settings = {"loader": "indexed", "workers": 2}
    with started(launcher, flags(flower_shards, run_dir, **settings), run_dir=run_dir) as job:
        job.wait_for_steps(5)
        workers = [worker for trainer in job.trainers() for worker in workers_of(trainer)]
        assert len(workers) == 2 * len(job.trainers())
        if number == signal.SIGKILL:
            for trainer in job.trainers():
                os.kill(trainer, number)
        else:
            groups = {os.getpgid(trainer) for trainer in job.trainers()}
            assert {os.getpgid(worker) for worker in workers} == groups
            for group in groups:
                os.killpg(group, number)
        job.seconds_to_the_end()
        deadline = time.monotonic() + 10
        while not all(map(gone, workers)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not processes_of(run_dir)
        if number != signal.SIGKILL:
            assert status(run_dir)["state"] == "stopped"
            if launcher == "python":
                assert "Traceback" not in job.output
                assert job.launcher.returncode == 0
        assert "dcgan_dist.data.workers import serve" not in job.output


@pytest.mark.slow
def test_an_indexed_run_is_the_resident_one_on_two_processes(flower_shards: Path, tmp_path: Path) -> None:
    for kind in ("resident", "indexed"):
        run_dir = tmp_path / kind
        arguments = flags(flower_shards, run_dir, loader=kind, max_steps=20)
        with started("torchrun", arguments, run_dir=run_dir, log=tmp_path / f"{kind}.log") as job:
            job.seconds_to_the_end()
            assert job.launcher.returncode == 0, job.output
            assert ("shared by 2 processes" in job.output) == (kind == "resident")
    names = ("loss/d", "loss/g")
    first, other = (
        [[row[name] for name in names] for row in rows(tmp_path / kind)] for kind in ("resident", "indexed")
    )
    assert len(first) == 20
    assert first == other
