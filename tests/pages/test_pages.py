"""Pages about runs: what they hold, what they leave out, and that nothing in a run can harm them."""

import base64
import hashlib
import io
import json
import re
import runpy
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcgan_dist import report
from dcgan_dist.pages import PAGE_BYTES, embed, write_report
from dcgan_dist.results.measures import beside, better
from dcgan_dist.run_directory import RunDirectory
from tests.runs import EDGES, made_run, training_rows


def text_of(*runs: RunDirectory, out: Path) -> str:
    write_report([run.path for run in runs], out)
    return out.read_text(encoding="utf-8")


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text inside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.inside:
            self.inside[self._open][-1] += data


def test_points_are_the_rows(tmp_path: Path) -> None:
    rows = training_rows(200)
    data = data_of(text_of(made_run(tmp_path / "run", rows=rows), out=tmp_path / "page.html"))
    (curves,) = [run["curves"] for run in data["runs"]]
    for name in ("loss/d", "loss/g", "score/real", "score/fake", "time/step"):
        assert curves[name]["x"] == [row["step"] for row in rows]
        assert curves[name]["y"] == pytest.approx([row[name] for row in rows], rel=1e-6)
        assert "m" not in curves[name]
    assert [chart["title"] for chart in data["charts"]][:2] == ["Loss", "Mean score"]


def test_a_long_curve_is_thinned_and_keeps_its_spikes(tmp_path: Path) -> None:
    rows = training_rows(20_000)
    rows[12_344]["loss/g"], rows[7_776]["loss/g"] = 99.5, -7.25
    for row in rows[999::1000]:
        row["eval/is_e_n9"] = row["step"] / 7
    text = text_of(made_run(tmp_path / "run", rows=rows), out=tmp_path / "page.html")
    curve = data_of(text)["runs"][0]["curves"]["loss/g"]
    assert len(curve["x"]) == len(curve["y"]) == len(curve["m"]) <= 1000
    points = dict(zip(curve["x"], curve["y"], strict=True))
    assert (points[123_450], points[77_770]) == (99.5, -7.25)
    assert {10, 200_000} <= set(points)
    assert "Long curves are thinned" in text
    assert len(text) < 1_000_000
    evaluated = data_of(text)["runs"][0]["curves"]["eval/is_e_n9"]  # of few rows, is whole
    assert evaluated["x"] == [10_000 * number for number in range(1, 21)]
    assert evaluated["y"] == pytest.approx([step / 7 for step in evaluated["x"]], rel=1e-6)
    assert "m" not in evaluated


def test_rows_may_lack_any_key(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 10},
        {"step": 20, "loss/d": 1.5},
        {"step": 30, "eval/fid_x_n9": 7.0},
        {"step": 40, "loss/d": None},
    ]
    data = data_of(text_of(made_run(tmp_path / "run", rows=rows), out=tmp_path / "page.html"))
    assert data["runs"][0]["curves"] == {
        "loss/d": {"x": [20], "y": [1.5]},
        "eval/fid_x_n9": {"x": [30], "y": [7.0]},
    }
    assert data["histograms"]
    assert data["steps"] == []


def test_a_run_without_metrics_says_so(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    run.metrics.unlink()
    text = text_of(run, out=tmp_path / "page.html")
    assert "This run has no metrics yet." in text
    assert 'id="game"' not in text
    assert 'id="samples"' not in text


def test_grids_are_here_with_their_steps(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", grid_steps=[0, 500, 1000])
    data = data_of(text_of(run, out=tmp_path / "page.html"))
    assert data["steps"] == [0, 500, 1000]
    for place, (step, picture) in enumerate(data["runs"][0]["grids"]):
        assert step == 500 * place
        kind, _, encoded = data["pictures"][picture].partition(",")
        assert kind == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            assert image.size == (40, 40)
            assert np.asarray(image)[20, 20].tolist() == pytest.approx([20 * place + 40, 0, 0], abs=6)


def noisy_run(path: Path, count: int) -> RunDirectory:
    run = made_run(path, grid_steps=range(0, 100 * count, 100))
    random = np.random.default_rng(count)
    for step, _ in run.sample_grids():
        run.write_sample(step, random.integers(0, 256, (64, 64, 3), np.uint8))
    return run


def test_pictures_are_thinned_until_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = noisy_run(tmp_path / "run", 70)
    whole = data_of(text_of(run, out=tmp_path / "page.html"))
    assert [len(whole["runs"][0]["grids"]), whole["factor"]] == [60, 1]  # the slider's most
    size = sum(map(len, whole["pictures"]))
    for share in (0.9, 0.2, 0.05):
        monkeypatch.setattr(embed, "PICTURE_BYTES", int(size * share))
        text = text_of(run, out=tmp_path / "page.html")
        data = data_of(text)
        grids = data["runs"][0]["grids"]
        assert sum(map(len, data["pictures"])) <= size * share
        assert (grids[0][0], grids[-1][0]) == (0, 6900)
        assert f"run: {len(grids)} of 70 sample grids are here." in text
    monkeypatch.setattr(embed, "PICTURE_BYTES", 500)
    with pytest.raises(ValueError, match="the sample grids of 1 runs do not fit"):
        write_report([run.path], tmp_path / "page.html")


def test_the_size_is_bounded_by_the_budgets() -> None:
    assert embed.PICTURE_BYTES <= PAGE_BYTES - 2_000_000
    assert PAGE_BYTES <= 10_000_000


@pytest.mark.parametrize("several", [False, True])
def test_names_and_texts_are_harmless(several: bool, tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>\"'&<!--"
    rows = [{"step": 10, "loss/d": 1.0, "</script><script>alert(2)</script>": 3.0, bad: 4.0}]
    run = made_run(tmp_path / bad, rows=rows, grid_steps=[10], histograms=[{"step": 10, "edges": [0, 1], "real": [1]}])
    run.set_status("failed", "</p><script>alert(3)</script>")
    run.environment.write_text(json.dumps({"<script>": "<script>alert(4)</script>", "command": ["<b>"]}))
    runs = [run, made_run(tmp_path / "other")] if several else [run]
    text = text_of(*runs, out=tmp_path / "page.html")
    found = Elements(text)
    assert [attributes.get("type") for tag, attributes in found.elements if tag == "script"] == [
        "application/json",
        None,
    ]
    for tag, attributes in found.elements:
        assert tag not in ("b", "object", "iframe", "base")
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes), (tag, attributes)
        assert str(attributes.get("href", "#")).startswith(("#", "data:,"))
    assert "<!--" not in text
    assert data_of(text)["runs"][0]["name"] == bad


def test_the_policy_allows_this_script_and_style_alone(tmp_path: Path) -> None:
    text = text_of(made_run(tmp_path / "run", rows=training_rows(3)), out=tmp_path / "page.html")
    found = Elements(text)
    (policy,) = [
        str(attributes["content"])
        for _, attributes in found.elements
        if "Content-Security-Policy" in attributes.values()
    ]

    def allowed(inside: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"

    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["style-src"] == allowed(found.inside["style"][0])
    assert rules["script-src"] == allowed(found.inside["script"][1])
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_what_differs_from_the_recipe_is_marked(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", settings={"lr": 4e-4, "log_every": 7, "data": "elsewhere"})
    text = text_of(run, out=tmp_path / "page.html")
    assert "Marked: not as in recipe flowers17-arch1." in text
    assert '<td data-run="0" class="differs">0.0004<br><small>recipe: 0.0001</small></td>' in text
    assert '<td data-run="0" class="noted">7<br><small>recipe: 50</small></td>' in text
    assert '<td data-run="0">elsewhere</td>' in text
    assert text.count('class="differs"') == 1


def test_an_unknown_recipe_is_compared_with_the_defaults(tmp_path: Path) -> None:
    text = text_of(made_run(tmp_path / "run", settings={"recipe": "mine"}), out=tmp_path / "page.html")
    assert "Marked: not as in defaults." in text
    assert "<small>defaults: dcgan64</small>" in text


QUALITY = [
    {"step": 10, "eval/fid_e_n9": 30.0, "eval/fid_floor_e_n4": 5.0, "eval/recall_e_n9": 0.25, "collapse/ndb": 0.5},
    {
        "step": 20,
        "eval/fid_e_n9": 20.0,
        "eval/fid_floor_e_n4": 5.0,
        "eval/recall_e_n9": 0.125,
        "collapse/ndb_floor": 0.1,
    },
    {"step": 30, "eval/fid_e_n9": 25.0, "eval/kid_e_n9": 0.5, "eval/kid_std_e_n9": 0.0625, "collapse/ndb": 0.75},
]


def test_numbers_of_one_run(tmp_path: Path) -> None:
    text = text_of(made_run(tmp_path / "run", rows=QUALITY), out=tmp_path / "page.html")
    assert "<td>25</td><td>20 <small>at 20</small></td><td>5</td>" in text
    assert "<td>0.125</td><td>0.25 <small>at 10</small></td><td></td>" in text
    assert "0.5 &plusmn; 0.0625" in text
    assert "<td>0.75</td><td>0.5 <small>at 10</small></td><td>0.1</td>" in text
    assert ">eval/<wbr>kid_<wbr>e_<wbr>n9 <" in text
    assert "kid_<wbr>std" not in text


def test_numbers_of_several_runs_name_the_best(tmp_path: Path) -> None:
    worse = [{"step": 10, "eval/fid_e_n9": 22.0, "eval/recall_e_n9": 0.5}]
    runs = made_run(tmp_path / "a", rows=QUALITY), made_run(tmp_path / "b", rows=worse), made_run(tmp_path / "c")
    text = text_of(*runs, out=tmp_path / "page.html")
    won = re.findall(r'<td data-run="(\d)">[^<]*<br><small class="won"[^>]*>([^<]*)', text)
    assert won == [("0", "best 20 at 20"), ("1", "best 0.5 at 10")]
    assert "<small>best 22 at 10</small>" in text
    assert '<td data-run="2">&ndash;</td>' in text
    titles = [chart["title"].partition(":")[0] for chart in data_of(text)["charts"]]
    assert titles == ["eval/fid_e_n9", "eval/recall_e_n9", "eval/kid_e_n9", "collapse/ndb"]
    lines = data_of(text)["charts"][0]["lines"]
    assert [(line["run"], line["label"], line["floor"]) for line in lines] == [
        (0, "a", False),
        (1, "b", False),
        (0, "floor", True),
    ]


def test_measures_and_what_stands_beside_them() -> None:
    assert [better(f"eval/{name}_e_n9") for name in ("fid", "is", "nothing")] == ["lower", "higher", ""]
    assert [better(f"collapse/{name}_k9_n9") for name in ("score", "bins_js", "msssim")] == ["lower", "lower", ""]
    assert [better(f"collapse/{name}_k9_n9") for name in ("colour_modes", "colour_js", "bins")] == [
        "higher",
        "lower",
        "",
    ]
    assert better("score/real") == better("loss/d") == ""
    names = ["eval/fid_e_n9", "eval/fid_floor_e_n4", "eval/fid_floor_f_n4", "collapse/ndb_floor"]
    assert beside("eval/fid_e_n9", "floor", among=names) == "eval/fid_floor_e_n4"
    assert beside("collapse/ndb", "floor", among=names) == "collapse/ndb_floor"
    assert beside("eval/kid_e_n9", "floor", among=names) is None


def test_several_runs_share_one_slider_and_their_data(tmp_path: Path) -> None:
    one = made_run(tmp_path / "x" / "run", settings={"seed": 1}, rows=training_rows(5), grid_steps=[0, 20])
    other = made_run(tmp_path / "y" / "run", settings={"seed": 2}, rows=training_rows(9), grid_steps=[0, 10])
    text = text_of(one, other, out=tmp_path / "page.html")
    data = data_of(text)
    assert [run["name"] for run in data["runs"]] == ["x/run", "y/run"]  # the shortest that tell them apart
    assert data["steps"] == [0, 10, 20]
    assert text.count('<figure class="grid"') == 2
    assert text.count('<figure class="reals"') == 1  # one data set
    (loss,) = [chart for chart in data["charts"] if chart["title"].startswith("loss/d")]
    assert [(line["run"], line["colour"], line["label"]) for line in loss["lines"]] == [
        (0, 0, "x/run"),
        (1, 1, "y/run"),
    ]
    assert '<tr class="other apart"><th scope="row">seed</th>' in text


def test_histograms_are_kept_when_they_hold_together(tmp_path: Path) -> None:
    good = {"step": 100, "edges": EDGES, "real": [0, 1, 2, 3], "fake": [4, 0, 0, 0], "held_out": [1, 1, 1, 1]}
    bad: list[dict[str, Any]] = [
        {**good, "step": 1, "real": [1, 2]},
        {**good, "step": 2, "edges": [0, 0, 1, 1, 2]},
        {**good, "step": 3, "fake": [1, 2, 3, -4]},
        {**good, "step": 4, "edges": "text"},
        {"step": 5, "edges": EDGES},
    ]
    run = made_run(tmp_path / "run", histograms=[*bad, good])
    (kept,) = data_of(text_of(run, out=tmp_path / "page.html"))["runs"][0]["histograms"]
    assert kept == {"step": 100, "edges": EDGES, "counts": {name: good[name] for name in ("real", "fake", "held_out")}}


GARBAGE = [b"", b"\xff\xfe", b"[", b"null", b"[1, 2]", b'{"state": [1], "packages": 7, "command": {}}', b"[" * 100_000]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "status.json",
        "environment.json",
        "metrics.jsonl",
        "histograms.jsonl",
        "colours.jsonl",
        "reals.png",
    ],
)
def test_odd_files_are_told_and_raise_nothing(name: str, garbage: bytes, tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", rows=training_rows(3), grid_steps=[0, 10])
    (run.path / name).write_bytes(garbage)
    told = write_report([run.path], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.endswith("</html>\n")
    if garbage in (b"\xff\xfe", b"["):
        assert len(told) == 1
        assert name in told[0]
        assert 'class="note"' in text


def test_odd_grids_are_told(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", grid_steps=[0, 10, 20])
    whole = (run.samples / "step-00000010.png").read_bytes()
    (run.samples / "step-00000010.png").write_bytes(whole[: len(whole) // 2])
    (run.samples / "step-00000020.png").write_bytes(b"GIF89a")
    told = write_report([run.path], tmp_path / "page.html")
    assert told == [f"run: step-000000{step}.png cannot be read as a picture" for step in (10, 20)]
    assert data_of((tmp_path / "page.html").read_text())["steps"] == [0]


def test_the_command_writes_into_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path / "run", rows=training_rows(3))
    report.main([str(run.path)])
    assert run.report.stat().st_size < 100_000
    assert capsys.readouterr().out == f"{run.report}: 0.0 MB; open it in a browser\n"


def test_the_command_writes_several_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [made_run(tmp_path / name, rows=training_rows(3)) for name in "ab"]
    runs[1].status.write_text("?")
    report.main([*(str(run.path) for run in runs), "--out", str(tmp_path / "page.html")])
    assert "2 runs: a, b" in (tmp_path / "page.html").read_text()
    assert capsys.readouterr().err == "warning: b: status.json cannot be read: JSONDecodeError\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{path}/nothing"], "{path}/nothing: no such directory"),
        (["{path}/run/config.yaml"], "{path}/run/config.yaml: is a file, not a run directory"),
        (["{path}"], "{path}: is no run directory, it has no config.yaml; its runs are {path}/run and so on: {path}/*"),
        (["{path}/run", "{path}/run/."], "{path}/run: is named twice"),
    ],
)
def test_the_command_refuses(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_run(tmp_path / "run")
    with pytest.raises(SystemExit) as stopped:
        report.main([*(argument.format(path=tmp_path) for argument in arguments), "--out", f"{tmp_path}/page.html"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"dcgan-report: error: {message.format(path=tmp_path)}\n"
    assert not (tmp_path / "page.html").exists()


def test_the_command_fails_with_1_where_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path / "run")
    with pytest.raises(SystemExit) as stopped:
        report.main([str(run.path), "--out", f"{tmp_path}/no/page.html"])
    assert stopped.value.code == 1
    assert "no/page.html: No such file or directory" in capsys.readouterr().err


def test_help_is_quick(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["dcgan-report", "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(report.__file__), run_name="__main__")
    assert stopped.value.code == 0
    assert "dcgan-report runs/flowers17-arch1-001" in capsys.readouterr().out
