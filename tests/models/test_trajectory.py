"""Whole runs of the trainer against references that share no code with it."""

import pytest
import slow_reference
import torch
from builders import tiny_bert_config
from trajectories import follow, follows_stored_run, model_of, our_name, reference_names, stored_run

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining


def set_queue(queue, rows: torch.Tensor) -> None:
    """Fill an empty queue with rows given newest first."""
    assert int(queue.num_filled) == 0
    queue.enqueue(rows.flip(0))


def test_trainer_follows_a_slow_loop_written_from_the_paper(tmp_path):
    generator = torch.Generator().manual_seed(5)
    encoder_config = tiny_bert_config(hidden_act="gelu", layer_norm_eps=1e-12)
    torch.manual_seed(3)
    start = MoCoSEForPreTraining(MoCoSEConfig(encoder_config=encoder_config))
    ours = {our_name(name): name for name in reference_names(start)}
    parameters = {ours[name]: value.clone() for name, value in start.state_dict().items() if name in ours}
    # Larger weights than fresh ones, so that every layer matters.
    parameters = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in parameters.items()
    }
    batches = []
    for _ in range(9):
        input_ids = torch.randint(5, 100, (5, 6), generator=generator)
        attention_mask = torch.ones_like(input_ids)
        attention_mask[2, 4:] = 0
        batches.append((input_ids, attention_mask))
    initial = torch.nn.functional.normalize(torch.randn(4, 32, generator=generator), dim=-1)

    expected = slow_reference.run(
        parameters,
        batches,
        initial,
        num_heads=2,
        queue_size=18,  # no multiple of the batch, so the queue wraps inside one
        temperature=0.05,
        ema_start=0.6,
        ema_steps=9,
        learning_rate=1e-3,
        weight_decay=0.0,
    )
    model = model_of(parameters, encoder_config, queue_size=18, queue_init_size=0)
    set_queue(model.queue, initial)
    losses = follow(model, batches, tmp_path, ema_decay=0.6, weight_decay=0.0)

    assert losses == pytest.approx(expected["losses"], abs=1e-5)
    torch.testing.assert_close(model.queue.stored_keys().double(), expected["queue"], atol=1e-5, rtol=0)
    state = model.state_dict()
    for branch in ("online", "target"):
        for name, value in expected[branch].items():
            if "self.key.bias" not in name:  # its gradient is zero but for rounding, which Adam makes large
                torch.testing.assert_close(state[our_name(name, branch)].double(), value, atol=5e-5, rtol=0, msg=name)


def test_trainer_follows_the_paper_on_the_stored_run(shared_data, tmp_path):
    run, encoder_config, parameters, batches, rows = stored_run(shared_data)
    sizes = {name: run[name] for name in ("queue_size", "temperature")}
    model = model_of(parameters, encoder_config, queue_init_size=0, **sizes)
    set_queue(model.queue, rows[: run["queue_init_size"]])
    follows_stored_run(run, "paper", model, batches, tmp_path)
