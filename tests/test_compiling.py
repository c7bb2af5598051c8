"""--compile where there is nothing to compile with: one message, before anything else."""

import sysconfig
from pathlib import Path

import pytest

from dcgan_dist import train
from dcgan_dist.machine import check_compiler
from tests.jobs import flags


def a_program(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on PATH, empty; and a Python that has its headers."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", {"include": str(tmp_path)}.get)
    return directory


def test_compiling_without_a_compiler_is_one_message(
    programs: Path, flower_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        train.main([*flags(flower_shards, tmp_path / "run"), "--compile"])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: compile needs a C++ compiler, and there is no g++ here")
    assert "WITH_COMPILER=1" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_cpu_takes_a_cpp_compiler_and_a_gpu_a_c_compiler(programs: Path) -> None:
    with pytest.raises(ValueError, match="needs a C compiler, and there is no gcc or clang here"):
        check_compiler(gpu=True)
    a_program(programs / "clang")
    check_compiler(gpu=True)
    with pytest.raises(ValueError, match=r"there is no g\+\+ here"):
        check_compiler(gpu=False)
    a_program(programs / "g++")
    check_compiler(gpu=False)


def test_the_compiler_of_the_environment_is_the_one(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_program(programs / "g++")
    monkeypatch.setenv("CXX", "clang++-19")
    with pytest.raises(ValueError, match=r"there is no clang\+\+-19 here.* name one in CXX"):
        check_compiler(gpu=False)
    a_program(programs / "clang++-19")
    check_compiler(gpu=False)


def test_compiling_needs_pythons_headers(programs: Path, tmp_path: Path) -> None:
    a_program(programs / "g++")
    (tmp_path / "Python.h").unlink()
    with pytest.raises(ValueError, match=r"compile needs Python's headers, and there is no .*Python\.h"):
        check_compiler(gpu=False)
