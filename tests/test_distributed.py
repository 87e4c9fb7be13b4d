"""What processes need of each other, and how one ends."""

import subprocess
import sys

import pytest
from conftest import REPOSITORY

TALKING = "distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)\n"


@pytest.mark.parametrize("talking", ["", TALKING], ids=["alone", "with others"])
def test_a_process_ends_with_its_code_and_all_that_is_to_be_done_at_the_end(tmp_path, talking):
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, threading, time\n"
        "from torch import distributed\n"
        "from mocose_hf.distributed import end_process\n"
        "atexit.register(print, 'registered')\n"
        f"{talking}"
        "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()\n"
        "print('main')\n"
        "end_process(75)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 75
    assert done.stdout.split("\n") == ["main", "thread", "registered", ""]


def test_a_process_that_talked_to_others_leaves_its_interpreter_as_it_is(tmp_path):
    """Where torch's threads could abort it: nothing of Python's runs after the last function registered at exit."""
    script = tmp_path / "script.py"
    script.write_text(
        "from torch import distributed\n"
        "from mocose_hf.distributed import end_process\n"
        "class Told:\n"
        "    def __del__(self, write=print):\n"
        "        write('taken apart')\n"
        "told = Told()\n"
        f"{TALKING}"
        "end_process(0)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")
