"""Inception Score: whether a classifier is sure of each image and finds many classes in all."""

import math

import torch
from torch import Tensor

SPLITS = 10


def inception_score(logits: Tensor) -> tuple[float, float]:
    """Mean and standard deviation over SPLITS consecutive parts of exp(mean KL(p(class | image) || p(class))).

    After T. Salimans et al., *Improved Techniques for Training GANs* (2016). Between 1 and the number of classes. It
    sees no real images: take it beside what the data get.

    Args:
        logits: (N, classes).

    Raises:
        ValueError: If there are fewer images than parts.
    """
    count = len(logits)
    if count < SPLITS:
        raise ValueError(f"IS needs {SPLITS} images, got {count}")
    bounds = [part * count // SPLITS for part in range(SPLITS + 1)]
    scores = logits.new_zeros(SPLITS, dtype=torch.float64)
    for part in range(SPLITS):
        log_p = logits[bounds[part] : bounds[part + 1]].double().log_softmax(dim=1)
        log_mean = log_p.logsumexp(dim=0) - math.log(len(log_p))  # no log of a mean that is zero
        scores[part] = (log_p.exp() * (log_p - log_mean)).sum(dim=1).mean().exp()
    return float(scores.mean()), float(scores.std(correction=0))
