"""What is costly to work out about the data, kept beside the shards for the next run. Main process only."""

import contextlib
import hashlib

from dcgan_dist.data.loader import cache_directory
from dcgan_dist.data.shard_files import ShardFiles
from dcgan_dist.files import write_whole

_DIGEST_BYTES = 32  # of the sha256 that the file begins with


class KeptFile:
    """One file, in the directory of the shards or, where that cannot be written, below ``cache_dir``.

    Args:
        name: changes with all that the contents depend on.
        files: the shards.
        cache_dir: the setting.
    """

    def __init__(self, name: str, files: ShardFiles, *, cache_dir: str) -> None:
        self._paths = [place / name for place in (files.index.directory, cache_directory(cache_dir) / "kept")]

    def read(self) -> tuple[bytes, str] | None:
        """The contents, and a sentence on where they were; None if no file is whole."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                written = path.read_bytes()
                data = written[_DIGEST_BYTES:]
                if hashlib.sha256(data).digest() == written[:_DIGEST_BYTES]:
                    return data, f"read from {path.parent}"
        return None

    def write(self, data: bytes) -> str:
        """Write to the first place that takes it; a sentence on what came of it."""
        for path in self._paths:
            with contextlib.suppress(OSError):  # read-only, or full
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, hashlib.sha256(data).digest() + data)
                return f"computed, and kept in {path.parent}"
        places = ", ".join(str(path.parent) for path in self._paths)
        return f"computed, and not kept: none of {places} can be written"
