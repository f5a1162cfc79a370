"""One counter of words for the path filter and the length term of Q."""

import pytest
from labels import SolutionPath
from omegaprm import SearchParams, value

from mm_prm.trees import Node
from mm_prm.words import count_words


@pytest.mark.parametrize(
    "text",
    [
        *("", " \n", "one two  three\nfour", "x = \\frac{1}{2}, so\u00a0x\u2003\u2192 \u221e \u201cq\u201d"),
        "d\u00e9j\u00e0 vu \u2014 \u0434\u0430",
    ],
)
def test_words_between_spaces_are_counted_as_ever(text):
    assert count_words(text) == len(text.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\u89e3\u65b9\u7a0b\uff0c\u5f97 x=1\u3002", 5),  # three characters, one, a formula; marks are no words
        ("\u6240\u4ee5x=2\u6216x=3", 5),
        ("\u3053\u308c\u306f\u30da\u30f3\u3067\u3059", 7),  # Japanese
        ("\ub098\ub294 \ud559\uad50\uc5d0 \uac04\ub2e4", 3),  # Korean has spaces
        ("\u0e19\u0e35\u0e48\u0e04\u0e37\u0e2d\u0e1b\u0e32\u0e01\u0e01\u0e32", 3),  # Thai, eleven letters
        ("\U00020000\U00020001", 2),
    ],
)
def test_scripts_without_spaces_have_words_too(text, words):
    assert count_words(text) == words


def test_chinese_steps_are_long_enough_and_shorten_q():
    steps = ("\u7531\u52fe\u80a1\u5b9a\u7406\u5f97\u659c\u8fb9\u957f\u4e3a\u4e94", "5")  # eleven characters
    assert SolutionPath((steps,), (0.0,), False, (None,)).words() == 12
    root = Node([], mc_value=1.0)
    assert value(root, list(steps), SearchParams()) == pytest.approx(0.9 ** (12 / 2000))
