"""A network as a table: each layer's output shape and parameters."""

from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from dcgan_dist.models.blocks import blocks


def summary(network: nn.Module, example: Tensor, *, title: str) -> Table:
    """One row for each layer that has no layers inside, in the order they run on ``example`` (evaluation mode).

    The row of a block's first layer has the block's number, and "frozen" when it is not trained.
    """
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("layer")
    table.add_column("type")
    table.add_column("output shape")
    table.add_column("parameters", justify="right")
    table.add_column("block")
    numbers = {block[0]: str(number) for number, block in enumerate(blocks(network), 1)}
    names = {module: name for name, module in network.named_modules()}

    def told(module: nn.Module, inputs: Any, output: Tensor) -> None:
        shape = " x ".join(["N", *map(str, output.shape[1:])])
        parameters = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        block = numbers.get(module, "")
        if block and not all(parameter.requires_grad for parameter in module.parameters()):
            block += " frozen"
        table.add_row(names[module], type(module).__name__, shape, f"{parameters:,}" if parameters else "", block)

    hooks = [module.register_forward_hook(told) for module in network.modules() if not list(module.children())]
    network.eval()
    with torch.inference_mode():
        network(example)
    for hook in hooks:
        hook.remove()
    total = sum(parameter.numel() for parameter in network.parameters())
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    running = sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
    table.caption = f"{total:,} parameters and {running:,} running statistics: {total + running:,}"
    if trained < total:
        table.caption += f"; {trained:,} trained"
    return table
