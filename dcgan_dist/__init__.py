"""Train DCGANs on one laptop or a cluster of GPUs, and get the same run on both."""

__version__ = "0.1.0"
