"""Animations from pictures: GIF and WebP always, MP4 with the extra ``video``."""

import io
import math
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dcgan_dist.files import write_whole

SUFFIXES = (".gif", ".webp", ".mp4")
WEBP_QUALITY = 80
"""Of 100, Pillow's own default; half the bytes of the GIF, with all colours."""
CRF = "18"
"""x264's constant rate factor: 23 is its default, 18 is said to look lossless; samples are small and full of edges."""


def write_animation(path: Path, frames: Sequence[Image.Image], *, milliseconds: Sequence[int]) -> None:
    """Write RGB ``frames`` of one size, each shown for its own time, as the kind of file that ``path`` ends in.

    GIF and WebP begin again at their end. MP4 is H.264 in the pixel format that every player reads.

    Raises:
        ValueError: for another ending, or MP4 without the extra ``video``.
        OSError: when the file cannot be written.
    """
    assert len(frames) == len(milliseconds) > 0
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: an animation must end in {', '.join(SUFFIXES)}")
    if suffix == ".mp4":
        write_whole(path, _mp4(frames, milliseconds))
        return
    buffer = io.BytesIO()
    if suffix == ".gif":
        frames = [frame.quantize(256, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]
        frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=list(milliseconds), loop=0)
    else:
        frames[0].save(
            buffer,
            "WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=list(milliseconds),
            loop=0,
            quality=WEBP_QUALITY,
        )
    write_whole(path, buffer.getvalue())


def _mp4(frames: Sequence[Image.Image], milliseconds: Sequence[int]) -> bytes:
    """The file: frames of one length each, as many of a picture as its time needs."""
    program = _ffmpeg()
    unit = math.gcd(*milliseconds)
    width, height = (side + side % 2 for side in frames[0].size)  # H.264 halves the colours' resolution
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out.mp4"
        arguments = [program, "-v", "error", "-nostdin", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        arguments += ["-s", f"{width}x{height}", "-framerate", f"1000/{unit}", "-i", "pipe:0"]
        arguments += ["-c:v", "libx264", "-crf", CRF, "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(out)]
        raw = io.BytesIO()
        for frame, shown in zip(frames, milliseconds, strict=True):
            even = Image.new("RGB", (width, height), "white")
            even.paste(frame)
            raw.write(even.tobytes() * (shown // unit))
        done = subprocess.run(arguments, input=raw.getvalue(), capture_output=True, check=False)
        if done.returncode:
            raise OSError(f"ffmpeg: {done.stderr.decode(errors='replace').strip()}")
        return out.read_bytes()


def _ffmpeg() -> str:
    """The program that writes H.264."""
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError:
        raise ValueError(
            "MP4 needs the extra video: pip install 'dcgan_dist[video]'; .webp and .gif need nothing more"
        ) from None
    return str(imageio_ffmpeg.get_ffmpeg_exe())
