"""Guided search: a PRM that reads texts as they grow scores as on whole ones, and the script around the methods."""

import asyncio
import json
import random
from itertools import chain

import numpy as np
import pytest
from conftest import run_forked
from fake_server import ChatServer, one_step, seeded_policy
from guided.accounts import Accounts
from guided.growing import GrowingPrm
from guided.memory import Memory, spans
from guided.methods import METHODS
from PIL import Image

from mm_prm.cli import Fault
from mm_prm.policy import Dialect, PolicyClient, Sampling
from mm_prm.prm import Prm
from mm_prm.prm_format import prm_text, process_text
from mm_prm.prm_model import image_token_counts
from mm_prm.records import Problem
from mm_prm.servers import ServerPool

SCRIPT = "eval/guided_search.py"


def make_problem(tmp_path, number, pictures=1):
    paths = [str(tmp_path / f"{number}_{index}.png") for index in range(pictures)]
    for index, path in enumerate(paths):
        Image.new("RGB", (112, 112), (60 * number, 90 * index, 30)).save(path)
    record = {"id": str(number), "question": f"What is in picture {number}?", "correct_answer": "75"}
    return Problem(str(number), record["question"], "75", paths, record)


def grown(draw, pool, width):
    """The next round of a beam: some prefixes, continued by two steps that may be the same."""
    kept = draw.sample(pool, min(width, len(pool)))
    return [(*steps, f"then {draw.randrange(3)} and {number % 2}") for number, steps in enumerate(kept * 2)]


def ids(prm, problem, steps):
    """Tokens of a text up to its last marker."""
    counts = image_token_counts(prm.processor, problem.images)
    sequence = prm.encoder.prm(prm_text(problem.question, process_text(list(steps), prm.separator)), counts)
    return tuple(sequence.input_ids[: sequence.marker_positions[-1] + 1])


async def grow(prm, problems, limit, rounds=4):
    """Beams of all problems side by side; returns what was asked and found, by problem, and the accounts."""
    growing, found = GrowingPrm(prm, limit), [[] for _ in problems]
    accounts = [Accounts() for _ in problems]

    async def one(number):
        draw, pool = random.Random(number), [()]
        reading = growing.open(problems[number], accounts[number])
        for _ in range(rounds):
            pool = grown(draw, pool, 3)
            for steps, scores in zip(pool, await growing.score(reading, pool), strict=True):
                found[number].append((steps, [score.p for score in scores]))
        growing.forget(reading)

    await asyncio.gather(*map(one, range(len(problems))))
    return found, accounts, growing


@pytest.mark.parametrize("limit", [10**6, 100])
def test_scores_as_it_grows_are_those_of_the_whole_text(prm_folder, tmp_path, limit):
    prm = Prm.load(str(prm_folder), dtype="float32")
    problems = [make_problem(tmp_path, number, number) for number in range(3)]
    found, accounts, growing = asyncio.run(grow(prm, problems, limit))
    for problem, rows in zip(problems, found, strict=True):
        whole = prm.score(problem.question, problem.images, [steps for steps, _ in rows])
        assert list(chain(*(scores for _, scores in rows))) == pytest.approx(list(chain(*whole)), abs=1e-5)
    assert np.ptp([scores[-1] for rows in found for _, scores in rows]) > 0.1
    for problem, rows, account in zip(problems, found, accounts, strict=True):
        texts = {steps: ids(prm, problem, steps) for steps, _ in rows}
        assert account.prm_tokens_anew == sum(map(len, texts.values()))
        distinct = {text[:end] for text in texts.values() for end in range(1, len(text) + 1)}
        once = sum(len(text) - len(texts.get(steps[:-1], ())) for steps, text in texts.items())
        if limit == 10**6:  # neighbours may share the first words of a step, others do not
            assert len(distinct) <= account.prm_tokens <= once
            assert account.pictures == len(problem.images)
        else:
            assert once < account.prm_tokens <= account.prm_tokens_anew
    growing.read([])  # problems that are over are dropped
    assert growing.memory.count == 0 and not growing.readings


def test_beyond_the_limit_the_problem_that_waited_longest_is_read_anew(prm_folder, tmp_path):
    growing = GrowingPrm(Prm.load(str(prm_folder), dtype="float32"), limit=80)
    one, other = (growing.open(make_problem(tmp_path, number), Accounts()) for number in (1, 2))

    def score(reading, *steps):
        return asyncio.run(growing.score(reading, [steps]))[0]

    first = score(one, "a", "b")
    size = one.accounts.prm_tokens
    score(one, "a", "b", "c")
    assert 40 < size < one.accounts.prm_tokens < size + 15 and one.accounts.pictures == 1
    score(other, "a")  # both together are too much
    assert growing.memory.count < 80 and list(growing.readings) == [other]
    assert [step.p for step in score(one, "a", "b")] == pytest.approx([step.p for step in first], abs=1e-6)
    assert one.accounts.prm_tokens > 2 * size and one.accounts.pictures == 2


def test_requests_that_wait_share_a_pass(prm_folder, tmp_path):
    prm = Prm.load(str(prm_folder), dtype="float32")
    growing = GrowingPrm(prm, 10**6)
    passes = []
    forward = growing.forward
    growing.forward = lambda row: passes.append(len(row.segments)) or forward(row)
    readings = [growing.open(make_problem(tmp_path, number), Accounts()) for number in range(3)]

    async def all_at_once():
        return await asyncio.gather(*(growing.score(reading, [("a",), ("b", "c"), ()]) for reading in readings))

    scores = asyncio.run(all_at_once())
    assert [[len(steps) for steps in found] for found in scores] == [[1, 2, 0]] * 3
    assert sum(passes) == 6 and len(passes) <= 2


def test_a_fault_in_a_pass_is_told_and_leaves_nothing_half_read(prm_folder, tmp_path):
    growing = GrowingPrm(Prm.load(str(prm_folder), dtype="float32"), 10**6)
    reading, forward = growing.open(make_problem(tmp_path, 1), Accounts()), growing.forward

    def out_of_memory(row):
        raise MemoryError

    growing.forward = out_of_memory
    with pytest.raises(Fault, match="1: the PRM failed .MemoryError"):
        asyncio.run(growing.score(reading, [("a",)]))
    growing.forward = forward
    assert len(asyncio.run(growing.score(reading, [("a", "b")]))[0]) == 2


def test_many_that_wait_together_stay_within_the_memory(prm_folder, tmp_path):
    growing = GrowingPrm(Prm.load(str(prm_folder), dtype="float32"), limit=80)
    readings = [growing.open(make_problem(tmp_path, number), Accounts()) for number in range(5)]
    most, take = [0], growing.memory.take

    def noted(count):
        places = take(count)
        most.append(growing.memory.count)
        return places

    growing.memory.take = noted

    async def all_at_once():
        return await asyncio.gather(*(growing.score(reading, [("a",), ("b", "c")]) for reading in readings))

    scores = asyncio.run(all_at_once())
    assert [[len(steps) for steps in found] for found in scores] == [[1, 2]] * 5
    size = readings[0].accounts.prm_tokens
    assert size > 40 and max(most) <= 80 + size  # one problem may be too many, not all of them


def test_a_pass_that_was_too_large_costs_nothing_and_is_forgotten(prm_folder, tmp_path):
    growing = GrowingPrm(Prm.load(str(prm_folder), dtype="float32"), 10**6)
    growing.memory = memory = Memory(50)  # grows by what is missing
    kept, *others = (growing.open(make_problem(tmp_path, number), Accounts()) for number in range(1, 7))
    before, extend = asyncio.run(growing.score(kept, [("a",)])), memory.extend

    def small_device(layer, key, value):
        if len(memory.used) > 250:
            raise MemoryError
        return extend(layer, key, value)

    memory.extend = small_device

    async def at_once(readings):
        return await asyncio.gather(*(growing.score(reading, [("a",)]) for reading in readings), return_exceptions=True)

    assert asyncio.run(at_once(others[:3])) == asyncio.run(at_once(others[:3]))
    found = asyncio.run(at_once(others[3:]))  # more than there is room for, together and apart
    assert any(isinstance(one, Fault) for one in found)
    cost = kept.accounts
    assert asyncio.run(growing.score(kept, [("a",)])) == before and kept.accounts == cost
    for reading in others[:3]:
        assert (reading.accounts.pictures, reading.accounts.prm_tokens) == (1, cost.prm_tokens)
        growing.drop(reading)
    assert [len(steps) for [steps] in asyncio.run(at_once(others[3:]))] == [1, 1]
    assert [reading.accounts.pictures for reading in others[3:]] == [1, 1]


def test_a_request_that_was_cancelled_is_not_read(prm_folder, tmp_path):
    growing = GrowingPrm(Prm.load(str(prm_folder), dtype="float32"), 10**6)
    one, other = (growing.open(make_problem(tmp_path, number), Accounts()) for number in (1, 2))

    async def cancel_one():
        tasks = [asyncio.ensure_future(growing.score(reading, [("a",)])) for reading in (one, other)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    cancelled, scores = asyncio.run(cancel_one())
    assert isinstance(cancelled, asyncio.CancelledError) and len(scores[0]) == 1
    assert list(growing.readings) == [other]


def test_places():
    memory = Memory(10**6)
    first, second = memory.take(3), memory.take(2)
    assert first.tolist() == [0, 1, 2] and second.tolist() == [3, 4]
    memory.free(first[1:2])
    assert memory.take(2).tolist() == [1, 5] and memory.count == 6
    assert spans(np.array([0, 1, 2, 5, 6, 1])) == [(0, 3), (5, 7), (1, 2)]


# ---------------------------------------------------------------- steps on the wire


def test_a_step_is_drawn_with_its_prefix_as_the_beginning(tmp_path):
    replies = iter([["<step>b</step>", "<step>c</step>"], ["<answer>75</answer>", "<step>d"]])
    with ChatServer(lambda request: next(replies)) as server:
        pool = ServerPool("policy", [server.url], 5, "none")
        client = PolicyClient(pool, "m", Sampling(max_new_tokens=100), Dialect("prefill", "tags"))

        async def draw():
            policy = client.for_problem(make_problem(tmp_path, 1))
            one = await policy.draw(["a"], 2, logprobs=True, one_step=True, used=40)
            return one, await policy.draw(["a", "b"], 2, logprobs=True, one_step=True, used=43), policy.tokens

        steps, ends, tokens = asyncio.run(draw())
    assert [(one.steps, one.more, one.tokens) for one in steps] == [(["b"], True, 3), (["c"], True, 3)]
    assert [(one.steps, one.answer, one.more) for one in ends] == [(["75"], "75", False), ([], None, False)]
    assert tokens == 12
    first = server.requests[0]
    assert (first["stop"], first["include_stop_str_in_output"], first["max_tokens"]) == (["</step>"], True, 60)
    assert (
        first["messages"][-1] == {"role": "assistant", "content": "<step>a</step>"} and first["continue_final_message"]
    )


@pytest.mark.parametrize(
    ("step_format", "texts", "steps"),
    [
        ("paragraphs", ["so 3 sides\n\n", "Step 2: 5 + 70\n\n", "Answer: 75"], ["so 3 sides", "Step 2: 5 + 70", "75"]),
        ("think", ["<think>so 3\n\n", "5 + 70\n\n", "</think>\n<answer>75</answer>"], ["so 3", "5 + 70", "75"]),
        ("think", ["<think>so 3\n\n", "5 + 70</think>\n\n", "<answer>75</answer>"], ["so 3", "5 + 70", "75"]),
        ("paragraphs", ["it is 75\n\n", "Answer: 75\n\n", ""], ["it is 75", "75"]),
        ("tags", ["<answer>75</answer>\n<step>so</step>", "<step>it is</step>", ""], ["75"]),
    ],
)
def test_other_formats_step_by_step(tmp_path, step_format, texts, steps):
    from guided.methods import ROOT
    from guided.search import Search

    replies = iter(texts)
    with ChatServer(lambda request: [next(replies)]) as server:
        client = PolicyClient(
            ServerPool("policy", [server.url], 5, "none"), "m", Sampling(), Dialect("prefill", step_format)
        )

        async def draw():
            search = Search(client.for_problem(make_problem(tmp_path, 1)), NoPrm())
            candidate = ROOT
            while not candidate.ended:
                (candidate,) = await search.draw(candidate, 1)
            return candidate

        candidate = asyncio.run(draw())
    assert list(candidate.steps) == steps and candidate.answer == "75" and candidate.tokens == 9
    assert server.requests[-1]["messages"][-1]["content"] == texts[0] + texts[1]  # as it was written


class NoPrm:
    def open(self, problem, accounts):
        return None


# ---------------------------------------------------------------- the script


@pytest.fixture
def problems(tmp_path):
    Image.new("RGB", (112, 112), (90, 30, 30)).save(tmp_path / "p.png")
    rows = [
        {"id": str(n), "question": f"What is {n}?", "correct_answer": "75", "image_path": [None, "p.png"][n % 2]}
        for n in range(3)
    ]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    return tmp_path / "test.json"


def search(server, problems, checkpoint, output, *flags):
    return run_forked(
        SCRIPT, "--data", problems, "--output_file", output, "--policy_endpoint", server.url, "--model", "m",
        "--checkpoint", checkpoint, "--judge", "rule", "--prefix_mode", "prompt", "--candidates", 4, "--branch", 2,
        "--max_outage", 1, *flags,
    )  # fmt: skip


def without_seconds(records):
    return [record | {"accounts": record["accounts"] | {"seconds": 0}} for record in records]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_scored_rollouts(problems, prm_folder, tmp_path, method):
    with ChatServer(one_step(seeded_policy)) as server:
        ran = search(server, problems, prm_folder, tmp_path / "out.json", "--method", method, "--beam", "2:1")
    assert ran.returncode == 0, ran.stderr
    records = json.loads((tmp_path / "out.json").read_text())
    assert [record["id"] for record in records] == ["0", "1", "2"]
    for record in records:
        assert [len(scores) for scores in record["prm_scores"]] == list(map(len, record["solutions_splits"]))
        assert record["labels"] == [int(answer == "75") for answer in record["answers"]]
        assert record["accounts"]["prm_tokens"] <= record["accounts"]["prm_tokens_anew"]
    drawn = sum(3 * request["n"] for request in server.requests)
    run = json.loads((tmp_path / "out_run.json").read_text())
    assert sum(record["accounts"]["policy_tokens"] for record in records) == run["accounts"]["policy_tokens"] == drawn
    assert run["method"] == method and run["accounts"]["pictures"] == 1
    if method == "beam":  # the others' records differ in nothing that a table reads
        table = run_forked("eval/prm/extract_calculate.py", "--input_file", tmp_path / "out.json")
        assert table.returncode == 0 and "last" in table.stdout


def test_a_search_that_was_stopped_goes_on_to_the_same_end(problems, prm_folder, tmp_path):
    served = []

    def dies(request):
        served.append(request)
        return 503 if len(served) > 20 else one_step(seeded_policy)(request)

    flags = ("--method", "beam", "--concurrency", 1)
    with ChatServer(one_step(seeded_policy)) as server:
        assert search(server, problems, prm_folder, tmp_path / "whole.json", *flags).returncode == 0
    with ChatServer(dies) as server:
        stopped = search(server, problems, prm_folder, tmp_path / "out.json", *flags)
    assert stopped.returncode == 3 and not (tmp_path / "out.json").exists()
    with ChatServer(one_step(seeded_policy)) as server:
        other = search(server, problems, prm_folder, tmp_path / "out.json", *flags, "--branch", 4)
        assert other.returncode == 2 and "begun with other flags" in other.stderr
        gone_on = search(server, problems, prm_folder, tmp_path / "out.json", *flags)
    assert gone_on.returncode == 0 and "already done" in gone_on.stdout and " 0 already" not in gone_on.stdout
    whole, resumed = (json.loads((tmp_path / name).read_text()) for name in ("whole.json", "out.json"))
    assert without_seconds(resumed) == without_seconds(whole)
    again = search(server, problems, prm_folder, tmp_path / "out.json", *flags)
    assert again.returncode == 0 and "already there" in again.stdout
    other = search(server, problems, prm_folder, tmp_path / "out.json", *flags, "--branch", 4, "--beam", "8:4")
    assert other.returncode == 2 and "made with another --branch, --beam" in other.stderr


def test_a_problem_without_a_finished_candidate_loses(problems, prm_folder, tmp_path):
    with ChatServer(one_step(seeded_policy)) as server:
        flags = ("--method", "beam", "--budget_tokens", 5)
        ran = search(server, problems, prm_folder, tmp_path / "out.json", *flags)
    assert ran.returncode == 0, ran.stderr
    record = json.loads((tmp_path / "out.json").read_text())[0]
    assert record["solutions_splits"] == [[]] == record["prm_scores"] and record["labels"] == [0]
    assert record["accounts"]["policy_tokens"] == 12  # the first round goes over, then nothing more is drawn
