"""Shards behind URLs: which URLs are taken, servers that fail, the cache that a machine's processes share."""

import contextlib
import hashlib
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dcgan_dist.config import DataConfig, NetworkConfig
from dcgan_dist.data import remote
from dcgan_dist.data.loader import Loader, open_loader
from dcgan_dist.data.remote import Remote, parse_place
from dcgan_dist.data.shards import read_index
from dcgan_dist.distributed import collectives
from tests.data.made import photos
from tests.data.servers import FileServer, s3_server, serving
from tests.data.sets import IMAGES, convert
from tests.distributed.ranks import PRELOADED, run_ranks

BATCH = 12
STEPS = 10  # three epochs
needs_http = pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="needs aiohttp (extra remote)")
missing = [name for name in ("s3fs", "moto", "flask") if importlib.util.find_spec(name) is None]
needs_s3 = pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)} (extra test)")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 8 x 8 noise in five shards."""
    root = tmp_path_factory.mktemp("set")
    return convert(photos(root / "photos", images=IMAGES), root / "shards")


@pytest.fixture(scope="module")
def batches(shards: Path) -> list[torch.Tensor]:
    """What must come, whatever the way."""
    with opened(str(shards), shards.parent, loader="resident") as loader:
        return [loader.batch(step) for step in range(STEPS)]


@pytest.fixture
def server(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.002)
    with serving(shutil.copytree(shards, tmp_path / "served")) as found:
        yield found


@contextlib.contextmanager
def opened(url: str, tmp_path: Path, **settings: Any) -> Iterator[Loader]:
    values: dict[str, Any] = {"loader": "indexed", "workers": 0, "shuffle_window": 2}
    rows = settings.pop("rows", (0, BATCH))
    data = DataConfig(data=url, batch_size=BATCH, **(values | {"cache_dir": str(tmp_path / "cache")} | settings))
    network = NetworkConfig(image_size=8)
    loader = open_loader(data, network, seed=4, rows=rows, device=torch.device("cpu"))
    with contextlib.closing(loader):
        yield loader


def try_out(url: str, tmp_path: Path, **settings: Any) -> None:
    """Open and read three epochs."""
    with opened(url, tmp_path, **settings) as loader:
        for step in range(STEPS):
            loader.batch(step)


def read(loader: Loader, expected: list[torch.Tensor], *, steps: int = STEPS) -> None:
    for step in range(steps):
        assert torch.equal(loader.batch(step), expected[step]), step


def cached(tmp_path: Path, pattern: str = "*.tar") -> list[Path]:
    return sorted((tmp_path / "cache").glob(f"*/{pattern}"))


def bytes_of(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


# Which URLs


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "data must be a directory of shards, got none"),
        ("pipe:curl https://example.org/x", "https://, http://, s3:// or file://, got one that starts with pipe:"),
        ("pipe://x", "starts with pipe:"),
        ("gs://bucket/set", "starts with gs:"),
        ("ftp://host/set", "starts with ftp:"),
        ("simplecache::s3://bucket/x", "starts with simplecache:"),
        ("https:/host/set", "starts with https:"),
        ("file:set", "starts with file:"),
        ("data:x", r"starts with data: \(a directory of such a name: ./data:...\)"),
        ("file://other/set", "file:// URL of this machine, got one of other"),
        ("https:///set", "like https://HOST/DIRECTORY"),
        ("https://host/a set", "like https://HOST/DIRECTORY"),
        ("https://[host/set", "cannot be read"),
        ("https://me:hunter2@host/set", "without user name, password, query and fragment"),
        ("https://token@host/set", "without user name"),
        ("s3://KEY:hunter2@bucket/set", "without user name"),
        ("https://host/set?sig=hunter2", "without user name, password, query and fragment"),
        ("https://host/set#hunter2", "fragment"),
    ],
)
def test_other_urls_are_refused(data: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_place(data)
    assert "hunter2" not in str(caught.value)


def test_paths_and_urls_are_told_apart(tmp_path: Path) -> None:
    assert parse_place("shards/x") == Path("shards/x")
    assert parse_place("./data:x") == Path("data:x")
    assert parse_place("/a b") == Path("/a b")
    assert parse_place(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert parse_place("FILE://localhost/x") == Path("/x")
    for url in ("https://host/a/b/", "http://host:80/a/b//", "s3://bucket/a/b"):
        place = parse_place(url)
        assert isinstance(place, Remote)
        assert place.url == url.rstrip("/")
    place = parse_place("https://host/a")
    assert isinstance(place, Remote)
    assert place.name("a?b#%.tar") == "https://host/a/a%3Fb%23%25.tar"


def test_a_file_url_is_its_directory(shards: Path, tmp_path: Path, batches: list[torch.Tensor]) -> None:
    for kind in ("resident", "indexed"):
        with opened(shards.as_uri(), tmp_path, loader=kind) as loader:
            read(loader, batches)
    assert not (tmp_path / "cache").exists()


def test_what_speaks_the_protocol_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ValueError, match=r"data https://host/set needs pip install 'dcgan_dist\[remote\]'"):
        try_out("https://host/set", tmp_path)


# One process and a server


@needs_http
@pytest.mark.parametrize("settings", [{"loader": "resident"}, {"workers": 0}, {"workers": 2}, {"loader": "auto"}])
def test_remote_shards_give_the_same_batches(
    server: FileServer, tmp_path: Path, batches: list[torch.Tensor], settings: dict[str, Any]
) -> None:
    with opened(server.url, tmp_path, **settings) as loader:
        read(loader, batches)
    with opened(server.url + "/", tmp_path, **settings) as loader:
        read(loader, batches)
        assert torch.equal(torch.from_numpy(loader.first(5).copy()), batches[0][:5].permute(0, 2, 3, 1))
    assert server.asked.pop("index.json") == 2  # each run asks which set it is
    assert set(server.asked.values()) == {1}
    assert len(server.asked) == 6


@needs_http
@pytest.mark.parametrize("fault", ["slow", "truncate", "503", "429", "wrong", "longer", "reset", "redirect"])
def test_a_passing_fault_is_survived(
    fault: str, server: FileServer, tmp_path: Path, batches: list[torch.Tensor]
) -> None:
    server.pause_seconds = 0.3
    names = [path.name for path in server.directory.iterdir() if path.name != "index.json"]
    for name in names:
        server.faults[name].append(fault)
    with opened(server.url, tmp_path) as loader:
        read(loader, batches)
    asked = 1 if fault == "slow" else 2
    assert {name: server.asked[name] for name in names} == dict.fromkeys(names, asked)
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() for path in cached(tmp_path))


@needs_http
@pytest.mark.parametrize(
    ("fault", "attempts", "found"),
    [
        ("404", 1, "no such file there"),
        ("403", 1, "HTTP status 403"),
        ("503", 8, r"HTTP status 503 \(8 attempts\)"),
        ("truncate", 8, r"ClientPayloadError: .* \(8 attempts\)"),
        ("wrong", 3, r"[\d,]+ bytes with sha256 [0-9a-f]{12}\.\.\. \(3 attempts\)"),
        ("longer", 3, r"more than [\d,]+ bytes \(3 attempts\)"),
    ],
)
@pytest.mark.parametrize("kind", ["resident", "indexed"])
def test_a_lasting_fault_is_one_message(
    fault: str, attempts: int, found: str, kind: str, server: FileServer, tmp_path: Path
) -> None:
    index = read_index(server.directory)
    bad = index.contents.shards[3]
    server.faults[bad.file].append(f"{fault}!")
    expected = (
        rf"^{server.url}/{bad.file}: expected {bad.bytes:,} bytes with sha256 {bad.sha256[:12]}\.\.\., found {found}$"
    )
    with pytest.raises(OSError, match=expected):
        try_out(server.url, tmp_path, loader=kind)
    assert server.asked[bad.file] == attempts
    assert not cached(tmp_path, "*.part")
    assert not cached(tmp_path, bad.file)


@needs_http
def test_an_index_that_does_not_come_is_one_message(server: FileServer, tmp_path: Path) -> None:
    for fault, kind, message in [
        ("404", ValueError, rf"^{server.url}: not a directory of shards: no index\.json"),
        ("403", OSError, rf"^{server.url}/index\.json: expected an index of shards, found HTTP status 403$"),
        ("503", OSError, r"found HTTP status 503 \(5 attempts\)$"),
        ("wrong", ValueError, rf"^{server.url}/index\.json: not JSON"),
    ]:
        server.faults["index.json"] = type(server.faults["x"])([f"{fault}!"])
        with pytest.raises(kind, match=message):
            try_out(server.url, tmp_path)
    server.faults.clear()
    server.stop()
    with pytest.raises(
        OSError, match=r"index\.json: expected an index of shards, found ClientConnector\w*: .*\(5 attempts\)"
    ):
        try_out(server.url, tmp_path)


@needs_http
def test_a_server_that_lies_about_its_index_is_refused(server: FileServer, tmp_path: Path) -> None:
    path = server.directory / "index.json"
    index = json.loads(path.read_bytes())
    lies: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"images": 41}, ValueError, rf"^{server.url}/index\.json: images: must be the sum over shards"),
        ({"entries_sha256": "0" * 64}, OSError, r"index\.npy: expected 992 bytes with sha256 000000000000"),
    ]
    for lie, kind, message in lies:
        path.write_text(json.dumps(index | lie))
        with pytest.raises(kind, match=message):
            try_out(server.url, tmp_path)
    huge = [shard | {"images": 10**12} for shard in index["shards"]]
    path.write_text(json.dumps(index | {"images": 5 * 10**12, "class_counts": [5 * 10**12, 0], "shards": huge}))
    with pytest.raises(
        ValueError, match=r"^cache_gigabytes must hold the index of http.* 100,000,000,000,192 are needed$"
    ):
        try_out(server.url, tmp_path)
    assert not cached(tmp_path)


@needs_http
def test_an_endless_index_takes_no_memory(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LARGEST_INDEX", 1000)
    with pytest.raises(OSError, match=r"index\.json: expected an index of shards, found more than 1,000 bytes$"):
        try_out(server.url, tmp_path)


@needs_http
def test_a_server_may_restart_in_the_middle(
    server: FileServer, tmp_path: Path, batches: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.02)
    for shard in read_index(server.directory).contents.shards:
        server.faults[shard.file].append("reset")
    with opened(server.url, tmp_path) as loader:

        def restart() -> None:
            server.stop()
            time.sleep(0.3)
            server.start()

        helper = threading.Thread(target=restart)
        helper.start()
        read(loader, batches)
        helper.join()


@needs_http
def test_a_server_that_falls_silent_is_asked_again(
    server: FileServer, tmp_path: Path, batches: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SILENCE_SECONDS", 0.2)
    server.pause_seconds = 20.0
    name = read_index(server.directory).contents.shards[0].file
    server.faults[name].append("slow")
    begin = time.monotonic()
    with opened(server.url, tmp_path) as loader:
        read(loader, batches)
    assert server.asked[name] == 2
    assert time.monotonic() - begin < 10


@needs_http
def test_a_server_that_only_trickles_is_asked_again(
    server: FileServer, tmp_path: Path, batches: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SILENCE_SECONDS", 0.4)
    monkeypatch.setattr(remote, "SLOWEST_BYTES_PER_SECOND", 10**6)
    server.pause_seconds = 4.0  # in 20 pieces
    bad = read_index(server.directory).contents.shards[0]
    server.faults[bad.file].append("slow")
    with opened(server.url, tmp_path) as loader:
        read(loader, batches)
    assert server.asked[bad.file] == 2
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    server.faults[bad.file].append("slow")
    with pytest.raises(OSError, match=rf"{bad.file}: expected .*, found [\d,]+ bytes in 0 seconds$"):
        try_out(server.url, tmp_path / "other", loader="resident")


@needs_http
def test_keys_of_a_redirect_are_not_told(server: FileServer, tmp_path: Path) -> None:
    name = read_index(server.directory).contents.shards[0].file
    server.faults[name].extend(["redirect", "403"] * 2)
    with pytest.raises(OSError, match=f"{name}: expected .*, found HTTP status 403") as caught:
        try_out(server.url, tmp_path, loader="resident")
    assert "secret" not in str(caught.value)


@needs_http
def test_a_password_comes_from_netrc(
    server: FileServer, tmp_path: Path, batches: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.password = "hunter2"
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password wrong\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with pytest.raises(OSError, match=r"index\.json: expected an index of shards, found HTTP status 401$"):
        try_out(server.url, tmp_path)
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    with opened(server.url, tmp_path, workers=1) as loader:
        read(loader, batches)


@needs_http
def test_names_of_shards_may_have_any_characters(
    server: FileServer, tmp_path: Path, batches: list[torch.Tensor]
) -> None:
    index = json.loads((server.directory / "index.json").read_bytes())
    for number, shard in enumerate(index["shards"]):
        odd = f"a b+%41#?&é{number}.tar"
        (server.directory / shard["file"]).rename(server.directory / odd)
        shard["file"] = odd
    (server.directory / "index.json").write_text(json.dumps(index))
    with opened(server.url, tmp_path) as loader:
        read(loader, batches)


# The cache


@needs_http
def test_a_small_cache_keeps_its_bound_and_drops_what_was_used_longest_ago(server: FileServer, tmp_path: Path) -> None:
    sizes = [shard.bytes for shard in read_index(server.directory).contents.shards]
    limit = 3 * max(sizes) + 8000  # three windows of one shard, of five in all, and the index
    with opened(str(server.directory), tmp_path, shuffle_window=1) as loader:
        expected = [loader.batch(step) for step in range(STEPS)]
    seen = []
    with opened(server.url, tmp_path, shuffle_window=1, cache_gigabytes=limit / 1e9) as loader:
        for step in range(STEPS):
            assert torch.equal(loader.batch(step), expected[step])
            with loader._files._cache._locked():  # type: ignore[attr-defined]
                seen.append(bytes_of(cached(tmp_path, "*")))
    assert 2 * min(sizes) < max(seen) <= limit
    assert sum(server.asked.values()) > 2 + 5  # some came twice


@needs_http
@pytest.mark.parametrize("workers", [0, 2])
def test_what_the_cache_drops_is_gone_from_the_disk(workers: int, server: FileServer, tmp_path: Path) -> None:
    """Nobody keeps it open."""
    sizes = [shard.bytes for shard in read_index(server.directory).contents.shards]
    settings = {"shuffle_window": 1, "workers": workers, "cache_gigabytes": (3 * max(sizes) + 8000) / 1e9}
    with opened(server.url, tmp_path, **settings) as loader:
        for step in range(STEPS):
            loader.batch(step)
        processes = ["self", *getattr(loader._decoding, "processes", ())]  # type: ignore[attr-defined]
        deadline = time.monotonic() + 5
        while any(open_and_deleted(str(process), tmp_path) for process in processes):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not cached(tmp_path, "*.part")
    assert not [name for name in open_files("self") if str(tmp_path) in name]


def open_files(process: str) -> list[str]:
    found = []
    for handle in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(handle.readlink()))
    return found


def open_and_deleted(process: str, tmp_path: Path) -> bool:
    return any(str(tmp_path) in name and name.endswith("(deleted)") for name in open_files(process))


@needs_http
def test_a_cache_that_is_too_small_is_refused(server: FileServer, tmp_path: Path) -> None:
    with (
        pytest.raises(
            ValueError, match=r"^cache_gigabytes must hold 5 shards at once, [\d.e+-]+ GB, got 4e-05; raise it"
        ),
        opened(server.url, tmp_path, cache_gigabytes=4e-5),
    ):
        pass


@needs_http
def test_a_cache_full_of_others_shards_is_a_message(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcgan_dist.data.windows.FULL_SECONDS", 0.5)
    sizes = [shard.bytes for shard in read_index(server.directory).contents.shards]
    with (
        opened(server.url, tmp_path, shuffle_window=1) as first,
        opened(server.url, tmp_path, shuffle_window=1) as second,
    ):
        first.batch(0)
        while len(cached(tmp_path)) < 4:  # those of batches 0 and 1, and the next
            time.sleep(0.01)
        files = second._files  # type: ignore[attr-defined]
        files._cache.limit_bytes = 2 * max(sizes)
        with pytest.raises(
            OSError, match=r"^cache_gigabytes is too small for the \d shards that are read at once, or other runs"
        ):
            second.batch(2)  # needs the fifth
        first.close()
        files._cache.limit_bytes = 10**9
        second.batch(2)


@needs_http
def test_a_damaged_copy_is_fetched_again(server: FileServer, tmp_path: Path, batches: list[torch.Tensor]) -> None:
    with opened(server.url, tmp_path) as loader:
        read(loader, batches)
    flipped, cut, gone, *_ = cached(tmp_path)
    for path in (flipped, cut):
        path.chmod(0o600)
    data = bytearray(flipped.read_bytes())
    data[1000] ^= 1
    flipped.write_bytes(data)
    os.truncate(cut, 100)
    gone.unlink()
    cached(tmp_path, "index.npy")[0].unlink()
    server.asked.clear()
    with opened(server.url, tmp_path) as loader:
        read(loader, batches)
    assert dict(server.asked) == {"index.json": 1, "index.npy": 1, flipped.name: 1, cut.name: 1, gone.name: 1}


@needs_http
def test_another_set_at_the_same_place_is_another_set(server: FileServer, shards: Path, tmp_path: Path) -> None:
    with opened(server.url, tmp_path) as loader:
        digest = loader.digest
    other = convert(photos(tmp_path / "photos", images=24), tmp_path / "other")
    shutil.rmtree(server.directory)
    shutil.copytree(other, server.directory)
    with opened(server.url, tmp_path) as loader:
        assert loader.digest != digest
        assert loader.image_count == 24
        for step in range(STEPS):
            loader.batch(step)


@needs_http
def test_the_place_of_the_cache(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for setting, place in [("", f"scratch/dcgan_dist-{os.getuid()}"), ("$NODE_DISK/x", "disk/x")]:
        with opened(server.url, tmp_path, cache_dir=setting) as loader:
            assert loader.description.endswith(f"copies of shards in {tmp_path / place}")
            assert (tmp_path / place).stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("TMPDIR")
    with opened(server.url, tmp_path, cache_dir="") as loader:
        assert (tmp_path / "xdg" / "dcgan_dist").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^cache_dir .*/file: cannot be used: File exists; name another$"):
        try_out(server.url, tmp_path, cache_dir=str(tmp_path / "file"))


# Several processes


def reading(url: str, directory: str, kind: str, results: Any) -> None:
    """The life of a process that reads three epochs."""
    settings: dict[str, Any] = {"loader": kind, "workers": 0, "shuffle_window": 2, "cache_dir": directory}
    data = DataConfig(data=url, batch_size=BATCH, **settings)
    loader = open_loader(data, NetworkConfig(image_size=8), seed=4, rows=(0, BATCH), device=torch.device("cpu"))
    digest = hashlib.sha256()
    for step in range(STEPS):
        digest.update(loader.batch(step).numpy().tobytes())
    loader.close()
    results.put(digest.hexdigest())


@contextlib.contextmanager
def readers(url: str, tmp_path: Path, kinds: list[str]) -> Iterator[tuple[list[Any], Any]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    results = context.Queue()
    started = [context.Process(target=reading, args=(url, str(tmp_path / "cache"), kind, results)) for kind in kinds]
    for process in started:
        process.start()
    try:
        yield started, results
    finally:
        for process in started:
            process.kill()
            process.join()


@needs_http
def test_processes_that_share_a_cache_fetch_each_shard_once(
    server: FileServer, tmp_path: Path, batches: list[torch.Tensor]
) -> None:
    server.pause_seconds = 0.2
    for path in server.directory.iterdir():
        server.faults[path.name].append("slow!")
    digest = hashlib.sha256(b"".join(batch.numpy().tobytes() for batch in batches)).hexdigest()
    with readers(server.url, tmp_path, ["indexed", "indexed", "resident"]) as (_, results):
        assert {results.get(timeout=60) for _ in range(3)} == {digest}
    assert server.asked.pop("index.json") == 3
    assert set(server.asked.values()) == {1}


def remote_digests(url: str, directory: str) -> list[list[str]]:
    """Of this rank's rows of three epochs, with either loader and a subset."""
    local = BATCH // collectives.world_size()
    rows = (collectives.rank() * local, (collectives.rank() + 1) * local)
    found = []
    for kind, subset_size in (("resident", 0), ("indexed", 0), ("resident", 20), ("indexed", 20)):
        settings: dict[str, Any] = {
            "cache_dir": directory,
            "subset_size": subset_size,
            "workers": collectives.rank() % 2,
        }
        with opened(url, Path(directory), rows=rows, loader=kind, **settings) as loader:
            found.append([hashlib.sha256(loader.batch(step).numpy().tobytes()).hexdigest() for step in range(STEPS)])
    return found


@needs_http
@pytest.mark.parametrize("world_size", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_ranks_share_a_cache(server: FileServer, shards: Path, tmp_path: Path, world_size: int) -> None:
    """The same rows as from the directory, and every file comes once for all ranks and loaders."""
    local = run_ranks(remote_digests, world_size, str(shards), str(tmp_path / "unused"))
    assert run_ranks(remote_digests, world_size, server.url, str(tmp_path / "cache")) == local
    for resident, indexed, small, small_indexed in local:
        assert resident == indexed != small == small_indexed
    assert server.asked.pop("index.json") == 4  # rank 0, for each loader
    assert set(server.asked.values()) == {1}
    assert not (tmp_path / "unused").exists()


@needs_http
def test_a_process_killed_in_mid_download_blocks_nobody(
    server: FileServer, tmp_path: Path, batches: list[torch.Tensor]
) -> None:
    server.pause_seconds = 60.0
    for shard in read_index(server.directory).contents.shards:
        server.faults[shard.file].append("slow")
    with readers(server.url, tmp_path, ["indexed"]) as ((process,), _):
        deadline = time.monotonic() + 30
        while not cached(tmp_path, "*.part") or not server.sending:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    left = cached(tmp_path, "*.part")
    assert left
    server.faults.clear()
    with opened(server.url, tmp_path) as loader:
        read(loader, batches)
    assert not cached(tmp_path, "*.part")


# S3


@needs_s3
def test_an_s3_bucket(
    shards: Path, tmp_path: Path, batches: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.002)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    with s3_server(tmp_path / "log") as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        upload = (
            "import pathlib, sys, s3fs\n"
            "system = s3fs.S3FileSystem()\n"
            "system.mkdir('bucket')\n"
            "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
            "    system.put_file(str(path), f'bucket/sets/noise/{path.name}')\n"
        )
        subprocess.run([sys.executable, "-c", upload, str(shards)], check=True, timeout=60)
        for kind in ("indexed", "resident"):
            with opened("s3://bucket/sets/noise", tmp_path, loader=kind) as loader:
                read(loader, batches)
        assert len(cached(tmp_path)) == 5
        with pytest.raises(ValueError, match=r"^s3://bucket/sets/other: not a directory of shards: no index\.json"):
            try_out("s3://bucket/sets/other", tmp_path)
        remove = "import s3fs, sys; s3fs.S3FileSystem().rm_file(sys.argv[1])"
        gone = read_index(shards).contents.shards[2].file
        subprocess.run([sys.executable, "-c", remove, f"bucket/sets/noise/{gone}"], check=True, timeout=60)
        with (
            pytest.raises(
                OSError, match=rf"^s3://bucket/sets/noise/{gone}: expected .* bytes .*, found no such file there$"
            ),
            opened("s3://bucket/sets/noise", tmp_path / "elsewhere", loader="resident"),
        ):
            pass
