"""The examples in docstrings give what they print."""

import doctest

import pytest

from mocose_hf.models import ema, losses, negative_queue


@pytest.mark.parametrize("module", [ema, losses, negative_queue], ids=lambda module: module.__name__)
def test_docstring_examples_print_what_they_say(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
