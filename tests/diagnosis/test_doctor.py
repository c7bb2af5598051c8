"""The doctor's verdicts against made-up and sabotaged clusters."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dcgan_dist import doctor
from dcgan_dist.cli import to_yaml
from dcgan_dist.config import TrainConfig, changed
from dcgan_dist.diagnosis import examination, probe, trial, verdicts
from dcgan_dist.distributed.failure import PeerError
from dcgan_dist.distributed.launcher import without_launcher
from tests import tiny
from tests.shared import REPOSITORY

NARROW = tiny.narrow("mnist28")
FACTS = probe.Facts(
    rank=0,
    host="a",
    versions={"torch": "2.14.1", "numpy": "2.4.6"},
    device_type="cpu",
    device="AMD EPYC",
    device_bytes=None,
    threads=2,
    cores=frozenset({0, 1, 2, 3}),
    open_files=1024,
    shared_memory=(8 * 2**30, 8 * 2**30),
    disk=probe.Disk(path="runs", free_bytes=10**11, bytes_per_second=1e9),
)
NETWORK = probe.Network(
    backend="gloo", all_reduce_small=2e-4, all_gather_small=2e-4, all_reduce_large=0.02, sums_right=True
)


def ranks(number: int, **changes: Any) -> list[probe.Facts]:
    """Healthy ranks on one machine; the last one has the changes."""
    all_of_them = [replace(FACTS, rank=rank, disk=None if rank else FACTS.disk) for rank in range(number)]
    return [*all_of_them[:-1], replace(all_of_them[-1], **changes)]


def row(checks: list[verdicts.Check], name: str) -> verdicts.Check:
    (found,) = [check for check in checks if check.name == name]
    return found


def outcome(losses: list[list[float]], **networks: list[float]) -> trial.Outcome:
    vectors = {name: torch.tensor(values, dtype=torch.float64) for name, values in networks.items()}
    return trial.Outcome(losses=torch.tensor(losses, dtype=torch.float64), networks=vectors)


# The comparison with one process


def test_relative_differences_by_hand() -> None:
    expected = outcome([[1.0, 2.0], [4.0, 8.0]], generator=[3.0, 4.0], discriminator=[0.0, 0.0])
    found = outcome([[1.0, 2.0], [4.1, 8.8]], generator=[3.3, 4.4], discriminator=[0.0, 0.0])
    comparison = trial.compared(found, expected)
    assert comparison.losses == pytest.approx([0, 0.1])
    assert comparison.networks == pytest.approx({"generator": 0.1, "discriminator": 0})
    assert trial.compared(expected, expected).losses == [0, 0]


@pytest.mark.parametrize(("found", "expected"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, 0.0)])
def test_what_is_no_number_is_infinitely_far_off(found: float, expected: float) -> None:
    comparison = trial.compared(
        outcome([[found, 1.0]], generator=[found]), outcome([[expected, 1]], generator=[expected])
    )
    assert comparison.losses == [math.inf]
    assert comparison.networks == {"generator": math.inf}


def test_differences_are_judged_by_the_limit() -> None:
    comparison = trial.Comparison(losses=[1e-16, 3e-9, 5e-9], networks={"generator": 9e-10, "average": 2e-9})
    losses, generator, average = verdicts.judge_comparison(comparison, limit=1e-9)
    assert losses.verdict == average.verdict == "WRONG"
    assert "5.0e-09 off" in losses.found
    assert "since step 2" in losses.found
    assert generator.verdict == "ok"
    assert generator.values == {"relative_difference": 9e-10, "limit": 1e-9}


def test_json_has_no_infinity() -> None:
    far = trial.Comparison(losses=[math.inf], networks={"generator": math.inf})
    for check in verdicts.judge_comparison(far, limit=1e-9):
        assert check.verdict == "WRONG"
        assert check.values["relative_difference"] is None


def test_a_repeat_must_have_the_same_bits() -> None:
    same = trial.Comparison(losses=[0.0], networks={"generator": 0.0})
    assert {check.verdict for check in verdicts.judge_comparison(same, limit=0.0)} == {"ok"}
    other = trial.Comparison(losses=[0.0], networks={"generator": 1e-16})
    assert [check.verdict for check in verdicts.judge_comparison(other, limit=0.0)] == ["ok", "WRONG"]


def test_ranks_must_end_with_the_same_bits() -> None:
    (same,) = verdicts.judge_digests(["1f", "1f"])
    assert same.verdict == "ok"
    (other,) = verdicts.judge_digests(["1f", "1f", "2e"])
    assert other.verdict == "WRONG"
    assert other.found.startswith("rank 2 ended")
    assert verdicts.judge_digests(["1f"]) == []


def test_an_outcome_is_saved_whole(tmp_path: Path) -> None:
    saved = outcome([[1.0, 2.0]], generator=[3.0], average=[4.0])
    saved.save(tmp_path / "outcome")
    found = trial.Outcome.load(tmp_path / "outcome")
    assert torch.equal(found.losses, saved.losses)
    assert found.networks.keys() == saved.networks.keys()
    assert all(torch.equal(found.networks[name], vector) for name, vector in saved.networks.items())


def images() -> Tensor:
    return tiny.pixels(NARROW)


def test_without_time_two_steps_are_made() -> None:
    found = trial.outcome(NARROW, tiny.runtime(), images=images(), steps=5, seconds_in_all=0.0)
    assert found.losses.shape == (2, 2)
    whole = trial.outcome(NARROW, tiny.runtime(), images=images(), steps=3)
    assert torch.equal(whole.losses[:2], found.losses)
    assert whole.digest != found.digest


def test_its_own_recipe_has_all_that_hangs_on_the_whole_batch() -> None:
    config = changed(TrainConfig(), doctor.OWN_RECIPE)
    assert config.network.batch_deviation
    assert config.network.dropout
    assert config.losses.instance_noise
    assert config.images.flip
    assert config.optim.fresh_z
    assert config.optim.ema_decay


@pytest.mark.parametrize(("batch_size", "processes", "expected"), [(16, 1, 16), (16, 4, 16), (16, 3, 18), (2, 8, 8)])
def test_batch_sizes_are_rounded_up(batch_size: int, processes: int, expected: int) -> None:
    assert examination.shareable(batch_size, processes) == expected


# Machines


def test_a_healthy_machine() -> None:
    checks = verdicts.judge_facts(ranks(2))
    assert {check.verdict for check in checks} == {"ok"}
    assert row(checks, "processes").found == "2 on a, 2 threads each"
    assert row(checks, "versions").found == "torch 2.14.1, numpy 2.4.6"


def test_other_versions_are_wrong() -> None:
    check = row(verdicts.judge_facts(ranks(3, versions={"torch": "2.13.0", "numpy": "2.4.6"})), "versions")
    assert check.verdict == "WRONG"
    assert check.found == "torch is 2.14.1 on ranks 0, 1, 2.13.0 on rank 2"


def test_a_stale_copy_of_the_package_has_another_source(tmp_path: Path) -> None:
    (tmp_path / "gan.py").write_text("a = 1\n")
    before = probe.source_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("no program\n")
    assert probe.source_hash(tmp_path) == before
    (tmp_path / "gan.py").write_text("a = 2\n")
    assert probe.source_hash(tmp_path) != before
    assert len(before) == 8
    assert probe.versions(cuda=False)["source"] == probe.source_hash(REPOSITORY / "dcgan_dist")


def test_mixed_devices() -> None:
    check = row(verdicts.judge_facts(ranks(2, device_type="cuda", device="H100")), "devices")
    assert (check.verdict, check.found) == ("WRONG", "cpu on rank 0, cuda on rank 1")
    check = row(verdicts.judge_facts(ranks(2, device="Xeon")), "devices")
    assert (check.verdict, check.found) == ("note", "cpu: AMD EPYC on rank 0, Xeon on rank 1")


@pytest.mark.parametrize(("free", "verdict"), [(70, "ok"), (30, "note")])
def test_memory_of_gpus(free: int, verdict: str) -> None:
    gpus = [
        replace(rank, device_type="cuda", device="H100", device_bytes=(size * 2**30, 80 * 2**30))
        for rank, size in zip(ranks(2), (75, free), strict=True)
    ]
    check = row(verdicts.judge_facts(gpus), "devices")
    assert (check.verdict, check.found) == (verdict, f"cuda: H100; at least {free}.0 of 80.0 GiB free")


@pytest.mark.parametrize(("threads", "verdict"), [(2, "ok"), (3, "note"), (1, "ok")])
def test_threads_should_fit_the_cores(threads: int, verdict: str) -> None:
    two = [replace(rank, threads=threads) for rank in ranks(2)]  # for four cores
    assert row(verdicts.judge_facts(two), "processes").verdict == verdict
    alone = [replace(FACTS, threads=1)]
    assert row(verdicts.judge_facts(alone), "processes").verdict == "note"


def test_limits_of_machines() -> None:
    def judged(name: str, **changes: Any) -> verdicts.Check:
        return row(verdicts.judge_facts(ranks(2, host="b", **changes)), name)

    assert judged("open files", open_files=135).verdict == "WRONG"  # 128 + 4 for each rank
    assert "on b" in judged("open files", open_files=135).found
    assert judged("open files", open_files=136).verdict == "ok"
    assert judged("open files", open_files=None).found == "1,024 a process"
    assert judged("shared memory", shared_memory=(64 * 2**20, 64 * 2**20)).verdict == "note"
    assert judged("shared memory", shared_memory=None).verdict == "ok"
    assert judged("disk", disk=probe.Disk(path="runs", error="Read-only file system")).verdict == "WRONG"
    assert judged("disk", disk=probe.Disk(path="runs", free_bytes=10**11, bytes_per_second=1e6)).verdict == "note"
    assert judged("disk", disk=probe.Disk(path="runs", free_bytes=10**9, bytes_per_second=1e9)).verdict == "note"


def test_the_disk_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = probe.tried_disk(tmp_path)
    assert not found.error
    assert found.free_bytes > 0
    assert found.bytes_per_second > 0
    assert list(tmp_path.iterdir()) == []
    assert probe.tried_disk(tmp_path / "none").error == "No such file or directory"


# Network


def test_the_ring_formula_by_hand() -> None:
    # 4 ranks, 16 bytes: each link carries 3/4 of them to sum and 3/4 to spread, 24 bytes in half a second
    assert probe.bus_bandwidth(16, 0.5, world_size=4) == 48
    assert probe.bus_bandwidth(16, 0.5, world_size=2) == 32


def test_the_network_is_judged() -> None:
    checks = verdicts.judge_network(NETWORK, ranks=ranks(2))
    assert {check.verdict for check in checks} == {"ok"}
    assert row(checks, "bandwidth").values["bytes_per_second"] == 16 * 2**20 / 0.02
    slow = replace(NETWORK, all_reduce_small=2e-3, all_gather_small=3e-3, all_reduce_large=1.0)
    assert [check.verdict for check in verdicts.judge_network(slow, ranks=ranks(2))] == ["ok", "note", "note", "note"]
    lying = replace(NETWORK, sums_right=False)
    assert row(verdicts.judge_network(lying, ranks=ranks(2)), "backend").verdict == "WRONG"
    gpus = [replace(rank, device_type="cuda") for rank in ranks(2)]
    assert row(verdicts.judge_network(NETWORK, ranks=gpus), "backend").verdict == "note"


# The verdict


def test_the_verdict_in_one_sentence() -> None:
    good, noted = verdicts.Check("disk", "fast"), verdicts.Check("all-reduce", "slow", "note")
    bad, worse = verdicts.Check("losses", "far off", "WRONG"), verdicts.Check("generator", "far off", "WRONG")
    assert verdicts.verdict([good], processes=4) == "fit: 4 processes give the run of one"
    assert (
        verdicts.verdict([good, noted], processes=1) == "fit: one process gives the same run again; notes on all-reduce"
    )
    assert verdicts.verdict([good, bad, worse], processes=2) == "not fit: losses: far off; also see generator"


def test_nothing_of_a_launcher_is_left_for_the_run_of_one() -> None:
    kept = {"PATH": "/bin", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "0", "NCCL_DEBUG": "WARN"}
    launched = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "ROLE_NAME", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"]
    launched += ["ACCELERATE_MIXED_PRECISION", "SLURM_PROCID", "PMI_SIZE", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE"]
    launched += ["MV2_COMM_WORLD_SIZE", "MPI_LOCALRANKID", "DCGAN_EXPECT_WORLD_SIZE"]
    assert without_launcher(kept | dict.fromkeys(launched, "1")) == kept


def test_a_full_disk_is_no_run_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(trial.ReferenceRunError, match=r"one process could not be run: .*No such file or directory"):
        trial.on_one_process(NARROW, steps=1, seconds=1.0)


def test_sigterm_unwinds_what_waits_for_the_run_of_one() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, trial._cleaned_up_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before


# The command


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "narrow.yaml"
    path.write_text(to_yaml(NARROW))
    return path


def test_one_process_gives_the_same_bits_again(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(to_yaml(changed(NARROW, {"init_from": "runs/first"})))  # which need not be there
    doctor.main(["--config", str(recipe), "--steps", "3", "--path", str(tmp_path)])  # exit code 0
    output, progress = capsys.readouterr()
    assert "fit: one process gives the same run again" in output
    assert "3 steps of 8 images in float64" in " ".join(output.replace("│", " ").split())
    assert "init_from's" in output  # weights are not taken
    assert output.count("the bits of the run of one") == 3  # losses and two networks
    assert "WRONG" not in output
    assert "steps on one process" in progress


def test_a_recipe_that_cannot_run_is_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: mnist28\nimage_size: 32\nthreads: 1\n")
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--config", str(broken), "--path", str(tmp_path), "--json"])
    assert ended.value.code == 1
    report = json.loads(capsys.readouterr().out)
    assert report["fit"] is False
    assert "not fit: losses: one process failed: ValueError: image_size must be 28" in report["verdict"]


def test_a_launcher_that_started_too_few_is_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DCGAN_EXPECT_WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as ended:
        doctor.main([])
    assert ended.value.code == 1
    output, progress = capsys.readouterr()
    assert "│ launcher │ DCGAN_EXPECT_WORLD_SIZE=2 asks for 2" in output
    assert "torchrun --standalone --nproc_per_node 2" in output
    assert not progress  # found out before anything takes time


def test_a_rank_that_dies_is_not_fit(
    monkeypatch: pytest.MonkeyPatch, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise PeerError("rank 1 died or hangs", is_teller=True)

    monkeypatch.setattr(trial, "on_one_process", lambda *args, **kwargs: outcome([[1.0, 1.0]]))
    monkeypatch.setattr(probe, "facts", broken)
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--config", str(recipe), "--json"])
    assert ended.value.code == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "not fit: processes: rank 1 died or hangs"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "argument --steps: must be at least 1, got 0"),
        (["--step", "3"], "unrecognized arguments: --step 3"),
        (["--config", "no-such.yaml"], "config no-such.yaml: no such file"),
    ],
)
def test_mistakes_are_told_once(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank, told in ((0, True), (1, False)):
        monkeypatch.setenv("RANK", str(rank))
        with pytest.raises(SystemExit) as ended:
            doctor.main(arguments)
        assert ended.value.code == 2
        output, errors = capsys.readouterr()
        assert (message in errors) == told
        assert not output


def test_settings_that_contradict_float64_or_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("precision: bf16\n")
    assert doctor._config(str(path)).compute.precision == "no"
    path.write_text("batch_size: 1\n")
    with pytest.raises(ValueError, match=rf"config {path}: batch_size must be at least 2"):
        doctor._config(str(path))


def launched(program: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, *program, "--steps=3", "--json", *arguments]
    environment = without_launcher(os.environ)
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)


def test_two_processes_give_the_run_of_one(tmp_path: Path) -> None:
    job = launched(["-m", "dcgan_dist.doctor"], f"--path={tmp_path}")
    assert job.returncode == 0, job.stderr
    report = json.loads(job.stdout)  # JSON alone, from one process alone
    assert report["fit"] is True
    assert report["verdict"].startswith("fit: 2 processes give the run of one")
    assert len(report["ranks"]) == 2
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["processes"]["values"]["world_size"] == 2
    assert checks["ranks"]["found"] == "the same bits on all"
    assert checks["step"]["values"]["collectives"] > 10
    assert checks["bandwidth"]["values"]["bytes_per_second"] > 0
    differences = [checks[name]["values"]["relative_difference"] for name in ("losses", "generator", "discriminator")]
    assert max(differences) <= 1e-9
    assert max(differences) > 0  # sums over two halves round in another way; 0 would be one run compared with itself


SABOTAGE = """
import os
from dataclasses import replace
from dcgan_dist import doctor
from dcgan_dist.distributed.draws import StepDraws

if os.environ["RANK"] == "1":
    whole = StepDraws.keys
    def own_rows_from_0(draws, stream):
        rows = draws.stop - draws.start
        return whole(replace(draws, start=0, stop=rows) if stream == "instance_noise" else draws, stream)
    StepDraws.keys = own_rows_from_0
doctor.main()
"""


@pytest.mark.slow
def test_noise_that_belongs_to_a_rank_is_found(tmp_path: Path) -> None:
    script = tmp_path / "sabotaged.py"
    script.write_text(SABOTAGE)
    job = launched([str(script)], f"--path={tmp_path}")
    assert job.returncode == 1, job.stderr
    report = json.loads(job.stdout)
    verdicts = {check["name"]: check["verdict"] for check in report["checks"]}
    assert report["fit"] is False
    assert {verdicts[name] for name in ("losses", "generator", "discriminator", "average")} == {"WRONG"}
    assert verdicts["ranks"] == "ok"  # all wrong in the same way
    assert "since step 1" in report["verdict"]
