"""A learning rate of their own for the heads that are new on top of a pretrained encoder."""

from torch import nn
from torch.optim import Optimizer

from mocose_hf.models.modeling_base import ContrastiveModel


def head_parameters(model: ContrastiveModel) -> list[nn.Parameter]:
    """Return the trainable parameters outside the online encoder: pooler, projection head and predictor."""
    of_encoder = {id(parameter) for parameter in model.mocose.parameters()}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in of_encoder]


def set_head_learning_rate(optimizer: Optimizer, model: ContrastiveModel, rate: float) -> None:
    """Move the heads of each parameter group into a group that differs only in its learning rate.

    Args:
        optimizer: An optimizer that has made no step yet.
        model: The model that it trains.
        rate: Peak learning rate of the heads, at least 0.

    Raises:
        ValueError: If the optimizer does not hold the heads in its parameter groups.
    """
    heads = {id(parameter) for parameter in head_parameters(model)}
    grouped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not heads <= grouped:
        raise ValueError(
            f"`head_learning_rate` needs an optimizer with parameter groups, and {type(optimizer).__name__} has none; "
            "leave it out, or set another `optim`."
        )
    for group in list(optimizer.param_groups):
        in_group = [parameter for parameter in group["params"] if id(parameter) in heads]
        if in_group:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in heads]
            optimizer.add_param_group({**group, "params": in_group, "lr": rate})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
