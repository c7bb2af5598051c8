import dataclasses

import pytest

from dcgan_dist.config import (
    ComputeConfig,
    DataConfig,
    LossConfig,
    NetworkConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    changed,
    leaves,
    without_effect,
)


def test_names_of_leaves_are_unique_in_the_whole_tree() -> None:
    names = [name for name, _ in leaves(TrainConfig())]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("length", "batch_size", "steps"),
    [
        ({"max_steps": 7}, 128, 7),
        ({"max_images": 1000}, 128, 8),  # 1000 / 128 = 7.8
        ({"max_images": 1024}, 128, 8),
        ({"max_epochs": 3}, 100, 41),  # 3 * 1360 / 100 = 40.8
        ({"max_epochs": 0.5}, 16, 43),  # 680 / 16 = 42.5
    ],
)
def test_lengths_become_steps(length: dict[str, float], batch_size: int, steps: int) -> None:
    config = changed(TrainConfig(), {**length, "batch_size": batch_size})
    assert config.steps(1360) == steps


def test_two_lengths_or_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"exactly one of max_steps, max_epochs, max_images, got .*max_epochs.: 2"):
        TrainConfig(max_steps=3, max_epochs=2)
    with pytest.raises(ValueError, match="exactly one of"):
        TrainConfig().steps(10)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (OptimConfig, {"lr": 0.0}, "lr must be positive, got 0.0"),
        (OptimConfig, {"lr": float("nan")}, "lr must be positive, got nan"),
        (OptimConfig, {"lr_ratio": -1.0}, "lr_ratio must be positive, got -1.0"),
        (OptimConfig, {"beta1": 1.0}, "beta1 must be at least 0 and below 1, got 1.0"),
        (NetworkConfig, {"channels": 4}, r"channels must be 1 \(grey\) or 3 \(RGB\), got 4"),
        (NetworkConfig, {"value_range": (1.0, -1.0)}, "value_range must be two rising numbers, got 1.0 -1.0"),
        (NetworkConfig, {"batch_norm_momentum": 0.0}, "batch_norm_momentum must be above 0"),
        (LossConfig, {"instance_noise_decay": 1.5}, "instance_noise_decay must be above 0 and at most 1, got 1.5"),
        (DataConfig, {"batch_size": 1}, "batch_size must be at least 2, because of batch statistics, got 1"),
        (RunConfig, {"profile": 101}, "profile must be from 0 to 100, because traces are large, got 101"),
        (RunConfig, {"profile": -1}, "profile must be from 0 to 100, because traces are large, got -1"),
        (DataConfig, {"subset_size": -1}, "subset_size must be zero or more, got -1"),
        (ComputeConfig, {"dtype": "float64", "precision": "bf16"}, "precision must be no with dtype float64, got bf16"),
        (RunConfig, {"resume": True}, "resume needs run_dir"),
        (RunConfig, {"resume": True, "run_dir": "a", "dry_run": True}, "dry_run is of a new run; leave out resume"),
        (TrainConfig, {"seed": -1}, "seed must be at least 0"),
        (TrainConfig, {"recipe": "a/b"}, "recipe must be letters"),
    ],
)
def test_a_bad_value_names_field_rule_and_value(kind: type, values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_changed_replaces_leaves_anywhere_and_checks_them() -> None:
    config = changed(TrainConfig(), {"lr": 1e-3, "batch_size": 4, "seed": 9})
    assert (config.optim.lr, config.images.batch_size, config.seed) == (1e-3, 4, 9)
    assert dataclasses.replace(config, seed=0, optim=OptimConfig(), images=DataConfig()) == TrainConfig()
    with pytest.raises(ValueError, match="lr must be positive"):
        changed(TrainConfig(), {"lr": -1.0})


def test_settings_without_effect_are_told() -> None:
    assert without_effect(TrainConfig()) == []
    config = changed(
        TrainConfig(),
        {"optimizer": "rmsprop", "beta1": 0.2, "update": "simultaneous", "fresh_z": True, "instance_noise_decay": 0.9},
    )
    beta1, fresh_z, decay = without_effect(config)
    assert beta1 == "beta1 0.2 has no effect with optimizer rmsprop"
    assert fresh_z.startswith("fresh_z has no effect with update simultaneous")
    assert decay == "instance_noise_decay has no effect with instance_noise 0"
