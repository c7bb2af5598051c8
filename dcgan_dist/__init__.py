"""Train DCGANs on one laptop or a cluster of GPUs, and get the same run on both.

As a library the package is one function, ``load``: a trained generator from a run, a checkpoint or an exported file.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcgan_dist.trained import load

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``load``, imported when it is asked for, because torch takes seconds."""
    if name == "load":
        from dcgan_dist.trained import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
