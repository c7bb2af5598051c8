"""The panel on collapse: alarms in words and in the chart, colours of the data, odd rows."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcgan_dist.collapse.colours import ColourMode
from dcgan_dist.images import write_png
from dcgan_dist.pages import write_report
from dcgan_dist.results.gather import colour_modes
from dcgan_dist.results.measures import meaning
from dcgan_dist.run_directory import RunDirectory
from tests.runs import collapse_rows, made_run, mode, training_rows

MODES = [
    mode(51, data_share=0.5, sample_share=0.25),
    mode(200, data_share=0.3, sample_share=0.75),
    mode(0, data_share=0.2, sample_share=0.01),
]


def text_of(*runs: RunDirectory, out: Path) -> str:
    assert write_report([run.path for run in runs], out) == []
    return out.read_text(encoding="utf-8")


def charts_of(text: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.DOTALL)
    assert found
    charts: list[dict[str, Any]] = json.loads(found[1])["charts"]
    return charts


def verdicts_of(text: str) -> list[tuple[str, str, str]]:
    """Kind, run and words of each verdict."""
    found = re.findall(r'<p class="verdict (\w+)" data-run="(\d)">(.*?)</p>', text)
    return [(kind, run, re.sub(r"<.*?>", "", words)) for kind, run, words in found]


@pytest.mark.parametrize(
    ("scores", "alarms", "kind", "words"),
    [
        ([0.9, 0.2], [], "calm", "No alarm. The score is 0.2 at step 200."),
        ([0.2, 0.5, 0.1], [200], "alarmed", "Alarm at step 200. The score is 0.1 at step 300."),
        (
            [0.2, 0.5, 0.1, 0.5],
            [200, 400],
            "alarmed",
            "2 alarms, at steps 200 and 400. The score is 0.5 at step 400, as high as that of an alarm.",
        ),
        (
            [0.9, 0.35],
            [],
            "waiting",
            "No alarm. The score is 0.35 at step 200, as high as every run begins; "
            "no alarm before it has been below 0.35.",
        ),
        (
            [0.2, 0.5] * 8,
            range(200, 1700, 200),
            "alarmed",
            "8 alarms, the first at step 200, the last at step 1,600. "
            "The score is 0.5 at step 1,600, as high as that of an alarm.",
        ),
    ],
)
def test_the_verdict(scores: list[float], alarms: list[int], kind: str, words: str, tmp_path: Path) -> None:
    text = text_of(made_run(tmp_path / "run", rows=collapse_rows(*scores, alarms=alarms)), out=tmp_path / "page.html")
    assert verdicts_of(text) == [(kind, "0", words)]
    card = "no alarm" if not alarms else words.partition(".")[0]
    assert f"<dt>collapse</dt><dd>{card[0].lower() + card[1:]}</dd>" in text


def test_alarms_are_marks_in_the_chart_of_the_score_alone(tmp_path: Path) -> None:
    rows = [*training_rows(3), *collapse_rows(0.2, 0.5, 0.1, alarms=[200])]
    text = text_of(made_run(tmp_path / "run", rows=rows), out=tmp_path / "page.html")
    marked = {chart["title"]: (chart["level"], chart["alarms"]) for chart in charts_of(text)}
    assert marked["collapse/score_n680"] == (0.35, [[0, 200]])
    assert marked["collapse/ndb_k34_n680"] == (None, [])
    assert not [title for title in marked if "alarm" in title]
    assert "collapse/<wbr>alarm" not in text
    assert "<dt>of it for evaluations</dt><dd>12.5 %</dd>" in text


def test_the_ratio_of_losses_has_a_chart_of_its_own(tmp_path: Path) -> None:
    rows = [{**row, "loss/ratio": 1e6} for row in training_rows(3)]
    text = text_of(made_run(tmp_path / "run", rows=rows), out=tmp_path / "page.html")
    assert [line["name"] for line in charts_of(text)[0]["lines"]] == ["loss/d", "loss/g"]
    assert "loss/ratio" in [chart["title"] for chart in charts_of(text)]


def test_several_runs_side_by_side(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one", rows=collapse_rows(0.2, 0.5, alarms=[200]))
    plain = made_run(tmp_path / "plain", rows=training_rows(3))
    other = made_run(tmp_path / "other", rows=collapse_rows(0.2, 0.1))
    for run in (one, other):
        run.write_colours(100, MODES[:1])
        run.write_colours(200, MODES)
    text = text_of(one, plain, other, out=tmp_path / "page.html")
    assert [(kind, run) for kind, run, _ in verdicts_of(text)] == [("alarmed", "0"), ("calm", "2")]
    assert re.findall(r'<figure class="modes" data-run="(\d)">', text) == ["0", "2"]
    assert text.count(": samples of step 200 reach 2 of the 3 commonest colours of the data") == 2
    (score,) = [chart for chart in charts_of(text) if chart["level"] is not None]
    assert score["title"] == "collapse/score_n680: variety that samples lack"
    assert [line["run"] for line in score["lines"]] == [0, 2]
    assert score["alarms"] == [[0, 200]]


def test_colours_are_pairs_of_bars_and_missed_ones_are_named(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    run.write_colours(100, MODES)
    text = text_of(run, out=tmp_path / "page.html")
    bars = re.findall(r'<rect class="([\w -]+)" width="([\d.]+)%"[^>]*/></svg><span>(.*?)</span>', text)
    assert bars == [  # the longest is that of 75 %
        ("of-data", "66.7", "data 50.0%"),
        ("of-samples c0", "33.3", "samples 25.0%"),
        ("of-data", "40.0", "data 30.0%"),
        ("of-samples c0", "100.0", "samples 75.0%"),
        ("of-data", "26.7", "data 20.0%"),
        ("of-samples missed", "1.3", 'samples 1.0% <strong class="missed">missed</strong>'),
    ]
    assert re.findall(r'<rect fill="(#\w+)"', text) == ["#e6cc39", "#39ace6", "#e63939"]  # 90 % bright
    assert re.findall(r"<span>([\w-]+) <small>hue (\d+)°, saturation 0.75<", text) == [
        ("yellow", "51"),
        ("blue", "200"),
        ("red", "0"),
    ]


def test_grey_data_have_modes_of_brightness(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    dark = ColourMode(hue=0, saturation=0, brightness=0.2, data_share=1, sample_share=0, reached=False)
    run.write_colours(100, [dark])
    text = text_of(run, out=tmp_path / "page.html")
    assert "reach 0 of the 1 commonest brightnesses of the data" in text
    assert 'fill="#333333"' in text
    assert "<span>grey <small>brightness 0.20</small></span>" in text


GOOD = {"hue": 51, "saturation": 0.7, "brightness": None, "data_share": 0.2, "sample_share": 0.31, "reached": True}


@pytest.mark.parametrize(
    "change",
    [
        {"hue": None},
        {"hue": 361},
        {"hue": float("nan")},
        {"saturation": "<b>"},
        {"brightness": -1},
        {"data_share": 2},
        {"sample_share": True},
        {"reached": 1},
    ],
)
def test_odd_rows_of_colours_are_passed_over(change: dict[str, Any], tmp_path: Path) -> None:
    assert len(colour_modes({"step": 1, "modes": [GOOD]})) == 1
    run = made_run(tmp_path / "run")
    odd: list[Any] = [[GOOD, {**GOOD, **change}], [GOOD, 3], {"a": 1}, None, []]
    lines = [{"step": 5, "modes": [GOOD]}, *({"step": 9, "modes": modes} for modes in odd), {"step": 10}]
    run.colours.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = text_of(run, out=tmp_path / "page.html")
    assert "samples of step 5 reach 1 of the 1 commonest colours" in text


def test_nearest_images_alone_make_the_panel(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    write_png(run.nearest, np.zeros((30, 60, 3), np.uint8))
    text = text_of(run, out=tmp_path / "page.html")
    assert '<section id="collapse"' in text
    assert '<figure class="nearest" data-run="0" data-picture="0">' in text
    assert verdicts_of(text) == []


def test_meanings_are_those_of_the_whole_name() -> None:
    assert meaning("eval/fid_efflite0_n2048") == "Fréchet distance of features"
    assert meaning("collapse/colour_js_k8_n680") == "divergence of colours, bits"
    assert meaning("time/eval_share").startswith("part of the time")
    assert meaning("eval/fidelity_n9") == meaning("loss/d_extra") == meaning("score/real_n9") == ""
