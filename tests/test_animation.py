"""Animations as GIF, WebP and MP4, read back."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from dcgan_dist.animation import write_animation

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
SHOWN = [200, 200, 600]


def frames(size: tuple[int, int] = (40, 30)) -> list[Image.Image]:
    return [Image.new("RGB", size, colour) for colour in COLOURS]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_frames_and_times(kind: str, tmp_path: Path) -> None:
    write_animation(tmp_path / f"a.{kind}", frames(), milliseconds=SHOWN)
    with Image.open(tmp_path / f"a.{kind}") as image:
        assert image.format == kind.upper()
        assert image.size == (40, 30)
        assert image.info["loop"] == 0
        times = []
        for frame, colour in zip(ImageSequence.Iterator(image), COLOURS, strict=True):
            assert np.asarray(frame.convert("RGB"))[15, 20].tolist() == pytest.approx(colour, abs=6)
            times.append(frame.info["duration"])
        assert times == SHOWN


def test_mp4_is_h264_that_every_player_reads(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra video").get_ffmpeg_exe()
    path = tmp_path / "a.mp4"
    write_animation(path, frames((41, 31)), milliseconds=SHOWN)  # odd sides
    told = subprocess.run([ffmpeg, "-i", path], capture_output=True, text=True, check=False).stderr
    assert "Video: h264" in told
    assert "yuv420p" in told
    assert "42x32" in told
    assert "5 fps" in told
    assert "Duration: 00:00:01.00" in told
    raw = subprocess.run(
        [ffmpeg, "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    ).stdout
    pixels = np.frombuffer(raw, np.uint8).reshape(-1, 32, 42, 3)
    assert len(pixels) == 5  # 200 ms each
    for number, colour in zip((0, 1, 2, 4), (0, 1, 2, 2), strict=True):
        assert pixels[number, 15, 20].tolist() == pytest.approx(COLOURS[colour], abs=25)  # limited range


def test_mp4_without_the_extra_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match=r"MP4 needs the extra video: pip install 'dcgan_dist\[video\]'"):
        write_animation(tmp_path / "a.mp4", frames(), milliseconds=SHOWN)
    assert not list(tmp_path.iterdir())


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.avi: an animation must end in \.gif, \.webp, \.mp4"):
        write_animation(tmp_path / "a.avi", frames(), milliseconds=SHOWN)
