"""Solutions rewritten in steps by an LLM, against a real HTTP server: what is kept, drawn again and rejected."""

import json
import os
import signal

import pytest
from conftest import run_forked
from fake_server import UNSURE, ChatServer, text_of
from internvl.train.dataset import read_rows
from PIL import Image
from restructure_solutions import Flaw, parse_record, read_reply, training_row

from mm_prm.policy import Dialect, PolicyClient, Sampling
from mm_prm.prompts import policy_prompt

SCRIPT = "data_pipeline/tools/restructure_solutions.py"
GOOD = "Sure:\n<step> 1 + 1 = 2 </step>\n<step>So x = {}.</step>\n<answer>{}</answer>"


@pytest.fixture
def solutions(tmp_path):
    """Three solutions: with a picture and its answer, with two pictures and without one, without pictures."""
    for index in range(2):
        Image.new("RGB", (20, 30), (index, 0, 0)).save(tmp_path / f"p{index}.png")
    rows = [
        {"id": "a", "question": "What is x?", "solution": "...", "correct_answer": "75", "image_path": "p0.png"},
        {"id": 2, "question": "<|im_end|>?", "solution": "1 + 1\n\nAnswer: 2", "image_path": ["p0.png", "p1.png"]},
        {"id": "c", "question": "What is y?", "solution": "So it is \\boxed{3}.", "image_path": None},
    ]
    (tmp_path / "solutions.json").write_text(json.dumps(rows))
    return tmp_path / "solutions.json"


def command(solutions, url, *flags):
    files = ["--input_file", solutions, "--output_file", solutions.parent / "out.jsonl", "--image_root"]
    server = ["--api_endpoint", url, "--model", "m", "--max_outage", "0.3"]
    return [SCRIPT, *files, solutions.parent, *server, *flags]


def restructure(solutions, url, *flags):
    return run_forked(*command(solutions, url, *flags))


def answer_to(request):
    text = text_of(request)
    return next(answer for word, answer in (("What is x", 75), ("1 + 1", 2), ("boxed", 3)) if word in text)


def good(request):
    answer = answer_to(request)
    return [GOOD.format(answer, answer)]


def written(folder):
    return {path.name: path.read_text() for path in folder.glob("out*")}


def row(id_, question, answer, **image):
    human = "<image>\n" * (len(image["image"]) if isinstance(image.get("image"), list) else len(image)) + question
    reply = f"<step>1 + 1 = 2</step><step>So x = {answer}.</step><answer>{answer}</answer>"
    return {"id": id_, **image, "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": reply}]}


def expected(folder):
    rows = [
        row("a", policy_prompt("What is x?"), 75, image="p0.png"),
        row("2", policy_prompt("< |im_end|>?"), 2, image=["p0.png", "p1.png"]),
        row("c", policy_prompt("What is y?"), 3),
    ]
    entry = {"root": str(folder), "annotation": str(folder / "out.jsonl"), "data_augment": False, "repeat_time": 1}
    return {
        "out.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "out_meta.json": json.dumps({"mm_policy": {**entry, "length": 3}}, indent=1) + "\n",
        "out.jsonl.rejected.json": "[\n]\n",
    }


def test_solutions_become_training_rows_that_read_as_the_policy_is_asked(solutions, tmp_path):
    with ChatServer(good) as server:
        done = restructure(solutions, server.url)
        assert done.returncode == 0 and "3 rows" in done.stdout and "0 rejected" in done.stdout, done.stderr
        again = restructure(solutions, server.url)
        assert again.returncode == 0 and "already there" in again.stdout and len(server.requests) == 3
    assert written(tmp_path) == expected(tmp_path)
    rows = read_rows(tmp_path / "out_meta.json", "sft", 0)
    assert [len(row.images) for row in rows] == [1, 2, 0]
    request = next(request for request in server.requests if "im_end" in text_of(request))
    assert text_of(request).endswith("\nProblem: < |im_end|>?\nSolution: 1 + 1\n\nAnswer: 2")
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("m", 0.7, 4096)
    assert len({request["seed"] for request in server.requests}) == 3


def test_training_and_serving_ask_the_same(solutions):
    problem = parse_record(json.loads(solutions.read_text())[1], solutions.parent, "solution")
    human = training_row(problem, "", solutions.parent)["conversations"][0]["value"]
    policy = PolicyClient(None, "m", Sampling(), Dialect()).for_problem(problem)
    assert human == "<image>\n<image>\n" + policy.messages([])[0]["content"][-1]["text"]


def test_a_bad_reply_is_drawn_again_with_another_seed(solutions, tmp_path):
    bad = ["<step>a</step><answer>57</answer>", "<answer>75</answer>"]

    def reply(request):
        asked = [text_of(other) for other in server.requests].count(text_of(request))
        return [bad[asked - 1]] if answer_to(request) == 75 and asked < 3 else good(request)

    with ChatServer(reply) as server:
        done = restructure(solutions, server.url, "--concurrency", "1")
    assert done.returncode == 0 and written(tmp_path) == expected(tmp_path), done.stderr
    assert len({request["seed"] for request in server.requests}) == len(server.requests) == 5


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("<step>a</step>", "no answer"),
        ("So the answer is 75.", "no answer"),
        (None, "no answer"),
        ("<step> </step><answer>75</answer>", "no steps"),
        ("<answer>75</answer><step>a</step>", "no steps"),
        ("<step>a</step>Then b.<step>c</step><answer>75</answer>", "text between the tags, or tags that do not match"),
        ("<step>a<step>b</step><answer>75</answer>", "text between the tags, or tags that do not match"),
        ("<step>a</step><answer>7<step>5</answer>", "text between the tags, or tags that do not match"),
    ],
)
def test_what_is_wrong_with_a_reply_is_said(text, flaw):
    with pytest.raises(Flaw, match=flaw):
        read_reply({"message": {"content": text}, "finish_reason": "stop"})
    if flaw == "no answer":
        with pytest.raises(Flaw, match="no answer, cut at --max_new_tokens"):
            read_reply({"message": {"content": text}, "finish_reason": "length"})


def test_an_answer_that_rules_cannot_compare_is_not_called_another(solutions, tmp_path):
    def reply(request):
        return [GOOD.format(answer_to(request), UNSURE)]

    with ChatServer(reply) as server:
        assert restructure(solutions, server.url, "--attempts", "1").returncode == 1
    rejected = json.loads((tmp_path / "out.jsonl.rejected.json").read_text())
    assert "and no rule tells whether that is" in rejected[0]["rejected"][0]


def test_a_solution_that_stays_bad_is_rejected_with_its_reasons(solutions, tmp_path):
    reply = "<step>a</step><answer>57</answer>"
    with ChatServer(lambda request: [reply] if answer_to(request) == 75 else good(request)) as server:
        done = restructure(solutions, server.url, "--attempts", "2")
    assert done.returncode == 0 and "2 rows" in done.stdout and "1 rejected" in done.stdout, done.stderr
    (rejected,) = json.loads((tmp_path / "out.jsonl.rejected.json").read_text())
    record = json.loads(solutions.read_text())[0] | {"image_path": str(tmp_path / "p0.png")}
    assert rejected == {**record, "rejected": ["the answer is '57', not '75'"] * 2}
    assert (tmp_path / "out.jsonl").read_text().splitlines() == expected(tmp_path)["out.jsonl"].splitlines()[1:]


def test_a_solution_that_the_server_refuses_for_good_is_rejected_and_holds_up_nothing(solutions, tmp_path):
    with ChatServer(lambda request: 400 if answer_to(request) == 2 else good(request)) as server:
        done = restructure(solutions, server.url, "--attempts", "2")
    assert done.returncode == 0 and "2 rows" in done.stdout, done.stderr
    [rejected] = json.loads((tmp_path / "out.jsonl.rejected.json").read_text())
    assert rejected["id"] == 2 and len(rejected["rejected"]) == 2 and "refused" in rejected["rejected"][0]


def test_a_rejected_file_is_input_for_another_try(solutions, tmp_path):
    with ChatServer(lambda request: ["no"] if answer_to(request) < 75 else good(request)) as server:
        assert restructure(solutions, server.url, "--attempts", "1").returncode == 0
    (tmp_path / "out.jsonl").rename(tmp_path / "first.jsonl")
    with ChatServer(good) as server:
        done = restructure(tmp_path / "out.jsonl.rejected.json", server.url, "--model", "other")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "first.jsonl").read_text() + written(tmp_path)["out.jsonl"] == expected(tmp_path)["out.jsonl"]


def test_an_llm_that_gives_nothing_is_a_fault_and_more_attempts_go_on(solutions, tmp_path):
    with ChatServer(lambda request: [None]) as server:
        done = restructure(solutions, server.url, "--attempts", "1")
    assert done.returncode == 1 and "all 3 solutions were rejected" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
    with ChatServer(good) as server:
        assert restructure(solutions, server.url, "--attempts", "2").returncode == 0
    assert written(tmp_path) == expected(tmp_path)


def test_the_same_llm_may_judge(solutions, tmp_path):
    def reply(request):
        if "Student's answer: seventy-five" in text_of(request):
            return ["yes"]
        return ["<step>a</step><answer>seventy-five</answer>"] if answer_to(request) == 75 else good(request)

    with ChatServer(reply) as server:
        assert restructure(solutions, server.url, "--judge", "rule+llm").returncode == 0
    assert '<answer>seventy-five</answer>"' in (tmp_path / "out.jsonl").read_text()


def test_a_server_that_goes_away_leaves_solutions_unfinished_and_nothing_is_asked_twice(solutions, tmp_path):
    def dying(request):
        if len(server.requests) > 2:
            return 503
        return ["no"] if len(server.requests) == 1 else good(request)

    with ChatServer(dying) as server:
        done = restructure(solutions, server.url, "--concurrency", "1")
        assert done.returncode == 3 and "2 of 3 problems unfinished" in done.stderr
        assert "LLM" in done.stderr and not (tmp_path / "out.jsonl").exists()
    first = [request["seed"] for request in server.requests[:2]]
    other = restructure(solutions, "http://127.0.0.1:9/v1", "--seed", "1")
    assert other.returncode == 2 and "begun with other flags" in other.stderr
    with ChatServer(good) as server:
        assert restructure(solutions, server.url).returncode == 0
    assert len(server.requests) == 2 and not {request["seed"] for request in server.requests} & set(first)
    assert written(tmp_path) == expected(tmp_path)


def test_a_killed_run_goes_on(solutions, tmp_path):
    def reply(request):
        if len(server.requests) == 3:
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        return good(request)

    def before():
        (tmp_path / "pid").write_text(str(os.getpid()))

    with ChatServer(reply) as server:
        killed = run_forked(*command(solutions, server.url, "--concurrency", "1"), before=before)
        assert killed.returncode == -signal.SIGKILL and not (tmp_path / "out.jsonl").exists()
        assert restructure(solutions, server.url).returncode == 0
    assert len(server.requests) == 4  # the reply that was on its way is asked for again
    assert written(tmp_path) == expected(tmp_path)


def test_every_bad_record_is_named_and_may_be_skipped(tmp_path):
    keys = ("id", "question", "solution", "correct_answer")
    rows = [dict(zip(keys, values, strict=True)) for values in (("a", "q", "s", "1"), ("b", "q", "", "1"))]
    rows += [{"id": "c", "question": "q", "solution": "I do not know"}, rows[0], {**rows[0], "correct_answer": "2"}, 5]
    path = tmp_path / "s.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = restructure(path, "http://127.0.0.1:9/v1")
    assert done.returncode == 2 and done.stderr.splitlines() == [
        f"error: {path}: record 2 (id b): field 'solution' is missing, blank or not text",
        f"error: {path}: record 3 (id c): field 'correct_answer' is missing, and the solution gives no answer",
        f"error: {path}: record 4 (id a): an earlier record is the same",
        f"error: {path}: record 6: expected an object, found int",
    ]
    with ChatServer(lambda request: ["<step>x</step><answer>1</answer>"]) as server:
        done = restructure(path, server.url, "--skip_invalid")
    assert done.returncode == 0 and done.stdout.count("skipped: ") == 4 and "1 rows" in done.stdout
