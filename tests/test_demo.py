"""The demo page: what it shows of a search, escaped, and in a real browser with a real PRM."""

import html
import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT
from fake_server import ChatServer, one_step
from guided.methods import Candidate, StepScore
from guided.page import Seen, candidates_html, colour, spelled, tree_html
from PIL import Image
from test_serve_policy import free_port

EVIL = "</span><script>document.title = 'x'</script> ${document.title = 'y'} {{7*7}} <img src=x onerror=alert(1)>"


def one(*steps, answer=None):
    return Candidate(" ".join(steps), steps, answer, answer is not None)


def seen_search():
    """Two texts from a, one from b: a 1 and a 2 have ended."""
    seen = Seen("min")
    seen.drawn([one("a"), one("b")])
    seen.drawn([one("a", "1", answer="1"), one("a", "2", answer="2")])
    candidates = [one("a", "1"), one("a", "2"), one("b")]
    seen.scored(candidates, [[StepScore(0.9), StepScore(0.3)], [StepScore(0.9), StepScore(0.7)], [StepScore(0.1)]])
    return seen


def texts(page):
    return [html.unescape(text) for text in re.findall(r">([^<>]+)<", page)]


def test_candidates_are_shown_best_first_and_the_chosen_one_on_top():
    seen = seen_search()
    assert texts(candidates_html(seen)) == [
        *("finished, min 0.700, answer 2", "0.900", "a", "0.700", "2"),
        *("finished, min 0.300, answer 1", "0.900", "a", "0.300", "1"),
        *("is being written, min 0.100", "0.100", "b"),
    ]
    seen.finish([("a", "1"), ("a", "2")])
    assert texts(candidates_html(seen))[0] == "chosen, min 0.700, answer 2"
    assert texts(candidates_html(seen))[-4:] == ["1 given up", "given up, min 0.100", "0.100", "b"]
    seen.finish([])
    assert texts(candidates_html(seen))[:2] == ["3 given up", "given up, min 0.700, answer 2"]


def test_the_tree_draws_equal_beginnings_once():
    seen = seen_search()
    assert texts(tree_html(seen)) == ["0.900", "a", "0.300", "1", "0.700", "2", "0.100", "b"]
    assert 'class="left"' not in tree_html(seen)
    seen.finish([("a", "1")])
    assert tree_html(seen).count('<li class="left">') == 2


def test_a_step_without_a_score_is_grey():
    seen = Seen("last")
    seen.drawn([one("a", "b")])
    assert texts(candidates_html(seen)) == ["is being written", "a", "b"]
    assert (colour(0), colour(0.5), colour(1)) == ("hsl(0 70% 78%)", "hsl(60 70% 78%)", "hsl(120 70% 78%)")


def test_text_stays_text():
    seen = Seen("last")
    seen.drawn([one(EVIL, answer=EVIL)])
    for page in (candidates_html(seen), tree_html(seen), spelled(EVIL)):
        assert not re.search(r"[{}$`\\]|<script|<img", page) and EVIL in html.unescape(page)


def writes(request):
    """A policy that finds the answer 75 in three steps, the third one evil."""
    before = json.dumps(request["messages"]).count("<step>") - 1
    draw = random.Random(f"{request['seed']} {before}")
    if before == 3:
        return ["<answer>75</answer>"] * request["n"]
    return [f"<step>{EVIL if before == 2 else 'part'} {draw.randrange(9)}</step>" for _ in range(request["n"])]


@pytest.fixture
def page(browser, prm_folder, tmp_path):
    """URL of the page, with one example. browser: where there is none, no server is started."""
    pytest.importorskip("gradio")
    Image.new("RGB", (112, 112), (200, 30, 30)).save(tmp_path / "p.png")
    seed = [{"id": "1", "question": "What is red?", "correct_answer": "75", "image_path": "p.png"}]
    (tmp_path / "seed.json").write_text(json.dumps(seed))
    port = free_port()
    with ChatServer(one_step(writes)) as server:
        command = [sys.executable, ROOT / "eval/demo.py", "--policy_endpoint", server.url, "--model", "m"]
        command += ["--checkpoint", prm_folder, "--examples", tmp_path / "seed.json", "--page_port", port]
        with open(tmp_path / "log", "wb") as log:
            process = subprocess.Popen(
                list(map(str, command)), stdout=log, stderr=log, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
            )
        try:
            wait_for_page(process, f"http://127.0.0.1:{port}", tmp_path / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def wait_for_page(process, url, log):
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(log.read_text())


@pytest.mark.slow
def test_the_page_in_a_browser(page, browser, tmp_path):
    """Upload a picture, ask, search: coloured steps, a chosen candidate, a tree, nothing run that a model wrote."""
    Image.new("RGB", (60, 40), (30, 30, 200)).save(tmp_path / "own.png")

    def wait_for(selector, text):
        for _ in range(300):
            found = browser.find_elements("css selector", selector)
            if found and text in found[0].text:
                return found[0]
            time.sleep(0.1)
        pytest.fail(f"{text!r} was never shown in {selector}: {[one.text for one in found]}")

    browser.set_window_size(1500, 1100)
    browser.get(page)
    wait_for("#run", "Search")
    browser.find_element("css selector", "#run").click()
    wait_for("#line", "ask a question")
    browser.find_element("css selector", "input[type=file]").send_keys(str(tmp_path / "own.png"))
    browser.find_element("css selector", "textarea").send_keys("What is blue?")
    for _ in range(100):
        if browser.find_elements("css selector", "img[src*='own']"):
            break
        time.sleep(0.1)
    browser.find_element("css selector", "#run").click()
    wait_for("#line", "tokens read by the PRM")
    best = wait_for("#candidates .chosen", "answer 75")
    assert EVIL in best.text and browser.title == "MM-PRM: guided search"
    colours = {step.value_of_css_property("background-color") for step in best.find_elements("css selector", ".step")}
    assert len(colours) > 1
    assert len(browser.find_elements("css selector", "#tree li")) > 4
    browser.find_element("css selector", "td, .gallery-item").click()  # the example
    for _ in range(100):
        if browser.find_element("css selector", "textarea").get_property("value") == "What is red?":
            break
        time.sleep(0.1)
    browser.find_element("css selector", "#run").click()
    wait_for("#line", "tokens read by the PRM")
    if folder := os.environ.get("MM_PRM_SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/demo.png")
    assert [row for row in browser.get_log("browser") if row["level"] == "SEVERE"] == []
