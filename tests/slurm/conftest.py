import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared import REPOSITORY
from tests.slurm.cluster import FLAGS, LOCAL_CLUSTER, STEPS, Cluster, Project


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Slurm of two nodes that ends with the tests; skips where there can be none."""
    if not LOCAL_CLUSTER.exists():
        pytest.skip(f"needs {LOCAL_CLUSTER} (DCGAN_SHARED)")
    if missing := [
        name for name in ("sbatch", "srun", "munged") if not shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    ]:
        pytest.skip(f"needs Slurm, {', '.join(missing)} not found: as root, {LOCAL_CLUSTER} install")
    directory = Path(tempfile.mkdtemp(prefix="dcgan-slurm-", dir="/tmp"))
    directory.chmod(0o755)  # munged wants it
    started = subprocess.run(
        [str(LOCAL_CLUSTER), "start", str(directory)], capture_output=True, text=True, timeout=120, check=False
    )
    try:
        assert started.returncode == 0, started.stderr
        yield Cluster(directory)
    finally:
        subprocess.run([str(LOCAL_CLUSTER), "stop", str(directory)], capture_output=True, timeout=120, check=False)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def project(cluster: Cluster, tmp_path: Path, flower_shards: Path) -> Iterator[Project]:
    """A checkout whose jobs end with the test, on a cluster whose nodes are up."""
    cluster.control("start")
    yield Project(tmp_path, cluster, flower_shards)
    cluster.command("scancel", "--me", "--full")
    cluster.control("start")


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, flower_shards: Path) -> Path:
    """The run on one process, without Slurm."""
    return _trained(tmp_path_factory.mktemp("alone") / "run", flower_shards, [])


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory, flower_shards: Path) -> Path:
    """The run on two processes that nothing interrupts, without Slurm."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return _trained(tmp_path_factory.mktemp("together") / "run", flower_shards, launcher)


def _trained(run_dir: Path, shards: Path, launcher: list[str]) -> Path:
    command = [*launcher, "-m", "dcgan_dist.train", *FLAGS, f"--data={shards}", f"--max_steps={STEPS}"]
    done = subprocess.run(
        [sys.executable, *command, f"--run_dir={run_dir}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return run_dir
