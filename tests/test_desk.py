"""The desk-scale study: its problems, its tokenizer, and the small study end to end with a real policy server."""

import json
import os
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT
from make_problems import FAMILIES, draw_problem, make_split, split_of, teach
from step_truth import is_move, read, right_steps
from wordings import BODIES, COMPUTE, JOINER, Move, group, most_wordings, say, say_all, ways

from mm_prm.records import read_seed


def test_every_family_has_thousands_of_problems_and_splits_share_none():
    seen = {}
    for split, count in (("train", 4000), ("annotate", 400), ("dev", 150), ("test", 300)):
        for problem in make_split(split, count, seed=0):
            assert split_of(problem.family, problem.numbers) == split
            assert seen.setdefault((problem.family, problem.numbers), split) == split
    assert len(seen) == 4850
    for name, family in FAMILIES.items():
        rng = random.Random(0)
        assert len({family.sample(rng) for _ in range(20_000)}) > 1500, name


@pytest.mark.parametrize("name", FAMILIES)
def test_right_solutions_compute_what_they_say_and_slips_end_wrong(name):
    family = FAMILIES[name]
    for problem in make_split("test", 60, seed=1):
        if problem.family != name:
            continue
        right = family.solve(problem.numbers, problem.thing)
        for moves, answer in (right, *(slip(problem.numbers, problem.thing) for slip in family.slips)):
            steps = say_all(moves, 1, random.Random(0))
            for a, sign, b, c in re.findall(r"(\d+) ([+x-]) (\d+) = (\d+)", " ; ".join(steps)):
                assert {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[sign] == int(c)
            assert str(answer) in re.findall(r"\d+", steps[-1])
        assert all(slip(problem.numbers, problem.thing)[1] != right[1] for slip in family.slips)


def test_the_teacher_slips_as_often_as_told():
    problems, rng = make_split("test", 300, seed=0), random.Random(0)
    right = [FAMILIES[p.family].solve(p.numbers, p.thing) for p in problems]
    for rate in (0.0, 0.6, 1.0):
        wrong = sum(teach(p, rate, rng) != r for p, r in zip(problems, right, strict=True)) / 300
        assert abs(wrong - rate) < 0.09


def moves_of_every_kind():
    for kind, bodies in BODIES.items():
        numbers = {"+": (23, 4, 27), "-": (23, 4, 19), "x": (23, 4, 92)}.get(kind)
        slots = len(set(re.findall(r"{([0-9])}", bodies[0])))
        words = ("pens", "caps")[: len(set(re.findall(r"{(w[0-9])}", bodies[0])))]
        yield Move(kind, numbers or tuple(range(11, 11 + slots)), words)


@pytest.mark.parametrize("move", moves_of_every_kind(), ids=lambda move: move.kind)
def test_every_way_to_say_a_move_is_its_own_and_is_understood(move):
    said = [say(move, way) for way in range(most_wordings())]
    assert len(set(said)) == most_wordings() == 500 <= len(ways(move.kind))
    assert say(move) == (BODIES[move.kind][0][0].upper() + BODIES[move.kind][0][1:]).format(
        *move.numbers, **{f"w{n}": word for n, word in enumerate(move.words)}
    )
    other = move.numbers[:-1] + (move.numbers[-1] + 1,)
    for text in said:
        assert is_move(read(text), move._asdict()), text
        assert not is_move(read(text), move._asdict() | {"numbers": other}), text
        if move.kind in COMPUTE:
            for kind in {*COMPUTE} - {move.kind}:
                assert not is_move(read(text), move._asdict() | {"kind": kind}), text
        assert JOINER not in text and group(move.kind) in ("read", "compute", "say")


@pytest.mark.parametrize("wordings", [1, 10, 500])
def test_the_truth_of_a_solution_is_that_of_its_moves(wordings):
    rng, joined = random.Random(0), 0
    for problem in make_split("test", 60, seed=1):
        family = FAMILIES[problem.family]
        right, answer = family.solve(problem.numbers, problem.thing)
        truth = [move._asdict() for move in right]
        steps = [*say_all(right, wordings, rng), str(answer)]
        joined += len(right) + 1 - len(steps)
        assert right_steps(steps, truth, answer) == [1] * len(steps), steps
        assert right_steps([*steps[:-1], str(answer + 1)], truth, answer) == [1] * (len(steps) - 1) + [0]
        for slip in family.slips:
            moves, wrong = slip(problem.numbers, problem.thing)
            until = next(n for n, (one, other) in enumerate(zip(moves, right, strict=False)) if one != other)
            labels = right_steps([*say_all(moves, 1, rng), str(wrong)], truth, answer)
            assert labels == [1] * until + [0] * (len(moves) + 1 - until)
    assert (joined > 0) == (wordings > 1)


def test_a_number_read_wrongly_is_an_error_from_there_on():
    moves = [{"kind": "read_bars", "numbers": [5, 7, 9]}, {"kind": "+", "numbers": [5, 7, 12]}]
    assert right_steps(["A has 5, B has 1 and C has 9 pens.", "5 + 7 = 12", "x"], moves, 12) == [0, 0, 0]
    assert right_steps(["A has 5, B has 7 and C has 9 pens.", "5 + 7 = 11", "12"], moves, 12) == [1, 0, 0]
    assert right_steps(["A has 5, B has 7 and C has 9 pens.", "7 + 5 = 12", "12"], moves, 12) == [1, 1, 1]
    assert right_steps(["A has 5, B has 7 and C has 9 pens.", "12"], moves, 12) == [1, 0]


def test_pictures_are_the_same_each_time_and_differ_between_problems():
    first, second = make_split("dev", 2, seed=0)
    assert draw_problem(first).tobytes() == draw_problem(first).tobytes() != draw_problem(second).tobytes()
    assert draw_problem(first).size == (112, 112)


def quickstart(run, **env):
    command = ["bash", "quickstart.sh"]
    env = {**os.environ, "DESK_SCALE": "small", "DESK_RUN": str(run), "PORT": "8391", **env}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def left_behind(run):
    """Command lines of live processes that mention the run's folder or write into it (vLLM's rename themselves)."""
    listed = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or is somebody else's
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            writes = [os.readlink(process / "fd" / number) for number in "12"]
            if any(str(run) in text for text in (line, *writes)):
                listed.append(line)
    return listed


@pytest.mark.slow
def test_the_small_study_end_to_end_with_kills_on_the_way(tmp_path):
    """Protects the two commands of the README: real engines, every stage, a kill, and a PRM that beats chance."""
    run = tmp_path / "study"
    # Kill the whole quickstart without warning while trees are being made: no server may stay behind.
    first = quickstart(run)
    deadline = time.monotonic() + 1200
    while len(list((run / "trees").glob("*.json"))) < 10:
        assert first.poll() is None and time.monotonic() < deadline, first.stdout.read()[-3000:]
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    deadline = time.monotonic() + 60
    while left_behind(run) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left_behind(run) == []
    kept = {path: path.read_bytes() for path in (run / "trees").glob("*.json")}
    assert len(kept) >= 10

    second = quickstart(run)
    log, _ = second.communicate(timeout=2400)
    assert second.returncode == 0, log[-3000:]
    assert "== done: stage 0" in log and re.search(r"[1-9]\d* trees already there", log)
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert len(list((run / "trees").glob("*.json"))) == len(read_seed(run / "data" / "annotate.json")[0])

    ours, edges = (json.loads((run / name).read_text()) for name in ("score.json", "score_edges.json"))
    for score in (ours, edges):
        assert score["num_candidates"] == 16 and score["selected"]["selected_on"].startswith("dev_score")
    chosen = ours["selected"]
    assert chosen["accuracy"] > 0.45 and chosen["minus_random"]["ci95"][0] > 0.05
    assert ours["pass@16"]["accuracy"] > 0.8 > 0.6 > ours["random"]["accuracy"] > 0.15
    assert (run / "accuracy_against_n.png").stat().st_size > 10_000
    assert (
        len(list(run.glob("cases/case_*.png"))) == 3 and "aggregation fixed on dev" in (run / "table.txt").read_text()
    )

    started = time.monotonic()
    third = quickstart(run)
    log, _ = third.communicate(timeout=60)
    assert third.returncode == 0 and time.monotonic() - started < 20
    assert "==" in log and all(line.startswith("== done") for line in log.splitlines() if line.startswith("=="))
