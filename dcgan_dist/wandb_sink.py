"""A run in Weights & Biases: online with a key, offline without; trouble with it never stops, ends or fails training.

What logs returns at once, whatever the server does: all of it goes to W&B in order, from one thread, and in bundles,
because a row by itself takes W&B and its process three times the work of a row among others. What asks the server
(artifacts) has threads of its own.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import yaml

from dcgan_dist.words import shortened

MODES = ("online", "offline", "disabled")
START_SECONDS = 20
"""A server that has not answered by then is done without."""
BUNDLE_SECONDS = 2
"""As long waits what is logged for more to come; W&B writes what it has got each second."""
FINISH_SECONDS = 20
"""What has not been uploaded by then stays on disk, for wandb sync."""
REFERENCE_SECONDS = 10
"""How long the end of a run waits for what is still to be logged and for the server to take artifacts, before that."""
LONGEST_NAME = 128
"""Characters that the server takes for a run's or a group's name."""
LONGEST_JOB_TYPE = 64

AlertLevel = Literal["INFO", "WARN", "ERROR"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run stands among others; None is left to W&B and its variables."""

    name: str
    group: str | None = None
    job_type: str | None = None


class WandbSink:
    """One run in Weights & Biases.

    Args:
        config: flat, as it is shown.
        project: its name.
        run_dir: for W&B's own files.
        run_id: the same over all resumes.
    """

    def __init__(self, config: Mapping[str, Any], *, project: str, run_dir: Path, run_id: str) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # of W&B's own: a DNS look-up, even offline
        os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")  # a kill loses 3 seconds, not 17
        self._told = False
        self._stopped = False
        self._threads: list[threading.Thread] = []
        self._calls: deque[Callable[[], object]] = deque()
        """In the order in which W&B is to get them."""
        self._ended = threading.Event()
        """Set when there will be no more of them."""
        self._run, mode = self._begun(config, project=project, run_dir=run_dir, run_id=run_id)
        self._start(self._log_all)
        self.description = mode
        """For people: where the run can be seen."""
        if mode in ("online", "offline"):
            self._directory = Path(self._run.dir).parent
            self.description = (
                str(self._run.url) if mode == "online" else f"offline; upload later with: wandb sync {self._directory}"
            )

    def _begun(self, config: Mapping[str, Any], *, project: str, run_dir: Path, run_id: str) -> tuple[Any, str]:
        """W&B's run and its mode: the wanted one, else offline, else disabled."""
        import wandb

        def begin(mode: str) -> Any:
            if mode == "disabled":
                return wandb.init(mode="disabled")
            place = place_of(run_dir)
            run = wandb.init(
                project=project,
                name=place.name,
                group=place.group,
                job_type=place.job_type,
                id=run_id,
                resume="allow",
                dir=str(run_dir),
                config=dict(config),
                mode=mode,  # type: ignore[arg-type]
                settings=bounded_settings(),
            )
            run.define_metric("step")
            run.define_metric("*", step_metric="step")
            return run

        try:
            mode = wanted_mode()
            return begin(mode), mode
        except Exception as error:  # W&B's errors have no common base
            _warn(f"{_reason(error)}; going on offline")
            wandb.teardown()  # else the half-started run still owns its id
        try:
            return begin("offline"), "offline"
        except Exception as error:
            _warn(f"{_reason(error)}; going on without")
            return begin("disabled"), "disabled"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._calls.append(lambda: self._run.log({"step": step, **values}))

    def picture(self, step: int, name: str, *, path: Path) -> None:
        import wandb

        kind = wandb.Video if path.suffix == ".gif" else wandb.Image
        self._calls.append(lambda: self._run.log({"step": step, name: kind(str(path))}))

    def histogram(self, step: int, name: str, *, counts: Sequence[int], edges: Sequence[float]) -> None:
        import wandb

        self._calls.append(
            lambda: self._run.log({"step": step, name: wandb.Histogram(np_histogram=(list(counts), list(edges)))})
        )

    def summary(self, values: Mapping[str, float]) -> None:
        """Numbers of the whole run."""
        self._calls.append(lambda: self._run.summary.update(dict(values)))

    def alert(self, title: str, text: str, *, level: AlertLevel) -> None:
        """Send an alert; people get a mail or a message if they want."""
        self._calls.append(lambda: self._run.alert(title, text, level=level))

    def stopped(self, reason: str) -> None:
        """The run ends before its last step, to go on later: W&B calls it preempted, and a sweep hands it out again."""
        self._stopped = True
        self._calls.append(self._run.mark_preempting)
        self.alert("stopped", reason, level="INFO")

    def reference(self, name: str, kind: str, *, uris: Sequence[str], metadata: Mapping[str, Any]) -> None:
        """An artifact that says where files lie, with the checksums of those on this machine; none is copied.

        Args:
            name: of the artifact.
            kind: its type.
            uris: of the files.
            metadata: what else there is to say, JSON values.
        """
        import wandb

        def log() -> None:
            artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
            for uri in uris:
                artifact.add_reference(uri, checksum=uri.startswith("file:"))
            self._run.log_artifact(artifact)

        self._start(partial(self._try, log))

    def close(self, *, failed: bool) -> None:
        self._ended.set()
        deadline = time.monotonic() + REFERENCE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        try:
            self._run.finish(exit_code=int(failed or self._stopped))
        except TimeoutError:
            _warn(f"not all was uploaded in {FINISH_SECONDS} s; later: wandb sync {self._directory}")
        except Exception as error:
            self._tell(error)

    def _start(self, work: Callable[[], object]) -> None:
        thread = threading.Thread(target=work, name="dcgan_dist.wandb", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _log_all(self) -> None:
        """The thread of all that is logged."""
        ended = False
        while not ended:
            ended = self._ended.wait(BUNDLE_SECONDS)
            while self._calls:
                self._try(self._calls.popleft())

    def _try(self, call: Callable[[], object]) -> None:
        """Call; the first error is told, and none is raised."""
        try:
            call()
        except Exception as error:
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            _warn(f"{_reason(error)}; training goes on")


def bounded_settings() -> Any:
    """W&B's settings for a run that a server never holds up for long at its start or end, and that prints nothing."""
    import wandb

    return wandb.Settings(
        init_timeout=START_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
        console="off",
        silent=True,
    )


def check_wandb_mode() -> None:
    """Refuse a WANDB_MODE that is none of W&B's modes, before anything is written.

    Raises:
        ValueError: naming it.
    """
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode not in MODES:
        raise ValueError(f"WANDB_MODE must be one of {', '.join(MODES)}, got {mode!r}")


def wanted_mode() -> str:
    """``WANDB_MODE``, else what ``wandb offline`` or ``disabled`` has set; else online with a key, and offline without.

    Raises:
        RuntimeError: when it is online and there is no key: W&B would ask for one.
    """
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled"):
        return mode
    import wandb

    written = wandb.setup().settings.mode  # W&B's own: its settings files
    if not mode and written in ("offline", "disabled"):
        return str(written)
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    if wandb.login(prompt=False, verify=False):  # a key in a file
        return "online"
    if mode == "online":
        raise RuntimeError("WANDB_MODE is online, and there is no key: wandb login, or set WANDB_API_KEY")
    return "offline"


def agents_run_directory() -> Path | None:
    """Where a run that W&B's agent has started belongs; None for any other."""
    sweep_id, run_id = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return Path("runs") / sweep_id / run_id if sweep_id and run_id else None


def place_of(run_dir: Path) -> Place:
    """The run's name; for a point of a sweep that W&B's agent runs, also its group and job type.

    The name is then all that the agent has chosen, the group that without the seed, below the sweep's id, and the job
    type the seed. WANDB_NAME, WANDB_RUN_GROUP and WANDB_JOB_TYPE win.
    """
    name, group, job_type = run_dir.name, None, None
    path, sweep_id = os.environ.get("WANDB_SWEEP_PARAM_PATH"), os.environ.get("WANDB_SWEEP_ID")
    if path and sweep_id:
        written = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        chosen = {key: entry["value"] for key, entry in written.items() if isinstance(entry, dict)}
        name = _words(chosen)
        seed = chosen.pop("seed", None)
        group = f"{sweep_id}/{_words(chosen)}"
        job_type = None if seed is None else f"seed={seed}"
    return Place(
        name=shortened(os.environ.get("WANDB_NAME") or name, LONGEST_NAME),
        group=None if os.environ.get("WANDB_RUN_GROUP") else group and shortened(group, LONGEST_NAME),
        job_type=None if os.environ.get("WANDB_JOB_TYPE") else job_type and shortened(job_type, LONGEST_JOB_TYPE),
    )


def _words(chosen: Mapping[str, Any]) -> str:
    """Parameters as the directories of a sweep's points are named."""
    return ",".join(f"{name}={quote(str(value), safe='+')}" for name, value in chosen.items()) or "only"


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _warn(sentence: str) -> None:
    print(f"warning: W&B: {sentence}", file=sys.stderr, flush=True)
