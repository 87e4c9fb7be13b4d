"""Measure the CPU seconds until a command is ready: python benchmarks/startup.py.

Each command runs in its own process, in turn with the others. Of several rounds the least is printed, because a busy
machine only adds to it. The ratio is to `import torch, transformers`.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "import torch, transformers"
MOCOSE = ["-c", "import sys; from mocose_hf.cli.main import main; sys.exit(main())"]
COMMANDS = {
    BASELINE: ["-c", "import torch, transformers"],
    "import mocose_hf": ["-c", "import mocose_hf"],
    "import mocose_hf.MoCoSETrainer": ["-c", "from mocose_hf import MoCoSETrainer"],
    "mocose --help": [*MOCOSE, "--help"],
    "mocose study list": [*MOCOSE, "study", "list"],
    "run_mocose.py --help": ["run_mocose.py", "--help"],
}


def cpu_seconds(arguments: list[str]) -> float:
    """Return the user and system time of one Python process and its children.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    before = os.times()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> int:
    """Print one line per command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes per command, 1 or more")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error(f"--rounds is {rounds}, but must be at least 1")
    least = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            least[name] = min(least[name], cpu_seconds(arguments))
    print(f"{'command':<32}{'CPU s':>8}{'ratio':>8}")
    for name, seconds in least.items():
        print(f"{name:<32}{seconds:>8.2f}{seconds / least[BASELINE]:>8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
