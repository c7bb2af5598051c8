"""Where a run's time goes, against seconds counted by hand."""

import json
from types import SimpleNamespace

import pytest

from dcgan_dist import clock
from dcgan_dist.clock import PARTS, Account, Clock, Spent, seconds_for_people


class Time:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=made.perf_counter))
    return made


def trained(time: Time, *, processes: int = 1, measures: bool = True) -> Clock:
    """Two steps of 3 s (1 of it data, 0.5 communication) after a start of 9 s, a checkpoint of 2 s, 1 s of nothing."""
    watch = Clock(processes=processes, measures_communication=measures)
    time.now += 9
    watch.begin()
    watch.start(0)
    for _ in range(2):
        with watch.measured("compute"):
            with watch.measured("data"):
                time.now += 1
            time.now += 2
        watch.waited(0.5)
        watch.trained(16)
    with watch.measured("checkpoints"):
        time.now += 2
    time.now += 1
    return watch


def test_every_second_is_in_one_part(time: Time) -> None:
    account = trained(time).account()
    found = {name: part.seconds for name, part in account.parts.items() if part.seconds}
    assert found == {"compute": 3, "communication": 1, "data": 2, "checkpoints": 2, "rest": 1}
    assert account.seconds == 9  # the start is not counted
    assert account.images == 32
    assert account.images_per_second == pytest.approx(32 / 9)
    assert account.division() == "compute 33.4%, data 22.2%, checkpoints 22.2%, communication 11.1%, rest 11.1%"
    assert account.pauses() == "1 checkpoint of 2.0 s"


def test_a_row_has_seconds_a_step_without_pauses(time: Time) -> None:
    watch = trained(time, processes=4)
    assert watch.read(2) == {"time/step": 3.5, "time/data": 1.0, "time/pause": 2.0, "time/communication": 0.5}
    time.now += 5
    assert watch.read(4) == {"time/step": 2.5, "time/data": 0.0, "time/pause": 0.0, "time/communication": 0.0}
    assert "time/communication" not in trained(time).read(2)  # one process waits for nobody


def test_what_is_not_measured_is_not_told_apart(time: Time) -> None:
    watch = trained(time, processes=4, measures=False)
    account = watch.account()
    assert account.shares()["compute"] == pytest.approx(4 / 9)
    assert "share/communication" not in account.scalars()
    assert account.division().startswith("compute and communication (not measured apart) 44.5%")
    assert "time/communication" not in watch.read(2)


def test_a_resumed_run_goes_on_with_its_account(time: Time) -> None:
    before = trained(time, processes=4).account()
    watch = Clock(processes=1, measures_communication=True)
    watch.go_on_from(Account.from_json(json.loads(json.dumps(before.as_json()))))
    watch.begin()
    watch.start(2)
    with watch.measured("compute"):
        time.now += 1
    watch.trained(16)
    with watch.measured("checkpoints"):
        time.now += 4
    with watch.measured("checkpoints", times=0):
        time.now += 0.5
    assert watch.read(3) == {"time/step": 1.0, "time/data": 0.0, "time/pause": 4.5}  # of this start alone
    account = watch.account()
    assert account.seconds == 14.5
    assert account.images == 48
    assert account.process_seconds == 4 * 9 + 5.5
    assert account.speed() == "3 images/s, 1 a process"
    assert account.pauses() == "2 checkpoints of 3.2 s (longest 4.0 s)"


def test_shares_for_people_add_up_to_100_percent() -> None:
    account = Account(
        parts={name: Spent(seconds) for name, seconds in zip(PARTS, (1, 1, 1, 0, 0, 0, 0, 0), strict=True)}
    )
    assert account.division() == "compute 33.4%, communication 33.3%, data 33.3%"
    assert sum(account.shares().values()) == pytest.approx(1)
    assert Account().division() == ""


@pytest.mark.parametrize(
    "told", [None, {}, "text", {"images": 1, "process_seconds": 1.0, "measured": True, "parts": {"compute": [1]}}]
)
def test_what_is_no_account_is_refused(told: object) -> None:
    with pytest.raises(ValueError, match="no account of a run's time"):
        Account.from_json(told)


@pytest.mark.parametrize("number", [float("nan"), -1.0, "1", 1e300, None])
def test_numbers_that_no_clock_has_counted_are_refused(number: object) -> None:
    told = Account().as_json()
    told["parts"]["data"][0] = number
    with pytest.raises(ValueError, match="out of range"):
        Account.from_json(told)


def test_seconds_for_people() -> None:
    found = [seconds_for_people(seconds) for seconds in (0.00181, 0.0123, 0.0994, 0.0996, 5.43, 9.94, 9.96, 1234.5)]
    assert found == ["1.8 ms", "12 ms", "99 ms", "0.1 s", "5.4 s", "9.9 s", "10 s", "1,234 s"]
