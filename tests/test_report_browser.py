"""The page in a real browser: headless Chromium, driven by Playwright; skipped where one of them is missing."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcgan_dist.pages import write_report
from dcgan_dist.sweeps.report import write_sweep_report
from tests.runs import EDGES, collapse_rows, made_run, mode, training_rows
from tests.sweeps.made import KID, kid_rows, made_sweep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if os.environ.get("DCGAN_NEED_BROWSER"):  # .ci/run: what is missing is an error
    import playwright.sync_api as api

    assert CHROMIUM, "DCGAN_NEED_BROWSER is set, and there is no chromium on PATH"
else:
    api = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs chromium on PATH (apt-get install chromium)"),
]
MILLISECONDS = 120_000
"""A page may take on a machine that does other things."""

WIDTHS = (400, 1600)
QUALITY = [{"step": step, "eval/fid_e_n9": 30 - step / 100, "eval/fid_e_n9_floor": 5.0} for step in (100, 200)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, timeout=MILLISECONDS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page about one run, one about two, and one about a run that has just begun."""
    path = tmp_path_factory.mktemp("pages")
    histograms = [
        {"step": step, "edges": EDGES, "real": [0, 1, 1, 2 + step], "fake": [3, 1, 0, 0], "held_out": [1, 1, 1, 1]}
        for step in (0, 200)
    ]
    one = made_run(
        path / "flowers17-arch1-with-a-rather-long-name-<script>alert(1)<",
        rows=[*training_rows(30), *QUALITY],
        histograms=histograms,
        grid_steps=[0, 100, 200, 300],
    )
    other = made_run(
        path / "other", settings={"batch_size": 32, "lr": 1e-3}, rows=training_rows(20), grid_steps=[0, 150]
    )
    empty = made_run(path / "empty")
    extremes = (1e300, -1e300, 5e-324, 1e-300, float("nan"), float("inf"), 0, 1.0)
    odd = made_run(
        path / "odd",
        rows=[
            {"step": 10 ** (2 * place), "loss/d": value, "loss/g": -value, "eval/is_e_n9": 1e-300, f"x/{value}": value}
            for place, value in enumerate(extremes)
        ],
        histograms=[{"step": 10, "edges": [-1e300, 0, 1e300], "real": [1e300, 1e300], "fake": [0, 0]}],
    )
    odd.set_status("failed", "half a character: \ud800")
    collapsed = [
        made_run(path / "fallen", rows=[*training_rows(30), *collapse_rows(0.9, 0.2, 0.5, alarms=[300])]),
        made_run(path / "sound", rows=[*training_rows(30), *collapse_rows(0.9, 0.2, 0.1)]),
    ]
    for run in collapsed:
        run.write_colours(300, [mode(51, data_share=0.8, sample_share=0.4), mode(300, data_share=0.2, sample_share=0)])
    written = {"one": [one], "two": [one, other], "empty": [empty], "odd": [odd], "collapse": collapsed}
    for name, runs in written.items():
        write_report([run.path for run in runs], path / f"{name}.html")
    sweep = made_sweep(path, rows=lambda point: None if point.index == 11 else kid_rows(point), grid_steps=[0, 200])
    write_sweep_report(sweep, path / "runs", out=path / "sweep.html", baseline="lr=0.0003,batch_size=16")
    return {name: path / f"{name}.html" for name in (*written, "sweep")}


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """A function that opens a page by name; afterwards, nothing may have been said to the console."""
    said: list[str] = []
    contexts = []

    def opens(name: str, *, width: int = 1600, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        context.set_default_timeout(MILLISECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(pages[name].as_uri())
        return page

    yield opens
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one", "two", "empty", "collapse", "sweep"])
def test_a_page_fits_its_window(name: str, width: int, scheme: str, opened: Any) -> None:
    page = opened(name, width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = "[...document.querySelectorAll('svg text, small, td')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    assert min(page.evaluate(sizes)) >= 11
    channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (min(channels) > 200) == (scheme == "light")
    if width == 400 and name in ("one", "two", "sweep"):
        widths = page.evaluate(
            "[...document.querySelectorAll('.chart svg, .plot svg')].map(e => e.getBoundingClientRect().width)"
        )
        assert min(widths) > 300
        assert page.evaluate("document.querySelector('figure.grid img').getBoundingClientRect().width") <= width


DRAWN = """title => {
  const figure = [...document.querySelectorAll('figure.chart')].find(each => each.dataset.title === title);
  const svg = figure.querySelector('svg'), numbers = text => text.split(' ').map(Number);
  const points = path => [...path.getAttribute('d').matchAll(/[ML](\\S+) (\\S+?)(?=L|$)/g)]
    .map(match => [Number(match[1]), Number(match[2])]);
  return {area: numbers(svg.dataset.area), x: numbers(svg.dataset.x), y: numbers(svg.dataset.y),
    curves: Object.fromEntries([...svg.querySelectorAll('path[data-name]')]
      .map(path => [path.dataset.run + path.dataset.name, points(path)]))};
}"""


def drawn(page: Any, title: str) -> tuple[dict[str, list[tuple[float, float]]], dict[str, Any]]:
    """The points of each curve in a chart, from pixels back to the numbers of its axes (linear)."""
    found = page.evaluate(DRAWN, title)
    left, top, right, bottom = found["area"]
    (low_x, high_x), (low_y, high_y) = found["x"], found["y"]
    wide, high = (high_x - low_x) / (right - left), (high_y - low_y) / (bottom - top)
    curves = {
        name: [(low_x + (x - left) * wide, low_y + (bottom - y) * high) for x, y in points]
        for name, points in found["curves"].items()
    }
    return curves, found


@pytest.mark.parametrize("width", WIDTHS)
def test_curves_are_the_metrics(width: int, opened: Any) -> None:
    page = opened("one", width=width)
    rows = training_rows(30)
    for title, names in {"Loss": ("loss/d", "loss/g"), "Mean score": ("score/real", "score/fake")}.items():
        curves, found = drawn(page, title)
        x_pixel = 0.02 * (found["x"][1] - found["x"][0]) / (found["area"][2] - found["area"][0])
        y_pixel = 0.02 * (found["y"][1] - found["y"][0]) / (found["area"][3] - found["area"][1])
        assert list(curves) == [f"0{name}" for name in names]
        for name in names:
            points = curves[f"0{name}"]
            assert [x for x, _ in points] == pytest.approx([row["step"] for row in rows], abs=x_pixel)
            assert [y for _, y in points] == pytest.approx([row[name] for row in rows], abs=y_pixel)
    assert [y for _, y in drawn(page, "eval/fid_e_n9")[0]["0eval/fid_e_n9_floor"]] == pytest.approx([5, 5], abs=0.1)


def test_the_log_scale_and_smoothing_draw_anew(opened: Any) -> None:
    page = opened("one")
    before = drawn(page, "Loss")[1]
    page.check("#log")
    after = drawn(page, "Loss")[1]
    _, top, _, bottom = after["area"]
    low, high = after["y"]
    for (_, pixel), row in zip(after["curves"]["0loss/g"], training_rows(30), strict=True):
        share = (math.log(row["loss/g"]) - math.log(low)) / (math.log(high) - math.log(low))
        assert bottom - share * (bottom - top) == pytest.approx(pixel, abs=0.02)
    assert before["curves"] != after["curves"]
    page.locator("#smoothing").fill("0.9")
    assert page.inner_text("#smoothing-value") == "0.90"


def test_hovering_reads_the_values(opened: Any) -> None:
    page = opened("one")
    rows = training_rows(30)
    svg = page.locator("figure.chart[data-title=Loss] svg")
    svg.scroll_into_view_if_needed()
    left, _, right, _ = page.evaluate(DRAWN, "Loss")["area"]
    svg.hover(position={"x": left + (right - left) * 0.5, "y": 60})
    figure = page.locator("figure.chart[data-title=Loss]")
    assert figure.locator("figcaption output").inner_text() == "step 150"
    values = figure.locator(".legend b").all_inner_texts()
    assert [float(value) for value in values] == pytest.approx([rows[14]["loss/d"], rows[14]["loss/g"]], rel=1e-3)
    assert page.locator("line.cursor").count() == page.locator("figure.chart").count()  # in all charts
    svg.focus()
    page.keyboard.press("ArrowRight")
    assert figure.locator("figcaption output").inner_text() == "step 160"
    assert "step 160" in page.locator("#readout").text_content()
    page.keyboard.press("Escape")
    assert figure.locator("figcaption output").inner_text() == "last values"


def test_the_slider_moves_all_pictures(opened: Any) -> None:
    page = opened("two")
    images = page.locator("figure.grid img")
    labels = page.locator("figure.grid .at")
    assert labels.all_inner_texts() == ["step 300", "step 150"]
    slider = page.locator("#position")
    slider.focus()
    seen = {}
    for expected in (("200", "150"), ("100", "150"), ("100", "0"), ("0", "0")):  # the newest grid that each run has
        page.keyboard.press("ArrowLeft")
        shown = labels.all_inner_texts()
        assert shown == [f"step {step}" for step in expected]
        seen[shown[0]] = images.first.get_attribute("src")
        assert slider.get_attribute("aria-valuetext") == page.inner_text("#position-value")
    assert len(set(seen.values())) == 3
    assert page.locator("figure.histogram .at").inner_text() == "step 0"
    page.keyboard.press("End")
    assert page.locator("figure.histogram .at").inner_text() == "step 200"
    red = page.evaluate("""async () => {
      const image = document.querySelector('figure.grid img'); await image.decode();
      const canvas = document.createElement('canvas').getContext('2d');
      canvas.drawImage(image, 0, 0); return [...canvas.getImageData(9, 9, 1, 1).data];
    }""")
    assert red == pytest.approx([100, 0, 0, 255], abs=6)  # the fourth grid


def test_playing_goes_to_the_end(opened: Any) -> None:
    page = opened("one")
    page.evaluate("""() => { window.seen = [];
      const [step, play] = ['#position-value', '#play'].map(each => document.querySelector(each));
      new MutationObserver(() => seen.push([step.innerText, play.ariaLabel])).observe(
        step, {childList: true, characterData: true, subtree: true}); }""")
    page.click("#play")
    api.expect(page.locator("#play")).to_have_attribute("aria-label", "Play", timeout=MILLISECONDS)
    seen = page.evaluate("seen")
    assert [step for step, _ in seen] == ["step 0", "step 100", "step 200", "step 300"]  # from the beginning again
    assert {label for _, label in seen[1:-1]} == {"Pause"}


def test_a_click_on_a_curve_moves_the_slider(opened: Any) -> None:
    page = opened("one")
    svg = page.locator("figure.chart[data-title=Loss] svg")
    svg.scroll_into_view_if_needed()
    left, _, right, _ = page.evaluate(DRAWN, "Loss")["area"]
    svg.click(position={"x": left + (right - left) * 0.36, "y": 60})
    assert page.inner_text("#position-value") == "step 100"


def test_histograms_are_shares_of_images(opened: Any) -> None:
    page = opened("one")
    names = page.evaluate("[...document.querySelectorAll('.bars')].map(each => each.dataset.name)")
    assert names == ["real", "fake", "held_out"]
    area, high = page.evaluate("""() => { const svg = document.querySelector('figure.histogram svg');
      return [svg.dataset.area.split(' ').map(Number), Number(svg.dataset.y.split(' ')[1])]; }""")
    points = page.evaluate("document.querySelector('.bars').getAttribute('d')")
    tops = [area[3] - float(part.split()[1]) for part in points[1:].split("L")][1:-1:2]
    shares = [top / (area[3] - area[1]) * high for top in tops]
    assert shares == pytest.approx([0, 100 / 204, 100 / 204, 100 * 202 / 204], abs=0.02)


def test_a_run_can_be_hidden_and_images_be_the_axis(opened: Any) -> None:
    page = opened("two")
    assert len(drawn(page, "loss/d: discriminator")[0]) == 2
    page.select_option("#axis", "images")
    curves, _ = drawn(page, "loss/d: discriminator")
    assert curves["0loss/d"][-1][0] == pytest.approx(300 * 16, rel=1e-3)
    assert curves["1loss/d"][-1][0] == pytest.approx(200 * 32, rel=1e-3)
    page.locator(".show-run").nth(1).uncheck()
    assert list(drawn(page, "loss/d: discriminator")[0]) == ["0loss/d"]
    assert page.locator("figure.grid:visible").count() == 1


def test_values_are_read_only_where_a_curve_is(opened: Any) -> None:
    page = opened("two")  # one run of 300 steps, one of 200
    figure = page.locator("figure.chart[data-title='loss/d: discriminator']")
    svg = figure.locator("svg")
    svg.focus()
    page.keyboard.press("End")
    assert figure.locator("figcaption output").inner_text() == "step 300"
    rows = training_rows(30)
    assert figure.locator(".legend b").all_inner_texts() == [f"{rows[-1]['loss/d']:.4g}", "–"]  # noqa: RUF001
    assert figure.locator(".dot").count() == 1
    page.keyboard.press("Home")
    assert "–" not in figure.locator(".legend").inner_text()  # noqa: RUF001


def test_alarms_are_marked_at_their_level_and_steps(opened: Any) -> None:
    page = opened("collapse")
    title = "collapse/score_n680: variety that samples lack"
    figure = page.locator(f"figure.chart[data-title='{title}']")
    area = page.evaluate(DRAWN, title)["area"]
    low, high = page.evaluate(DRAWN, title)["y"]
    level = float(figure.locator("line.level").get_attribute("y1"))
    assert low + (area[3] - level) / (area[3] - area[1]) * (high - low) == pytest.approx(0.35, abs=0.005)
    assert "alarm from 0.35" in figure.locator(".legend").inner_text()
    (at,) = figure.locator("line.alarm").all()
    assert float(at.get_attribute("x1")) == pytest.approx(area[2], abs=0.1)  # the last step
    assert "alarm at step 300 of fallen" in figure.locator("svg").get_attribute("aria-label")
    assert page.locator("line.level").count() == 1
    page.locator(".show-run").first.uncheck()
    assert figure.locator("line.alarm").count() == 0
    assert page.locator(".verdict:visible").all_inner_texts() == ["sound: No alarm. The score is 0.1 at step 300."]
    assert page.locator("figure.modes:visible").count() == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_are_the_shares_of_a_colour(width: int, opened: Any) -> None:
    page = opened("collapse", width=width)
    table = page.locator("figure.modes table").first
    bars = [bar.bounding_box()["width"] for bar in table.locator("svg.share rect").all()]
    assert bars[0] > 50
    assert bars == pytest.approx([bars[0], bars[0] / 2, bars[0] / 4, 0], abs=0.5)
    swatches = table.locator("svg.colour rect").evaluate_all("each => each.map(e => getComputedStyle(e).fill)")
    assert swatches == ["rgb(230, 204, 57)", "rgb(230, 57, 230)"]
    missed = table.locator("td").nth(1).inner_text()
    assert "data 20.0%" in missed
    assert "samples 0.0% missed" in missed


def test_odd_numbers_are_drawn_without_a_complaint(opened: Any) -> None:
    page = opened("odd", width=400)
    svg = page.locator("figure.chart svg").first
    for _ in range(2):
        svg.focus()
        page.keyboard.press("ArrowLeft")
        assert "NaN" not in page.locator("#game").inner_html()
        page.check("#log")
    assert "half a character: ?" in page.inner_text("header")


def test_all_settings_on_demand(opened: Any) -> None:
    page = opened("one")
    usual = page.locator("#settings-table tr.usual")
    assert not usual.first.is_visible()
    page.check("#all-settings")
    assert usual.first.is_visible()


def test_an_empty_run_has_a_page(opened: Any) -> None:
    page = opened("empty")
    assert "This run has no metrics yet." in page.inner_text("header")
    assert page.locator("#toolbar, #position, svg").count() == 0


ESTIMATES = """parameter => {
  const svg = document.querySelector(`figure.plot[data-parameter=${parameter}] svg`);
  const [, top, , bottom] = svg.dataset.area.split(' ').map(Number), [low, high] = svg.dataset.y.split(' ').map(Number);
  const value = (y) => low + (bottom - Number(y)) / (bottom - top) * (high - low);
  return [...svg.querySelectorAll('g.estimate')].map(group => ({
    setting: Number(group.querySelector('.dot').dataset.setting),
    mean: value(group.querySelector('.dot').getAttribute('cy')),
    seeds: [...group.querySelectorAll('.seed')].map(each => value(each.getAttribute('cy'))),
    ends: [...group.querySelectorAll('.whisker')].flatMap(each =>
      ['y1', 'y2'].map(end => value(each.getAttribute(end)))),
    said: group.querySelector('title').textContent,
  }));
}"""


def test_a_parameter_plot_shows_seeds_means_and_intervals(opened: Any) -> None:
    page = opened("sweep")
    for parameter in ("lr", "batch_size"):
        found = {each["setting"]: each for each in page.evaluate(ESTIMATES, parameter)}
        assert len(found) == 4
        assert found[0]["mean"] == pytest.approx(2, abs=0.1)
        assert found[0]["seeds"] == pytest.approx([1, 2, 3], abs=0.1)
        assert found[0]["ends"] == pytest.approx([2 - 2.484, 2 + 2.484], abs=0.1)
        assert found[0]["said"] == "lr=0.0003, batch_size=16: 2 (-0.4841 to 4.484, 3 seeds)"
    labels = page.locator("figure.plot[data-parameter=batch_size] svg > text").all_text_contents()
    assert labels[-2:] == ["16", "32"]


def test_another_measure_draws_plots_and_heat_map_anew(opened: Any) -> None:
    page = opened("sweep")
    cells = page.locator("#heat-table td")
    assert [text.split()[0] for text in cells.all_inner_texts()] == ["4", "3", "2", "1.8"]  # two seeds of the second
    assert page.locator("#heat-table td.best").all_inner_texts() == [cells.nth(3).inner_text()]
    page.select_option("#measure", label="loss/d: discriminator")
    assert [text.split()[0] for text in cells.all_inner_texts()] == ["2", "1.5", "2", "2"]
    assert page.locator("#heat-table td.best").count() == 0
    assert {round(each["mean"], 1) for each in page.evaluate(ESTIMATES, "lr")} == {1.5, 2.0}
    for option in page.locator("#measure option").all_inner_texts():
        page.select_option("#measure", label=option)
        assert "NaN" not in page.locator("#parameters").inner_html()


def test_a_setting_can_be_hidden_with_its_samples(opened: Any) -> None:
    page = opened("sweep")
    assert page.locator("figure.grid:visible").count() == 11
    assert page.locator(".seeds .at").all_inner_texts() == ["step 200"] * 11
    page.locator("#position").focus()
    page.keyboard.press("Home")
    assert page.locator(".seeds .at").all_inner_texts() == ["step 0"] * 11
    title = next(
        title
        for title in page.evaluate("[...document.querySelectorAll('figure.chart')].map(e => e.dataset.title)")
        if title.startswith(KID)
    )
    curves, _ = drawn(page, title)
    assert [y for _, y in curves[f"0{KID}"]] == pytest.approx([4, 2], abs=0.1)
    bands = page.locator("figure.chart").filter(has_text=KID).locator(".band")
    assert bands.count() == 4
    page.locator(".show-run").first.uncheck()
    assert bands.count() == 3
    assert page.locator("figure.grid:visible").count() == 8
