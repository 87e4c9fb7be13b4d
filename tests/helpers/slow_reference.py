"""A slow, plain reference of one MoCoSE training run (arXiv 2202.13093), to compare a fast trainer with.

PyTorch serves here only as arrays and automatic differentiation: BERT, the heads, the loss, the queue and the
optimiser are written out from their equations, with loops wherever a loop is the clearest form.

Online branch:  BERT -> [CLS] -> pooler -> projection -> predictor -> unit length = query q
Target branch:  the online embeddings -> own transformer layers -> [CLS] -> pooler -> projection
                -> unit length = key k; it takes no gradient, so the online branch alone trains the embeddings
Heads:          pooler     = Linear (no activation)
                projection = Linear, LayerNorm
                predictor  = Linear, LayerNorm, Linear, tanh
There is no dropout, and every LayerNorm has epsilon 1e-12.

Step s = 1, 2, ... of a run, with t the temperature and n_l the rows of the queue:
1. eta = 1 - (1 - ema_start) * (cos(pi * s / ema_steps) + 1) / 2
   target <- eta * target + (1 - eta) * online
2. loss = mean over i of  -log( e^(q_i.k_i / t) / (sum_j e^(q_i.k_j / t) + sum_l e^(q_i.n_l / t)) )
3. AdamW with bias correction (betas 0.9 and 0.999, epsilon 1e-8), m and v starting at 0 and g the gradient:
   m <- 0.9 m + 0.1 g,  v <- 0.999 v + 0.001 g^2,  m' = m / (1 - 0.9^s),  v' = v / (1 - 0.999^s)
   w <- w - learning_rate * (m' / (sqrt(v') + 1e-8) + weight_decay * w),  for every weight and bias alike
4. the keys of step 2 enter the front of the queue, the batch's last row foremost; past the size
   of the queue the oldest rows go.

The exponentials of step 2 are taken as written, so a temperature below about 0.02 asks for float64.
"""

import math

import torch
from torch import Tensor

LAYER_NORM_EPSILON = 1e-12
BETA_1, BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-8
TARGET_PREFIXES = ("encoder.layer.", "pooler.", "projection.")

Parameters = dict[str, Tensor]


def linear(parameters: Parameters, name: str, inputs: Tensor) -> Tensor:
    return inputs @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]


def layer_norm(parameters: Parameters, name: str, inputs: Tensor) -> Tensor:
    centred = inputs - inputs.mean(dim=-1, keepdim=True)
    variance = (centred * centred).mean(dim=-1, keepdim=True)
    normalised = centred / torch.sqrt(variance + LAYER_NORM_EPSILON)
    return normalised * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def gelu(inputs: Tensor) -> Tensor:
    return inputs * 0.5 * (1.0 + torch.erf(inputs / math.sqrt(2.0)))


def unit_length(inputs: Tensor) -> Tensor:
    return inputs / torch.sqrt((inputs * inputs).sum(dim=-1, keepdim=True))


def embed(parameters: Parameters, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
    """Word, position and token type embeddings, summed and normalised: (rows, length, hidden)."""
    words = parameters["embeddings.word_embeddings.weight"][input_ids]
    positions = parameters["embeddings.position_embeddings.weight"][: input_ids.shape[1]]
    token_types = parameters["embeddings.token_type_embeddings.weight"][token_type_ids]
    return layer_norm(parameters, "embeddings.LayerNorm", words + positions + token_types)


def attention(parameters: Parameters, layer: str, states: Tensor, attention_mask: Tensor, num_heads: int) -> Tensor:
    """Self-attention, one head after the other; tokens whose mask is 0 are not attended to."""
    queries = linear(parameters, f"{layer}.attention.self.query", states)
    keys = linear(parameters, f"{layer}.attention.self.key", states)
    values = linear(parameters, f"{layer}.attention.self.value", states)
    head_size = states.shape[-1] // num_heads
    hidden_tokens = (attention_mask == 0)[:, None, :]
    contexts = []
    for head in range(num_heads):
        columns = slice(head * head_size, (head + 1) * head_size)
        scores = queries[..., columns] @ keys[..., columns].transpose(1, 2) / math.sqrt(head_size)
        weights = torch.softmax(scores.masked_fill(hidden_tokens, -math.inf), dim=-1)
        contexts.append(weights @ values[..., columns])
    return linear(parameters, f"{layer}.attention.output.dense", torch.cat(contexts, dim=-1))


def transform(parameters: Parameters, embedded: Tensor, attention_mask: Tensor, num_heads: int) -> Tensor:
    """BERT's transformer layers, all that `parameters` names: the last hidden states."""
    states = embedded
    number = 0
    while f"encoder.layer.{number}.output.dense.weight" in parameters:
        layer = f"encoder.layer.{number}"
        attended = attention(parameters, layer, states, attention_mask, num_heads)
        attended = layer_norm(parameters, f"{layer}.attention.output.LayerNorm", attended + states)
        expanded = gelu(linear(parameters, f"{layer}.intermediate.dense", attended))
        contracted = linear(parameters, f"{layer}.output.dense", expanded)
        states = layer_norm(parameters, f"{layer}.output.LayerNorm", contracted + attended)
        number += 1
    return states


def project(parameters: Parameters, embedded: Tensor, attention_mask: Tensor, num_heads: int) -> Tensor:
    """What the two branches have in common: transformer layers, [CLS], pooler, projection."""
    first_token = transform(parameters, embedded, attention_mask, num_heads)[:, 0]
    pooled = linear(parameters, "pooler", first_token)
    return layer_norm(parameters, "projection.layer_norm", linear(parameters, "projection.linear", pooled))


def predict(parameters: Parameters, projected: Tensor) -> Tensor:
    hidden = linear(parameters, "predictor.hidden", projected)
    hidden = layer_norm(parameters, "predictor.layer_norm", hidden)
    return torch.tanh(linear(parameters, "predictor.output", hidden))


def contrastive_loss(queries: Tensor, keys: Tensor, queue: list[Tensor], temperature: float) -> Tensor:
    """The mean over rows i of -log of the share that key i has in query i's exponentials."""
    total = torch.zeros((), dtype=queries.dtype)
    for row, query in enumerate(queries):
        numerator = torch.exp(query @ keys[row] / temperature)
        denominator = torch.zeros((), dtype=queries.dtype)
        for key in keys:
            denominator = denominator + torch.exp(query @ key / temperature)
        for negative in queue:
            denominator = denominator + torch.exp(query @ negative / temperature)
        total = total - torch.log(numerator / denominator)
    return total / len(queries)


def ema_decay(step: int, ema_start: float, ema_steps: int) -> float:
    return 1.0 - (1.0 - ema_start) * (math.cos(math.pi * step / ema_steps) + 1.0) / 2.0


def adamw_step(
    online: Parameters,
    first_moments: Parameters,
    second_moments: Parameters,
    step: int,
    learning_rate: float,
    weight_decay: float,
) -> None:
    """Replace each online parameter, and its two moments, by the values after the step."""
    for name, parameter in online.items():
        gradient, weight = parameter.grad, parameter.detach()
        first_moments[name] = BETA_1 * first_moments[name] + (1.0 - BETA_1) * gradient
        second_moments[name] = BETA_2 * second_moments[name] + (1.0 - BETA_2) * gradient * gradient
        first_moment = first_moments[name] / (1.0 - BETA_1**step)
        second_moment = second_moments[name] / (1.0 - BETA_2**step)
        change = first_moment / (torch.sqrt(second_moment) + ADAM_EPSILON) + weight_decay * weight
        online[name] = (weight - learning_rate * change).requires_grad_()


def run(
    parameters: Parameters,
    batches: list[tuple[Tensor, Tensor]],
    initial_queue: list[Tensor] | Tensor,
    *,
    num_heads: int,
    queue_size: int,
    temperature: float,
    ema_start: float,
    ema_steps: int,
    learning_rate: float,
    weight_decay: float,
    dtype: torch.dtype = torch.float64,
    token_types: list[Tensor] | None = None,
) -> dict:
    """Train for one step per batch and return what a trainer should have arrived at.

    `parameters` are the start of the online branch, named as in a `BertModel` without pooler, with the heads
    `pooler`, `projection.{linear,layer_norm}`, `predictor.{hidden,layer_norm,output}` beside them.
    `batches` are pairs of token ids and attention mask, both (rows, length); `token_types`, if given, has one
    tensor of that shape per batch, and is otherwise zero. `initial_queue` are unit rows, newest first, at
    most `queue_size` of them. None of these is changed.

    Returns `losses` (floats, each before its step's update), `online` and `target` (parameters after the last
    step) and `queue` (rows, newest first).
    """
    online = {name: value.detach().to(dtype).clone().requires_grad_() for name, value in parameters.items()}
    target = {name: value.detach().clone() for name, value in online.items() if name.startswith(TARGET_PREFIXES)}
    first_moments = {name: torch.zeros_like(value.detach()) for name, value in online.items()}
    second_moments = {name: torch.zeros_like(value.detach()) for name, value in online.items()}
    queue = [torch.as_tensor(row).detach().to(dtype).clone() for row in initial_queue]
    if len(queue) > queue_size:
        raise ValueError(f"{len(queue)} initial rows do not fit a queue of {queue_size}")
    losses = []
    for step, (input_ids, attention_mask) in enumerate(batches, start=1):
        token_type_ids = torch.zeros_like(input_ids) if token_types is None else token_types[step - 1]

        decay = ema_decay(step, ema_start, ema_steps)
        for name in target:
            target[name] = decay * target[name] + (1.0 - decay) * online[name].detach()

        embedded = embed(online, input_ids, token_type_ids)
        queries = unit_length(predict(online, project(online, embedded, attention_mask, num_heads)))
        with torch.no_grad():
            keys = unit_length(project(target, embedded, attention_mask, num_heads))
        loss = contrastive_loss(queries, keys, queue, temperature)
        loss.backward()
        losses.append(loss.item())

        adamw_step(online, first_moments, second_moments, step, learning_rate, weight_decay)

        for key in keys:
            queue.insert(0, key)
        del queue[queue_size:]

    return {
        "losses": losses,
        "online": {name: value.detach() for name, value in online.items()},
        "target": target,
        "queue": torch.stack(queue) if queue else torch.empty(0, keys.shape[1], dtype=dtype),
    }
