"""The loss in sentence-transformers' trainer computes what this package's own model computes."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from builders import sentences, tiny_bert_config
from datasets import Dataset, DatasetDict
from processes import start_processes
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch.nn import functional as F
from transformers import BertModel

from mocose_hf import MoCoSEForPreTraining
from mocose_hf.errors import InputError
from mocose_hf.sentence_transformers import MomentumCallback, MomentumContrastLoss

BATCH, STEPS = 4, 5


@pytest.fixture(scope="module")
def still_encoder(tmp_path_factory, tokenizer):
    """A directory with a tiny BERT without dropout."""
    directory = tmp_path_factory.mktemp("still")
    tokenizer.save_pretrained(directory)
    torch.manual_seed(3)
    BertModel(tiny_bert_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).save_pretrained(directory)
    return str(directory)


def build(directory) -> SentenceTransformer:
    transformer = Transformer(str(directory))
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), "mean")]
    return SentenceTransformer(modules=modules, device="cpu")


def arguments(folder, **fields) -> SentenceTransformerTrainingArguments:
    small = {"per_device_train_batch_size": BATCH, "max_steps": STEPS, "learning_rate": 1e-3, "logging_steps": 1}
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
    return SentenceTransformerTrainingArguments(str(folder), **quiet | small | fields)


def pairs(count: int = BATCH * STEPS, columns: int = 2, seed: int = 0) -> Dataset:
    texts = sentences(count * columns, seed)
    names = ("query", "text", "negative", "other")[:columns]
    return Dataset.from_dict({name: texts[i * count : (i + 1) * count] for i, name in enumerate(names)})


class BatchRecorder:
    """Keep the features of every batch of a loss as they are before its forward, and the value."""

    def __init__(self, loss):
        self.batches, self.values, forward = [], [], loss.forward

        def recording(features, labels=None):
            self.batches.append([{n: v.clone() for n, v in part.items() if torch.is_tensor(v)} for part in features])
            value = forward(features, labels)
            self.values.append(value.detach())
            return value

        loss.forward = recording


def train(model, loss, folder, data=None, callback=None, resume=None, **fields):
    trainer = SentenceTransformerTrainer(
        model, arguments(folder, **fields), pairs() if data is None else data, loss=loss,
        callbacks=[callback or MomentumCallback(loss)],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


TERMS = {
    "momentum": {"queue_size": 10},
    "no queue": {"queue_size": 0},
    "all terms": {"queue_size": 10, "in_batch_weight": 0.7, "queue_weight": 0.4, "symmetric": True},
    "moving schedule": {"queue_size": 6, "ema_decay": 0.6, "ema_decay_end": 1.0},
    "masked": {"queue_size": 10, "mask_same_sentence": True},
}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", list(TERMS))
def test_losses_and_weights_are_those_of_our_model(name, accumulation, still_encoder, tmp_path):
    settings = {"ema_decay": 0.8, **TERMS[name]}
    model = build(still_encoder)
    loss = MomentumContrastLoss(model, **settings)
    recorder = BatchRecorder(loss)
    # Some gradients are zero but for rounding, which AdamW would blow up to whole steps.
    options = {"gradient_accumulation_steps": accumulation, "lr_scheduler_type": "constant", "adam_epsilon": 1e-4}
    data = pairs(BATCH * STEPS * accumulation)
    train(model, loss, tmp_path, data, max_grad_norm=0.0, **options)

    start, end = settings.pop("ema_decay"), settings.pop("ema_decay_end", None)
    ours = MoCoSEForPreTraining.from_encoder_pretrained(
        still_encoder, pooling_mode="mean", use_pooler=False, num_projection_layers=0, num_predictor_layers=0,
        share_embeddings=False, queue_init_size=0, symmetric_loss=settings.pop("symmetric", False), **settings,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(ours.mocose.parameters(), lr=1e-3, weight_decay=0.0, eps=1e-4)
    losses, batches = [], iter(recorder.batches)
    for step in range(1, STEPS + 1):
        outputs = []
        for _ in range(accumulation):
            query, key = next(batches)
            names = ("input_ids", "attention_mask", "token_type_ids")
            batch = {n: query[n] for n in names} | {f"key_{n}": key[n] for n in names}
            ids = torch.arange(BATCH) + 1000 * step  # all texts differ
            outputs.append(ours(**batch, sentence_ids=ids))
            (outputs[-1].loss / accumulation).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses += [output.loss.detach() for output in outputs]
        for output in outputs:
            for queue, keys in zip(
                ours.queues(), (output.key_embeddings, output.reverse_key_embeddings), strict=False
            ):
                queue.enqueue(keys.detach(), step=step)
        ours.update_target(ours.ema_decay_at(step + 1, STEPS, start, start if end is None else end))

    torch.testing.assert_close(torch.stack(recorder.values), torch.stack(losses), atol=1e-6, rtol=1e-6)
    online = {n: p for n, p in model[0].auto_model.named_parameters() if "pooler" not in n}
    expected = dict(ours.mocose.encoder.named_parameters())
    assert online.keys() == expected.keys()
    for key, value in online.items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=0)
    target = dict(loss.target[0].auto_model.named_parameters())
    for key, value in ours.target["encoder"].named_parameters():
        torch.testing.assert_close(target[key], value, atol=1e-6, rtol=0)
    assert len(loss.queues()) == (2 if name == "all terms" else 1)
    for queue, other in zip(loss.queues(), ours.queues(), strict=False):
        torch.testing.assert_close(queue.rows, other.rows, atol=1e-6, rtol=0)
        assert torch.equal(queue.enqueued_at, other.enqueued_at)


def features_of(model, *columns) -> list[dict]:
    return [model.preprocess(list(column)) for column in columns]


def embedded(model, texts) -> torch.Tensor:
    return model.encode(list(texts), convert_to_tensor=True)


def ready_loss(model, **settings) -> MomentumContrastLoss:
    """A loss in training, whose target differs from the model and whose queue is full."""
    loss = MomentumContrastLoss(model, **{"queue_size": 6, "temperature": 0.1} | settings)
    loss.fill_queue(sentences(6, seed=5), sentences(6, seed=6))
    loss.begin_training()
    torch.manual_seed(1)
    for target, _ in loss.momentum_pairs().values():
        target.add_(torch.randn_like(target), alpha=0.05)
    model.train()
    return loss


def cross_entropy(queries, candidates, temperature=0.1) -> torch.Tensor:
    """InfoNCE by a slow loop: candidate i is query i's own."""
    losses = []
    for i, query in enumerate(queries):
        cosines = torch.stack([F.cosine_similarity(query, other, dim=0) for other in candidates]) / temperature
        losses.append(-cosines[i] + cosines.exp().sum().log())
    return torch.stack(losses).mean()


def test_matryoshka_contrasts_normalised_prefixes_of_whole_keys(still_encoder):
    model = build(still_encoder)
    loss = ready_loss(model)
    texts, positives = sentences(4, seed=1), sentences(4, seed=2)
    queries, keys, calls = embedded(model, texts), embedded(loss.target, positives), []
    model.train()
    loss.target.register_forward_hook(lambda *_: calls.append(1))
    value = MatryoshkaLoss(model, loss, [8, 32, 16], [2.0, 1.0, 0.5])(features_of(model, texts, positives), None)
    expected = sum(
        weight * cross_entropy(queries[:, :width], torch.cat([keys, loss.queue.rows])[:, :width])
        for width, weight in ((32, 1.0), (8, 2.0), (16, 0.5))
    )
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
    (forward,) = loss.take_forwards()  # one for all three dimensions
    assert len(calls) == 1
    torch.testing.assert_close(forward.keys, F.normalize(keys, dim=-1))
    value.backward()
    assert all(parameter.grad is None for parameter in loss.target.parameters())


def test_hard_negatives_are_candidates_of_the_in_batch_term(still_encoder):
    model = build(still_encoder)
    loss = ready_loss(model, in_batch_weight=0.5, queue_weight=2.0)
    columns = [sentences(4, seed=seed) for seed in range(1, 5)]
    queries, *candidates = (embedded(model, column) for column in columns)
    keys = embedded(loss.target, columns[1])
    model.train()
    value = loss(features_of(model, *columns), None)
    expected = 0.5 * cross_entropy(queries, torch.cat(candidates))
    expected += 2.0 * cross_entropy(queries, torch.cat([keys, loss.queue.rows]))
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="in_batch_weight"):
        ready_loss(model)(features_of(model, *columns), None)


def test_a_single_column_is_contrasted_with_itself_under_other_masks(encoder_dir):
    model = build(encoder_dir)
    loss = ready_loss(model, in_batch_weight=1.0, symmetric=True)
    texts = sentences(4, seed=1)
    value = loss(features_of(model, texts), None)
    value.backward()
    (forward,) = loss.take_forwards()
    own = F.cosine_similarity(forward.keys, forward.reverse_keys)
    assert own.min() > 0.5
    assert not torch.allclose(forward.keys, forward.reverse_keys, atol=1e-3)


def test_the_reshaping_term_needs_a_filled_queue_and_excludes_own_rows(still_encoder):
    model = build(still_encoder)
    options = {"queue_weight": 0.0, "reshaping_weight": 1.0, "reshaping_smoothing": 0.5, "temperature": 0.05}
    texts = sentences(4, seed=1)
    empty = MomentumContrastLoss(model, queue_size=6, **options)
    empty.begin_training()
    with pytest.raises(ValueError, match="fill_queue"):
        empty(features_of(model, texts), None)
    own = MomentumContrastLoss(model, queue_size=4, **options)
    own.fill_queue(texts)
    assert own.queue.row_ids.unique().numel() == 4
    filled = own.queue.rows.clone()
    own.queue.rows[1:] = own.queue.rows[:1]  # now all other rows than each text's own are the same
    model.eval()
    keys = F.normalize(embedded(own.target, texts), dim=-1)
    torch.testing.assert_close(filled, keys, atol=1e-5, rtol=1e-4)
    value = own(features_of(model, texts), None)
    mixed = F.normalize(0.5 * keys + 0.5 * filled[:1], dim=-1)
    torch.testing.assert_close(value, 1 - (keys * mixed).sum(1).mean(), atol=1e-5, rtol=1e-5)


def test_the_ids_of_texts_do_not_depend_on_padding(still_encoder):
    model = build(still_encoder)
    loss = MomentumContrastLoss(model, queue_size=8)
    loss.fill_queue(["a cat", "the old dog sees a bird", "a cat", "cat a"], batch_size=3)
    first, second, third, fourth = loss.queue.row_ids[:4].tolist()
    assert first == third >= 0
    assert len({first, second, fourth}) == 3


@pytest.mark.parametrize("name", ["all terms", "matryoshka"])
def test_a_resumed_run_ends_with_the_same_bits(name, encoder_dir, tmp_path):
    def start():
        model = build(encoder_dir)
        settings = TERMS["all terms"] if name == "all terms" else TERMS["momentum"]
        loss = MomentumContrastLoss(model, **settings)
        wrapped = MatryoshkaLoss(model, loss, [32, 16]) if name == "matryoshka" else loss
        return model, loss, wrapped

    model, loss, wrapped = start()
    whole = train(model, wrapped, tmp_path / "whole", save_strategy="steps", save_steps=2, logging_steps=3)
    again, other, wrapped = start()
    checkpoint = str(tmp_path / "whole" / "checkpoint-2")
    callback = MomentumCallback(wrapped, resume_from_checkpoint=checkpoint)
    resumed = train(again, wrapped, tmp_path / "again", callback=callback, resume=checkpoint, logging_steps=3)
    for (key, value), expected in zip(again.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(value, expected), key
    for key, value in other.momentum_state().items():
        assert torch.equal(value, loss.momentum_state()[key]), key
    assert not torch.equal(again[0].auto_model.embeddings.word_embeddings.weight,
                           other.target[0].auto_model.embeddings.word_embeddings.weight)  # fmt: skip
    line, expected = (next(line for line in run.state.log_history if "queue_fill" in line) for run in (resumed, whole))
    assert line["step"] == 3
    for key in ("contrastive_accuracy", "query_std", "key_std", "ema_decay", "queue_fill", "d_trace"):
        assert line[key] == expected[key], key


def test_a_resume_without_the_state_of_its_run_fails(encoder_dir, tmp_path):
    model = build(encoder_dir)
    loss = MomentumContrastLoss(model, queue_size=8)
    train(model, loss, tmp_path / "a", save_strategy="steps", save_steps=2)
    checkpoint = tmp_path / "a" / "checkpoint-2"
    other_settings = MomentumContrastLoss(model, queue_size=9)
    with pytest.raises(InputError, match=r'"queue_size": 8.*"queue_size": 9'):
        train(model, other_settings, tmp_path / "a", resume=str(checkpoint))
    same = MomentumContrastLoss(model, queue_size=8)
    wrong = MomentumCallback(same, resume_from_checkpoint=tmp_path / "a" / "checkpoint-4")
    with pytest.raises(InputError, match="other weights"):
        train(model, same, tmp_path / "a", callback=wrong, resume=str(checkpoint))
    (checkpoint / "momentum_contrast.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        train(model, same, tmp_path / "a", resume=str(checkpoint))


def test_datasets_can_share_a_loss_or_have_their_own(encoder_dir, tmp_path):
    data = DatasetDict({"a": pairs(12, seed=1), "b": pairs(12, columns=1, seed=2)})
    model = build(encoder_dir)
    shared = MomentumContrastLoss(model, queue_size=64)
    train(model, shared, tmp_path / "shared", data)
    assert int(shared.queue.num_filled) == BATCH * STEPS
    model = build(encoder_dir)
    own = {"a": MomentumContrastLoss(model, queue_size=64), "b": MomentumContrastLoss(model, queue_size=64)}
    train(model, own, tmp_path / "own", data, MomentumCallback(own), prompts={"a": "the ", "b": "one "})
    filled = [int(loss.queue.num_filled) for loss in own.values()]
    assert sum(filled) == BATCH * STEPS
    assert min(filled) > 0
    first, second = (loss.momentum_pairs().values() for loss in own.values())
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))


def test_prompts_reach_the_target(still_encoder, tmp_path):
    texts = ["a cat", "the dog"]
    queues = []
    for options, prompt in (({"prompts": {"text": "old "}}, ""), ({}, "old ")):
        model = build(still_encoder)
        loss = MomentumContrastLoss(model, queue_size=2)
        data = Dataset.from_dict({"query": ["tree", "house"], "text": [prompt + text for text in texts]})
        train(model, loss, tmp_path, data, max_steps=1, per_device_train_batch_size=2, **options)
        queues.append(loss.queue.rows)
    torch.testing.assert_close(*queues)


def test_evaluation_changes_no_state(encoder_dir, tmp_path):
    model = build(encoder_dir)
    loss = MomentumContrastLoss(model, queue_size=8)
    trainer = train(model, loss, tmp_path)
    before = {name: value.clone() for name, value in loss.momentum_state().items()}
    first, second = (trainer.evaluate(pairs(8, seed=9))["eval_loss"] for _ in range(2))
    assert first == second > 0
    assert not loss.forwards
    assert all(torch.equal(value, before[name]) for name, value in loss.momentum_state().items())


def test_a_new_training_starts_anew(encoder_dir, tmp_path):
    model = build(encoder_dir)
    loss = MomentumContrastLoss(model, queue_size=64)
    train(model, loss, tmp_path)
    train(model, loss, tmp_path, max_steps=1)
    assert int(loss.queue.num_filled) == BATCH


def test_a_loss_without_its_callback_fails(encoder_dir, tmp_path):
    model = build(encoder_dir)
    loss = MomentumContrastLoss(model)
    with pytest.raises(RuntimeError, match="callbacks=\\[MomentumCallback"):
        train(model, loss, tmp_path, callback=MomentumCallback(MomentumContrastLoss(model)))
    loss.begin_training()
    with pytest.raises(RuntimeError, match="same loss"):
        train(model, loss, tmp_path, callback=MomentumCallback(MomentumContrastLoss(model)))
    with pytest.raises(ValueError, match="another model"):
        train(model, loss, tmp_path, callback=MomentumCallback(MomentumContrastLoss(build(encoder_dir))))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queue_weight": 0.0, "in_batch_weight": 1.0, "queue_size": 0}, "MultipleNegativesRankingLoss"),
        ({"ema_decay": 1.5}, "`ema_decay` lies in"),
        ({"temperature": 0.0}, "`temperature`"),
        ({"queue_size": -1}, "`queue_size`"),
        ({"reshaping_smoothing": 0.5}, "`reshaping_weight` is 0"),
        ({"queue_dtype": "float16"}, "`queue_dtype`"),
    ],
)
def test_values_without_effect_fail(settings, message, encoder_dir):
    with pytest.raises(ValueError, match=message):
        MomentumContrastLoss(build(encoder_dir), **settings)


def test_a_callback_needs_a_loss_and_a_model_its_parameters(encoder_dir):
    with pytest.raises(ValueError, match="MomentumContrastLoss"):
        MomentumCallback(torch.nn.MSELoss())
    model = build(encoder_dir)
    loss = MomentumContrastLoss(model)
    model[0].auto_model.resize_token_embeddings(130)
    with pytest.raises(ValueError, match="before you build"):
        loss.begin_training()


def test_a_missing_library_is_reported_with_its_command():
    code = "import sys; sys.modules['sentence_transformers'] = None; import mocose_hf.sentence_transformers"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "[sentence-transformers]" in result.stderr.splitlines()[-1]


def test_keys_of_the_same_text_are_no_negatives_if_masked(still_encoder):
    model = build(still_encoder)
    loss = ready_loss(model, mask_same_sentence=True)
    positives = ["a cat", "the old dog", "a cat", "tree"]
    loss.fill_queue(["tree", "river", "stone"])
    model.train()
    texts = sentences(4, seed=1)
    value = loss(features_of(model, texts, positives), None)
    model.eval()
    queries, keys = embedded(model, texts), embedded(loss.target, positives)
    rows, names = loss.queue.rows[:3], ["tree", "river", "stone"]
    losses = []
    for i, query in enumerate(queries):
        others = [keys[j] for j in range(4) if j != i and positives[j] != positives[i]]
        others += [rows[j] for j in range(3) if names[j] != positives[i]]
        losses.append(cross_entropy(query[None], torch.stack([keys[i], *others])))
    torch.testing.assert_close(value, torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)


def test_a_skipped_step_changes_neither_target_nor_queue(encoder_dir, tmp_path):
    model = build(encoder_dir)
    loss = MomentumContrastLoss(model, queue_size=8)
    callback, args = MomentumCallback(loss), arguments(tmp_path)
    optimizer = SimpleNamespace(step_was_skipped=True)
    state = SimpleNamespace(global_step=0, max_steps=STEPS)
    callback.on_train_begin(args, state, None, model=model, optimizer=optimizer)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    before = {name: value.clone() for name, value in loss.momentum_state().items()}
    for step, skipped in ((1, True), (2, False)):
        model.train()
        loss(features_of(model, sentences(4), sentences(4, seed=1)), None)
        state.global_step, optimizer.step_was_skipped = step, skipped
        callback.on_step_end(args, state, None)
        changed = [name for name, value in loss.momentum_state().items() if not torch.equal(value, before[name])]
        assert bool(changed) != skipped
    assert int(loss.queue.num_filled) == 4


def test_a_loss_that_is_not_finite_ends_the_training(encoder_dir, tmp_path):
    model = build(encoder_dir)
    loss = MomentumContrastLoss(model, queue_size=8)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 1"):
        train(model, loss, tmp_path)
    assert int(loss.queue.num_filled) == 0


def test_sharded_models_and_separate_losses_on_processes_fail(encoder_dir, monkeypatch):
    model = build(encoder_dir)
    losses = [MomentumContrastLoss(model, queue_size=8) for _ in range(2)]
    state = SimpleNamespace(global_step=0)
    for name in ("deepspeed", "fsdp"):
        with pytest.raises(ValueError, match="MoCoSETrainer"):
            MomentumCallback(losses[0]).on_train_begin(SimpleNamespace(**{name: "ds.json"}), state, None, model=model)
    monkeypatch.setattr("mocose_hf.sentence_transformers.momentum_callback.process_count", lambda: 2)
    with pytest.raises(ValueError, match="share one loss"):
        MomentumCallback(losses).on_train_begin(SimpleNamespace(), state, None, model=model)


@pytest.mark.slow
def test_two_processes_end_as_one(still_encoder, tmp_path):
    for count in (1, 2):
        start_processes(
            "momentum_loss_on_processes.py", count, still_encoder, tmp_path / f"on-{count}",
            log_folder=tmp_path / f"log-{count}",
        )  # fmt: skip
    names = ("on-1-0", "on-2-0", "on-2-1")
    one, first, second = (load_file(tmp_path / f"{name}.safetensors") for name in names)
    assert int(one["queue.num_filled"]) == 20
    for name, value in one.items():
        torch.testing.assert_close(first[name], value, atol=1e-6, rtol=0)
        assert torch.equal(first[name], second[name]), name
