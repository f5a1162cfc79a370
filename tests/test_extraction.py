"""Where a solution that knows no tags states its answer, and that nothing of the answer is lost."""

import pytest

from mm_prm.extraction import final_answer
from mm_prm.prm_format import parse_solution


@pytest.mark.parametrize(
    ("statement", "answer"),
    [
        # labels
        ("**Answer: B** (the angle is 40°)", "B (the angle is 40°)"),
        ("\\[ \\text{Answer: B} \\]", "B"),
        ("\\[\n\\text{Answer: } 5\n\\]", "5"),
        ("$\\text{The final answer is: } 5$", "5"),
        ("Answer:\n5", "5"),
        ("**Answer**\n\n5", "5"),
        ("## Answer\n\nB", "B"),
        ("## Final Answer\n30 eggs", "30 eggs"),
        ("The answer is **B**.", "B"),
        ("The correct option is (D).", "(D)"),
        ("Therefore, the correct choice is **C**.", "C"),
        ("Correct option: D", "D"),
        ("- **Answer**: `7`", "7"),
        ("**The answer is: 7**", "7"),
        ("Ans: 12", "12"),
        ("故选B", "B"),
        ("故选：C．", "C"),
        ("故答案为：5．", "5"),
        ("答案：5", "5"),
        ("【答案】5", "5"),
        ("因此，正确答案是D。", "D"),
        ("答：一共有30个鸡蛋。", "一共有30个鸡蛋"),
        # as it stands
        ("Answer: $243.00", "$243.00"),
        ("Answer: Janet paid $1430.", "Janet paid $1430"),
        ("Answer: 1, 2, 3, ...", "1, 2, 3, ..."),
        ("Answer: 2**3", "2**3"),
        ("Answer: 5\n\nExplanation: we add 2 and 3.", "5"),
        # all of it
        ("Answer: **3** and **5**", "3 and 5"),
        ("Final answer: $\\frac{1}{2}$ or $2$", "$\\frac{1}{2}$ or $2$"),
        ("Answer: x = 3\nor x = 5", "x = 3\nor x = 5"),
        ("Answer: the roots are\n$x = 3$", "the roots are\n$x = 3$"),
        ("Answer:\n- 3\n- 5", "3, 5"),
        ("Answer:\n1. 3\n2. 5\n\nDone.", "3, 5"),
        ("Answers:\n(1) 3\n(2) 5", "(1) 3\n(2) 5"),
        (
            "Answer: \\[\n\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}\n\\]",
            "\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}",
        ),
        ("Answer: The sum is\n$$\\boxed{5}$$", "5"),
        ("Answer: \\boxed{3} and \\boxed{5}.", "3, 5"),
        ("Answer 1: 3\nAnswer 2: 5", "3, 5"),
    ],
)
def test_a_label_takes_its_statement_away_from_the_steps(statement, answer):
    assert parse_solution(f"We add.\n\n{statement}", "paragraphs") == (["We add.", answer], answer)


@pytest.mark.parametrize(
    ("statement", "answer"),
    [
        ("The roots are \\boxed{3} and \\boxed{5}.", "3, 5"),
        ("\\boxed{6} \\boxed{6}", "6, 6"),
        ("$\\boxed{3}$\n\\text{and}\n$\\boxed{5}$", "3, 5"),
        ("$x = \\boxed{3}$, $y = -\\boxed{5}$", "x = 3, y = -5"),
        ("so $\\frac{a}{b} = -\\boxed{5}\\pi$", "-5\\pi"),
        ("so x-\\boxed{5} is left", "5"),
        ("$\\boxed{40}^\\circ$", "40^\\circ"),
        ("\\boxed{\\left\\{ \\frac{1}{2} \\right.}", "\\left\\{ \\frac{1}{2} \\right."),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{\\text{Answer: B}}", "B"),
        ("\\fbox{7}", "7"),
        ("x = \\boxed{3}, so the total is \\boxed{8}", "8"),
        ("First \\boxed{3}. Then the total: \\boxed{8}", "8"),
        ("$\\boxed{\\frac{1}{2}} = \\boxed{0.5}$", "0.5"),
        ("A has \\boxed{14} stamps\nB has \\boxed{10} stamps", "10"),
        ("We conclude that the answer is **B**.", "B"),
        ("The answer to the whole question is 4 apples.", "4 apples"),
        ("Thus option B is correct.", "B"),
        ("There are 30 eggs in both baskets put together.", "There are 30 eggs in both baskets put together"),
        ("Add: 14 + 16 = 30. There are 30 eggs.", "There are 30 eggs"),
        ("一共有30个。所以共30个鸡蛋。", "所以共30个鸡蛋"),
    ],
)
def test_boxes_and_sentences_stay_in_the_steps(statement, answer):
    assert final_answer(f"We add.\n\n{statement}") == (f"We add.\n\n{statement}", answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 3\n\nWait, that is wrong.\n\nAnswer: 5", "5"),
        ("Answer: 3\n\nWait, that is wrong.\n\nSo \\boxed{5}", "5"),
        ("\\boxed{5}\n\nAnswer: 5 cm", "5 cm"),
        ("We get \\boxed{5}.\n\nSo finally \\boxed{5}.", "5"),
        ("The answer is found by adding.\n\n14 + 16 = 30\n\nThere are 30 eggs.", "There are 30 eggs"),
        ("Options\nA. 5\nB. 6\n\nStep 2: It is 6.", "It is 6"),
        ("这个答案是否正确？\n\n故选项A错误，故选B", "B"),
    ],
)
def test_the_last_statement_counts(text, answer):
    assert final_answer(text)[1] == answer


def test_the_answers_to_all_parts_of_a_question_are_kept():
    boxes = "(1) We add.\n\n\\boxed{3}\n\n(2) We multiply: \\boxed{5}"
    assert final_answer(boxes) == (boxes, "3, 5")
    labels = "(1) We add.\nAnswer: 3\n\n(2) We multiply.\nAnswer: 5"
    assert parse_solution(labels, "paragraphs") == (["(1) We add.", "(2) We multiply.", "3, 5"], "3, 5")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("one\n\nAnswer: 7", ""),
        ("one\n\nAnswer: 75\n\nAnd al", "75"),
        ("one\n\nAnswer: 75\n\nAnswer: 7", "75"),
        ("one \\boxed{75}, so \\boxed{7", "75"),
        ("So the answer is 7", ""),
        ("There are 7", ""),
    ],
)
def test_what_the_token_limit_cut_was_not_said(text, answer):
    assert final_answer(text, cut=True)[1] == answer


@pytest.mark.parametrize(
    ("text", "rollout"),
    [
        ("<step>a</step><answer>3</answer> and <answer>5</answer>", (["a", "3, 5"], "3, 5")),
        ("<step>a</step><answer>75</answer>\n<answer>75</answer>", (["a", "75"], "75")),
        ("<step>a</step><answer>1</answer><step>b</step><answer>2</answer>", (["a", "1"], "1")),
        ("<answer>\\boxed{3} and \\boxed{5}</answer>", (["\\boxed{3} and \\boxed{5}"], "\\boxed{3} and \\boxed{5}")),
    ],
)
def test_answers_in_tags_that_follow_one_another_are_all_kept(text, rollout):
    assert parse_solution(text) == rollout
    assert parse_solution(text.replace("<step>a</step>", "a\n\n"), "paragraphs") == rollout


def test_text_without_an_end_is_read_in_no_time():
    for nasty in (
        "\\boxed{" * 3000,
        "{" * 20_000 + "\\boxed{5",
        "Answer: {\n" * 2000,
        "**" * 20_000,
        "- " * 20_000,
        "1" * 20_000,
    ):
        final_answer(nasty)
        final_answer("Answer: " + nasty)
