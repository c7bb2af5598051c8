"""From nothing to samples in Python: draw flowers into shards, train on them for a minute, write a grid of samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dcgan_dist

RECIPE = Path(__file__).parents[1] / "configs" / "synthetic-arch1.yaml"


def main(images: int, changes: Mapping[str, Any]) -> Path:
    """The grid of samples, a file in the directory of a new run below runs/, from ``images`` flowers."""
    dcgan_dist.write_shards("synthetic", "shards/synthetic-32", size=32, options={"count": images}, workers=2)
    run = dcgan_dist.run_training(dcgan_dist.read_config(RECIPE, changes))

    generator = dcgan_dist.load(run)  # an nn.Module
    pixels = generator.sample(64, seed=1)  # (64, 32, 32, 3) uint8, what dcgan-sample draws
    dcgan_dist.write_png(run / "more.png", dcgan_dist.grid(pixels))
    return run / "more.png"


if __name__ == "__main__":
    print(main(4000, {"max_steps": 1000, "tracker": "none"}))
