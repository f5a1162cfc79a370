"""Trees as a page: what is embedded, and the page in a real browser."""

import base64
import gzip
import json
import re
import time

import pytest
from PIL import Image
from view_trees import main, score_tables, tree_data

from mm_prm.cli import BadInput
from mm_prm.records import parse_rollouts, read_checked
from mm_prm.trees import Node, Tree, write_tree

EVIL = "</script><img src=x onerror=alert(1)> \\(\\frac{1}{2}x^2\\) \\(\\foo\\) $5, or 10$"


def example():
    """Six rollouts: from the question A B R (twice) and D W (twice), from the state A again B R and C W."""
    leaf = Node(["A", "B", "R"], 1.0, 0, 2, 2)
    children = [Node(["B", "R"], 1.0, 0, 1, 1), Node(["C"], 0.0, 0, 2, 0, [], [], [["W"]], [2])]
    state = Node(["A"], 0.5, 3, 2, 1, [["B", "R"]], [1], [["C", "W"]], [1], children)
    return Node([], 0.5, 1, 4, 2, [["A", "B", "R"]], [2], [["D", "W"]], [2], [leaf, state])


SCORED = {"id": "p1", "question": "q", "labels": [1, 0], "solutions_splits": [["A", "B", "R"], ["A", "C", "X"]]}
SCORED["prm_scores"] = [[0.9, 0.8, 0.7], [0.9, 0.2, 0.1]]


def write_trees(folder):
    """Two problems: one with a large picture, one with hostile text; and scores of the first. Returns flags."""
    folder.mkdir()
    Image.new("RGB", (1600, 400), "navy").save(folder / "wide.png")
    write_tree(folder / "b.json", Tree("p1", "What is x?", "R", ["wide.png"], example()))
    hostile = Node([], 0.0, 0, 1, 0, [], [], [[EVIL]], [1], [Node([EVIL], 0.0, 0, 1, 0)])
    write_tree(folder / "a.json", Tree("p2" + EVIL, EVIL, EVIL, [], hostile))
    (folder.parent / "scored.json").write_text(json.dumps([SCORED]))
    return ["--input_dir", folder, "--output_file", folder.parent / "trees.html"]


def run_main(monkeypatch, *flags):
    monkeypatch.setattr("sys.argv", ["view_trees.py", *map(str, flags)])
    main()


def test_a_score_belongs_to_the_exact_steps_before():
    data = tree_data(Tree("p1", "q", "R", [], example()), score_tables([SCORED])["p1"])
    assert data["texts"] == ["A", "B", "R", "D", "W", "C"]
    assert [(node["up"], node["steps"], node["prm"], node["mc"]) for node in data["nodes"]] == [
        (-1, [], [], 0.5),
        (0, [0, 1, 2], [0.9, 0.8, 0.7], 1.0),
        (0, [0], [0.9], 0.5),
        (2, [1, 2], [0.8, 0.7], 1.0),
        (2, [5], [0.2], 0.0),
    ]
    found = [node["rollouts"] for node in data["nodes"]]
    assert found[0] == [[[0, 1, 2], [0.9, 0.8, 0.7], 2, 1], [[3, 4], [None, None], 2, 0]]
    assert found[2] == [[[1, 2], [0.8, 0.7], 1, 1], [[5, 4], [0.2, None], 1, 0]]
    assert found[1] == found[3] == [] and found[4] == [[[4], [None], 2, 0]]


def test_undecided_rollouts_are_shown_and_scored_with_the_others(tmp_path, monkeypatch):
    root = example()
    root.undecided, root.undecided_rollouts, root.undecided_counts = 3, [["A", "U"], ["U"]], [2, 1]
    data = tree_data(Tree("p1", "q", "R", [], root), {})
    assert [(row[2], row[3]) for row in data["nodes"][0]["rollouts"]] == [(2, True), (2, False), (2, None), (1, None)]
    assert [node["undecided"] for node in data["nodes"]] == [3, 0, 0, 0, 0]
    assert (data["nodes"][0]["right"], data["nodes"][0]["drawn"]) == (2, 4)
    (tmp_path / "t").mkdir()
    write_tree(tmp_path / "t" / "a.json", Tree("p1", "q", "R", [], root))
    flags = ["--input_dir", tmp_path / "t", "--output_file", tmp_path / "trees.html"]
    run_main(monkeypatch, *flags, "--write_rollouts", tmp_path / "rollouts.json")
    (record,) = read_checked(tmp_path / "rollouts.json", parse_rollouts)
    assert record["solutions_splits"] == [["A", "B", "R"], ["D", "W"], ["A", "U"], ["U"], ["A", "C", "W"]]
    assert record["labels"] == [1, 0, 0, 0, 0] and record["undecided"] == [0, 0, 1, 1, 0]


def test_the_page_holds_text_as_data_and_pictures_scaled_down(tmp_path, monkeypatch, capsys):
    flags = write_trees(tmp_path / "trees")
    run_main(monkeypatch, *flags, "--scores", tmp_path / "scored.json", "--write_rollouts", tmp_path / "rollouts.json")
    assert "trees.html: 2 trees, 7 states, a score at 7 of their steps" in capsys.readouterr().out
    html = (tmp_path / "trees.html").read_text()
    assert "<img" not in html and "default-src 'none'" in html and not re.search("(style|script)-hash", html)
    blocks = dict(re.findall(r'<script type="text/plain" id="([\w-]+)">(.*?)</script>', html))
    rows = [{"id": "p1", "mc": 0.5, "states": 5}, {"id": "p2" + EVIL, "mc": 0.0, "states": 2}]
    assert json.loads(blocks.pop("index")) == {"prm": "scored.json", "trees": rows}
    plain, hostile = (json.loads(gzip.decompress(base64.b64decode(blocks.pop(f"tree-{n}")))) for n in range(2))
    assert not blocks and hostile["texts"] == [EVIL] == [hostile["question"]]
    [uri] = plain["images"]
    (tmp_path / "small.webp").write_bytes(base64.b64decode(uri.removeprefix("data:image/webp;base64,")))
    with Image.open(tmp_path / "small.webp") as image:
        assert image.size == (800, 200)
    first = read_checked(tmp_path / "rollouts.json", parse_rollouts)[0]
    assert first["solutions_splits"] == [["A", "B", "R"], ["D", "W"], ["A", "C", "W"]] and first["labels"] == [1, 0, 0]
    run_main(monkeypatch, *flags, "--scores", tmp_path / "scored.json")
    assert (tmp_path / "trees.html").read_text() == html


def test_what_cannot_be_shown_is_refused_by_name(tmp_path, monkeypatch):
    flags = write_trees(tmp_path / "trees")
    picture = tmp_path / "trees" / "wide.png"
    picture.rename(tmp_path / "away.png")
    with pytest.raises(BadInput, match=r"trees/b.json: .*wide.png does not exist"):
        run_main(monkeypatch, *flags)
    (tmp_path / "away.png").rename(picture)
    (tmp_path / "scored.json").write_text(json.dumps([SCORED | {"id": "other"}]))
    with pytest.raises(BadInput, match="scored.json: no score fits these trees"):
        run_main(monkeypatch, *flags, "--scores", tmp_path / "scored.json")
    write_tree(tmp_path / "trees" / "c.json", Tree("p3", "q", "R", [], Node([], float("nan"))))
    with pytest.raises(BadInput, match="trees/c.json: not a tree .field 'mc_value': expected a number between 0 and 1"):
        run_main(monkeypatch, *flags)
    write_tree(tmp_path / "trees" / "c.json", Tree("p3", "q", "R", [], Node([]), {"seed": float("nan")}))
    with pytest.raises(BadInput, match="trees/c.json: Out of range float"):
        run_main(monkeypatch, *flags)
    (tmp_path / "trees" / "c.json").write_text("[]")
    with pytest.raises(BadInput, match="trees/c.json: not a tree"):
        run_main(monkeypatch, *flags)
    assert not (tmp_path / "trees.html").exists()


DOWN, UP, LEFT, RIGHT, ENTER, SHIFT = "\ue015", "\ue013", "\ue012", "\ue014", "\ue007", "\ue008"


class Page:
    """The written page in a browser."""

    def __init__(self, browser, path):
        self.browser = browser
        browser.get(path.as_uri())

    def wait_for(self, text):
        for _ in range(100):
            if text in self.text("counts"):
                return
            time.sleep(0.05)
        pytest.fail(f"{text!r} was never shown")

    def text(self, name):
        return self.browser.find_element("id", name).text

    def press(self, *keys):
        self.browser.switch_to.active_element.send_keys(*keys)

    def shown(self):
        """Level and text of the visible states, and which is chosen."""
        rows = [row for row in self.browser.find_elements("css selector", "#tree li") if row.is_displayed()]
        chosen = [row.get_attribute("aria-selected") for row in rows].index("true")
        return [(row.get_attribute("aria-level"), row.text.replace("\n", " ")) for row in rows], chosen

    def path(self):
        return self.text("path").split("\n")

    def run(self, script):
        return self.browser.execute_script(f"return {script}")


@pytest.fixture
def page(tmp_path, monkeypatch, browser):
    run_main(monkeypatch, *write_trees(tmp_path / "trees"), "--scores", tmp_path / "scored.json")
    page = Page(browser, tmp_path / "trees.html")
    page.wait_for("Tree 1 of 2: 5 states")
    yield page
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_a_tree_is_walked_by_mouse_and_keys(page):
    """Protects the page where people look at labels: what is shown, clicked and typed."""
    assert page.run("document.querySelector('#problem img').naturalWidth") == 800
    rows = [
        ("1", "▾ 0.50 The question 2 of 4, selected 1×"),
        ("2", "1.00 0.70 ✓ A → B → R 2 rollouts"),
        ("2", "▾ 0.50 0.90 A 1 of 2, selected 3×"),
        ("3", "1.00 0.70 ✓ B → R 1 rollout"),
        ("3", "0.00 0.20 C 0 of 2"),
    ]
    assert page.shown() == (rows, 0)
    page.browser.find_elements("css selector", "#tree li")[4].click()
    assert page.shown() == (rows, 4) and page.path() == [
        "The solution so far",
        "0.00 MC value, 0 of 2 rollouts right",
        "MC PRM Step",
        *("0.50", "1/2", "0.90 A", "0.00", "0/2", "0.20 C"),
        "Rollouts from here: 0 right, 2 wrong",
        *("✗ wrong, 2×: W", "Step", "W"),
    ]
    page.press(LEFT)  # from a leaf to its parent
    assert page.shown() == (rows, 2)
    page.press(ENTER)  # closes it
    assert page.shown() == ([*rows[:2], (rows[2][0], rows[2][1].replace("▾", "▸"))], 2)
    page.press(RIGHT)  # opens it
    page.press(RIGHT)  # to its first child
    assert page.shown() == (rows, 3) and page.path()[0] == "A right solution"
    page.press(UP, UP)
    assert page.shown() == (rows, 1)
    page.press(DOWN)
    assert page.shown() == (rows, 2)
    wrong = ["✗ wrong, 1×: W lowest PRM score 0.20", "PRM Step", "0.20 C", "W"]
    assert page.path()[-4:] == wrong
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.slow
def test_trees_are_turned_and_what_they_hold_is_text(page):
    """Protects a reader's browser from what a model wrote."""
    page.press(SHIFT, RIGHT)
    page.wait_for("Tree 2 of 2: 2 states")
    text = page.text("problem")
    assert text.count("</script><img src=x onerror=alert(1)>") == text.count("\\(\\foo\\) $5, or 10$") == 3
    assert not page.browser.find_elements("css selector", "img")
    assert page.run("document.querySelectorAll('#problem math mfrac').length") == 2
    page.browser.find_element("id", "next").click()
    page.wait_for("Tree 1 of 2")
    page.browser.find_element("id", "choice").send_keys(DOWN)
    page.wait_for("Tree 2 of 2")
    page.browser.back()
    page.wait_for("Tree 1 of 2")


@pytest.mark.slow
def test_the_page_fits_a_phone(page):
    """Protects the page on a narrow screen."""
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    for key in ("", "2"):
        page.browser.execute_script(f"location.hash = '{key}'")
        page.wait_for(f"Tree {key or 1} of 2")
        assert page.run("document.documentElement.scrollWidth") == 360
