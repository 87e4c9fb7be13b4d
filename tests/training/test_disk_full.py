"""A disk that fills up ends in one line and a run that goes on, on a small file system of its own."""

import os
import subprocess
import sys

import pytest
from builders import HELPERS, REPOSITORY

POINTS = ("weights", "optimizer.pt", "rng_state.pth", "manifest", "results")
MEGABYTES = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    mount = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small file system")
    return folder


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
def test_a_full_disk_ends_the_run_with_one_line_and_the_run_can_be_resumed(folder, point):
    disk = folder / "small"
    disk.mkdir(exist_ok=True)
    script = f'mount -t tmpfs -o size={MEGABYTES}m none "$1" && exec "$2" "$3" "$1" "$4"'
    python = [sys.executable, str(HELPERS / "fill_disk.py")]
    result = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(disk), *python, point],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPOSITORY}/tests/helpers:{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert f"{point}: same bits after going on" in result.stdout
