"""Files that hold code."""

import os
import pickle
from pathlib import Path

import torch


class Attack:
    """Writes a file where it is unpickled."""

    def __init__(self, marker: Path):
        self._marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self._marker),)


def save_zip(value, path):
    torch.save(value, path)


def save_legacy(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_plain(value, path):
    path.write_bytes(pickle.dumps(value))


FORMATS = (save_zip, save_legacy, save_plain)
