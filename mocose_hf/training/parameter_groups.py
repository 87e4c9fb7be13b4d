"""A learning rate of their own for what is new over a pretrained encoder."""

from torch import nn
from torch.optim import Optimizer

from mocose_hf.models.modeling_mocose import MoCoSEForPreTraining


def head_parameters(model: MoCoSEForPreTraining) -> list[nn.Parameter]:
    """Return the trainable parameters outside the online encoder: pooler, projection head and predictor."""
    of_encoder = {id(parameter) for parameter in model.mocose.parameters()}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in of_encoder]


def set_head_learning_rate(optimizer: Optimizer, model: MoCoSEForPreTraining, rate: float) -> None:
    """Split the heads off from each group of parameters, into groups that differ by their learning rate alone.

    Args:
        optimizer: One that has made no step yet.
        model: What it trains.
        rate: The heads' peak learning rate, at least 0.

    Raises:
        ValueError: Where the optimizer does not hold the heads in groups.
    """
    heads = {id(parameter) for parameter in head_parameters(model)}
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not heads <= held:
        raise ValueError(
            f"`head_learning_rate` needs an optimizer with groups of parameters, which {type(optimizer).__name__} has "
            "not; leave it out, or set another `optim`."
        )
    for group in list(optimizer.param_groups):
        own = [parameter for parameter in group["params"] if id(parameter) in heads]
        if own:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in heads]
            optimizer.add_param_group({**group, "params": own, "lr": rate})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
