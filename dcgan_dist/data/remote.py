"""A directory of shards behind a URL: which URLs are taken, and whole files from there, checked, with retries.

fsspec does the talking. Nothing secret can be in a URL that is taken: keys come from where its libraries look for
them (``~/.netrc``, AWS's variables and files), so that URLs can be printed, logged and kept in config.yaml.
"""

import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import fsspec

ATTEMPTS = 8
"""How often a shard is asked for; the pauses between are FIRST_PAUSE_SECONDS and its doubles, a minute in all."""
INDEX_ATTEMPTS = 5
"""How often index.json is asked for, at the start of a run: who has mistyped a host waits for it."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0
DAMAGED_ATTEMPTS = 3
"""How often a file of the right length and the wrong checksum is asked for: another try seldom helps."""
CONNECT_SECONDS = 10
SILENCE_SECONDS = 30
"""A server that sends nothing for so long is asked again."""
SLOWEST_BYTES_PER_SECOND = 10_000
"""So is one that has sent less on average, after as much silence; else a file may take as long as it takes."""
LARGEST_INDEX = 2**28
"""Bytes of an index.json that are read."""

_CHUNK = 2**20
_TEMPORARY = {408, 425, 429}  # statuses that say "later"; all others from 400 to 499 are final


class StoppedError(Exception):
    """Nobody wants the file any more."""


@dataclass(frozen=True)
class Expected:
    """What a file must be."""

    bytes: int
    sha256: str


class _WrongBytesError(Exception):
    """What came is not what was expected."""

    def __init__(self, found: str, *, attempts: int) -> None:
        super().__init__(found)
        self.attempts = attempts
        """How often to try in all."""


class _DiskError(Exception):
    """What came cannot be written."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def parse_place(data: str) -> "Path | Remote":
    """Where the shards are that the setting ``data`` names: a path, or a directory behind a URL.

    Raises:
        ValueError: If it is a URL of another kind, or has something in it that has no place in a run's records.
    """
    if not data:
        raise ValueError("data must be a directory of shards, got none; make one with dcgan-shard")
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", data)
    if not scheme:
        return Path(data)
    kind = scheme[0][:-1].lower()
    if kind not in ("https", "http", "s3", "file") or not data[len(scheme[0]) :].startswith("//"):
        raise ValueError(
            f"data must be a directory, or a URL that starts with https://, http://, s3:// or file://, got one that "
            f"starts with {scheme[0]} (a directory of such a name: ./{scheme[0]}...)"
        )
    try:
        parts = urlsplit(data)
    except ValueError:
        raise ValueError(f"data must be a URL like {kind}://HOST/DIRECTORY; this one cannot be read") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            f"data must be a {kind}:// URL without user name, password, query and fragment, because it is printed and "
            "kept; fsspec finds keys in ~/.netrc and in AWS's environment variables and files"
        )
    if kind == "file":
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"data must be a file:// URL of this machine, got one of {parts.netloc}")
        return Path(url2pathname(parts.path))
    if not parts.netloc or any(character in data for character in "\0\r\n\t "):
        raise ValueError(f"data must be a URL like {kind}://HOST/DIRECTORY, got {data!r}")
    return Remote(f"{kind}://{parts.netloc}{parts.path.rstrip('/')}", kind)


class Remote:
    """A directory behind an https, http or s3 URL."""

    def __init__(self, url: str, kind: str) -> None:
        self.url = url
        self._kind = kind
        self._system: Any = None

    def name(self, file: str) -> str:
        """The URL of a file of the directory."""
        return f"{self.url}/{file if self._kind == 's3' else quote(file)}"

    def connect(self) -> None:
        """Load what speaks the protocol.

        Raises:
            ValueError: If it is not installed.
        """
        try:
            self._system = _s3() if self._kind == "s3" else _http(self._kind)
        except ImportError as error:
            raise ValueError(f"data {self.url} needs pip install 'dcgan_dist[remote]': {error}") from None

    def read_index(self, file: str) -> bytes:
        """The bytes of index.json.

        Raises:
            ValueError: If there is none.
            OSError: If it does not come.
        """
        pieces: list[bytes] = []

        def attempt() -> None:
            pieces.clear()
            size = 0
            for chunk in self._chunks(file, size=None):
                pieces.append(chunk)
                size += len(chunk)
                if size > LARGEST_INDEX:
                    raise _WrongBytesError(f"more than {LARGEST_INDEX:,} bytes", attempts=1)

        try:
            self._retried(file, attempt, what="an index of shards", attempts=INDEX_ATTEMPTS, stop=Event())
        except FileNotFoundError:
            raise ValueError(
                f"{self.url}: not a directory of shards: no {file} (an upload that did not finish?)"
            ) from None
        return b"".join(pieces)

    def download(self, file: str, handle: int, *, expected: Expected, stop: Event) -> None:
        """Write a whole file to an open one, from its start, and compare it with what is expected.

        Args:
            file: its name in the directory.
            handle: where to.
            expected: what it must be.
            stop: set when nobody wants the file any more.

        Raises:
            OSError: If it does not come or is another; the message has the URL, what was expected and what was found.
            StoppedError: If ``stop`` was set.
        """

        def attempt() -> None:
            digest, size = hashlib.sha256(), 0
            for chunk in self._chunks(file, size=expected.bytes):
                if stop.is_set():
                    raise StoppedError
                if size + len(chunk) > expected.bytes:
                    raise _WrongBytesError(f"more than {expected.bytes:,} bytes", attempts=DAMAGED_ATTEMPTS)
                digest.update(chunk)
                _write(handle, chunk, offset=size)
                size += len(chunk)
            if size < expected.bytes:
                raise _WrongBytesError(f"{size:,} bytes", attempts=ATTEMPTS)
            if digest.hexdigest() != expected.sha256:
                found = f"{size:,} bytes with sha256 {digest.hexdigest()[:12]}..."
                raise _WrongBytesError(found, attempts=DAMAGED_ATTEMPTS)

        what = f"{expected.bytes:,} bytes with sha256 {expected.sha256[:12]}..."
        try:
            self._retried(file, attempt, what=what, attempts=ATTEMPTS, stop=stop)
        except _DiskError as error:
            raise error.cause from None

    def _retried(self, file: str, attempt: Callable[[], None], *, what: str, attempts: int, stop: Event) -> None:
        """Call ``attempt`` until it works, with growing pauses that differ from process to process."""
        pause = FIRST_PAUSE_SECONDS
        number = 0
        while True:
            number += 1
            try:
                attempt()
                return
            except (StoppedError, _DiskError):
                raise
            except Exception as error:  # each protocol's library has its own
                if number >= min(attempts, _useful_attempts(error)):
                    times = f" ({number} attempts)" if number > 1 else ""
                    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
                    raise kind(f"{self.name(file)}: expected {what}, found {_found(error)}{times}") from None
            jittered = pause * random.uniform(0.5, 1.5)  # noqa: S311
            if stop.wait(min(jittered, LONGEST_PAUSE_SECONDS)):
                raise StoppedError
            pause *= 2

    def _chunks(self, file: str, *, size: int | None) -> Iterator[bytes]:
        """A file's bytes in pieces.

        Args:
            file: its name in the directory.
            size: how many there should be, if that is known; saves a request.
        """
        if self._kind == "s3":
            options: dict[str, Any] = {"block_size": 8 * _CHUNK, "cache_type": "readahead"}
        else:
            options = {"block_size": 0, "size": size or 1}  # a stream; any size will do
        begin, received = time.monotonic(), 0
        with self._system.open(self.name(file), "rb", **options) as source:
            while chunk := source.read(_CHUNK):
                received += len(chunk)
                seconds = time.monotonic() - begin
                if seconds > SILENCE_SECONDS + received / SLOWEST_BYTES_PER_SECOND:
                    raise _WrongBytesError(f"{received:,} bytes in {seconds:.0f} seconds", attempts=ATTEMPTS)
                yield chunk


def _http(kind: str) -> Any:
    from aiohttp import ClientTimeout

    options = {
        "timeout": ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS),
        "trust_env": True,  # proxies, ~/.netrc
        "headers": {"Accept-Encoding": "identity"},
    }
    return fsspec.filesystem(kind, client_kwargs=options, skip_instance_cache=True)


def _s3() -> Any:
    options = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": SILENCE_SECONDS,
        "retries": {"total_max_attempts": 1},  # the pauses between attempts are ours
    }
    system = fsspec.filesystem("s3", config_kwargs=options, skip_instance_cache=True)
    system.retries = 1
    return system


def _write(handle: int, chunk: bytes, *, offset: int) -> None:
    view = memoryview(chunk)
    try:
        while view:
            written = os.pwrite(handle, view, offset)
            view, offset = view[written:], offset + written
    except OSError as error:
        raise _DiskError(error) from None


def _useful_attempts(error: Exception) -> int:
    """How often to ask for a file in all, when this is what happens."""
    if isinstance(error, _WrongBytesError):
        return error.attempts
    status = getattr(error, "status", 0)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _TEMPORARY
    return 1 if refused or isinstance(error, FileNotFoundError | PermissionError) else ATTEMPTS


def _found(error: Exception) -> str:
    """What came instead of the file, in words that hold nothing secret: a server may redirect to a signed URL."""
    if isinstance(error, _WrongBytesError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "no such file there"
    status = getattr(error, "status", None)
    if isinstance(status, int) and status:
        return f"HTTP status {status}"
    text = re.sub(r"\w+://[^\s\"']+", "URL", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
