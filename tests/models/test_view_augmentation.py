"""Changes of tokens and embeddings while training: drawn as promised, told by a loop, and not seen by evaluation."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise, permutations

import pytest
import torch
from builders import WAITING, Operations, random_batch, sentences, tiny_bert_config, tiny_model
from datasets import Dataset
from families import CHECKPOINTING_FAMILIES, FAMILIES
from packing import CANNOT, both_batches
from processes import start_processes
from resuming import run
from safetensors.torch import load_file
from same_state import differences
from torch import nn
from torch.nn import functional as F
from trainers import make_trainer, scored_pairs, training_arguments
from transformers import BertModel

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining, MoCoSETrainer, info_nce_loss
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.models.view_augmentation import Augmentation, draw_fraction, random_signs, shuffle
from mocose_hf.models.views import View, embed_tokens, takes_embeddings
from mocose_hf.training.data_preparation import build_augmentation

SPECIAL = (0, 2, 3)
RANDOM = {"position_shuffle": True, "token_cutoff": 0.3, "feature_cutoff": 0.2, "embedding_noise": 0.01}
ALL = RANDOM | {"view": "both", "fgsm_epsilon": 1e-3}
ALL_OPTIONS = RANDOM | {"augment_view": "both", "fgsm_epsilon": 1e-3, "key_augmentation": "typos"}
DRAWS = 6000


def family_model(family: str, **config) -> MoCoSEForPreTraining:
    torch.manual_seed(0)
    settings = {"queue_size": 16, "queue_init_size": 16} | config
    return MoCoSEForPreTraining(MoCoSEConfig(encoder_config=FAMILIES[family](), **settings))


def without_dropout(**config) -> MoCoSEForPreTraining:
    return tiny_model(encoder_dropout_prob=0.0, head_dropout_prob=0.0, **config).train()


def text_batch(tokenizer, count: int = 6, **options) -> dict:
    return SentenceCollator(tokenizer, **options)([{"text": text} for text in sentences(count, seed=3)])


def view_of(batch: dict) -> View:
    return View(**batch)


def seeded(model, batch: dict, seed: int = 5):
    torch.manual_seed(seed)
    return model(**batch)


def near(counts: Counter, kinds: int) -> bool:
    """Whether all kinds were drawn about as often as each other: within five standard deviations."""
    expected = sum(counts.values()) / kinds
    return len(counts) == kinds and all(abs(n - expected) < 5 * expected**0.5 for n in counts.values())


@pytest.mark.parametrize(("total", "share"), [(7, 0.3), (10, 0.1), (3, 0.1), (5, 0.99), (4, 0.5), (0, 0.5)])
def test_the_share_drawn_is_expected_to_be_exactly_the_one_asked_for(total, share):
    torch.manual_seed(0)
    candidates = torch.zeros(DRAWS, 12, dtype=torch.bool)
    candidates[:, 1 : total + 1] = True
    drawn = draw_fraction(candidates, share)
    assert not (drawn & ~candidates).any()
    counts = drawn.sum(1)
    exact = round(total * share, 6)
    assert set(counts.tolist()) <= {int(exact), int(exact) + (exact > int(exact))}
    spread = ((exact % 1) * (1 - exact % 1) / DRAWS) ** 0.5
    assert counts.double().mean().item() == pytest.approx(exact, abs=5 * spread + 1e-9)


def test_all_subsets_of_one_size_are_equally_likely():
    torch.manual_seed(0)
    candidates = torch.tensor([True, False, True, True, True]).expand(DRAWS, 5)
    drawn = draw_fraction(candidates, 0.5)
    assert near(Counter(tuple(row.nonzero().flatten().tolist()) for row in drawn), 6)


def test_rows_of_one_batch_are_drawn_apart():
    torch.manual_seed(0)
    drawn = draw_fraction(torch.ones(50, 20, dtype=torch.bool), 0.5)
    assert len({tuple(row.tolist()) for row in drawn}) == 50


def test_all_permutations_are_equally_likely_and_other_tokens_stay():
    torch.manual_seed(0)
    tokens = torch.tensor([2, 11, 3, 12, 13, 0]).expand(DRAWS, 6)
    ordinary = torch.tensor([False, True, False, True, True, False]).expand(DRAWS, 6)
    shuffled = shuffle(tokens, ordinary)
    assert (shuffled[:, [0, 2, 5]] == torch.tensor([2, 3, 0])).all()
    orders = Counter(tuple(row.tolist()) for row in shuffled[:, [1, 3, 4]])
    assert set(orders) == set(permutations([11, 12, 13]))
    assert near(orders, 6)


def test_noise_is_one_of_two_signs():
    torch.manual_seed(0)
    assert near(Counter(random_signs(torch.zeros(DRAWS)).tolist()), 2)


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_changed_is_what_a_loop_over_sentences_finds_changed(tokenizer, packed):
    model = tiny_model()
    first = model.allow_padding_free() if packed else None
    batch = text_batch(tokenizer, first_position=first)
    encoder = model.mocose.encoder
    plain = embed_tokens(encoder, view_of(batch))
    made = Augmentation(SPECIAL, token_cutoff=0.4, feature_cutoff=0.25)
    torch.manual_seed(1)
    changed = made.augment(view_of(batch), encoder).inputs_embeds
    assert torch.equal(changed[batch["input_ids"] == 3], plain[batch["input_ids"] == 3])
    features = set()
    for tokens, before, after in rows_of(batch, plain, changed):
        ordinary = [i for i, token in enumerate(tokens) if token not in SPECIAL]
        assert ordinary == list(range(1, len(tokens) - 1))
        for i in (0, len(tokens) - 1):
            assert torch.equal(after[i], before[i])
        cut = [i for i in ordinary if not after[i].any()]
        assert len(cut) in (int(0.4 * len(ordinary)), int(0.4 * len(ordinary)) + 1)
        kept = [i for i in ordinary if i not in cut]
        of_sentence = (after[kept] == 0).all(0)
        features.add(tuple(of_sentence.tolist()))
        assert int(of_sentence.sum()) == 8
        assert torch.equal(after[kept], before[kept] * ~of_sentence)
    assert len(features) == 6


def rows_of(batch: dict, *parts):
    """Yield each sentence's tokens and its rows of each part, without padding."""
    if "cu_seq_lens_q" in batch:
        bounds = batch["cu_seq_lens_q"].tolist()
        for start, end in pairwise(bounds):
            yield batch["input_ids"][0, start:end].tolist(), *(part[0, start:end] for part in parts)
    else:
        for i, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            yield batch["input_ids"][i, :length].tolist(), *(part[i, :length] for part in parts)


def test_noise_has_the_configured_size_in_every_number(tokenizer):
    model, batch = tiny_model(), text_batch(tokenizer)
    plain = embed_tokens(model.mocose.encoder, view_of(batch))
    made = Augmentation(embedding_noise=0.5).augment(view_of(batch), model.mocose.encoder)
    torch.testing.assert_close((made.inputs_embeds - plain).abs(), torch.full_like(plain, 0.5))
    assert torch.equal(made.input_ids, batch["input_ids"])


@pytest.mark.parametrize("packed", [False, True])
def test_shuffling_keeps_the_tokens_of_each_sentence_and_the_places_of_special_ones(tokenizer, packed):
    model = tiny_model()
    batch = text_batch(tokenizer, first_position=model.allow_padding_free() if packed else None)
    made = Augmentation(SPECIAL, position_shuffle=True)
    torch.manual_seed(1)
    shuffled = made.augment(view_of(batch), model.mocose.encoder)
    assert shuffled.inputs_embeds is None
    moved = 0
    for tokens, after in rows_of(batch, shuffled.input_ids):
        after = after.tolist()
        assert (after[0], after[-1]) == (tokens[0], tokens[-1]) == (2, 3)
        assert sorted(after) == sorted(tokens)
        moved += after != tokens
    assert moved >= 4
    assert torch.equal(shuffled.input_ids == 0, batch["input_ids"] == 0)


@pytest.mark.parametrize("pooling_mode", ["cls", "mean", "max"])
def test_permuted_tokens_are_as_good_as_permuted_positions(pooling_mode):
    """The docstring's reason for moving tokens, for an encoder that takes positions."""
    model = without_dropout(pooling_mode=pooling_mode)
    tokens = torch.tensor([[2, 11, 12, 13, 3]])
    order = torch.tensor([[0, 3, 1, 2, 4]])  # the place of each token
    moved = torch.empty_like(tokens).scatter(1, order, tokens)
    encoder = model.mocose.encoder
    by_tokens = encoder(input_ids=moved).last_hidden_state
    by_positions = encoder(input_ids=tokens, position_ids=order).last_hidden_state
    torch.testing.assert_close(by_tokens.gather(1, order[..., None].expand_as(by_tokens)), by_positions)


def test_cut_tokens_stay_cut_after_shuffling(tokenizer):
    model, batch = tiny_model(), text_batch(tokenizer)
    made = Augmentation(SPECIAL, position_shuffle=True, token_cutoff=0.5).augment(view_of(batch), model.mocose.encoder)
    special = sum((made.input_ids == number) for number in SPECIAL).bool()
    assert made.inputs_embeds[special & (made.input_ids > 0)].any(-1).all()
    plain = embed_tokens(model.mocose.encoder, made)
    kept = made.inputs_embeds.any(-1)
    assert torch.equal(made.inputs_embeds[kept], plain[kept])


@pytest.mark.parametrize("view", ["query", "key", "both"])
def test_random_changes_are_made_to_the_views_that_are_named(tokenizer, view):
    model, batch = without_dropout(), text_batch(tokenizer)
    plain = seeded(model, batch)
    model.augmentation = Augmentation(SPECIAL, **RANDOM, view=view)
    changed = seeded(model, batch)
    assert torch.equal(changed.query_embeddings, plain.query_embeddings) == (view == "key")
    assert torch.equal(changed.key_embeddings, plain.key_embeddings) == (view == "query")


def test_both_views_are_changed_apart_and_keys_carry_no_gradient(tokenizer):
    model, view = tiny_model(), view_of(text_batch(tokenizer))
    encoders = model.mocose.encoder, model.target["encoder"]
    augmentation = Augmentation(SPECIAL, **RANDOM | {"embedding_noise": 0.0}, view="both")
    query, key = augmentation.views(view, view, *encoders)
    assert not torch.equal(query.input_ids, key.input_ids)
    assert not torch.equal(query.inputs_embeds == 0, key.inputs_embeds == 0)
    assert model.encode_queries(query).requires_grad
    assert not model.encode_keys(key).requires_grad


def test_a_key_view_of_its_own_is_changed_alone(tokenizer):
    model = without_dropout()
    rows = [{"text": t, "key_text": k} for t, k in zip(sentences(6), sentences(6, seed=1), strict=True)]
    batch = SentenceCollator(tokenizer)(rows)
    plain = seeded(model, batch)
    model.augmentation = Augmentation(SPECIAL, position_shuffle=True, view="key")
    changed = seeded(model, batch)
    assert torch.equal(changed.query_embeddings, plain.query_embeddings)
    assert not torch.equal(changed.key_embeddings, plain.key_embeddings)
    assert not changed.key_embeddings.requires_grad


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - CANNOT))
def test_packed_and_padded_batches_are_changed_alike(tokenizer, family):
    """Noise aside, which is drawn for padding too."""
    model = family_model(family, encoder_dropout_prob=0.0, head_dropout_prob=0.0).train()
    first = model.allow_padding_free()
    padded, packed = both_batches(tokenizer, model, first)
    special = (*SPECIAL, model.config.encoder_config.pad_token_id)
    model.augmentation = Augmentation(special, **(ALL | {"embedding_noise": 0.0}))
    one, other = seeded(model, padded), seeded(model, packed)
    torch.testing.assert_close(other.loss, one.loss, atol=1e-4, rtol=0)
    torch.testing.assert_close(other.key_embeddings, one.key_embeddings, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "packed"), [(f, p) for f in FAMILIES for p in (False, True) if not (p and f in CANNOT)]
)
def test_a_step_too_small_for_float32_leaves_a_forward_with_dropout_as_it_is_to_the_bit(tokenizer, family, packed):
    """So embeddings stand for tokens exactly, and both passes draw the masks that one pass draws."""
    model = family_model(family, encoder_dropout_prob=0.2).train()
    first = model.allow_padding_free()
    batch = both_batches(tokenizer, model, first or 0)[packed]
    assert takes_embeddings(model.mocose.encoder)
    plain = seeded(model, batch)
    state = torch.get_rng_state()
    model.augmentation = Augmentation(fgsm_epsilon=1e-30)
    attacked = seeded(model, batch)
    for name in ("loss", "logits", "query_embeddings", "key_embeddings"):
        assert torch.equal(attacked[name], plain[name]), name
    assert torch.equal(torch.get_rng_state(), state)


def slow_attack(model, batch: dict, epsilon: float, seed: int = 5) -> dict:
    """FGSM in plain torch: two whole forwards from one seed, the gradient by `backward`."""
    lookup = model.mocose.encoder.embeddings.word_embeddings.weight

    def loss_at(words):
        torch.manual_seed(seed)
        hidden = model.mocose.encoder(inputs_embeds=words, attention_mask=batch["attention_mask"]).last_hidden_state
        queries = F.normalize(model.predictor(model.projection_head(model.pooler(hidden[:, 0]))), dim=-1)
        with torch.no_grad():
            hidden = model.target["encoder"](**batch).last_hidden_state
            keys = F.normalize(model.target["projection_head"](model.target["pooler"](hidden[:, 0])), dim=-1)
        return info_nce_loss(queries, keys, model.queue.stored_keys(), model.config.temperature)

    words = nn.Parameter(F.embedding(batch["input_ids"], lookup).detach())
    plain = loss_at(words)
    plain.backward()
    model.zero_grad()
    sign = torch.where(words.grad > 0, 1.0, torch.where(words.grad < 0, -1.0, 0.0))
    loss = loss_at(F.embedding(batch["input_ids"], lookup) + epsilon * sign)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"plain": plain.item(), "loss": loss.item(), "gradients": gradients, "slope": words.grad.abs().sum().item()}


@pytest.mark.parametrize("chunked_from", [1, 1000])
def test_fgsm_trains_as_two_passes_in_plain_torch_do(monkeypatch, chunked_from):
    monkeypatch.setattr("mocose_hf.models.queue_contrast.CHUNKED_FROM", chunked_from)
    model, batch, epsilon = tiny_model(encoder_dropout_prob=0.2).train(), random_batch(), 1e-3
    model.only_first_token = False  # which draws fewer dropout masks than an encoder of its own
    slow = slow_attack(model, batch, epsilon)
    model.augmentation = Augmentation(fgsm_epsilon=epsilon)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    output = seeded(model, batch)
    assert all(p.grad is None for p in model.parameters())
    output.loss.backward()
    assert output.loss.item() == pytest.approx(slow["loss"], rel=1e-6)
    assert slow["loss"] - slow["plain"] > 1e-3
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == slow["gradients"].keys()
    for name, gradient in slow["gradients"].items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    after = model.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_the_loss_rises_by_epsilon_times_the_sum_of_the_gradients_sizes():
    model, batch, epsilon = tiny_model(encoder_dropout_prob=0.2).train(), random_batch(), 1e-6
    model.only_first_token = False
    model.double()
    slow = slow_attack(model, batch, epsilon)
    model.augmentation = Augmentation(fgsm_epsilon=epsilon)
    rise = seeded(model, batch).loss.item() - slow["plain"]
    assert rise == pytest.approx(epsilon * slow["slope"], rel=0.05)


def test_noise_of_the_same_size_is_no_attack():
    model, batch = tiny_model().train(), random_batch()
    plain = seeded(model, batch).loss.item()
    model.augmentation = Augmentation(fgsm_epsilon=1e-3)
    attacked = seeded(model, batch).loss.item()
    noisy = []
    for seed in range(20):
        torch.manual_seed(seed)
        words = embed_tokens(model.mocose.encoder, View(**batch))
        moved = replace(View(**batch), inputs_embeds=words + 1e-3 * random_signs(words))
        torch.manual_seed(5)
        queries = model.encode_queries(moved)
        noisy.append(model.contrast(queries, model.encode_keys(View(**batch))).loss.item() - plain)
    assert attacked - plain > 2 * max(map(abs, noisy))


def test_keys_are_computed_once_and_queries_twice():
    model = tiny_model().train()
    model.augmentation = Augmentation(fgsm_epsilon=1e-3)
    calls = Counter()
    for name, encoder in (("query", model.mocose.encoder), ("key", model.target["encoder"])):
        encoder.register_forward_hook(lambda *args, name=name: calls.update([name]))
    model(**random_batch())
    assert calls == {"query": 2, "key": 1}


def test_the_step_is_done_in_float32_under_bfloat16_and_nothing_is_left_of_a_smaller_one():
    model, batch = tiny_model().train(), random_batch()
    given = []
    model.mocose.encoder.register_forward_pre_hook(
        lambda module, args, options: given.append(options["inputs_embeds"]), with_kwargs=True
    )
    changed = {}
    for epsilon in (5e-9, 1e-12):
        model.augmentation = Augmentation(fgsm_epsilon=epsilon)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(**batch)
        first, second = given
        assert first.dtype == second.dtype == torch.float32
        changed[epsilon] = (first != second)[batch["attention_mask"] > 0].float().mean().item()
        given.clear()
    assert changed[5e-9] > 0.5
    assert changed[1e-12] < 0.01


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_activation_checkpointing_gives_the_same_gradients(tokenizer, family, packed):
    assert family in CHECKPOINTING_FAMILIES
    model = family_model(family, encoder_dropout_prob=0.1).train()
    batch = text_batch(tokenizer, first_position=model.allow_padding_free() if packed else None)
    model.augmentation = Augmentation(SPECIAL, **ALL)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        seeded(model, batch).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.activation_checkpointing_enable()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_nothing_waits_for_a_gpu(tokenizer):
    for packed in (False, True):
        model = tiny_model().train()
        batch = text_batch(tokenizer, first_position=model.allow_padding_free() if packed else None)
        with Operations() as plain:
            model(**batch)
        model.augmentation = Augmentation(SPECIAL, **ALL)
        with Operations() as changed:
            model(**batch)
        assert {"argsort", "sort", "scatter"} & changed.names
        assert not (changed.names - plain.names) & WAITING


@pytest.mark.parametrize("mode", [True, False])
def test_evaluation_sees_nothing_of_any_of_it(tokenizer, mode):
    model, batch = tiny_model(encoder_dropout_prob=0.2), random_batch()
    texts = sentences(9)
    plain = model.encode(texts, tokenizer), model.mocose.eval()(**batch).pooler_output, model.eval()(**batch).logits
    model.augmentation = Augmentation(SPECIAL, **ALL)
    model.train(mode)
    state = torch.get_rng_state()
    assert torch.equal(model.encode(texts, tokenizer), plain[0])
    assert torch.equal(model.mocose.encode(texts, tokenizer), plain[0])
    assert model.training == mode
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()
    assert torch.equal(model.mocose(**batch).pooler_output, plain[1])
    assert torch.equal(model(**batch).logits, plain[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(model.train()(**batch).logits, plain[2])


def test_it_is_not_saved(tmp_path):
    model = tiny_model()
    model.augmentation = Augmentation(SPECIAL, **ALL)
    model.save_pretrained(tmp_path)
    assert "fgsm" not in (tmp_path / "config.json").read_text()
    assert MoCoSEForPreTraining.from_pretrained(tmp_path).augmentation is None


def test_the_trainer_hands_the_model_what_its_arguments_say_and_takes_it_back(tmp_path, tokenizer):
    model = tiny_model()
    options = RANDOM | {"augment_view": "both", "fgsm_epsilon": 1e-3}
    trainer = make_trainer(tmp_path, tokenizer, model, pairs=scored_pairs(), **options)
    assert model.augmentation == Augmentation(SPECIAL, **ALL)
    before = trainer.evaluate()["eval_dev_spearman"]
    assert before == make_trainer(tmp_path, tokenizer, model, pairs=scored_pairs()).evaluate()["eval_dev_spearman"]
    assert model.augmentation is None


def test_unknown_and_masked_words_are_ordinary(tmp_path, tokenizer):
    model = tiny_model()
    make_trainer(tmp_path, tokenizer, model, token_cutoff=0.5)
    assert not {tokenizer.unk_token_id, tokenizer.mask_token_id} & set(model.augmentation.special_ids)


@pytest.mark.parametrize("fields", [{}, {"padding_free": True}], ids=["padded", "packed"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_with_all_of_them_on_ends_in_the_same_bits(tmp_path, tokenizer, workers, fields):
    fields = ALL_OPTIONS | {"dataloader_num_workers": workers, "num_train_epochs": 2} | fields
    whole = run(tmp_path / "whole", tokenizer, **fields)
    broken = run(tmp_path / "broken", tokenizer, [(6,), (11,)], **fields)
    last = f"checkpoint-{whole.state.max_steps}"
    assert broken.state.global_step == whole.state.max_steps
    assert differences(tmp_path / "whole" / last, tmp_path / "broken" / last) == []
    with pytest.raises(ValueError, match=r"`fgsm_epsilon` was 0\.001 and is 0\.0 now"):
        run(tmp_path / "whole", tokenizer, **fields | {"fgsm_epsilon": 0.0})


@pytest.mark.slow
def test_two_processes_attack_as_one_does_and_hold_one_model_with_all_on(tmp_path, encoder_dir):
    states = {}
    for name, processes, options in [
        ("one", 1, {"fgsm_epsilon": 1e-3}),
        ("two", 2, {"fgsm_epsilon": 1e-3}),
        ("all", 2, ALL_OPTIONS),
    ]:
        arguments = (encoder_dir, tmp_path / name, 8 // processes, json.dumps({"training": options}))
        start_processes("train_on_processes.py", processes, *arguments, log_folder=tmp_path / name)
        states[name] = [load_file(tmp_path / name / f"rank{rank}.safetensors") for rank in range(processes)]
        assert all(state["processes"] == processes for state in states[name])
        for state in states[name][1:]:
            assert [key for key in state if not torch.equal(state[key], states[name][0][key])] == []
    for key, value in states["one"][0].items():
        if key != "processes":
            torch.testing.assert_close(states["two"][0][key], value, atol=1e-5, rtol=0, msg=key)
    weight = "mocose.encoder.embeddings.word_embeddings.weight"
    assert (states["all"][0][weight] - states["two"][0][weight]).abs().max() > 1e-4


def test_an_encoder_that_takes_no_embeddings_raises_a_one_line_error(tmp_path, tokenizer):
    class OfTokensAlone(BertModel):
        def forward(self, input_ids, attention_mask=None, token_type_ids=None, **options):
            return super().forward(input_ids, attention_mask, token_type_ids, **options)

    class Scaling(BertModel):
        def forward(self, inputs_embeds=None, **options):
            words = inputs_embeds if inputs_embeds is None else 30 * inputs_embeds
            return super().forward(inputs_embeds=words, **options)

    for kind in (OfTokensAlone, Scaling):
        model = tiny_model()
        model.mocose.encoder = kind(tiny_bert_config()).train()
        assert not takes_embeddings(model.mocose.encoder)
        assert all(module.training for module in model.mocose.encoder.modules())
        with pytest.raises(ValueError, match="`fgsm_epsilon` change word embeddings, which bert encoders do not take"):
            build_augmentation(training_arguments(tmp_path, fgsm_epsilon=1e-8), tokenizer, model)


def test_settings_that_cannot_work_raise_an_error_before_training(tmp_path, tokenizer):
    def trainer(**fields):
        return MoCoSETrainer(
            model=tiny_model(),
            args=training_arguments(tmp_path, **fields),
            train_dataset=Dataset.from_dict({"text": sentences(24)}),
            data_collator=SentenceCollator(tokenizer),
        )

    for options in ({"token_cutoff": 0.1}, {"feature_cutoff": 0.1}, {"position_shuffle": True}):
        with pytest.raises(ValueError, match="the tokenizer names; give it as `processing_class`"):
            trainer(**options)
    trainer(embedding_noise=1e-3, fgsm_epsilon=1e-3).train()
    reentrant = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(ValueError, match="reentrant activation checkpointing cannot give; leave out `use_reentrant`"):
        make_trainer(tmp_path, tokenizer, fgsm_epsilon=1e-3, **reentrant)
    with pytest.raises(ValueError, match="`fgsm_epsilon` needs gradients that `fp16` would round to 0; set `bf16`"):
        training_arguments(tmp_path, fgsm_epsilon=1e-3, fp16=True)
    with pytest.raises(ValueError, match=r"`augment_view` is key, but none of crop_share, .* is on"):
        training_arguments(tmp_path, augment_view="key", fgsm_epsilon=1e-3)
