"""The worked examples of docs/extending.md, put in place as they stand there."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.shared import REPOSITORY

PAGE = REPOSITORY / "docs" / "extending.md"
PLACE = re.compile(r"# (?P<path>dcgan_dist/\S+\.py)(: (?P<how>a row of|before) (?P<name>\w+))?\n")


def put_in_place(block: str, copy: Path) -> None:
    """Add a block to a copy of the repository: a file, functions before a table, or a row at its end."""
    place = PLACE.match(block)
    assert place, block
    path, code = copy / place["path"], block[place.end() :]
    if not place["how"]:
        assert not path.exists()
        path.write_text(code)
        return
    lines = path.read_text().splitlines(keepends=True)
    (table,) = (node for node in ast.parse("".join(lines)).body if place["name"] in names_set_by(node))
    if place["how"] == "before":
        lines.insert(table.lineno - 1, f"{code}\n\n")
    else:
        imports = re.match(r"(from .*\n\n)?", code)
        assert imports
        assert table.end_lineno
        assert lines[table.end_lineno - 1] == "}\n"
        lines.insert(table.end_lineno - 1, code[imports.end() :])
        lines.insert(table.lineno - 1, imports[0])
    path.write_text("".join(lines))


def names_set_by(node: ast.stmt) -> set[str]:
    """What a statement gives values to."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_the_examples_work_as_they_stand(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(REPOSITORY / "dcgan_dist", copy / "dcgan_dist", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "configs", copy / "configs")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    tried = [block for block in blocks if block.startswith("# Try it")]
    added = [block for block in blocks if block not in tried]
    assert len(added) == 8  # three files and the functions of a loss, four rows
    for block in added:
        put_in_place(block, copy)
    (copy / "try_it.py").write_text("\n".join(tried))
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    job = subprocess.run(
        [sys.executable, "try_it.py"], cwd=copy, env=environment, capture_output=True, text=True, timeout=240
    )
    assert job.returncode == 0, job.stdout + job.stderr
