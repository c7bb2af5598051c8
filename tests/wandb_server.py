"""The stand-in W&B server of the shared folder in a process of its own, and what it was asked.

As a script it is that server, which then also takes sweeps and artifacts, keeps the config of each run,
and hands an agent the next point when it is done with the one before.
"""

import contextlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

from tests.shared import REPOSITORY, SHARED

STAND_IN = SHARED / "wandb" / "fake_server.py"
KEY = "0123456789" * 4


@dataclass
class Server:
    """A server that is up."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    home: Path
    """Of its clients: no key, no settings of the user."""

    def environment(self, **more: str) -> dict[str, str]:
        """Variables of a client with a key."""
        return {**without_wandb(self.home), "WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, **more}

    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def asked(self, name: str) -> list[dict[str, Any]]:
        """Variables of the GraphQL requests of this name."""
        return [request["variables"] for request in self.requests() if request.get("graphql") == name]

    def runs(self) -> set[str]:
        """Ids of all runs that it was told of."""
        return {variables["name"] for variables in self.asked("UpsertBucket")}

    def history(self, run_id: str) -> list[dict[str, Any]]:
        """Rows of a run in the order that it would show them in: by W&B's own count."""
        found = {}
        for request in self.requests():
            if request.get("history") == run_id:
                for place, row in enumerate(request["rows"], request["offset"]):
                    found[place] = row
        return [found[place] for place in sorted(found)]

    def config(self, run_id: str) -> dict[str, Any]:
        """The last config that it was told for a run."""
        told = [json.loads(v["config"]) for v in self.asked("UpsertBucket") if v["name"] == run_id and v.get("config")]
        return {name: entry["value"] for name, entry in told[-1].items()}

    def exit_codes(self, run_id: str) -> list[int]:
        streams = [request for request in self.requests() if f"/{run_id}/" in request.get("stream", "")]
        return [request["exitcode"] for request in streams if request["exitcode"] is not None]

    def switch(self, kind: str) -> None:
        """An outage: 500, hang, killed; or ok."""
        if kind == "killed":
            self.process.kill()
            self.process.wait()
            return
        request = urllib.request.Request(f"{self.url}/control/{kind}", data=b"", method="POST")
        with urllib.request.urlopen(request, timeout=10):
            pass


def without_wandb(home: Path) -> dict[str, str]:
    """The environment without anything of W&B's, and with a home of its own; no system metrics."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "ACCELERATE"))}
    return {
        **kept,
        "HOME": str(home),
        "NETRC": str(home / "netrc"),
        "PYTHONPATH": str(REPOSITORY),
        "WANDB_X_DISABLE_STATS": "true",
        "WANDB_ERROR_REPORTING": "false",
    }


@contextlib.contextmanager
def served(directory: Path, *, sweep: Path | None = None, runs: Sequence[dict[str, Any]] = ()) -> Iterator[Server]:
    """A server that does not outlive the block.

    Args:
        directory: for its files.
        sweep: the sweep file that agents are told of.
        runs: what it hands to agents, as the stand-in wants it.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log, home, handed = directory / "requests.jsonl", directory / "home", directory / "runs.json"
    home.mkdir(parents=True)
    handed.write_text(json.dumps(list(runs)))
    command = [sys.executable, "-m", "tests.wandb_server", str(port), str(log)]
    command += [str(sweep), str(handed)] if sweep else []
    process = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Server(f"http://127.0.0.1:{port}", process, log, home)
    finally:
        process.kill()
        process.wait()


def wandb_command() -> str:
    """The program ``wandb`` of this environment."""
    return shutil.which("wandb", path=str(Path(sys.executable).parent)) or "wandb"


def _main() -> None:
    serve = ThreadingHTTPServer.serve_forever

    def serve_more(server: ThreadingHTTPServer) -> None:
        known = server.RequestHandlerClass.do_POST.__globals__  # type: ignore[attr-defined]
        answers = known["ANSWERS"]
        configs: dict[str, str] = {}
        upsert, resume, heartbeat = (answers[name] for name in ("UpsertBucket", "RunResumeStatus", "Heartbeat"))

        def keep_config(variables: dict[str, Any]) -> Any:
            configs[variables["name"]] = variables.get("config") or configs.get(variables["name"], "{}")
            return upsert(variables)

        def tell_config(variables: dict[str, Any]) -> Any:
            answer = resume(variables)
            if answer["model"]["bucket"]:
                answer["model"]["bucket"]["config"] = configs[variables["name"]]
            return answer

        def one_at_a_time(variables: dict[str, Any]) -> Any:
            if json.loads(variables["runState"]):
                return {"agentHeartbeat": {"agent": {"id": "ag1"}, "commands": "[]"}}
            return heartbeat(variables)

        def upsert_sweep(_: dict[str, Any]) -> Any:
            sweep = {"name": "swp00001", "project": known["PROJECT"]}
            return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

        artifact = {"id": "YQ==", "state": "PENDING", "artifactSequence": {"id": "cw==", "latestArtifact": None}}
        url = f"http://127.0.0.1:{server.server_port}/upload/manifest"
        file = {"id": "Zg==", "name": "manifest", "displayName": "manifest", "uploadUrl": url, "uploadHeaders": []}
        manifest = {"id": "bQ==", "file": file}

        answers |= {
            "UpsertBucket": keep_config,
            "RunResumeStatus": tell_config,
            "Heartbeat": one_at_a_time,
            "UpsertSweep": upsert_sweep,
            "ArtifactType": lambda _: {"project": None},
            "CreateArtifact": lambda _: {"createArtifact": {"artifact": artifact}},
            "CreateArtifactManifest": lambda _: {"createArtifactManifest": {"artifactManifest": manifest}},
            "UpdateArtifactManifest": lambda _: {"updateArtifactManifest": {"artifactManifest": manifest}},
            "CommitArtifact": lambda _: {"commitArtifact": {"artifact": {"id": "YQ==", "digest": ""}}},
        }
        serve(server)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with mock.patch.object(ThreadingHTTPServer, "serve_forever", serve_more):
        runpy.run_path(str(STAND_IN), run_name="__main__")


if __name__ == "__main__":
    _main()
