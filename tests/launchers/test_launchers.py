"""What the launchers make of a job's variables and the user's flags; Slurm's commands are stand-ins."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launchers.stubs import Checkout
from tests.shared import REPOSITORY

SCRIPTS = sorted(path for path in (REPOSITORY / "launchers").iterdir() if path.suffix in ("", ".sbatch", ".sh"))
GOLDEN = REPOSITORY / "tests" / "golden"
STOPS = 'touch "$run_dir/requeue"; exit 1'
ENDS = """echo '{"state": "done"}' >"$run_dir/status.json" """
RECIPE = ("--config", "configs/flowers17-arch1.yaml")
SWEEP = "method: grid\nparameters:\n  seed: {values: [0, 1, 2]}\n  max_steps: {value: 5}\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_scripts_hold_no_hyperparameter() -> None:
    for path in SCRIPTS:
        code = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
        code = re.sub(r'(fail|echo|usage=|say) ?"[^"]*"', "", code)
        assert not re.search(r"--(lr|batch_size|seed|max_steps|config|data)\b", code), path


def test_logs_go_to_a_folder_that_is_in_git() -> None:
    for path in SCRIPTS:
        if path.suffix == ".sbatch":
            (pattern,) = re.findall(r"^#SBATCH --output=(.*)$", path.read_text(), re.MULTILINE)
            assert Path(pattern).parent == Path("logs")
    tracked = subprocess.run(["git", "ls-files", "logs"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if tracked.returncode == 0:  # else no checkout
        assert tracked.stdout.split() == ["logs/.gitignore"]


def golden(name: str, words: list[str]) -> None:
    """Compare with a recorded text, a word a line."""
    text = "\n".join(words).replace(sys.executable, "PYTHON") + "\n"
    assert text == (GOLDEN / f"{name}.txt").read_text()


def test_training_on_two_nodes_of_two_gpus(checkout: Checkout) -> None:
    ended = checkout.run("train.sbatch", *RECIPE, "--batch_size", "64", SLURM_GPUS_ON_NODE="2")
    assert ended.code == 0, ended.output
    (step,) = checkout.steps()
    golden("train-2x2", step)
    seen = checkout.environment()
    assert seen["DCGAN_EXPECT_WORLD_SIZE"] == "4"
    assert seen["PET_SIGNALS_TO_HANDLE"] == "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2"
    assert seen["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "110"
    assert seen["SLURM_EXPORT_ENV"] == "ALL"
    assert checkout.requeued() == []


PROCESSES = {
    "nothing asked for": ({"SLURM_JOB_NUM_NODES": "1", "SLURM_TASKS_PER_NODE": "1"}, 1, 1),
    "one GPU": ({"SLURM_JOB_NUM_NODES": "1", "SLURM_TASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "1"}, 1, 1),
    "whole nodes of 16 CPUs": ({"SLURM_TASKS_PER_NODE": "16(x2)"}, 2, 1),
    "tasks on CPUs": ({"SLURM_NTASKS": "6", "SLURM_TASKS_PER_NODE": "3(x2)"}, 2, 3),
    "tasks on each of whole nodes": ({"SLURM_NTASKS_PER_NODE": "3", "SLURM_TASKS_PER_NODE": "16(x2)"}, 2, 3),
    "GPUs of a type, by their number": ({"SLURM_GPUS_ON_NODE": "4", "SLURM_GPUS": "a100:8"}, 2, 4),
    "GPUs and a task for each": (
        {"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "2(x2)"},
        2,
        4,
    ),
    "tasks and GPUs for each": (
        {
            "SLURM_GPUS_ON_NODE": "4",
            "SLURM_GPUS_PER_TASK": "a100:2",
            "SLURM_NTASKS": "4",
            "SLURM_TASKS_PER_NODE": "2(x2)",
        },
        2,
        4,
    ),
    "GPUs on each node, tasks as they come": (
        {"SLURM_GPUS_ON_NODE": "2", "SLURM_GPUS_PER_NODE": "2", "SLURM_NTASKS": "3", "SLURM_TASKS_PER_NODE": "2,1"},
        2,
        2,
    ),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_processes_follow_from_sbatch_flags(name: str, checkout: Checkout) -> None:
    variables, nodes, processes = PROCESSES[name]
    assert checkout.run("train.sbatch", *RECIPE, **variables).code == 0
    (step,) = checkout.steps()
    assert f"--nnodes={nodes}" in step
    assert f"--nproc-per-node={processes}" in step
    assert f"--ntasks={nodes}" in step
    assert checkout.environment()["DCGAN_EXPECT_WORLD_SIZE"] == str(nodes * processes)


UNEVEN = {
    "tasks": (
        {"SLURM_NTASKS": "3", "SLURM_TASKS_PER_NODE": "2,1"},
        "2,1 tasks on the nodes: every node must have the same number",
    ),
    "GPUs": (
        {"SLURM_GPUS_ON_NODE": "2", "SLURM_GPUS": "3"},
        "--gpus=3 on 2 nodes: every node must have the same number",
    ),
    "GPUs of tasks": (
        {
            "SLURM_GPUS_ON_NODE": "2",
            "SLURM_GPUS_PER_TASK": "1",
            "SLURM_NTASKS": "3",
            "SLURM_TASKS_PER_NODE": "2,1",
        },
        "2,1 tasks on the nodes: every node must have the same number",
    ),
}


@pytest.mark.parametrize("name", UNEVEN)
def test_nodes_with_different_numbers_are_refused(name: str, checkout: Checkout) -> None:
    variables, message = UNEVEN[name]
    ended = checkout.run("train.sbatch", *RECIPE, **variables)
    assert ended.code == 2
    assert message in ended.output
    assert checkout.steps() == []


def test_what_sbatch_was_asked_for_does_not_shrink_the_step(checkout: Checkout) -> None:
    asked = ("SLURM_CPUS_PER_TASK", "SLURM_NTASKS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK")
    checkout.run("train.sbatch", *RECIPE, **dict.fromkeys(asked, "1"))
    assert not set(asked) & set(checkout.environment())


def test_ports_of_neighbouring_jobs_differ(checkout: Checkout) -> None:
    for job in ("12345", "12346"):
        checkout.run("train.sbatch", *RECIPE, SLURM_JOB_ID=job)
    ports = [word for step in checkout.steps() for word in step if word.startswith("--master-port=")]
    assert ports == ["--master-port=22345", "--master-port=22346"]


def test_a_run_directory_of_the_users_is_kept(checkout: Checkout) -> None:
    for flags in (["--run_dir", "mine"], ["--run-dir=mine"], ["--run_dir=other", "--run_dir", "mine"]):
        checkout.run("train.sbatch", *RECIPE, *flags)
        assert checkout.steps()[-1][-1] == "--run_dir=mine"


def test_runs_lie_where_the_site_says(checkout: Checkout) -> None:
    checkout.site(f"PYTHON={sys.executable}", "RUNS=/scratch/runs")
    checkout.run("train.sbatch", *RECIPE)
    assert checkout.steps()[-1][-1] == "--run_dir=/scratch/runs/flowers17-arch1-12345"


# Stopped and queued again


def test_a_stopped_run_is_queued_again_and_resumes(checkout: Checkout) -> None:
    checkout.trains(STOPS)
    ended = checkout.run("train.sbatch", *RECIPE)
    assert ended.code == 0, ended.output
    assert checkout.requeued() == ["12345"]
    assert "--resume" not in checkout.steps()[0]
    checkout.trains("[[ -e $run_dir/requeue ]]  # the old marker says nothing of this start")
    assert checkout.run("train.sbatch", *RECIPE, SLURM_RESTART_COUNT="1").code == 0
    first, second = checkout.steps()
    assert "--resume" in second
    assert [word for word in second if word != "--resume"] == first
    assert checkout.requeued() == ["12345"]


def test_a_job_that_slurm_will_not_queue_again_says_how_to_go_on(checkout: Checkout) -> None:
    checkout.trains(STOPS)
    (checkout.stubs / "refuses").touch()
    ended = checkout.run("train.sbatch", *RECIPE)
    assert ended.code == 1
    assert "go on with: sbatch launchers/train.sbatch --run_dir runs/flowers17-arch1-12345 --resume" in ended.output


def test_a_task_of_an_array_is_queued_again_by_its_own_name(checkout: Checkout) -> None:
    checkout.trains(STOPS)
    (checkout.path / "sweep.yaml").write_text(SWEEP)
    array = {"SLURM_ARRAY_JOB_ID": "12345", "SLURM_ARRAY_TASK_ID": "2"}  # the last task has the array's own id
    assert checkout.run("sweep.sbatch", "sweep.yaml", **array).code == 0
    assert checkout.requeued() == ["12345_2"]


def test_a_run_that_fails_is_not_queued_again(checkout: Checkout) -> None:
    checkout.trains("exit 3")
    assert checkout.run("train.sbatch", *RECIPE).code == 3
    assert checkout.requeued() == []


def test_the_warning_reaches_srun_and_the_script_waits_on(checkout: Checkout) -> None:
    sleeps = "for ((i = 0; i < 100; i++)); do sleep 0.1; done"
    checkout.trains(f"trap '{STOPS}' USR2\nkill -USR2 $PPID\n{sleeps}")
    began = time.monotonic()
    ended = checkout.run("train.sbatch", *RECIPE)
    assert ended.code == 0, ended.output
    assert checkout.requeued() == ["12345"]
    assert time.monotonic() - began < 8


def test_a_warning_when_srun_has_just_ended_does_not_end_the_script(checkout: Checkout) -> None:
    script = "set -euo pipefail; . launchers/common.sh; true & step=$!; wait $step; on_warning; echo $warned"
    assert subprocess.check_output(["bash", "-c", script], cwd=checkout.path, text=True) == "1\n"


def test_the_time_to_save_is_the_sites(checkout: Checkout) -> None:
    checkout.site(f"PYTHON={sys.executable}", "export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=290")
    checkout.run("train.sbatch", *RECIPE)
    assert checkout.environment()["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "290"


PREEMPTED = "StartTime=2026-11-22T10:01:49 EndTime=Unknown PreemptTime={} SuspendTime=None"
CUT_SHORT = {
    "preempted": (PREEMPTED.format("2026-11-22T10:01:52"), "exit 143", True),
    "preempted in an earlier start": (PREEMPTED.format("2026-11-22T09:59:59"), "exit 143", False),
    "never preempted": (PREEMPTED.format("None"), "exit 143", False),
    "without preemption": ("StartTime=2026-11-22T10:01:49", "exit 143", False),
    "warned": ("", 'kill -USR2 "$PPID"; sleep 0.5; exit 140', True),
    "failed by itself": (
        PREEMPTED.format("2026-11-22T10:01:52"),
        """echo '{"state": "failed"}' >"$run_dir/status.json"; exit 1""",
        False,
    ),
    "failed by itself in an earlier start": (
        PREEMPTED.format("2026-11-22T10:01:52"),
        "exit 143",
        True,
    ),
}


@pytest.mark.parametrize("name", CUT_SHORT)
def test_a_job_that_must_go_before_it_could_save_is_queued_again(name: str, checkout: Checkout) -> None:
    said, training, expected = CUT_SHORT[name]
    (checkout.stubs / "job").write_text(said)
    checkout.trains(training)
    if "earlier start" in name:
        run_dir = checkout.path / "runs" / "flowers17-arch1-12345"
        run_dir.mkdir(parents=True)
        (run_dir / "status.json").write_text('{"state": "failed"}')
    ended = checkout.run("train.sbatch", *RECIPE)
    assert checkout.requeued() == ["12345"] * expected
    assert (ended.code == 0) == expected


def test_a_job_that_is_always_warned_while_it_starts_fails_in_the_end(checkout: Checkout) -> None:
    checkout.trains(CUT_SHORT["warned"][1])
    assert checkout.run("train.sbatch", *RECIPE, SLURM_RESTART_COUNT="2").code == 0
    assert checkout.requeued() == ["12345"]
    ended = checkout.run("train.sbatch", *RECIPE, SLURM_RESTART_COUNT="3")
    assert ended.code == 1
    assert checkout.requeued() == ["12345"]
    assert "--time must be longer than a start and the warning" in ended.output


# Sweeps


def test_a_task_of_an_array_trains_its_point(checkout: Checkout) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "12340", "SLURM_ARRAY_TASK_ID": "4"}
    flags = ("--data", "shards/mine", "--max_steps", "20")
    ended = checkout.run("sweep.sbatch", "configs/sweeps/batch_size.yaml", *flags, **array)
    assert ended.code == 0, ended.output
    (step,) = checkout.steps()
    golden("sweep-point", step)
    seen = checkout.environment()
    assert (seen["WANDB_RUN_GROUP"], seen["WANDB_JOB_TYPE"]) == ("batch_size,batch_size=16", "seed=1")


def test_a_group_of_the_users_is_kept(checkout: Checkout) -> None:
    (checkout.path / "sweep.yaml").write_text(SWEEP)
    checkout.run("sweep.sbatch", "sweep.yaml", WANDB_RUN_GROUP="mine", WANDB_JOB_TYPE="trial")
    seen = checkout.environment()
    assert (seen["WANDB_RUN_GROUP"], seen["WANDB_JOB_TYPE"]) == ("mine", "trial")
    checkout.run("sweep.sbatch", "sweep.yaml")  # each of three points in one job has its own
    seen = checkout.environment()
    assert (seen["WANDB_RUN_GROUP"], seen["WANDB_JOB_TYPE"]) == ("sweep", "seed=2")


def test_bare_sweep_takes_the_flagship_one_point_after_another(checkout: Checkout) -> None:
    checkout.trains(ENDS)
    ended = checkout.run("sweep.sbatch")
    assert ended.code == 0, ended.output
    assert "sbatch --array=0-17 launchers/sweep.sbatch configs/sweeps/batch_size_lr_ratio.yaml" in ended.output
    run_dirs = [step[-1] for step in checkout.steps()]
    assert len(run_dirs) == len(set(run_dirs)) == 18
    assert run_dirs[17] == "--run_dir=runs/batch_size_lr_ratio/batch_size=32,lr_ratio=2,seed=2"
    again = checkout.run("sweep.sbatch")
    assert again.output.count(" is done") == 18
    assert len(checkout.steps()) == 18


def test_a_point_that_is_to_be_longer_goes_on(checkout: Checkout) -> None:
    checkout.trains(f"echo 'max_steps: 20' >$run_dir/config.yaml\n{ENDS}")
    (checkout.path / "sweep.yaml").write_text(SWEEP.replace("  max_steps: {value: 5}\n", ""))
    for steps, begun in ((20, 3), (20, 3), (30, 6)):
        assert checkout.run("sweep.sbatch", "sweep.yaml", f"--max_steps={steps}").code == 0
        assert len(checkout.steps()) == begun
    assert "--resume" in checkout.steps()[-1]


def test_a_point_that_fails_does_not_stop_the_others(checkout: Checkout) -> None:
    checkout.trains("[[ $run_dir != *seed=1 ]] || exit 1")
    (checkout.path / "sweep.yaml").write_text(SWEEP)
    ended = checkout.run("sweep.sbatch", "sweep.yaml")
    assert ended.code == 1
    assert "1 of 3 points failed" in ended.output
    assert len(checkout.steps()) == 3


def test_an_interrupted_point_resumes(checkout: Checkout) -> None:
    checkout.trains(f"[[ $run_dir != *seed=1 ]] || {{ {STOPS}; }}\n{ENDS}")
    (checkout.path / "sweep.yaml").write_text(SWEEP)
    assert checkout.run("sweep.sbatch", "sweep.yaml").code == 0
    assert checkout.requeued() == ["12345"]
    checkout.trains("true")
    checkout.run("sweep.sbatch", "sweep.yaml", SLURM_RESTART_COUNT="1")
    seeds = [(next(word for word in step if "--seed" in word), "--resume" in step) for step in checkout.steps()]
    assert seeds == [("--seed=0", False), ("--seed=1", False), ("--seed=1", True), ("--seed=2", False)]


def test_a_point_that_does_not_exist_is_the_users_mistake(checkout: Checkout) -> None:
    (checkout.path / "sweep.yaml").write_text(SWEEP)
    ended = checkout.run("sweep.sbatch", "sweep.yaml", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    assert ended.code == 2
    assert "point must be 0 to 2 in sweep sweep, got 3" in ended.output
    assert checkout.steps() == []


def test_a_run_dir_for_all_points_is_refused(checkout: Checkout) -> None:
    ended = checkout.run("sweep.sbatch", "configs/sweeps/batch_size.yaml", "--run_dir=x")
    assert ended.code == 2
    assert "run_dir: each point of a sweep has its own" in ended.output


def test_submit_sweep_sets_the_size_of_the_array(checkout: Checkout) -> None:
    words = ("-j", "4", "configs/sweeps/batch_size.yaml", "--nodes=2", "--gpus-per-node=2", "--", "--max_steps", "20")
    ended = checkout.run("submit-sweep", *words)
    assert ended.code == 0, ended.output
    assert (checkout.stubs / "sbatch.said").read_text().split() == [
        *("--array=0-8%4", "--nodes=2", "--gpus-per-node=2"),
        *("launchers/sweep.sbatch", "configs/sweeps/batch_size.yaml", "--max_steps", "20"),
    ]
    assert ended.output.splitlines() == [
        "launcher: 9 points of configs/sweeps/batch_size.yaml; look at squeue and logs/",
        "Submitted batch job 77",
    ]
    assert (checkout.path / "logs").is_dir()


def test_submit_sweep_ends_as_sbatch_does(checkout: Checkout) -> None:
    (checkout.stubs / "sbatch").write_text("#!/bin/bash\necho Submitted batch job 77; exit 3\n")
    ended = checkout.run("submit-sweep", "configs/sweeps/batch_size.yaml", "--wait")
    assert "Submitted batch job 77" in ended.output
    assert ended.code == 3


def test_submit_sweep_sees_the_sites_partition(checkout: Checkout) -> None:
    (checkout.stubs / "sbatch").write_text('#!/bin/bash\necho "$SBATCH_PARTITION" >"$STUBS/partition"; echo 77\n')
    checkout.site(f"PYTHON={sys.executable}", "export SBATCH_PARTITION=big")
    assert checkout.run("submit-sweep", "configs/sweeps/lr_ratio.yaml").code == 0
    assert (checkout.stubs / "partition").read_text() == "big\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: which sweep?\nusage: launchers/submit-sweep"),
        (["-j", "many", "x.yaml"], "error: -j must be a number of points, got 'many'"),
        (["none.yaml"], "error: sweep none.yaml: no such file"),
        (
            ["configs/sweeps/lr_ratio.yaml", "--", "--bach_size=3"],
            "unknown setting 'bach_size'; did you mean batch_size?",
        ),
    ],
)
def test_submit_sweep_queues_nothing_on_a_mistake(words: list[str], message: str, checkout: Checkout) -> None:
    ended = checkout.run("submit-sweep", *words)
    assert ended.code == 2
    assert message in ended.output
    assert not list(checkout.stubs.glob("sbatch.*"))


# Shards


def spoken(checkout: Checkout) -> list[str]:
    """The arguments of Python, from a stand-in that says them."""
    return (checkout.stubs / "python").read_text().splitlines()


@pytest.fixture
def silent(checkout: Checkout) -> Checkout:
    """With a container that only writes down what it is to run."""
    (checkout.stubs / "box").write_text('#!/bin/bash\nfor word; do echo "$word"; done >"$STUBS/python"\n')
    (checkout.stubs / "box").chmod(0o755)
    checkout.site('CONTAINER_CMD="box"')
    return checkout


SHARDS = ("synthetic", "--out", "shards/x", "--size", "32")


def test_shards_on_one_node(silent: Checkout) -> None:
    assert silent.run("shard.sbatch", *SHARDS).code == 0
    assert spoken(silent) == ["python", "-m", "dcgan_dist.shard", *SHARDS, "--workers", "8"]
    assert silent.run("shard.sbatch", *SHARDS, "--workers=3").code == 0
    assert spoken(silent)[-1] == "--workers=3"


ARRAY = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "4", "SLURM_ARRAY_TASK_COUNT": "4"}


def test_shards_by_an_array(silent: Checkout) -> None:
    assert silent.run("shard.sbatch", *SHARDS, SLURM_ARRAY_TASK_ID="3", **ARRAY).code == 0
    assert spoken(silent)[-2:] == ["--part", "3/4"]
    assert silent.run("shard.sbatch", "finish", "shards/x").code == 0
    assert spoken(silent) == ["python", "-m", "dcgan_dist.shard", "finish", "shards/x"]


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (SHARDS, ARRAY | {"SLURM_ARRAY_TASK_MIN": "0"}, "--array must be 1-N for N parts"),
        (SHARDS, ARRAY | {"SLURM_ARRAY_TASK_COUNT": "2"}, "--array must be 1-N for N parts"),
        (["finish", "shards/x"], ARRAY, "finish looks at all parts: submit it without --array"),
        ([], {}, "which data?"),
    ],
)
def test_parts_that_would_not_be_a_whole_are_refused(
    words: list[str], variables: dict[str, str], message: str, silent: Checkout
) -> None:
    task = {"SLURM_ARRAY_TASK_ID": "2"} if variables else {}
    ended = silent.run("shard.sbatch", *words, **task, **variables)
    assert ended.code == 2
    assert message in ended.output
    assert not (silent.stubs / "python").exists()


# The site


def test_a_container_is_put_before_the_command_on_each_node(checkout: Checkout) -> None:
    checkout.site('CONTAINER_CMD="apptainer exec --nv image.sif"', 'SRUN_OPTIONS="--network=fast"')
    assert checkout.run("train.sbatch", *RECIPE).code == 0
    (step,) = checkout.steps()
    assert "--network=fast" in step[: step.index("bash")]
    place = step.index("apptainer")
    assert step[place : place + 7] == [
        "apptainer",
        "exec",
        "--nv",
        "image.sif",
        "python",
        "-m",
        "torch.distributed.run",
    ]


def test_a_container_command_may_take_several_lines(checkout: Checkout) -> None:
    checkout.site('CONTAINER_CMD="apptainer exec', '    --bind /scratch image.sif"')
    assert checkout.run("train.sbatch", *RECIPE).code == 0
    (step,) = checkout.steps()
    place = step.index("apptainer")
    assert step[place : place + 6] == ["apptainer", "exec", "--bind", "/scratch", "image.sif", "python"]


def test_options_of_srun_without_a_container_leave_python_as_it_is(checkout: Checkout) -> None:
    checkout.site(f"PYTHON={sys.executable}", 'SRUN_OPTIONS="--network=fast"')
    assert checkout.run("train.sbatch", *RECIPE).code == 0
    checkout.site('SRUN_OPTIONS="--network=fast"')
    (checkout.stubs / "python3").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    (checkout.stubs / "python3").chmod(0o755)
    assert checkout.run("train.sbatch", *RECIPE).code == 0
    assert [step[step.index("on-each-node") + 1] for step in checkout.steps()] == [sys.executable, "python3"]


def test_in_the_container_of_srun_all_is_started_by_srun(checkout: Checkout) -> None:
    image = "--container-image=image.sqsh"
    checkout.site(f"PYTHON={sys.executable}", f'SRUN_OPTIONS="{image}"')
    (checkout.path / "sweep.yaml").write_text(SWEEP)
    (checkout.stubs / "train").write_text('while [[ $1 == --* ]]; do shift; done; [[ $1 == bash ]] || exec "$@"\n')
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    assert checkout.run("sweep.sbatch", "sweep.yaml", **array).code == 0
    point, run = checkout.steps()
    assert point[point.index(image) + 1 :][:3] == [sys.executable, "-m", "dcgan_dist.sweep"]
    assert "--ntasks=1" in point
    assert image in run
    assert run[-1] == "--run_dir=runs/sweep/seed=2"
    assert checkout.run("shard.sbatch", "synthetic", "--help").code == 0
    assert checkout.steps()[-1][-6:] == ["-m", "dcgan_dist.shard", "synthetic", "--help", "--workers", "8"]
    assert checkout.run("submit-sweep", "sweep.yaml").code == 0  # where there is no job there is no step
    assert len(checkout.steps()) == 3


def test_a_site_file_may_look_at_what_is_not_set(checkout: Checkout) -> None:
    checkout.site(
        "[[ -z $NOT_SET ]] && RUNS=there", "module() { [[ -z $NOT_SET ]]; }", "MODULES=cuda", f"PYTHON={sys.executable}"
    )
    assert checkout.run("train.sbatch", *RECIPE).code == 0
    assert checkout.steps()[-1][-1] == "--run_dir=there/flowers17-arch1-12345"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[[ -d /none ]] && RUNS=/none", "error: launchers/site.env: its last command failed"),
        ('RUNS="/none', "error: launchers/site.env: its last command failed"),
        ("module() { false; }; MODULES=cuda/99", "error: MODULES in launchers/site.env: cannot load cuda/99"),
    ],
)
def test_a_site_file_that_fails_is_told(line: str, message: str, checkout: Checkout) -> None:
    checkout.site(line)
    ended = checkout.run("train.sbatch", *RECIPE)
    assert ended.code == 2
    assert message in ended.output
    assert checkout.steps() == []


def test_without_a_site_file_defaults_are_taken_and_said(checkout: Checkout) -> None:
    (checkout.path / "launchers" / "site.env").unlink()
    environment = checkout.path / ".venv" / "bin"
    environment.mkdir(parents=True)
    (environment / "python").symlink_to(sys.executable)
    ended = checkout.run("train.sbatch", *RECIPE)
    assert "there is no launchers/site.env: defaults" in ended.output
    if ended.code:  # a link to a venv's Python does not see the venv's packages
        assert ended.code == 2
        assert "has no torch or no dcgan_dist" in ended.output
    else:
        assert ".venv/bin/python" in checkout.steps()[0]


def test_a_python_without_torch_is_found_before_the_nodes_start(checkout: Checkout) -> None:
    (checkout.stubs / "python3").write_text("#!/bin/bash\nexit 1\n")
    (checkout.stubs / "python3").chmod(0o755)
    (checkout.path / "launchers" / "site.env").unlink()
    ended = checkout.run("train.sbatch", *RECIPE)
    assert ended.code == 2
    assert (
        "error: python3 has no torch or no dcgan_dist: make setup, or set PYTHON in launchers/site.env" in ended.output
    )
    assert "site.env.example" in ended.output
    assert checkout.steps() == []


def test_modules_are_loaded(checkout: Checkout) -> None:
    checkout.site(f"PYTHON={sys.executable}", 'module() { echo "module $*"; }', 'MODULES="cuda/12.8 python/3.11"')
    ended = checkout.run("train.sbatch", *RECIPE)
    assert "module load cuda/12.8 python/3.11" in ended.output
    checkout.site(f"PYTHON={sys.executable}", "MODULES=cuda")
    ended = checkout.run("train.sbatch", *RECIPE)
    assert ended.code == 2
    assert "this shell has no 'module'" in ended.output


def test_the_example_of_a_site_file_is_a_site_file(checkout: Checkout) -> None:
    example = (REPOSITORY / "launchers" / "site.env.example").read_text()
    (checkout.path / "launchers" / "site.env").write_text(example + f"PYTHON={sys.executable}\n")
    assert checkout.run("train.sbatch", *RECIPE).code == 0
    used = set(re.findall(r"^# (?:export )?([A-Z_]+)=", example, re.MULTILINE))
    code = "".join(path.read_text() for path in SCRIPTS)
    own = {name for name in used if not re.match("SBATCH_|TMPDIR|NCCL_|GLOO_|WANDB_", name)}
    assert {name for name in own if f"${{{name}:-" in code} == own


@pytest.mark.parametrize("script", ["train.sbatch", "sweep.sbatch", "shard.sbatch"])
def test_scripts_started_elsewhere_say_so(script: str, checkout: Checkout, tmp_path: Path) -> None:
    ended = checkout.run(script, "x", SLURM_SUBMIT_DIR=str(tmp_path))
    assert ended.code == 2
    assert f"submit from the project's directory, not from {tmp_path}" in ended.output
    ended = checkout.run(script, "x", SLURM_SUBMIT_DIR="")
    assert f"submit it: sbatch launchers/{script}" in ended.output


def test_train_without_flags_says_what_it_needs(checkout: Checkout) -> None:
    ended = checkout.run("train.sbatch")
    assert ended.code == 2
    assert "which recipe? sbatch launchers/train.sbatch --config" in ended.output
