import re

import pytest
import torch

from dcgan_dist.cli import read_yaml
from dcgan_dist.config import LENGTHS, TrainConfig, leaves, without_effect
from dcgan_dist.data.sources import SOURCES
from dcgan_dist.losses import LOSSES
from dcgan_dist.models import MODELS, build_networks
from tests.models.test_models import COUNTS
from tests.shared import RECIPES, REPOSITORY, recipe


def test_every_model_has_a_recipe():
    assert {recipe(name).network.model for name in RECIPES} == set(MODELS)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_builds_its_networks(name):
    config = recipe(name)
    assert config.recipe == name
    assert config.losses.loss in LOSSES
    assert sum(getattr(config, length) is not None for length in LENGTHS) == 1
    assert without_effect(config) == []
    generator, discriminator = (network.eval() for network in build_networks(config.network, seed=0))
    network = config.network
    with torch.no_grad():
        images = generator(torch.zeros(2, network.latent_dim))
        assert images.shape == (2, network.channels, network.image_size, network.image_size)
        assert discriminator(images).shape == (2,)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_states_only_what_differs_from_the_defaults(name):
    path = REPOSITORY / "configs" / f"{name}.yaml"
    defaults = dict(leaves(TrainConfig()))
    same = [field for field, value in read_yaml(path).items() if value == defaults[field]]
    assert same == []


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_header_tells_facts_choices_and_data(name):
    header = (REPOSITORY / "configs" / f"{name}.yaml").read_text(encoding="utf-8").split("recipe:")[0]
    assert "# Fact: " in header
    assert "# Choice: " in header
    config = recipe(name)
    command = header.replace("\n#   ", " ").split("# Data: dcgan-shard ")[1].split()
    assert command[command.index("--out") + 1] == config.images.data
    assert command[command.index("--size") + 1] == str(config.network.image_size)
    # take the mark away once the reader is there
    assert ("(reader to come)" in header) == (command[0] not in SOURCES)


def test_demo_recipe_is_flowers17_arch1_on_synthetic_flowers():
    demo, original = (dict(leaves(recipe(name))) for name in ("synthetic-arch1", "flowers17-arch1"))
    differing = {name for name in demo if demo[name] != original[name]}
    ours = {"lr", "beta1", "ema_decay", "extractor", "eval_every"}  # the header says why
    assert differing == {"recipe", "max_steps", "data", "log_every", "sample_every", "checkpoint_every"} | ours


@pytest.mark.parametrize("name", RECIPES)
def test_the_page_of_recipes_says_what_the_file_says(name):
    page = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| \[`{name}`\]\(#.*?\) \| (.*) \|$", page, flags=re.MULTILINE)
    config = recipe(name)
    network, optim = config.network, config.optim
    colours = "RGB" if network.channels == 3 else "grey"
    low, high = network.value_range
    own_rate = f", D {_plain(optim.lr * optim.lr_ratio)}" if optim.lr_ratio != 1 else ""
    length = f"{config.max_steps:,} steps" if config.max_steps else f"{config.max_epochs:g} epochs"
    assert row.split(" | ") == [
        network.model,
        f"{network.image_size}x{network.image_size} {colours} in [{low:g}, {high:g}]",
        f"{network.prior}, {network.latent_dim}",
        str(config.images.batch_size),
        f"{optim.optimizer} {_plain(optim.lr)}{own_rate}",
        optim.update + ", fresh z" * optim.fresh_z,
        length,
    ]


def _plain(rate):
    return f"{rate:.1e}".replace(".0e-0", "e-").replace("e-0", "e-")


def test_the_page_of_recipes_counts_parameters_as_the_test_of_models_does():
    page = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [count for _, *counts in COUNTS.values() for count in counts if f"{count:,}" not in page] == []
