"""The search on scripted policies, with the whole expected tree written out."""

import asyncio

import pytest
from omegaprm import Candidate, Search, SearchParams, selection_score

from mm_prm.records import Node


def grow(script, params, asked=None):
    """Run a search whose policy reads its replies from {prefix: [rollout, ...]}; the right answer is "R"."""

    async def policy(prefix, n):
        if asked is not None:
            asked.append(tuple(prefix))
        rollouts = script[tuple(prefix)]
        assert len(rollouts) == n
        return [(list(steps), steps[-1] if steps else None) for steps in rollouts]

    async def judge(answer):
        return answer == "R"

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


def test_the_rollout_budget_is_checked_between_searches():
    script = {(): [["a", "W"], ["b", "W"], ["R"]], ("a",): [["W"], ["W"], ["W"]], ("b",): [["W"]] * 3}
    _, search = grow(script, SearchParams(num_rollouts=3, rollout_budget=4))
    assert (search.searches, search.rollouts) == (1, 6)
    _, search = grow(script, SearchParams(num_rollouts=3, rollout_budget=7))
    assert (search.searches, search.rollouts) == (2, 9)


def test_selection_follows_the_formula_and_its_tie_rule():
    params = SearchParams(alpha=0.5, beta=0.9, length_scale=2)
    candidate = Candidate(Node([], mc_value=0.25, visit_count=3), [], ["two words", "three more words"])
    assert candidate.words == 5
    assert selection_score(candidate, 0.125 * 6, params) == pytest.approx(0.5**0.75 * 0.9**2.5 + 0.125 * 6 / 4)

    search = Search(None, None, SearchParams(c_puct=0))  # without exploration equal states tie
    fresh, visited = Node([], mc_value=0.5), Node([], mc_value=0.5, visit_count=1)
    search.candidates = [Candidate(visited, [], ["a"]), Candidate(fresh, [], ["c"]), Candidate(fresh, [], ["b"])]
    order = [(c.node is fresh, c.rollout) for c in (search.select(), search.select(), search.select())]
    assert order == [(True, ["b"]), (True, ["c"]), (False, ["a"])]


def test_states_with_a_higher_value_and_shorter_rollouts_come_first():
    search = Search(None, None, SearchParams())
    low, high = Node([], mc_value=0.1), Node([], mc_value=0.9)
    search.candidates = [
        Candidate(low, [], ["w"]),
        Candidate(high, [], ["w " * 1000]),
        Candidate(high, [], ["w " * 10]),
    ]
    chosen = [search.select() for _ in range(3)]
    assert [(c.node is high, c.words) for c in chosen] == [(True, 10), (True, 1000), (False, 1)]
