"""Annotation when things go wrong: every fault has a defined outcome, no label is a guess, nothing is lost."""

import asyncio
import errno
import json
import resource
import signal
import threading
import time

import pytest
from conftest import Forked, run_forked
from fake_server import UNSURE, ChatServer, seeded_policy, text_of
from PIL import Image

from mm_prm.cli import Busy
from mm_prm.journal import Journal
from mm_prm.servers import ServerPool
from mm_prm.trees import read_trees

SEARCH = ["--num_rollouts", "8", "--max_search_count", "8", "--checkpoint_every", "1"]


def seeds(folder, count=3, **fields):
    """A seed file of text-only problems p0, p1, ... whose answer is 75."""
    rows = [{"id": f"p{n}", "question": f"Problem {n}?", "correct_answer": "75", **fields} for n in range(count)]
    (folder / "seed.json").write_text(json.dumps(rows))
    return folder / "seed.json"


def command(seed, out, url, *flags):
    args = ["data_pipeline/run_data_pipeline.py", "--input_file", seed, "--output_dir", out, "--model", "m"]
    return [*args, "--policy_endpoint", url, "--max_outage", "0.5", *SEARCH, *flags]


def annotate(seed, out, url, *flags, before=None):
    return run_forked(*command(seed, out, url, *flags), before=before)


def files(out):
    return {path.name: path.read_bytes() for path in out.glob("*.json")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The trees of three problems from a run that nothing disturbs, and how many requests they take."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with ChatServer(seeded_policy) as server:
        done = annotate(seeds(folder), folder / "t", server.url)
    assert done.returncode == 0, done.stderr
    assert all(tree.search["searches"] >= 6 and tree.search["undecided"] for tree in read_trees(folder / "t"))
    return files(folder / "t"), len(server.requests)


# ---------------------------------------------------------------- nothing is lost


@pytest.mark.parametrize("rollouts", ["8", "4:8"])
def test_a_run_stopped_by_its_judge_goes_on_where_it_was(tmp_path, rollouts):
    seed, out = seeds(tmp_path), tmp_path / "t"
    judge = ["--num_rollouts", rollouts, "--judge", "llm", "--judge_model", "j", "--api_endpoint"]

    def failing(request):
        return 503 if len(judge_server.requests) > 7 else [verdict(request)]

    def verdict(request):
        return "yes" if "Student's answer: 75" in text_of(request) else "no"

    with ChatServer(seeded_policy) as server:
        with ChatServer(failing) as judge_server:
            first = annotate(seed, out, server.url, *judge, judge_server.url, "--concurrency", "1")
        assert first.returncode == 3 and "judge" in first.stderr and "p2" in first.stderr
        assert list(out.glob(".partial/*.jsonl"))
        with ChatServer(lambda request: [verdict(request)]) as judge_server:
            second = annotate(seed, out, server.url, *judge, judge_server.url)
        assert second.returncode == 0 and not (out / ".partial").exists()
        asked = [text_of(request) for request in judge_server.requests]
        assert len(set(asked)) == len(asked)  # and nothing that an earlier run had been told
        drawn = len(server.requests)
        with ChatServer(lambda request: [verdict(request)]) as judge_server:
            assert annotate(seed, tmp_path / "u", server.url, *judge, judge_server.url).returncode == 0
    assert len(server.requests) == 2 * drawn  # no rollout was drawn twice
    assert files(out) == files(tmp_path / "u")
    sizes = {node.num_rollouts for tree in read_trees(out) for _, node in tree.root.walk() if node.drawn(False)[0]}
    assert sizes == ({8} if rollouts == "8" else {4, 8})


def test_a_partial_tree_of_other_settings_is_begun_anew(tmp_path, undisturbed):
    seed, out = seeds(tmp_path), tmp_path / "t"
    dying = ChatServer(lambda request: seeded_policy(request) if len(dying.requests) < 9 else 503)
    with dying:
        assert annotate(seed, out, dying.url, "--seed", "5").returncode == 3
    assert list(out.glob(".partial/*.jsonl"))
    with ChatServer(seeded_policy) as server:
        assert annotate(seed, out, server.url).returncode == 0
    assert files(out) == undisturbed[0] and len(server.requests) == undisturbed[1]


def test_checkpoints_can_be_turned_off(tmp_path):
    dying = ChatServer(lambda request: seeded_policy(request) if len(dying.requests) < 9 else 503)
    with dying:
        assert annotate(seeds(tmp_path), tmp_path / "t", dying.url, "--checkpoint_every", "0").returncode == 3
    assert not (tmp_path / "t" / ".partial").exists()


def test_sigterm_saves_the_trees_in_flight(tmp_path, undisturbed):
    seed, out = seeds(tmp_path), tmp_path / "t"
    enough = threading.Event()

    def until_enough(request):
        if len(server.requests) > 12:
            enough.set()
            time.sleep(5)
        return seeded_policy(request)

    with ChatServer(until_enough) as server:
        process = Forked(*command(seed, out, server.url))
        assert enough.wait(60)
        process.kill(signal.SIGTERM)
        stopped = process.wait()
    assert stopped.returncode == 3 and "p0: stopped" in stopped.stderr
    drawn = sum('"draw"' in line for path in out.glob(".partial/*") for line in path.read_text().splitlines())
    assert drawn >= 10
    with ChatServer(seeded_policy) as server:
        assert annotate(seed, out, server.url).returncode == 0
    assert files(out) == undisturbed[0] and len(server.requests) == undisturbed[1] - drawn


def test_two_processes_share_a_folder_without_doing_anything_twice(tmp_path, undisturbed):
    seed, out = seeds(tmp_path), tmp_path / "t"

    def slow(request):
        time.sleep(0.02)
        return seeded_policy(request)

    with ChatServer(slow) as server:
        both = [Forked(*command(seed, out, server.url, "--concurrency", "1")) for _ in range(2)]
        ends = [process.wait() for process in both]
    assert [end.returncode for end in ends] == [0, 0], [end.stderr for end in ends]
    assert files(out) == undisturbed[0] and len(server.requests) == undisturbed[1]
    assert not (out / ".partial").exists()


def test_a_journal_is_held_by_one_and_forgets_a_torn_line(tmp_path):
    path = tmp_path / "deep" / "j.jsonl"
    with Journal(path) as journal:
        journal.append({"a": 1}, {"b": "é"})
        with pytest.raises(Busy):
            Journal(path)
    with path.open("ab") as file:
        file.write(b'{"cut sho')
    with Journal(path) as journal:
        assert journal.rows == [{"a": 1}, {"b": "é"}]
        journal.append({"c": 2})
    assert path.read_text().splitlines() == ['{"a": 1}', '{"b": "é"}', '{"c": 2}']
    with Journal(path) as journal:
        journal.clear()
    assert not path.exists()


def test_a_row_that_could_not_be_flushed_does_not_stand_there_twice(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(tmp_path / "j") as journal:
        journal.append({"a": 1})
        with monkeypatch.context() as patch, pytest.raises(OSError):
            patch.setattr("os.fsync", full)
            journal.append({"b": 2})
        journal.append({"b": 2})
    with Journal(tmp_path / "j") as journal:
        assert journal.rows == [{"a": 1}, {"b": 2}]


def test_a_full_disk_ends_the_run_in_one_line_and_leaves_no_half_tree(tmp_path, undisturbed):
    seed, out = seeds(tmp_path), tmp_path / "t"

    def limit():  # "File too large" where a full disk says "No space left on device"
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    with ChatServer(seeded_policy) as server:
        for flags in (["--checkpoint_every", "0"], ["--checkpoint_every", "1"]):
            done = annotate(seed, out, server.url, *flags, before=limit)
            assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
            assert "error: OSError" in done.stderr and files(out) == {}
            assert sum(line.startswith("error") for line in done.stderr.splitlines()) == 1
        assert annotate(seed, out, server.url).returncode == 0
    assert files(out) == undisturbed[0] and not [path for path in out.iterdir() if path.suffix == ".tmp"]


# ---------------------------------------------------------------- answers on which there is no verdict


def test_what_the_rules_cannot_decide_is_neither_right_nor_wrong(undisturbed, tmp_path):
    for name, content in undisturbed[0].items():
        (tmp_path / name).write_bytes(content)
    for tree in read_trees(tmp_path):
        nodes = [node for _, node in tree.root.walk()]
        assert sum(node.undecided for node in nodes) == tree.search["undecided"] > 0
        for node in nodes:
            answers = [{rollout[-1] for rollout in node.drawn(verdict)[0]} for verdict in (True, False, None)]
            assert answers[0] <= {"75"} and answers[1] <= {"57", "15"} and answers[2] <= {UNSURE}
            assert not any(answers) or node.num_rollouts + node.undecided == 8 == sum(
                sum(node.drawn(verdict)[1]) for verdict in (True, False, None)
            )
            assert not node.num_rollouts or node.mc_value == node.num_correct / node.num_rollouts


def test_a_problem_with_no_verdict_is_unfinished_until_a_judge_can_tell(tmp_path):
    def policy(request):
        if "Problem 0" in text_of(request):
            return [f"<step>We add.</step><answer>{UNSURE}</answer>"] * request["n"]
        return seeded_policy(request)

    out, log = tmp_path / "t", tmp_path / "log.jsonl"
    with ChatServer(policy) as server, ChatServer(lambda request: ["yes"]) as llm:
        first = annotate(seeds(tmp_path, 2), out, server.url, "--log_file", log)
        reason = f"no verdict on any of the 8 rollouts from the question, such as '{UNSURE}' (reference '75'): an LLM"
        assert first.returncode == 3 and f"  p0: {reason}" in first.stderr and len(files(out)) == 1
        assert "--api_endpoint" in first.stderr and reason in log.read_text()
        assert f"75 | {UNSURE}" in first.stdout and "of the answers: an LLM judge would decide" in first.stdout
        asked = len(server.requests)
        again = annotate(seeds(tmp_path, 2), out, server.url)
        assert again.returncode == 3 and len(server.requests) == asked  # nothing is drawn twice
        llm_judge = ["--api_endpoint", llm.url, "--judge_model", "j"]
        done = annotate(seeds(tmp_path, 2), out, server.url, *llm_judge)
    assert done.returncode == 0 and len(files(out)) == 2, done.stderr
    assert {tree.id: tree.root.mc_value == 1 for tree in read_trees(out)} == {"p0": True, "p1": False}


# ---------------------------------------------------------------- servers


def test_problems_stick_to_one_endpoint_and_leave_a_dead_one(tmp_path, undisturbed):
    seed = seeds(tmp_path, 8)
    with ChatServer(seeded_policy) as one, ChatServer(seeded_policy) as two:
        done = annotate(seed, tmp_path / "t", f"{one.url},{two.url}")
        assert done.returncode == 0
        asked = [{text_of(request).split("Question: ")[1][:10] for request in s.requests} for s in (one, two)]
        assert len(asked[0]) + len(asked[1]) == 8 and asked[0] and asked[1] and not asked[0] & asked[1]
        moved = annotate(seed, tmp_path / "moved", f"{one.url},http://127.0.0.1:9/v1")
        assert moved.returncode == 0, moved.stderr
    assert files(tmp_path / "moved") == files(tmp_path / "t")


def test_a_server_that_dies_on_the_way_loses_nothing(tmp_path):
    seed = seeds(tmp_path, 8)
    with ChatServer(seeded_policy) as one, ChatServer(seeded_policy) as two:
        dies = ChatServer(lambda request: seeded_policy(request) if len(dies.requests) < 20 else 503)
        with dies:
            done = annotate(seed, tmp_path / "t", f"{one.url},{dies.url}")
        assert done.returncode == 0 and len(dies.requests) >= 20, done.stderr
        annotate(seed, tmp_path / "u", f"{one.url},{two.url}")
    assert files(tmp_path / "t") == files(tmp_path / "u")


def test_a_server_that_hangs_is_left_for_a_living_one():
    def hang(request):
        time.sleep(3)
        return 503

    async def ask(pool):
        replies = [await pool.complete(0, model="m", messages=[{"content": "x"}]) for _ in range(3)]
        await pool.close()
        return replies

    with ChatServer(hang) as one, ChatServer(lambda request: ["x"]) as two:
        pool = ServerPool("policy", [one.url, two.url], max_outage=0.1, api_key="none", patience=0.3)
        assert len(asyncio.run(ask(pool))) == 3
        assert len(one.requests) == 1 and len(two.requests) == 3


def test_a_slow_reply_is_waited_for_while_its_server_lives():
    def slow(request):
        time.sleep(1)
        return ["drawn"]

    with ChatServer(slow, lives=True) as server:
        pool = ServerPool("policy", [server.url], max_outage=0.1, api_key="none", patience=0.2)
        reply = asyncio.run(pool.complete(0, model="m", messages=[{"content": "x"}]))
    assert reply["choices"][0]["message"]["content"] == "drawn" and len(server.requests) == 1


def test_a_failure_long_ago_does_not_shorten_the_patience_of_today(monkeypatch):
    replies = iter([503, ["x"]])
    with ChatServer(lambda request: next(replies)) as server:
        pool = ServerPool("policy", [server.url], max_outage=5, api_key="none")
        pool.servers[0].failing_since = pool.servers[0].failed_at = time.monotonic() - 1000
        assert asyncio.run(pool.complete(0, model="m", messages=[{"content": "x"}]))["choices"]


def test_an_outage_is_waited_for_once_not_once_per_problem(tmp_path):
    with ChatServer(lambda request: 503) as server:
        done = annotate(seeds(tmp_path, 30), tmp_path / "t", server.url, "--concurrency", "1")
    assert done.returncode == 3 and "30 of 30 problems unfinished" in done.stderr
    assert all(f"  p{n}: policy" in done.stderr for n in range(30))
    assert len(server.requests) < 30 + 5  # the first problem tries until the outage is over the limit, the others once


@pytest.mark.parametrize(
    ("garbage", "message"),
    [
        (b"<html>busy</html>", "no chat completion"),
        (b"", "out of reach"),
        (["<step>one</step>"], "asked for 8 choices, the reply holds 1"),
    ],
)
def test_a_reply_that_is_no_completion_makes_no_tree(tmp_path, garbage, message):
    with ChatServer(lambda request: garbage) as server:
        done = annotate(seeds(tmp_path, 1), tmp_path / "t", server.url)
    assert done.returncode == 3 and message in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "t").glob("*"))


def test_a_server_that_ignores_n_is_not_waited_for(tmp_path):
    started = time.monotonic()
    with ChatServer(lambda request: ["<step>one</step><answer>75</answer>"]) as server:
        done = annotate(seeds(tmp_path, 1), tmp_path / "t", server.url, "--max_outage", "600")
    assert done.returncode == 3 and time.monotonic() - started < 60 and len(server.requests) == 2
    assert "asked for 8 choices, the reply holds 1, again: a server that ignores `n` cannot be used" in done.stderr


def test_a_garbled_reply_is_asked_for_again(tmp_path):
    replies = iter([b"<html>", ["x"]])
    with ChatServer(lambda request: next(replies, None) or seeded_policy(request)) as server:
        done = annotate(seeds(tmp_path, 1), tmp_path / "t", server.url, "--max_outage", "20")
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- what a policy may write


@pytest.mark.parametrize(
    "text", ["", "no tags at all", "<step></step>", "<answer> </answer>", "\ud83d\x00 <step>\ud83d"]
)
def test_a_policy_that_answers_nothing_makes_a_tree_of_wrong_rollouts(tmp_path, text):
    judge = ["--judge", "llm", "--judge_model", "j", "--api_endpoint", "http://127.0.0.1:9/v1"]  # would fail if asked
    with ChatServer(lambda request: [text] * request["n"]) as server:
        done = annotate(seeds(tmp_path, 1), tmp_path / "t", server.url, *judge)
    assert done.returncode == 0, done.stderr
    (tree,) = read_trees(tmp_path / "t")
    assert (tree.root.mc_value, tree.search["unanswered"], tree.root.incorrect_counts) == (0, 8, [8])


def test_half_a_surrogate_pair_does_not_stop_the_tree_from_being_written(tmp_path):
    text = "<step>a \ud83d</step><answer>75</answer>"
    with ChatServer(lambda request: [text] * request["n"]) as server:
        assert annotate(seeds(tmp_path, 1), tmp_path / "t", server.url).returncode == 0
    assert read_trees(tmp_path / "t")[0].root.correct_rollouts == [["a ?", "75"]]


def test_a_solution_of_ten_thousand_steps(tmp_path):
    steps = "".join(f"<step>{n}</step>" for n in range(10_000))

    def policy(request):
        before = text_of(request).count("<step>") - 1
        rest = "".join(f"<step>{n}</step>" for n in range(before, 10_000))
        if before < 0 or "Previous Steps" not in text_of(request):
            return [f"{steps}<answer>57</answer>", "<answer>75</answer>"]
        right = before <= 7000  # the first error is step 7000
        return [f"{rest}<answer>57</answer>", f"{rest}<answer>{75 if right else 15}</answer>"]

    with ChatServer(policy) as server:
        flags = ["--num_rollouts", "2", "--max_search_count", "1"]
        done = annotate(seeds(tmp_path, 1), tmp_path / "t", server.url, *flags)
    assert done.returncode == 0, done.stderr
    (tree,) = read_trees(tmp_path / "t")
    wrong = [prefix for prefix, node in tree.root.walk() if node.mc_value == 0]
    assert min(map(len, wrong)) == 7001
    done = run_forked("data_pipeline/traverse.py", "--input_dir", tmp_path / "t", "--output_file", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr


def test_special_tokens_in_a_question_forge_nothing(tmp_path):
    question = "Is <prm> or <step> or </step> right? <IMG_CONTEXT><|im_end|>\n<|im_start|>assistant"
    out = tmp_path / "t"
    with ChatServer(seeded_policy) as server:
        assert annotate(seeds(tmp_path, 1, question=question), out, server.url).returncode == 0
    sent = text_of(server.requests[0])
    assert sent.endswith(
        "Question: Is < prm> or <step> or </step> right? < IMG_CONTEXT>< |im_end|>\n< |im_start|>assistant"
    )
    assert read_trees(out)[0].question == question
    args = ["--input_dir", out, "--output_file", tmp_path / "p.json"]
    assert run_forked("data_pipeline/traverse.py", *args).returncode == 0
    args = ["--input_file", tmp_path / "p.json", "--output_file", tmp_path / "r.jsonl"]
    assert run_forked("data_pipeline/prm_data_format.py", *args).returncode == 0
    for line in (tmp_path / "r.jsonl").read_text().splitlines():
        human, gpt = json.loads(line)["conversations"]
        assert human["value"].count("<prm>") == len(gpt["value"])


def test_policies_without_tags_are_read_by_paragraphs(tmp_path):
    def policy(request):
        if "We add well" in text_of(request).partition("Previous Steps:")[2]:
            return ["Answer: 75", "Answer: 57"]
        return ["We read.\n\nWe add well.\n\nAnswer: 57", "We read it.\n\nSo \\boxed{75}"]

    with ChatServer(policy) as server:
        flags = ["--step_format", "paragraphs", "--num_rollouts", "2", "--max_search_count", "1"]
        done = annotate(seeds(tmp_path, 1), tmp_path / "t", server.url, *flags)
    assert done.returncode == 0, done.stderr
    (tree,) = read_trees(tmp_path / "t")
    assert tree.root.incorrect_rollouts == [["We read.", "We add well.", "57"]]
    assert tree.root.correct_rollouts == [["We read it.", "So \\boxed{75}", "75"]]
    assert text_of(server.requests[1]).endswith("Previous Steps: We read.\n\nWe add well.\n\n")


# ---------------------------------------------------------------- seeds and pictures


def test_bad_pictures_and_duplicate_ids_are_refused_by_name(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    Image.effect_noise((200, 200), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:9000])
    (tmp_path / "text.png").write_text("not a picture")
    names = ["bomb.png", "cut.png", "text.png", "none.png", "whole.png", "whole.png"]
    ids = ["bomb", "cut", "text", "none", "twin", "twin"]
    rows = [
        {"id": i, "question": "?", "correct_answer": "75", "image_path": name}
        for i, name in zip(ids, names, strict=True)
    ]
    (tmp_path / "seed.json").write_text(json.dumps(rows))
    done = annotate(tmp_path / "seed.json", tmp_path / "t", "http://127.0.0.1:9/v1")
    assert done.returncode == 2 and not (tmp_path / "t").exists()
    said = done.stderr.splitlines()
    assert len(said) == 5 and "Traceback" not in done.stderr
    for number, (id_, reason) in enumerate(
        [("bomb", "pixel"), ("cut", "cannot be opened"), ("text", "cannot be opened"), ("none", "does not exist")], 1
    ):
        assert f"record {number} (id {id_}): field 'image_path'" in said[number - 1] and reason in said[number - 1]
    assert "record 6 (id twin): field 'id'" in said[4]


def test_a_picture_that_vanishes_leaves_its_problem_unfinished(seed_file, tmp_path):
    def policy(request):
        (tmp_path / "p1.png").unlink(missing_ok=True)
        return seeded_policy(request)

    with ChatServer(policy) as server:
        done = annotate(seed_file, tmp_path / "t", server.url, "--concurrency", "1")
    assert done.returncode == 3 and "1 of 3 problems unfinished" in done.stderr
    assert f"  2: image {tmp_path / 'p1.png'}" in done.stderr


def test_the_log_and_the_summary_say_what_was_done_and_what_failed(tmp_path):
    log = tmp_path / "log.jsonl"

    def policy(request):
        return 400 if "Problem 1?" in text_of(request) else seeded_policy(request)

    with ChatServer(policy) as server:
        done = annotate(seeds(tmp_path), tmp_path / "t", server.url, "--log_file", log)
    lines = {line["id"]: line for line in map(json.loads, log.read_text().splitlines())}
    assert set(lines) == {"p0", "p1", "p2"} and "refused" in lines["p1"]["unfinished"]
    trees = {tree.id: tree for tree in read_trees(tmp_path / "t")}
    for id_ in ("p0", "p2"):
        assert lines[id_]["rollouts"] == trees[id_].search["rollouts"] and lines[id_]["labels"] > 0
    labels = sum(line.get("labels", 0) for line in lines.values())
    assert f"2 trees, {labels} labels" in done.stdout and "root mc_value: 0 " in done.stdout
    assert "judge: rule " in done.stdout and "cached" in done.stdout


# ---------------------------------------------------------------- the kill test


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path):
    """Protects hours of rollouts: a run killed at any moment, ten times, ends with the trees of an undisturbed one."""
    seed, out = seeds(tmp_path, 8), tmp_path / "t"
    with ChatServer(seeded_policy) as server:
        assert annotate(seed, tmp_path / "u", server.url).returncode == 0

    def slow(request):
        time.sleep(0.15)
        return seeded_policy(request)

    kills, saved = 0, 0
    with ChatServer(slow) as server:
        while kills < 10:
            before = len(server.requests)
            process = Forked(*command(seed, out, server.url, "--concurrency", "3"))
            while process.poll() is None and len(server.requests) < before + 3 + kills % 5:
                time.sleep(0.01)
            time.sleep(0.013 * (kills % 11))
            assert process.poll() is None, "finished before the last kill: make it slower"
            process.kill(signal.SIGKILL)
            process.wait()
            kills += 1
            saved = max(saved, len(list(out.glob(".partial/*.jsonl"))))
        done = annotate(seed, out, server.url)
    assert done.returncode == 0 and saved > 0
    assert files(out) == files(tmp_path / "u") and len(files(out)) == 8
    assert not (out / ".partial").exists()
