r"""An answer as text: one spelling for what only looks different, and the pieces between brackets."""

from __future__ import annotations

import re
from collections.abc import Iterator


def words(text: str) -> list[str]:
    """A list of words that is written as one text."""
    return text.split()


_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_COMMANDS = """×:times ·:cdot ⋅:cdot ÷:div ∞:infty ∪:cup ∩:cap ∅:emptyset π:pi ≤:le ⩽:le ≥:ge ⩾:ge ≠:ne ≈:approx ∈:in
    ±:pm ∓:mp ∠:angle △:triangle ∥:parallel ⊥:perp ∼:sim →:to ↔:leftrightarrow ⇒:Rightarrow ≅:cong …:ldots
    ⊂:subset ⊆:subseteq α:alpha β:beta γ:gamma θ:theta λ:lambda ω:omega φ:phi"""
_SYMBOLS = str.maketrans(
    {sign: rf"\{command} " for sign, command in (pair.split(":") for pair in words(_COMMANDS))}
    | {"\u3000": " ", "\u00a0": " ", "、": ",", "。": ". ", "−": "-", "–": "-", "∶": ":", "✓": " ", "￥": "¥"}
    | {"′": "'", "″": "''", "’": "'", "“": '"', "”": '"', "°": r"^\circ ", "℃": r"^\circ C", "ℝ": r"\mathbb{R}"}
    | {"½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}"}
    | {chr(0x2460 + number): f"({number + 1})" for number in range(20)}  # ① is (1)
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ₀₁₂₃₄₅₆₇₈₉", "0123456789+-n0123456789")
_OTHER_NAMES = """frac:dfrac,tfrac,cfrac binom:dbinom,tbinom le:leq,leqslant,leqq ge:geq,geqslant,geqq ne:neq
    vec:overrightarrow,vec to:rightarrow,longrightarrow leftrightarrow:leftrightarrow emptyset:varnothing phi:varphi
    angle:ang"""
# Commands that are spelt in several ways, or that say only how the text looks
_SPELLINGS = {
    **{
        other: rf"\{name} "
        for name, others in (pair.split(":") for pair in words(_OTHER_NAMES))
        for other in others.split(",")
    },
    **dict.fromkeys(words("left right displaystyle limits nolimits big Big bigl bigr rm bf"), ""),
    **dict.fromkeys(words("quad qquad thinspace enspace"), " "),
    **dict.fromkeys(words("vert lvert rvert mid"), "|"),
    **dict.fromkeys(words("ldots dots cdots"), "..."),
    **dict.fromkeys(words("degree degrees"), r"^\circ "),
    **{"lbrace": r"\{", "rbrace": r"\}", "lt": "<", "gt": ">", "colon": ":", "ast": "*"},
}
_COMMAND = re.compile(r"\\([a-zA-Z]+)(?: +(?=[\\{]))?")
_FACES = (
    r"text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|operatorname|boldsymbol|bm|mbox|number|num|unit"
)
_FACE = re.compile(rf"\\(?:{_FACES})\*? ?\{{([^{{}}]*)\}}")
_QUANTITY = re.compile(r"\\(?:quantity|qty|SI) ?\{([^{}]*)\} ?\{([^{}]*)\}")
_PLAIN = re.compile(r"-?[A-Za-z0-9]+(?:\.\d+)?")
_UNIT_IN_BRACES = re.compile(
    r"(?<![_^])\{ ?(square|cubic|) ?(degrees?|inch(?:es)?|feet|foot|units?|(?:centi|milli|kilo)?met(?:er|re)s?"
    r"|miles?|yards?|hours?|minutes?|seconds?|dollars?) ?\}"
)
_BEFORE_BRACE = re.compile(r"(\\[a-zA-Z]+) +(?=[{\\])")
_OPEN, _CLOSE = "([{", ")]}"


def boxes(text: str) -> list[str]:
    r"""The contents of every outermost \boxed{...}, in order; one that is never closed reaches to the end."""
    found, at = [], 0
    while match := re.compile(r"\\f?boxed ?\{").search(text, at):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        found.append(text[match.end() : end - 1 if not depth else end])
        at = end
    return found


def _money(text: str) -> str:
    r"""Dollar signs that are money become \$, those around formulas go; formulas with only a space between are two."""
    text = re.sub(r"(?<!\\)\$\$?([,;]?)\s+\$\$?(?=[^$]*\$)", lambda found: f"{found.group(1) or ';'} ", f"{text}")
    signs = len(re.findall(r"(?<!\\)\$", text.replace("$$", "")))
    if signs % 2 or re.search(r"\$\d[\d,.]* [a-z]+ [^$]*\$\d", text):
        return re.sub(r"(?<![\\$])\$(?=-?[.\d])", r"\\$", text)
    return text


def _lines(text: str) -> str:
    """A new line between two answers separates them as a semicolon does; inside brackets it is a space."""
    text = re.sub(r"[ \t]*[,;]?[ \t]*\r?\n\s*", "\n", text.strip())
    depth, out = 0, []
    for character in text:
        depth += (character in _OPEN) - (character in _CLOSE)
        out.append("; " if character == "\n" and depth <= 0 and r"\begin" not in text else character)
    return "".join(out)


def _latex(text: str) -> str:
    text = text if r"\begin" in text else re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)
    text = re.sub(r"(?<=\d)(?:,\\! ?|\\,)(?=\d)", "", text)
    text = re.sub(r"\\(?:[,;:!>]|\(|\)|\[|\])|(?<=\d)\{,\}(?=\d{3})", _spacing, text)
    text = re.sub(r"(?<!\\)\\ |~", " ", text).replace(r"\%", "%")
    text = _QUANTITY.sub(r"\1 \2", text)
    while (plain := _FACE.sub(r" \1 ", text)) != text:
        text = plain
    text = re.sub(r"\\(?:mathrm|mathbf|boldsymbol|rm|bf) ?(?=\\)", "", text)
    text = _COMMAND.sub(lambda found: _SPELLINGS.get(found.group(1), rf"\{found.group(1)}"), text)
    text = _BEFORE_BRACE.sub(r"\1", text)
    text = re.sub(r"(?<![\\])\\(?=\d|\s*$)", "", text)  # a backslash astray
    text = re.sub(r"\^ *\{ *\^? *\\circ *\}|\^ *\^ *\\circ|(?<![\^\s]) ?\\circ\b", r"^\\circ ", text)
    text = re.sub(r"\{ ?\} ?(?=\^)", "", text)
    return _UNIT_IN_BRACES.sub(r" \1 \2 ", text)


def _spacing(found: re.Match[str]) -> str:
    return "" if found.group() in (r"\!", "{,}") else " "


def normalise(answer: str) -> str:
    """Full-width characters to ASCII; LaTeX boxes, text and spacing removed; spaces folded, a final period dropped."""
    if _PLAIN.fullmatch(answer):
        return answer
    text = answer.translate(_FULL_WIDTH)
    if r"boxed" in text and (boxed := boxes(text)):
        text = ", ".join(boxed)
    if "**" in text or "`" in text:
        text = re.sub(r"(?<=[\w)}])\*\*(?=[\w({\\])", "^", text) if text.count("**") == 1 else text
        text = re.sub(r"\*\*|__|`", "", text)
    text = _lines(text.translate(_SYMBOLS)) if "\n" in text else text.translate(_SYMBOLS)
    if "$" in text:
        text = re.sub(r"(?<!\\)\$", "", _money(text))
    text = _latex(text) if "\\" in text or "~" in text or "{" in text else text
    if not text.isascii():
        text = re.sub("[⁻⁺ⁿ⁰¹²³⁴-⁹]+", lambda found: f"^{{{found.group().translate(_RAISED)}}}", text)
        text = re.sub("[₀-₉]+", lambda found: f"_{{{found.group().translate(_RAISED)}}}", text)
        text = re.sub(r"√ ?(\d+(?:\.\d+)?|[a-zA-Z]|\([^()]*\)|\{[^{}]*\})", _root, text)
        text = _BEFORE_BRACE.sub(r"\1", text)
    text = re.sub(r"(?<=[A-Z]) ?// ?(?=[A-Z])", r" \\parallel ", text) if "//" in text else text
    return re.sub(r"\s+", " ", text).strip("*` ").rstrip(".。 ")


def _root(found: re.Match[str]) -> str:
    return rf"\sqrt{{{found.group(1).strip('{}') if found.group(1)[0] == '{' else found.group(1)}}}"


def depths(text: str) -> Iterator[tuple[int, int]]:
    r"""(position, bracket depth) of every character; a half-open interval closes what it opened. \{ counts as {."""
    depth = 0
    for at, character in enumerate(text):
        if character in _CLOSE:
            depth -= 1
        yield at, depth
        if character in _OPEN:
            depth += 1


def split(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """The pieces of a text between the separators that stand outside every bracket, and these separators."""
    found = list(separator.finditer(text))
    if not found:
        return [text.strip()], []
    depth = dict(depths(text))
    pieces, between, start = [], [], 0
    for match in found:
        if depth[match.start()] == 0:
            pieces.append(text[start : match.start()].strip())
            between.append(match.group().strip())
            start = match.end()
    return [*pieces, text[start:].strip()], between
