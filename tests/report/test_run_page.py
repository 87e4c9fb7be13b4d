import json
import re
from html.parser import HTMLParser

import pytest
import torch
from torch.nn import functional as F

from mocose_hf.cli.report import main
from mocose_hf.errors import InputError
from mocose_hf.report.charts import line_chart
from mocose_hf.report.neighbours import Neighbours, compare_neighbours
from mocose_hf.report.run_page import PAGE_FILE, Run, measure_label, read_run, write_page, write_record

HOSTILE = "<script>alert(1)</script>"
WEAK = "dev_from_text_ndcg_at_10"


def run_of(score: float, **fields) -> Run:
    log = [{"step": step, "loss": 5 - step, "eval_dev_spearman": 70.0 + step} for step in (0, 2, 4)]
    settings = {
        "metric": "dev_spearman",
        "scores": [("start", {"dev_spearman": 70.0}), ("best, step 4", {"dev_spearman": score})],
        "settings": {"learning_rate": 3e-5},
        "command": "mocose train",
        "log": [*log, {"step": 4, "eval_dev_spearman": 99.0}],
        "neighbours": [Neighbours("a text", [(0.9, "old")], [(0.8, "new")])],
    }
    return Run("a run", **settings | fields)


class Balance(HTMLParser):
    """Record tags that are not closed in order."""

    VOID = {"meta", "br", "circle", "rect", "polygon", "line", "path", "link", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.wrong = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (run_of(72.5), ["better", "70.00", "72.50", "+2.50", "step 4"]),
        (run_of(69.0), ["worse", "-1.00"]),
        (run_of(70.0), ["No checkpoint", "start"]),
        (run_of(69.0, greater_is_better=False), ["better", "-1.00"]),
        (run_of(72.5, metric=""), ["no development score"]),
        (
            run_of(72.5, metric=WEAK, scores=[("start", {WEAK: 70.0}), ("best, step 4", {WEAK: 72.5})]),
            ["better", "+2.50", "a weak measure"],
        ),
    ],
)
def test_the_verdict_tells_what_the_training_did(run, words):
    assert all(word in run.verdict for word in words)
    assert run.verdict.count(". ") == 0
    assert ("weak" in run.verdict) == (run.metric == WEAK)


def test_a_page_is_whole_and_needs_nothing_from_outside(tmp_path):
    run = run_of(72.5, data=HOSTILE, command=HOSTILE, settings={HOSTILE: HOSTILE})
    run.neighbours = [Neighbours(HOSTILE, [(0.9, HOSTILE)], [(0.8, HOSTILE)])]
    run.scores[0] = (HOSTILE, {"dev_spearman": 70.0, HOSTILE: 1.0})
    run.name = HOSTILE
    write_page([run], tmp_path / PAGE_FILE)
    page = (tmp_path / PAGE_FILE).read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=|url\(|@import", page)
    balance = Balance()
    balance.feed(page)
    assert balance.open == balance.wrong == []
    assert "Development score" in page
    assert "70.00" in page


def test_the_record_of_a_run_is_read_as_it_was_written(tmp_path):
    run = run_of(72.5)
    write_record(run, tmp_path)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": run.log}), encoding="utf-8")
    (tmp_path / "queue_monitor.jsonl").write_text('{"step": 2, "age_quantiles": [1, 2, 5]}\n{"cut', encoding="utf-8")
    found = read_run(tmp_path)
    assert [tuple(row) for row in found.scores] == run.scores
    assert [entry.text for entry in found.neighbours] == ["a text"]
    assert found.log == run.log
    assert found.queue_ages == [{"step": 2, "median": 2, "oldest": 5}]
    with pytest.raises(InputError, match="run_record"):
        read_run(tmp_path / "none")


def test_two_runs_are_compared_by_the_settings_that_differ(tmp_path, capsys):
    folders = []
    for number, rate in enumerate((3e-5, 1e-4)):
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        write_record(run_of(71.0 + number, settings={"learning_rate": rate, "same": 7}), folder)
        folders.append(str(folder))
    assert main([*folders, "-o", str(tmp_path / "both.html")]) == 0
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "learning_rate" in page
    assert "same" not in page
    assert "71.00" in page
    assert "72.00" in page
    assert capsys.readouterr().out.count("better") == 2
    assert main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_chart_keeps_its_points_inside_and_in_order():
    chart = line_chart("x", {"a": [(0, 1.0), (5, float("nan")), (10, 3.0)], "b": [(0, 2.0)], "c": []})
    assert [line.name for line in chart.lines] == ["a", "b"]
    (first_x, first_y, _), (last_x, last_y, _) = chart.lines[0].points
    assert 0 < first_x < last_x < 420
    assert 0 < last_y < first_y < 220
    assert chart.lines[0].dashes != chart.lines[1].dashes
    assert "from 1 at step 0 to 3 at step 10" in chart.summary
    assert line_chart("x", {"a": []}) is None


def test_neighbours_are_the_nearest_others_under_each_encoder():
    texts = [f"text {number}" for number in range(30)]
    places = {text: number for number, text in enumerate(texts)}

    def encode(seed: int):
        vectors = torch.randn(30, 8, generator=torch.Generator().manual_seed(seed))
        return lambda drawn: vectors[[places[text] for text in drawn]]

    found = compare_neighbours([*texts, *texts], encode(1), encode(2), queries=4, count=2)
    assert len({entry.text for entry in found}) == 4
    for entry in found:
        for side, seed in ((entry.before, 1), (entry.after, 2)):
            rows = F.normalize(encode(seed)(texts), dim=-1)
            cosines = rows @ rows[places[entry.text]]
            cosines[places[entry.text]] = -2
            scores, expected = cosines.topk(2)
            assert [text for _, text in side] == [texts[place] for place in expected.tolist()]
            assert [score for score, _ in side] == pytest.approx(scores.tolist(), abs=1e-4)
    assert compare_neighbours(["a", "b"], encode(1), encode(2)) == []


def test_measures_have_readable_names():
    assert measure_label("dev_spearman") == "Spearman (dev)"
    assert measure_label("packages_mrr_at_10") == "MRR@10 (packages)"


def test_headings_name_a_shared_development_set_once(tmp_path):
    scores = [("start", {"dev_mrr_at_10": 1.0, "dev_recall_at_1": 2.0})]
    write_page([run_of(72.5, metric="dev_mrr_at_10", scores=scores, data="cut (`max_seq_length`)")], tmp_path / "one")
    one = (tmp_path / "one").read_text(encoding="utf-8")
    assert "Scores on dev<" in one
    assert re.findall(r'<th scope="col">(.*?)</th>', one)[:2] == ["MRR@10", "R@1"]
    assert "cut (max_seq_length)" in one
    scores[0][1]["other_mrr_at_10"] = 3.0
    write_page([run_of(72.5, metric="dev_mrr_at_10", scores=scores)], tmp_path / "two")
    assert "MRR@10 (other)" in (tmp_path / "two").read_text(encoding="utf-8")


def test_the_spreads_of_batch_and_embeddings_have_charts_of_their_own(tmp_path):
    log = [{"step": step, "query_std": 0.05, "key_std": 0.05, "embedding_std": 0.95} for step in (1, 2)]
    write_page([run_of(72.5, log=log)], tmp_path / "page")
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", (tmp_path / "page").read_text(encoding="utf-8"))
    assert titles == ["Spread of queries and keys", "Spread of embeddings"]


def test_a_single_point_is_no_chart(tmp_path):
    write_page(
        [run_of(72.5, log=[{"step": 1, "loss": 1.0, "embedding_std": 0.9}, {"step": 2, "loss": 0.5}])], tmp_path / "p"
    )
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", (tmp_path / "p").read_text(encoding="utf-8"))
    assert titles == ["Loss"]
