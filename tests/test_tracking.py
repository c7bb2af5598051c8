import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from dcgan_dist.tracking import ConsoleSink, JsonLines, Tracker

ROW = {
    "loss/d": 0.5,
    "loss/g": 1.25,
    "score/real": 0.75,
    "score/fake": 0.125,
    "time/images_per_second": 640.0,
    "time/pause": 0.0,
}


def test_json_lines_are_cut_back_to_the_resumed_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path, keep_bytes=0)
    first.scalars(1, {"loss/d": 0.5})
    kept = first.size()
    assert kept == len('{"step": 1, "loss/d": 0.5}\n')
    first.scalars(2, {"loss/d": 0.25})
    first.close(failed=True)
    second = JsonLines(path, keep_bytes=kept)
    second.scalars(2, {"loss/d": 0.125})
    second.close(failed=False)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss/d": 0.5},
        {"step": 2, "loss/d": 0.125},
    ]


def test_a_row_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl", keep_bytes=0)
    sink.scalars(7, ROW)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 7, **ROW}
    sink.close(failed=False)


def test_what_is_no_number_is_null_because_json_has_no_word_for_it(tmp_path: Path) -> None:
    """As gradient norms are when fp16 overflows; its scaler then leaves the step out."""
    sink = JsonLines(tmp_path / "metrics.jsonl", keep_bytes=0)
    sink.scalars(7, {"gradient_norm/d": math.inf, "gradient_norm/g": math.nan, "loss/d": 0.5})
    sink.close(failed=False)
    line = (tmp_path / "metrics.jsonl").read_text()
    assert line == '{"step": 7, "gradient_norm/d": null, "gradient_norm/g": null, "loss/d": 0.5}\n'


def test_plain_lines_where_there_is_no_terminal() -> None:
    text = io.StringIO()
    sink = ConsoleSink(Console(file=text), total_steps=100, first_step=0, quiet=False)
    sink.advance(9)
    assert text.getvalue() == ""
    sink.scalars(10, ROW)
    sink.scalars(20, ROW | {"time/pause": 1.25})
    sink.close(failed=False)
    line, after_a_pause = text.getvalue().splitlines()
    assert line.startswith("step 10/100  640 images/s  loss D 0.500 G 1.250  D(x) 0.75 D(G(z)) 0.12  left 0:0")
    assert "\x1b" not in line
    assert "paused" not in line
    assert after_a_pause.endswith("  paused 1.2 s")


class Screen(io.StringIO):
    """What a terminal would get."""

    def isatty(self) -> bool:
        return True


def test_a_live_display_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    text = Screen()
    sink = ConsoleSink(Console(file=text, width=140), total_steps=100, first_step=0, quiet=False)
    sink.scalars(10, ROW)
    sink.advance(11)
    sink.close(failed=False)
    shown = text.getvalue()
    assert "11/100" in shown
    assert "640 img/s D 0.500 G 1.250 D(x) 0.75" in shown
    assert "\x1b" in shown


def test_plain_lines_where_a_log_is_coloured_and_where_a_terminal_cannot_move_its_cursor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    log = io.StringIO()
    ConsoleSink(Console(file=log), total_steps=100, first_step=0, quiet=False).scalars(10, ROW)
    monkeypatch.setenv("TERM", "dumb")
    dumb = Screen()
    ConsoleSink(Console(file=dumb), total_steps=100, first_step=0, quiet=False).scalars(10, ROW)
    for text in (log, dumb):
        assert text.getvalue().startswith("step 10/100  640 images/s")
        assert text.getvalue().count("\n") == 1


def test_who_wants_it_quiet_hears_warnings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    text = Screen()
    with Tracker(console=ConsoleSink(Console(file=text), total_steps=100, first_step=0, quiet=True)) as tracker:
        tracker.scalars(10, ROW)
        tracker.advance(11)
        tracker.say("step 11: as it was")
        tracker.alert("collapse", "all samples are alike")
    assert text.getvalue() == "warning: all samples are alike\n"


def test_a_rank_without_sinks_does_nothing() -> None:
    with Tracker() as tracker:
        tracker.scalars(1, ROW)
        tracker.advance(1)
        tracker.picture(1, "samples", path=Path("nowhere.png"))
        assert tracker.metrics_bytes() == 0


def test_sinks_are_closed_as_failed_when_the_run_fails() -> None:
    closed = []

    class Spy(ConsoleSink):
        def close(self, *, failed: bool) -> None:
            closed.append(failed)

    def spy() -> Spy:
        return Spy(Console(file=io.StringIO()), total_steps=1, first_step=0, quiet=False)

    with Tracker(console=spy()):
        pass
    with pytest.raises(RuntimeError), Tracker(console=spy()):
        raise RuntimeError
    assert closed == [False, True]
