"""Interrupt real runs of the command at random moments, go on, and compare the end with an uninterrupted run.

    python tests/helpers/interruptions.py kill --runs 20
    python tests/helpers/interruptions.py terminate --runs 10 --processes 2
    python tests/helpers/interruptions.py terminate --runs 10 --processes 2 --one_rank

Each run is the command itself in processes of its own, forked from this one so that they start fast; signals come from
outside. Prints a line for each run and ends with code 0 where all of them end bit for bit like the uninterrupted one.
"""

import argparse
import hashlib
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from builders import REPOSITORY, sentences, tiny_bert_config, write_tokenizer
from same_state import differences
from transformers import BertModel

sys.path.insert(0, str(REPOSITORY))

import run_mocose
from mocose_hf.errors import EXIT_INTERRUPTED
from mocose_hf.training.checkpoint import MANIFEST, checkpoints

STEPS, SAVE_STEPS = 24, 4
GLOBAL_BATCH = 16
PATIENCE_SECONDS = 240

EXIT_UNCAUGHT = 70

# Told to stop in training; too late for that; before or after training, where SIGTERM ends a process as ever, and a
# launcher then ends the others, if they have not first found it gone.
ENDS_OF_SIGTERM = (
    {EXIT_INTERRUPTED},
    {0},
    {-signal.SIGTERM},
    {0, -signal.SIGTERM},
    {-signal.SIGTERM, -signal.SIGKILL},
)
FOUND_THE_OTHER_GONE = ("Connection reset by peer", "Connection closed by peer")


@dataclass
class Moment:
    """When to send the signal: after so many lines of the log, or in the save after them; then a delay."""

    lines: int
    in_save: bool
    delay: float

    @classmethod
    def draw(cls, generator: random.Random) -> "Moment":
        if generator.random() < 0.4:
            # a save takes some tens of milliseconds
            return cls(generator.randrange(1, STEPS // SAVE_STEPS) * SAVE_STEPS - 1, True, generator.uniform(0, 0.06))
        return cls(generator.randrange(0, STEPS + 1), False, generator.uniform(0, 0.1))


class Run:
    """One part of a run, until it ends or is ended."""

    def __init__(self, folder: Path, processes: int, options: list[str]):
        self.log = folder.parent / f"{folder.name}.log"
        self.log.write_text("")
        port = free_port()
        environments = [
            {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": processes,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            for rank in range(processes)
        ]
        self.pids = [self._fork(environment if processes > 1 else {}, options) for environment in environments]
        self.codes: dict[int, int] = {}

    def _fork(self, environment: dict, options: list[str]) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = EXIT_UNCAUGHT
        try:
            os.environ.update({name: str(value) for name, value in environment.items()})
            handle = os.open(self.log, os.O_WRONLY | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
            code = run_mocose.main(options)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def lines(self) -> int:
        return self.log.read_text(errors="replace").count("  loss ")

    def running(self) -> bool:
        """Return whether a process is left; as launchers do, end the others where one has failed."""
        for pid in [pid for pid in self.pids if pid not in self.codes]:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self.codes[pid] = os.waitstatus_to_exitcode(status)
        if any(code not in (0, EXIT_INTERRUPTED) for code in self.codes.values()):
            self.send(signal.SIGKILL)
        return len(self.codes) < len(self.pids)

    def wait(self) -> set[int]:
        """Wait for the end; return the exit codes, the negative number of the signal that ended a process."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self.running():
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"{self.log} does not end:\n{self.tail()}")
            time.sleep(0.005)
        return set(self.codes.values())

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def send(self, number: signal.Signals, one_rank: bool = False) -> None:
        for pid in self.pids[-1:] if one_rank else self.pids:
            if pid not in self.codes:
                os.kill(pid, number)


def interrupt(run: Run, folder: Path, moment: Moment, number: signal.Signals, one_rank: bool) -> bool:
    """Wait for the moment and send the signal; return whether the run was still there to receive it."""
    while run.running() and run.lines() < moment.lines:
        time.sleep(0.001)
    while run.running() and moment.in_save and not partial(folder):
        time.sleep(0.0005)
    time.sleep(moment.delay)
    there = run.running()
    run.send(number, one_rank)
    return there


def partial(folder: Path) -> list[Path]:
    return [path for path in checkpoints(folder) if not (path / MANIFEST).is_file()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def same_end(first: Path, second: Path) -> list[str]:
    """Compare the last checkpoints and what is shared of two finished runs."""
    found = differences(first / f"checkpoint-{STEPS}", second / f"checkpoint-{STEPS}")
    for name in ("model.safetensors", "mocose/model.safetensors"):
        digests = [hashlib.sha256((folder / name).read_bytes()).digest() for folder in (first, second)]
        found += [] if digests[0] == digests[1] else [name]
    return found


def make_inputs(folder: Path) -> list[str]:
    """Write an encoder of some megabytes, sentences and pairs; return the command's options but for its output."""
    write_tokenizer(folder / "encoder")
    torch.manual_seed(7)
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 512}
    BertModel(tiny_bert_config(**sizes)).save_pretrained(folder / "encoder")
    made = sentences(16 * GLOBAL_BATCH + 64)
    (folder / "texts.txt").write_text("\n".join(made[64:]) + "\n", encoding="utf-8")
    pairs = "".join(f"{i / 6.4:.2f}\t{made[i]}\t{made[i + 32]}\n" for i in range(32))
    (folder / "pairs.tsv").write_text(pairs, encoding="utf-8")
    options = ["--model_name_or_path", str(folder / "encoder"), "--train_file", str(folder / "texts.txt")]
    options += [
        "--validation_file",
        str(folder / "pairs.tsv"),
        "--eval_steps",
        str(SAVE_STEPS),
        "--max_steps",
        str(STEPS),
    ]
    options += ["--queue_size", "64", "--queue_init_size", "16", "--learning_rate", "1e-4", "--logging_steps", "1"]
    return [*options, "--use_cpu", "--disable_tqdm", "true", "--resume_from_checkpoint", "true"]


def interrupted_run(folder: Path, options: list[str], arguments, generator: random.Random) -> tuple[int, int]:
    """Interrupt one run so many times and let it end; return the interruptions, and those inside a save."""
    number = signal.SIGKILL if arguments.what == "kill" else signal.SIGTERM
    sent = in_save = 0
    for _ in range(arguments.times):
        run = Run(folder, arguments.processes, options)
        there = interrupt(run, folder, Moment.draw(generator), number, arguments.one_rank)
        if number == signal.SIGKILL and not there:
            run.wait()
            continue
        codes = run.wait()
        if codes == {-signal.SIGTERM, EXIT_UNCAUGHT} and any(words in run.tail() for words in FOUND_THE_OTHER_GONE):
            codes = {-signal.SIGTERM}
        if number == signal.SIGTERM and codes not in ENDS_OF_SIGTERM:
            raise AssertionError(f"ended with {codes}:\n{run.tail()}")
        sent += there
        in_save += bool(partial(folder))
    last = Run(folder, arguments.processes, options)
    if last.wait() != {0}:
        raise AssertionError(f"the last part ended with {last.codes}:\n{last.tail()}")
    return sent, in_save


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kill", "terminate"])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--times", type=int, help="Interruptions of each run [2 kills, 1 SIGTERM].")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="Of the data loader of each process.")
    parser.add_argument("--one_rank", action="store_true", help="Send the signal to the last process alone.")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    arguments.times = arguments.times or (2 if arguments.what == "kill" else 1)
    generator = random.Random(arguments.seed)
    same = saves = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = make_inputs(folder)
        options += ["--dataloader_num_workers", str(arguments.workers)]
        options += ["--per_device_train_batch_size", str(GLOBAL_BATCH // arguments.processes), "--output_dir"]
        whole = Run(folder / "whole", arguments.processes, [*options, str(folder / "whole")])
        if whole.wait() != {0}:
            raise AssertionError(whole.tail())
        for index in range(arguments.runs):
            broken = folder / f"run-{index}"
            sent, in_save = interrupted_run(broken, [*options, str(broken)], arguments, generator)
            found = same_end(folder / "whole", broken)
            same += not found
            saves += in_save
            print(
                f"run {index}: {sent} interruptions, {in_save} inside a save: {found[:3] or 'same bits'}", flush=True
            )
    print(f"{same} of {arguments.runs} end bit for bit as the uninterrupted run; {saves} interruptions inside a save")
    return 0 if same == arguments.runs else 1


if __name__ == "__main__":
    sys.exit(main())
