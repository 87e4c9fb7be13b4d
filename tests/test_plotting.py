"""How lines are told apart."""

import itertools

from mocose_hf.plotting import COLOURS, DASHES, line_style


def test_lines_differ_in_colour_or_dashes_and_neighbours_in_both():
    styles = [line_style(number) for number in range(len(COLOURS) * len(DASHES))]
    assert len({(style["color"], style["linestyle"]) for style in styles}) == len(styles)
    for first, second in itertools.pairwise(styles[: len(COLOURS)]):
        assert first["color"] != second["color"]
        assert first["linestyle"] != second["linestyle"]
