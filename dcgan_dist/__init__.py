"""Train DCGANs on one laptop or a cluster of GPUs, and get the same run on both.

The names below are the package as a library, and what its commands themselves call; docs/api.md has them all. What lies
in modules beside them may change with any version.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcgan_dist.cli import read_config
    from dcgan_dist.config import TrainConfig
    from dcgan_dist.data.conversion import write_shards
    from dcgan_dist.images import grid, write_png
    from dcgan_dist.job import run_training
    from dcgan_dist.trained import TrainedGenerator, load

__all__ = [
    "TrainConfig",
    "TrainedGenerator",
    "__version__",
    "grid",
    "load",
    "read_config",
    "run_training",
    "write_png",
    "write_shards",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """A public name, imported when it is asked for, because torch takes seconds and each needs something else."""
    if name in ("TrainedGenerator", "load"):
        from dcgan_dist import trained

        return getattr(trained, name)
    if name in ("grid", "write_png"):
        from dcgan_dist import images

        return getattr(images, name)
    if name == "TrainConfig":
        from dcgan_dist.config import TrainConfig

        return TrainConfig
    if name == "read_config":
        from dcgan_dist.cli import read_config

        return read_config
    if name == "run_training":
        from dcgan_dist.job import run_training

        return run_training
    if name == "write_shards":
        from dcgan_dist.data.conversion import write_shards

        return write_shards
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """For completion."""
    return sorted([*globals(), *__all__])
