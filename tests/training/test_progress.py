"""What a training shows: one line that is updated on a terminal, plain lines elsewhere."""

import json
import os
import pty
import re
import select
import subprocess
import sys

import pytest
from builders import REPOSITORY
from trainers import SELECTION, make_trainer, scored_pairs
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from mocose_hf.cli.train import main as train
from mocose_hf.errors import SaveError
from mocose_hf.terminal import can_show_colours, paint
from mocose_hf.training.callbacks.train_log import TRAIN_LOG_FILE, TrainLog

LINE = re.compile(
    r"step (\d+)/6(?:  [\d,]+ sentences/s  (?:\d\d:\d\d left|in \d\d:\d\d))?(?:  loss ([\d.]+))?"
    r"  Spearman (-?[\d.]+), best (-?[\d.]+)"
)


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self, is_terminal: bool = True):
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


def test_a_line_has_step_rate_loss_latest_and_best_score(tmp_path, tokenizer, capsys):
    trainer = make_trainer(tmp_path, tokenizer, pairs=scored_pairs(), max_steps=6, logging_steps=3, **SELECTION)
    trainer.train()
    printed = capsys.readouterr()
    lines = [LINE.fullmatch(line) for line in printed.out.splitlines()]
    assert all(lines), printed.out
    assert [int(line[1]) for line in lines] == [0, 2, 3, 4, 6]  # the log and the evaluation of step 6 share a line
    history = trainer.state.log_history
    scores = {entry["step"]: entry["eval_dev_spearman"] for entry in history if "eval_dev_spearman" in entry}
    losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    for line in lines:
        step = int(line[1])
        seen = [scores[known] for known in sorted(scores) if known <= step]
        assert (line[3], line[4]) == (f"{seen[-1]:.2f}", f"{max(seen):.2f}")
        assert line[2] == (None if step < 3 else f"{losses[3 * (step // 3)]:.4g}")
    assert "left" not in lines[-1][0]
    assert "step " not in printed.err


def test_a_resumed_run_shows_the_best_score_of_before(tmp_path, tokenizer, capsys):
    settings = {"pairs": scored_pairs(), "max_steps": 6, "logging_steps": 3, "save_total_limit": 9, **SELECTION}
    make_trainer(tmp_path, tokenizer, **settings).train()
    last = capsys.readouterr().out.splitlines()[-1]
    make_trainer(tmp_path, tokenizer, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    resumed = capsys.readouterr().out.splitlines()
    assert LINE.fullmatch(resumed[-1]).groups() == LINE.fullmatch(last).groups()
    assert [int(LINE.fullmatch(line)[1]) for line in resumed] == [6]


def test_the_display_of_the_user_stays(tmp_path, tokenizer):
    class Own(ProgressCallback):
        pass

    def kinds(**fields):
        trainer = make_trainer(tmp_path, tokenizer, **fields)
        return [
            type(c) for c in trainer.callback_handler.callbacks if isinstance(c, ProgressCallback | PrinterCallback)
        ]

    assert kinds() == kinds(disable_tqdm=False) == []
    assert kinds(callbacks=[Own()]) == [Own]


def test_only_the_first_process_shows_anything(tmp_path, tokenizer, capsys):
    class OtherProcess(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            state.is_world_process_zero = False

    trainer = make_trainer(tmp_path, tokenizer, callbacks=[OtherProcess()], max_steps=1)
    trainer.add_callback(TrainLog)
    trainer.train()
    assert capsys.readouterr().out == ""
    assert not (tmp_path / TRAIN_LOG_FILE).exists()


def test_the_log_file_has_each_line_once_after_a_resume(tmp_path, tokenizer):
    def run(checkpoint=None):
        trainer = make_trainer(tmp_path, tokenizer, pairs=scored_pairs(), max_steps=6, save_total_limit=9, **SELECTION)
        trainer.add_callback(TrainLog)
        trainer.train(resume_from_checkpoint=checkpoint)
        lines = (tmp_path / TRAIN_LOG_FILE).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == trainer.state.log_history
        return [json.loads(line)["step"] for line in lines]

    assert run() == run(str(tmp_path / "checkpoint-2"))


def test_a_log_file_that_cannot_be_written_ends_the_run_in_one_line(tmp_path, tokenizer):
    (tmp_path / TRAIN_LOG_FILE).mkdir()
    trainer = make_trainer(tmp_path, tokenizer, max_steps=1)
    trainer.add_callback(TrainLog)
    with pytest.raises(SaveError, match=f"{TRAIN_LOG_FILE}: cannot be written"):
        trainer.train()


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_need_a_terminal_that_wants_them(monkeypatch, variables):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert can_show_colours(Terminal())
    assert paint("up", "green", Terminal()) == "\x1b[32mup\x1b[0m"
    assert paint("up", "", Terminal()) == paint("up", "green", Terminal(is_terminal=False)) == "up"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert paint("up", "green", Terminal()) == "up"


def test_the_command_prints_each_notice_once_and_no_metrics(tmp_path, encoder_dir, text_file, capsys, caplog):
    pairs = "".join("\t".join(map(str, row.values())) + "\n" for row in scored_pairs())
    (tmp_path / "pairs.tsv").write_text(pairs, encoding="utf-8")
    argv = ["--model_name_or_path", str(encoder_dir), "--train_file", str(text_file), "--output_dir"]
    argv += [str(tmp_path / "out"), "--validation_file", str(tmp_path / "pairs.tsv"), "--max_steps", "2", "--use_cpu"]
    argv += ["--per_device_train_batch_size", "4", "--logging_steps", "1", "--eval_steps", "1", "--queue_size", "8"]
    assert train([*argv, "--max_seq_length", "5"]) == 0
    out, err = capsys.readouterr()
    assert (out + err + caplog.text).count("truncate") == 1
    assert out.count("rows read") == 1
    assert "'loss'" not in out
    assert "LOAD REPORT" not in out + err
    rows = [line.split("  ")[0] for line in out.splitlines() if line.startswith(("start ", "last, ", "best, "))]
    assert rows[0] == "start"
    assert rows[-1].startswith("best, step ")
    assert ("last, step 2" in rows) == ("best, step 2" not in rows)
    entries = [json.loads(line) for line in (tmp_path / "out" / TRAIN_LOG_FILE).read_text().splitlines()]
    assert {"contrastive_accuracy", "query_std", "queue_fill"} <= {name for entry in entries for name in entry}


@pytest.mark.slow
def test_a_terminal_shows_one_line_that_is_updated(tmp_path, encoder_dir, text_file):
    argv = ["--model_name_or_path", str(encoder_dir), "--train_file", str(text_file), "--use_cpu", "--max_steps", "3"]
    argv += ["--per_device_train_batch_size", "4", "--logging_steps", "1", "--queue_size", "8", "--output_dir", "out"]
    terminal, end = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, str(REPOSITORY / "run_mocose.py"), *argv]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=end, stderr=end, stdin=end, env=environment)
    os.close(end)
    shown = b""
    while select.select([terminal], [], [], 120)[0]:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the process has closed its end
            break
        shown += part
    os.close(terminal)
    assert run.wait(timeout=60) == 0
    (line,) = [line for line in shown.decode().split("\n") if "step 1/3" in line]
    states = line.rstrip("\r").split("\r")
    assert re.search(r"^step 3/3  [\d,]+ sentences/s  in \d\d:\d\d  loss [\d.]+ \|\x1b\[32m█+", states[-1])
