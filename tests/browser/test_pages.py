"""The page of a run, of a study and of the demo in Chromium: no errors, no sideways scroll, dark mode, keyboard."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from builders import sentences
from study_results import decay_study, queue_study

from mocose_hf.cli.demo import build_parser, build_server
from mocose_hf.report.neighbours import Neighbours
from mocose_hf.report.run_page import Run, write_page
from mocose_hf.study.report.write_report import PAGE, write_report
from mocose_hf.study.study import StudyData

PAGES = ("run", "two runs", "study", "demo", "demo, two sentences")
WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")

CONTRAST = """() => {
  const number = part => { part /= 255; return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4; };
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * number(r) + 0.7152 * number(g) + 0.0722 * number(b);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = parts(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = light(parts(element.closest('svg') ? style.fill : style.color)), paper = light(behind(element));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    found.push([ratio, walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0])[0].concat(light(behind(document.body)));
}"""
"""The lowest contrast of a text, that text, and the lightness of the page, as WCAG 2 defines them."""

REACHABLE = """() => [...document.querySelectorAll('a[href], button, input, summary, [tabindex="0"]')]
  .filter(element => element.checkVisibility()).length"""

FOCUSED = """() => {
  const element = document.activeElement;
  if (element === document.body) return null;
  element.dataset.number ??= String(document.querySelectorAll('[data-number]').length);
  const style = getComputedStyle(element);
  const isShown = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
  return [element.dataset.number, isShown, element.outerHTML];
}"""

HIDDEN_SCROLL = """() => [...document.querySelectorAll('body *')].filter(element =>
  element.scrollWidth > element.clientWidth + 1 && ['auto', 'scroll'].includes(getComputedStyle(element).overflowX)
  && element.tabIndex < 0 && element.tagName !== 'FIGURE').map(element => element.outerHTML.slice(0, 80))"""
"""Elements that scroll sideways and that Tab does not reach; browsers let it reach figures that scroll."""


def end(reason: str) -> None:
    """Skip, or fail if the browser is required."""
    if os.environ.get("MOCOSE_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        end("playwright is not installed")
    with sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome", "chrome")
        found = next(filter(None, map(shutil.which, names)), playwright.chromium.executable_path)
        if not Path(found).is_file():
            end("there is no Chromium: install one, or run `playwright install chromium`")
        running = playwright.chromium.launch(executable_path=found)
        yield running
        running.close()


def invented_run(name: str, measure: str) -> Run:
    names = [f"{measure}_{metric}" for metric in ("ndcg_at_10", "mrr_at_10", "recall_at_1", "recall_at_100")]
    scored = ["start", "TF-IDF, characters 3-5", "last, step 24", "best, step 6"]
    log = [{"step": step, "loss": 5 / (step + 1), f"eval_{names[0]}": 70.0 + step} for step in range(0, 25, 6)]
    texts = sentences(6)
    return Run(
        name,
        metric=names[0],
        scores=[(row, {key: 70.0 + number for key in names}) for number, row in enumerate(scored)],
        settings={"learning_rate": 3e-5, "algorithm": "mocose", "run": name},
        data="sentences.txt: 1,669 rows read, dropped: none; 1,669 sentences.",
        lengths=[(8, 100), (16, 40)],
        command=f"mocose train --train_file {'a/very/long/folder/' * 8}sentences.txt --output_dir {name}",
        versions={"torch": "2.13.0"},
        log=log,
        neighbours=[Neighbours(texts[0], [(0.9, texts[1]), (0.8, texts[2])], [(0.8, texts[2]), (0.7, texts[3])])],
    )


@pytest.fixture(scope="module")
def addresses(tmp_path_factory, encoder_dir):
    folder = tmp_path_factory.mktemp("pages")
    runs = [invented_run("/home/someone/runs/first", "dev_from_text"), invented_run("second", "a_long_name_of_topics")]
    write_page(runs[:1], folder / "run.html")
    write_page(runs, folder / "two.html")
    write_report(folder / "study", [StudyData(*decay_study()), StudyData(*queue_study())])
    corpus = folder / "texts.txt"
    corpus.write_text("\n".join([*sentences(30), "a" * 300]) + "\n", encoding="utf-8")
    argv = [str(encoder_dir), str(corpus), "--start", str(encoder_dir), "--port", "0"]
    server = build_server(build_parser().parse_args(argv))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    files = {"run": folder / "run.html", "two runs": folder / "two.html", "study": folder / "study" / PAGE}
    asked = {"demo": "?query=a+red+dog", "demo, two sentences": "?first=a+dog&second=a+cat"}
    yield {name: path.as_uri() for name, path in files.items()} | {
        name: f"{server.url}{query}" for name, query in asked.items()
    }
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_page(browser, addresses):
    contexts = []

    def open_it(name: str, width: int, scheme: str):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page, messages = context.new_page(), []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("requestfailed", lambda request: messages.append(request.url))
        page.goto(addresses[name])
        return page, messages

    yield open_it
    for context in contexts:
        context.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window_and_can_be_read(open_page, name, width, scheme):
    page, messages = open_page(name, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(element => element.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(HIDDEN_SCROLL) == []
    contrast, text, lightness = page.evaluate(CONTRAST)
    assert contrast >= 4.5, text
    assert (lightness > 0.8) if scheme == "light" else (lightness < 0.1)
    assert messages == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_tab_reaches_everything_and_shows_where_it_is(open_page, name):
    page, _ = open_page(name, 390, "light")
    page.evaluate("document.activeElement.blur()")
    wanted, reached = page.evaluate(REACHABLE), {}
    for _ in range(wanted + 12):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is not None:
            number, is_shown, element = focused
            reached[number] = is_shown, element
    assert len(reached) >= wanted
    assert all(is_shown for is_shown, _ in reached.values()), [e for shown, e in reached.values() if not shown]


@pytest.mark.slow
def test_a_search_is_typed_and_sent_by_the_keyboard(open_page):
    page, messages = open_page("demo", 390, "light")
    assert page.evaluate("document.activeElement.name") == "query"
    page.keyboard.press("Control+A")
    page.keyboard.type("the old river")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?query=the+old+river")
    assert page.locator("ol").count() == 2
    assert page.locator("input[name=query]").input_value() == "the old river"
    assert messages == []
