"""Train a tiny model on several processes, plainly and under DeepSpeed in turn, and write what each run ends with.

Called with the encoder's directory and the output directory, into which report.json goes: a dictionary of each run.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from builders import REPOSITORY, sentences
from datasets import Dataset
from safetensors.torch import save_file
from transformers import TrainerCallback, set_seed

from mocose_hf import MoCoSEForPreTraining, MoCoSETrainer, MoCoSETrainingArguments, load_tokenizer
from mocose_hf.models.ema import cosine_ema_decay
from mocose_hf.parallel.collectives import end_process, gather_rows
from mocose_hf.parallel.deepspeed import whole_model
from mocose_hf.training import scoring_trainer

SMALL = {"queue_size": 50, "queue_init_size": 4}
NO_DROPOUT = {"head_dropout_prob": 0.0, "encoder_dropout_prob": 0.0}


def zero_config(stage: int, persistence_threshold: int | None = None) -> dict:
    config = json.loads((REPOSITORY / "ds_configs" / f"zero{stage}.json").read_text())
    if persistence_threshold is not None:
        config["zero_optimization"]["stage3_param_persistence_threshold"] = persistence_threshold
    return config


class Runs:
    def __init__(self, encoder_dir: str, output_dir: str):
        self.encoder_dir, self.output_dir, self.report = encoder_dir, Path(output_dir), {}

    def trainer(self, name: str, config: dict, deepspeed, seed=0, model_first=False, pairs=None, **fields):
        def arguments():
            settings = {
                "output_dir": str(self.output_dir / name),
                "per_device_train_batch_size": 4,
                "learning_rate": 1e-3,
                "max_steps": 6,
                "save_strategy": "no",
                "save_total_limit": None,
                "report_to": "none",
                "disable_tqdm": True,
                "use_cpu": True,
                "deepspeed": deepspeed,
            }
            return MoCoSETrainingArguments(**settings | fields)

        args = None if model_first else arguments()
        set_seed(seed)
        if int(os.environ["RANK"]) > 0:
            torch.randn(7)  # processes that drew differently must still start with one queue and one model
        model = MoCoSEForPreTraining.from_encoder_pretrained(self.encoder_dir, **SMALL | config)
        return MoCoSETrainer(
            model=model,
            args=args or arguments(),
            train_dataset=Dataset.from_dict({"text": sentences(320)}),
            eval_dataset=pairs,
            processing_class=load_tokenizer(self.encoder_dir),
        )

    def record(self, name: str, trainer, **more) -> None:
        """Write the whole state, and report on the engine and on whether all processes hold the same."""
        state = [v for _, v in sorted(trainer.model.state_dict().items()) if v.numel()]
        digest = hashlib.sha256(b"".join(v.flatten().view(torch.uint8).numpy().tobytes() for v in state)).digest()
        digests = gather_rows(torch.tensor(list(digest[:8]))[None])
        parameters = list(trainer.model.parameters())
        engine = trainer.deepspeed
        self.report[name] = {
            "processes": trainer.accelerator.num_processes,
            "stage": None if engine is None else engine.zero_optimization_stage(),
            "optimizer": None if engine is None else type(engine.optimizer).__name__,
            "sharded": sum(p.numel() == 0 for p in parameters),
            "resident": sum(p.numel() > 0 for p in parameters),
            "processes_agree": bool((digests == digests[0]).all()),
            "dtypes": sorted({str(v.dtype) for v in [*parameters, trainer.model.queue.rows]}),
        } | more
        model = whole_model(trainer)
        if trainer.is_world_process_zero():
            save_file(
                {n: v.contiguous() for n, v in model.state_dict().items() if "target.encoder.embeddings." not in n},
                self.output_dir / f"{name}.safetensors",
            )
            (self.output_dir / "report.json").write_text(json.dumps(self.report, indent=1))

    def same_weights(self, name: str, deepspeed, accumulation: int, model_first: bool = False, **more) -> None:
        fields = {"gradient_accumulation_steps": accumulation, "max_steps": 20, "learning_rate": 1e-4} | more
        trainer = self.trainer(name, NO_DROPOUT, deepspeed, model_first=model_first, **fields)
        trainer.train()
        self.record(name, trainer)

    def resume(self, stage: int) -> None:
        """Go on from the middle of a run, with evaluation of every step, the first of which scores best.

        The queue is in bfloat16.
        """
        pairs = {"score": [float(i % 6) for i in range(12)], "sentence1": sentences(12), "sentence2": sentences(12, 1)}
        every_step = {"save_strategy": "steps", "save_steps": 1, "eval_steps": 1}
        rounded = {"queue_dtype": "bfloat16"}
        whole = self.trainer(f"whole{stage}", rounded, zero_config(stage), **every_step)
        whole.train()
        self.record(f"whole{stage}", whole)
        scores = iter([30.0, 20.0, 10.0])
        score_sets = scoring_trainer.score_sets
        scoring_trainer.score_sets = lambda *a, **k: score_sets(*a, **k) | {"dev_spearman": next(scores)}
        resumed = self.trainer(
            f"resumed{stage}",
            rounded,
            zero_config(stage),
            seed=99,
            pairs=Dataset.from_dict(pairs),
            eval_strategy="steps",
            load_best_model_at_end=True,
            metric_for_best_model="dev_spearman",
            **every_step,
        )
        resumed.train(resume_from_checkpoint=str(self.output_dir / f"whole{stage}" / "checkpoint-3"))
        scoring_trainer.score_sets = score_sets
        spearman = resumed.evaluate()["eval_dev_spearman"]
        folders = [self.output_dir / f"{name}{stage}" / "checkpoint-6" for name in ("whole", "resumed")]
        files = sorted(p.relative_to(folders[0]) for p in folders[0].rglob("*") if p.suffix in (".pt", ".pth"))
        different = [f"{f}{leaf}" for f in files for leaf in differing(*(load(folder / f) for folder in folders))]
        self.record(
            f"resumed{stage}",
            resumed,
            files=[str(file) for file in files],
            different=different,
            best=resumed.state.best_model_checkpoint,
            spearman=spearman,
        )

    def bf16(self, stage: int) -> None:
        exact = ExactEMA()
        name = f"bf16-{stage}"
        block = {"bf16": {"enabled": "auto"}} if stage == 2 else {}  # as many configurations have it
        trainer = self.trainer(name, {}, zero_config(stage) | block, bf16=True)
        trainer.add_callback(exact)  # after the trainer's own, which moves the target
        query = trainer.model.mocose.encoder.encoder.layer[0].attention.self.query
        computed = set()
        query.register_forward_hook(lambda module, args, output: computed.add(str(output.dtype)))
        trainer.train()
        self.record(name, trainer, off=exact.off, moved=exact.moved, computed=sorted(computed))


class ExactEMA(TrainerCallback):
    """Measure how far the target is from where its EMA in float32 should be, gathered whole."""

    off = moved = 0.0

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.before = self._whole(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        decay = cosine_ema_decay(state.global_step + 1, state.max_steps, args.ema_decay)
        for (before, _), (after, online) in zip(self.before, self._whole(model), strict=True):
            self.off = max(self.off, float((after - torch.lerp(before, online, 1 - decay)).abs().max()))
            self.moved = max(self.moved, float((after - before).abs().max()))

    @staticmethod
    def _whole(model):
        from deepspeed import zero

        pairs = model.momentum_pairs()
        with zero.GatheredParameters([p for pair in pairs for p in pair], enabled=hasattr(pairs[0][0], "ds_id")):
            return [(target.detach().clone(), online.detach().clone()) for target, online in pairs]


def load(path: Path):
    return torch.load(path, weights_only=False)


def differing(first, second, name: str = "") -> list[str]:
    """Return the names of all leaves that differ between two nested structures."""
    if isinstance(first, dict) and first.keys() == second.keys():
        return [n for key in first for n in differing(first[key], second[key], f"{name}/{key}")]
    if isinstance(first, list | tuple) and len(first) == len(second):
        return [n for i, pair in enumerate(zip(first, second, strict=True)) for n in differing(*pair, f"{name}/{i}")]
    if hasattr(first, "cur_scale"):
        return differing(vars(first), vars(second), name)
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [name]
    same = first == second
    return [] if (same.all() if hasattr(same, "all") else same) else [name]


def main(encoder_dir: str, output_dir: str) -> None:
    runs = Runs(encoder_dir, output_dir)
    for accumulation in (1, 2):
        runs.same_weights(f"ddp-{accumulation}", None, accumulation)
    attack = {"fgsm_epsilon": 1e-3, "head_learning_rate": 1e-3, "max_steps": 6}
    runs.same_weights("ddp-fgsm", None, 1, **attack)
    for stage in (1, 2, 3):
        for accumulation in (1, 2):
            runs.same_weights(f"zero{stage}-{accumulation}", zero_config(stage), accumulation, accumulation == 2)
    runs.same_weights("shards-1", zero_config(3, persistence_threshold=0), 1)
    runs.same_weights("residents-1", zero_config(3, persistence_threshold=10**6), 1)
    for stage in (1, 2, 3):
        runs.same_weights(f"zero{stage}-fgsm", zero_config(stage), 1, **attack)
    for stage in (1, 2, 3):
        runs.resume(stage)
    for stage in (2, 3):  # last: once on, DeepSpeed's autocast stays on in a process (0.19.8)
        runs.bf16(stage)


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_process(0)
