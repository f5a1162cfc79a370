"""The search on scripted policies, with the whole expected tree written out."""

import asyncio
import random

import pytest
from omegaprm import Adaptive, NoneDecided, Search, SearchParams, State, value

from mm_prm.trees import Node


def grow(script, params, asked=None):
    """Run a search whose policy reads its replies from {prefix: [rollout, ...]}.

    The right answer is "R"; nobody can tell whether "U" is.
    """

    async def policy(prefix, n):
        if asked is not None:
            asked.append(tuple(prefix))
        rollouts = script[tuple(prefix)]
        assert len(rollouts) == n
        return [(list(steps), steps[-1] if steps else None) for steps in rollouts]

    async def judge(answer):
        return None if answer == "U" else answer == "R"

    search = Search(policy, judge, params)
    return asyncio.run(search.run()), search


def test_the_first_error_is_found_by_binary_search():
    # One wrong rollout a b c d W; prefixes a b and a b c are still good, a b c d is not.
    wrong, right = ["a", "b", "c", "d", "W"], ["a", "R"]
    script = {
        (): [wrong, right, right],
        ("a", "b", "c"): [["W"], ["R"], ["d", "R"]],  # middle of 0..4 is 2
        ("a", "b", "c", "d"): [["W"], ["W"], ["X"]],  # middle of 3..4 is 3
    }
    asked = []
    root, search = grow(script, SearchParams(num_rollouts=3, max_search_count=1), asked)
    assert asked == [(), ("a", "b", "c"), ("a", "b", "c", "d")]
    leaf = Node(["a", "R"], 1.0, 0, 2, 2)
    dead = Node(["d"], 0.0, 0, 3, 0, [], [], [["W"], ["X"]], [2, 1])
    good = Node(
        *(["a", "b", "c"], 2 / 3, 0, 3, 2, [["R"], ["d", "R"]], [1, 1], [["W"]], [1]),
        [Node(["R"], 1.0, 0, 1, 1), Node(["d", "R"], 1.0, 0, 1, 1), dead],
    )
    assert root == Node([], 2 / 3, 1, 3, 2, [right], [2], [wrong], [1], [leaf, good])
    assert (search.searches, search.rollouts) == (1, 9)


def test_the_last_step_alone_is_not_sampled_again():
    # Both prefixes are good, so only the answer can be wrong: its state gets mc 0 without a call.
    script = {(): [["a", "W"], ["R"]], ("a",): [["R"], ["R"]]}
    asked = []
    root, _ = grow(script, SearchParams(num_rollouts=2, max_search_count=1), asked)
    assert asked == [(), ("a",)]
    child = root.children[1]
    assert child.partial_solution == ["a"] and child.mc_value == 1.0
    assert child.children[1] == Node(["W"], 0.0, 0, 1, 0)


@pytest.mark.parametrize("answers", ["RR", "WW"])
def test_a_root_that_is_all_right_or_all_wrong_ends_at_once(answers):
    root, search = grow({(): [[answer] for answer in answers]}, SearchParams(num_rollouts=2))
    assert search.searches == 0 and search.rollouts == 2
    assert root.mc_value == (answers == "RR")


def test_rollouts_without_answer_or_steps_are_wrong_and_never_selected():
    root, search = grow({(): [[], ["R"]]}, SearchParams(num_rollouts=2))
    assert root.incorrect_rollouts == [[]] and root.mc_value == 0.5
    assert search.searches == 0


def grow_in_rounds(answers, params):
    """The question's rollouts are these one-step answers, in order. Returns the root and the size of every draw."""
    asked, left = [], list(answers)

    async def policy(prefix, n):
        asked.append(n)
        drawn, left[:n] = left[:n], []
        return [([answer], answer) for answer in drawn]

    async def judge(answer):
        return None if answer == "U" else answer == "R"

    search = Search(policy, judge, params)
    root = asyncio.run(search.run())
    assert search.rollouts == sum(asked)
    return root, asked


@pytest.mark.parametrize(
    ("answers", "most", "half_width", "asked"),
    [
        ("RRRR", 16, 0.1, [4]),  # all alike
        ("WWWW", 16, 0.1, [4]),
        ("UUUU" + "RRRR", 16, 0.1, [4, 4]),  # nothing is known yet
        ("UURR", 16, 0.1, [4]),
        ("RWRR" + "RRRR" * 3, 16, 0.1, [4, 4, 4, 4]),  # one wrong is never all alike again
        ("RWRR" + "RRRR", 16, 0.25, [4, 4]),  # Wilson's interval of 7 of 8: 0.53 to 0.98
        ("RWRR" + "RRRR" + "RR", 10, 0.1, [4, 4, 2]),
    ],
)
def test_rollouts_are_drawn_in_rounds_until_a_value_is_settled(answers, most, half_width, asked):
    params = SearchParams(num_rollouts=4, max_search_count=0, adaptive=Adaptive(most, half_width))
    root, found = grow_in_rounds(answers, params)
    assert found == asked
    assert (root.num_correct, root.num_rollouts, root.undecided) == tuple(
        sum(map(answers.count, letters)) for letters in ("R", "RW", "U")
    )
    assert root.mc_value == root.num_correct / root.num_rollouts


def test_the_rollout_budget_is_checked_between_searches():
    script = {(): [["a", "W"], ["b", "W"], ["R"]], ("a",): [["W"], ["W"], ["W"]], ("b",): [["W"]] * 3}
    _, search = grow(script, SearchParams(num_rollouts=3, rollout_budget=4))
    assert (search.searches, search.rollouts) == (1, 6)
    _, search = grow(script, SearchParams(num_rollouts=3, rollout_budget=7))
    assert (search.searches, search.rollouts) == (2, 9)


def test_a_rollout_without_an_answer_is_wrong_and_counted_apart():
    async def policy(prefix, n):
        return [(["a", "b"], None), (["a", "b", "R"], "R"), (["a", "b"], None)]

    async def judge(answer):
        return True  # would be asked about None

    search = Search(policy, judge, SearchParams(num_rollouts=3, max_search_count=0))
    root = asyncio.run(search.run())
    assert (root.num_rollouts, root.num_correct, root.incorrect_counts) == (3, 1, [2])
    assert search.unanswered == 2


def test_undecided_rollouts_are_kept_apart_and_count_nowhere():
    # Of the undecided rollouts at the root one comes twice; after a b nothing right is among the decided ones.
    wrong, right, unclear = ["a", "b", "c", "W"], ["a", "R"], ["a", "U"]
    script = {(): [unclear, wrong, unclear, right, ["U"]], ("a", "b"): [["U"], ["W"], ["U"], ["d", "U"], ["W"]]}
    script[("a",)] = [["R"]] * 5
    root, search = grow(script, SearchParams(num_rollouts=5, max_search_count=1))
    bad = Node(*(["a", "b"], 0.0, 0, 2, 0, [], [], [["W"]], [2]))
    bad.undecided, bad.undecided_rollouts, bad.undecided_counts = 3, [["U"], ["d", "U"]], [2, 1]
    good = Node(*(["a"], 1.0, 0, 5, 5, [["R"]], [5], [], []), [Node(["R"], 1.0, 0, 5, 5)])
    expected = Node(*([], 0.5, 1, 2, 1, [right], [1], [wrong], [1]), [Node(right, 1.0, 0, 1, 1), bad, good])
    expected.undecided, expected.undecided_rollouts, expected.undecided_counts = 3, [unclear, ["U"]], [2, 1]
    assert root == expected
    assert (search.searches, search.rollouts, search.undecided, search.unanswered) == (1, 15, 6, 0)


def test_a_state_on_whose_rollouts_there_is_no_verdict_has_no_mc_value():
    with pytest.raises(NoneDecided, match="any of the 2 rollouts from the question, such as 'U'"):
        grow({(): [["U"], ["b", "U"]]}, SearchParams(num_rollouts=2))
    script = {(): [["a", "b", "W"], ["R"]], ("a", "b"): [["U"], ["U"]]}
    with pytest.raises(NoneDecided, match="after step 2"):
        grow(script, SearchParams(num_rollouts=2))
    root, _ = grow({(): [["U"], []]}, SearchParams(num_rollouts=2))  # one that never answers is known to be wrong
    assert (root.mc_value, root.num_rollouts, root.undecided) == (0, 1, 1)


def entered(search, *states):
    """States (mc_value, visit_count, rollouts) as the search would have them; returns their names in search order."""
    for mc_value, visits, rollouts in states:
        node = Node([], mc_value=mc_value, visit_count=visits)
        candidates = sorted((-value(node, rollout, search.params), rollout) for rollout in rollouts)
        search.enter(State(node, [], candidates))
        search.searches += visits
    order = []
    while search.open:
        state, rollout = search.select()
        order.append((state.node.mc_value, state.node.visit_count, rollout))
        search.enter(state)
    return order


def test_the_value_follows_the_formula():
    params = SearchParams(alpha=0.5, beta=0.9, length_scale=2)
    node = Node([], mc_value=0.25)
    assert value(node, ["two words", "three more words"], params) == pytest.approx(0.5**0.75 * 0.9**2.5)


def test_equal_scores_go_to_fewer_visits_then_to_the_smaller_rollout():
    search = Search(None, None, SearchParams(c_puct=0))  # without exploration equal states tie
    order = entered(search, (0.5, 1, [["a"]]), (0.5, 0, [["c"], ["b"]]), (0.5, 0, [["b", ""]]))
    assert order == [(0.5, 0, ["b"]), (0.5, 0, ["b", ""]), (0.5, 0, ["c"]), (0.5, 1, ["a"])]


def test_states_with_a_higher_value_and_shorter_rollouts_come_first():
    order = entered(Search(None, None, SearchParams()), (0.1, 0, [["w"]]), (0.9, 0, [["w " * 1000], ["w " * 10]]))
    assert [(mc, len(rollout[0].split())) for mc, _, rollout in order] == [(0.9, 10), (0.9, 1000), (0.1, 1)]


def test_exploration_prefers_the_state_seen_less_once_it_outweighs_the_value():
    # U = 0.125 * sqrt(4) / (1 + visits): 0.05 at four visits, 0.25 at none; Q differs by 0.5^0.5 - 0.5^0.7 = 0.09.
    params = SearchParams(c_puct=0.125, beta=1.0)
    order = entered(Search(None, None, params), (0.5, 4, [["a"]]), (0.3, 0, [["b"]]))
    assert [mc for mc, *_ in order] == [0.3, 0.5]
    order = entered(Search(None, None, SearchParams(c_puct=0.01, beta=1.0)), (0.5, 4, [["a"]]), (0.3, 0, [["b"]]))
    assert [mc for mc, *_ in order] == [0.5, 0.3]


def brute_force(root_script, params):
    """The order of selections worked out the slow way: every score computed anew for every candidate, every time."""
    states = [[Node([], mc_value=mc), list(rollouts)] for mc, rollouts in root_script]
    chosen, searches = [], 0
    while any(rollouts for _, rollouts in states):
        best = None
        for node, rollouts in states:
            for rollout in rollouts:
                score = value(node, rollout, params) + params.c_puct * searches**0.5 / (1 + node.visit_count)
                key = (-round(score, 12), node.visit_count, rollout)
                if best is None or key < best[0]:
                    best = key, node, rollouts, rollout
        _, node, rollouts, rollout = best
        rollouts.remove(rollout)
        node.visit_count += 1
        searches += 1
        chosen.append((node.mc_value, rollout))
    return chosen


def test_the_order_equals_brute_force():
    rng = random.Random(0)
    for trial in range(30):
        params = SearchParams(c_puct=rng.choice([0, 0.125, 1.0]), length_scale=20)
        names = iter(range(10_000))
        script = [
            (mc, [[f"{next(names):05d} " + "w " * rng.randrange(5)] for _ in range(rng.randrange(1, 12))])
            for mc in rng.sample([i / 16 for i in range(1, 16)], 8)
        ]
        search = Search(None, None, params)
        for mc, rollouts in script:
            node = Node([], mc_value=mc)
            search.enter(State(node, [], sorted((-value(node, rollout, params), rollout) for rollout in rollouts)))
        chosen = []
        while search.open:
            state, rollout = search.select()
            chosen.append((state.node.mc_value, rollout))
            state.node.visit_count += 1
            search.searches += 1
            search.enter(state)
        assert chosen == brute_force(script, params), trial
