r"""Formulas, read wholly or not at all: from text to a tree.

A tree is a tuple: ("num", Fraction), ("var", name), ("const", "pi"), ("add" | "mul", node, ...), ("neg", node),
("div" | "pow", node, node), ("root", index, node), ("fn", name, node, ...), ("pm", +1 | -1, node).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from mm_prm.answers.text import words

Node = tuple[Any, ...]

MOST_TOKENS = 400
_TOKEN = re.compile(
    r" *(?:(?P<number>\d+\.\d*\\overline ?\{\d+\}|\d{1,3}(?:,\d{3})+(?!,?\d)(?:\.\d+)?"
    r"|(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<command>\\[a-zA-Z]+|\\[{}$|])|(?P<letters>[a-zA-Z]+'*)|(?P<sign>.))"
)
_FUNCTIONS = words(
    "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc exp log ln lg sqrt abs max min gcd lcm floor ceil det"
)
_PREFIX_WORDS = re.compile(rf"(?:{'|'.join([*_FUNCTIONS, 'pi'])})")
_GREEK = words(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi"
    " omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar square bullet"
)
_MARKS = {"vec", "bar", "hat", "tilde", "overline", "widehat", "dot"}  # \vec{AB}: another name than AB
_FIGURES = {"angle", "triangle", "odot", "parallelogram", "widehat"}  # \angle ABC


class Unread(Exception):
    """A text is no formula of the kind that is read here, or its value cannot be told."""


class _Parser:
    """Recursive descent; every token is consumed or the text is refused."""

    def __init__(self, text: str):
        self.tokens = [
            (found.lastgroup or "", found.group(found.lastgroup or 0)) for found in _TOKEN.finditer(text.strip())
        ]
        self.at = 0
        if len(self.tokens) > MOST_TOKENS:
            raise Unread("long")
        self.tokens.append(("", ""))  # the end

    def peek(self) -> str:
        return self.tokens[self.at][1]

    def kind(self) -> str:
        return self.tokens[self.at][0]

    def take(self) -> str:
        token = self.peek()
        if not token:
            raise Unread("it ends early")
        self.at += 1
        return token

    def accept(self, *tokens: str) -> str:
        token = self.tokens[self.at][1]
        if token not in tokens:
            return ""
        self.at += 1
        return token

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise Unread(f"no {token}")

    def whole(self) -> Node:
        node = self.sum()
        if self.peek():
            raise Unread(f"left over: {self.peek()}")
        return node

    def sum(self) -> Node:
        terms = [self.signed()]
        while sign := self.accept("+", "-", r"\pm", r"\mp"):
            terms.append(_signed(sign, self.product()))
        return ("add", *terms) if len(terms) > 1 else terms[0]

    def signed(self) -> Node:
        sign = self.accept("+", "-", r"\pm", r"\mp")
        return (
            self.product()
            if not sign
            else _signed(sign, self.signed() if self.peek() in ("+", "-") else self.product())
        )

    def product(self) -> Node:
        factors = [self.factor()]
        while True:
            if self.accept("*", r"\times", r"\cdot"):
                factors.append(self.factor(signed=True))
            elif self.accept("/", r"\div"):
                below = self.factor(signed=True)
                factors[:] = [("div", ("mul", *factors) if len(factors) > 1 else factors[0], below)]
                if self.starts_factor() and self.kind() != "sign":
                    raise Unread("1/2x")  # which may be one half of x
            elif self.starts_factor():
                if self.kind() == "number" and self.tokens[self.at - 1][0] == "number":
                    raise Unread("two numbers side by side")
                factors.append(self.mixed(factors) or self.factor())
            else:
                return ("mul", *factors) if len(factors) > 1 else factors[0]

    def mixed(self, factors: list[Node]) -> Node | None:
        r"""2\frac{1}{2} is 2 + 1/2."""
        whole = factors[-1]
        if not (self.peek() == r"\frac" and self.tokens[self.at - 1][0] == "number" and whole[0] == "num"):
            return None
        start = self.at
        below = self.factor()
        if len(factors) > 1 or whole[1].denominator != 1 or below[0] != "div" or {below[1][0], below[2][0]} != {"num"}:
            self.at = start
            return None
        factors.pop()
        return ("add", whole, below)

    def starts_factor(self) -> bool:
        token, kind = self.peek(), self.kind()
        if kind == "command":
            return token[1:] in _STARTS
        return kind in ("number", "letters") or (kind == "sign" and token in ("(", "[", "{"))

    def factor(self, signed: bool = False) -> Node:
        if signed and self.peek() in ("+", "-"):
            return _signed(self.take(), self.factor())
        node = self.atom()
        while True:
            if self.accept("^"):
                node = self.power(node)
            elif self.accept("!"):
                node = ("fn", "factorial", node)
            elif self.accept("%"):
                node = ("div", node, ("num", Fraction(100)))
            else:
                return node

    def power(self, base: Node) -> Node:
        if self.peek() == r"\circ":
            self.take()
            return ("mul", base, ("const", "degree"))
        exponent = self.argument()
        while self.accept("!"):
            exponent = ("fn", "factorial", exponent)
        if self.accept("^"):
            exponent = self.power(exponent)
        return ("pow", base, exponent)

    def argument(self) -> Node:
        r"""What ^, \frac and \sqrt take: a group, or a single digit or letter."""
        if self.accept("{"):
            node = self.sum()
            self.expect("}")
            return node
        if self.kind() == "number" and self.peek().isdigit():
            return ("num", fraction(self.take()))  # LaTeX takes one digit of 2^10, people mean 10
        if self.kind() == "letters" and len(self.peek()) > 1 and not _PREFIX_WORDS.match(self.peek()):
            return self.letter()
        if self.peek() in ("+", "-"):
            return _signed(self.take(), self.argument())
        return self.atom()

    def letter(self) -> Node:
        kind, letters = self.tokens[self.at]
        self.tokens[self.at] = (kind, letters[1:])
        return _letters(letters[0])

    def small(self, fraction: bool) -> Node:
        r"""An argument of \frac or \sqrt: \frac12 has two."""
        if self.kind() == "number" and self.peek().isdigit() and len(self.peek()) > 1:
            kind, digits = self.tokens[self.at]
            if not fraction:
                raise Unread(r"\sqrt12 is the root of 1 to LaTeX, of 12 to people")
            self.tokens[self.at] = (kind, digits[1:])
            return ("num", Fraction(int(digits[0])))
        return self.argument()

    def atom(self) -> Node:
        kind, token = self.kind(), self.take()
        if kind == "number":
            return ("num", fraction(token))
        if kind == "letters":
            return self.identifier(token)
        if kind == "command":
            return self.command(token[1:])
        if token in ("(", "[", "{"):
            node = self.sum()
            self.expect({"(": ")", "[": "]", "{": "}"}[token])
            return node
        if token == "|":
            node = self.sum()
            self.expect("|")
            return ("fn", "abs", node)
        raise Unread(f"what is {token}?")

    def command(self, name: str) -> Node:
        if name == "frac":
            return ("div", self.small(True), self.small(True))
        if name == "sqrt":
            index: Node = ("num", Fraction(2))
            if self.accept("["):
                index = self.sum()
                self.expect("]")
            return ("root", index, self.small(False))
        if name == "binom":
            return ("fn", "binom", self.argument(), self.argument())
        if name in ("pi", "infty"):
            return ("const", name)
        if name in _FUNCTIONS:
            return self.function(name)
        if name in ("lfloor", "lceil"):
            node = self.sum()
            self.expect("\\r" + name[1:])
            return ("fn", name[1:], node)
        if name in _MARKS or name in _FIGURES:
            inner = self.plain_name()
            inner = min(inner, inner[::-1]) if name == "angle" and len(inner) == 3 else inner  # ABC is CBA
            return ("var", self.subscripts(f"{name} {inner}"))
        if name in _GREEK:
            return ("var", self.subscripts(name))
        raise Unread(f"what is \\{name}?")

    def plain_name(self) -> str:
        if not self.accept("{"):
            return self.take() if self.kind() in ("letters", "number") else self.refuse()
        name = ""
        while not self.accept("}"):
            name += self.take() if self.kind() in ("letters", "number") else self.refuse()
        return name

    def refuse(self) -> str:
        raise Unread(f"no name: {self.peek()}")

    def subscripts(self, name: str) -> str:
        while self.accept("_"):
            name += "_" + (self.script() if self.accept("{") else self.take())
        while self.accept("'"):
            name += "'"
        return name

    def script(self) -> str:
        text, depth = "", 1
        while depth:
            token = self.take()
            depth += (token == "{") - (token == "}")
            text += token if depth else ""
        return text

    def identifier(self, token: str) -> Node:
        if found := _PREFIX_WORDS.match(token):
            name, rest = found.group(), token[found.end() :]
            if rest:
                self.at -= 1
                self.tokens[self.at] = ("letters", rest)
            return ("const", "pi") if name == "pi" else self.function(name)
        bare = token.rstrip("'")
        if len(bare) > 1 and self.peek() == "_":  # ab_1 is a times b_1
            self.at -= 1
            self.tokens[self.at] = ("letters", token[1:])
            return _letters(token[0])
        if self.peek() == "_":
            return self.combination(token) if token == "C" else ("var", self.subscripts(token))
        if bare in ("f", "g", "h", "F", "G", "P") and self.peek() == "(":
            self.take()
            inner = self.sum()
            self.expect(")")
            return ("fn", f"call {token}", inner)
        return _letters(token)

    def combination(self, name: str) -> Node:
        """C_5^2 is a number of combinations; C_1 is a name."""
        start = self.at
        name = self.subscripts(name)
        below = re.fullmatch(r"C_(\d+)", name)
        if not (below and self.accept("^")):
            return ("var", name)
        above = self.argument()
        if above[0] != "num":
            self.at = start
            return ("var", self.subscripts("C"))
        return ("fn", "binom", ("num", Fraction(int(below.group(1)))), above)

    def function(self, name: str) -> Node:
        if name == "sqrt":
            return ("root", ("num", Fraction(2)), self.argument())
        base, power = None, None
        while self.peek() in ("_", "^"):
            if self.take() == "_":
                base = self.argument()
            else:
                power = self.argument()
        if power == ("neg", ("num", Fraction(1))) and name in ("sin", "cos", "tan"):
            name, power = f"arc{name}", None
        node: Node = ("fn", name, *self.applied_to(), *([base] if base else []))
        return ("pow", node, power) if power else node

    def applied_to(self) -> list[Node]:
        if self.accept("("):
            arguments = [self.sum()]
            while self.accept(","):
                arguments.append(self.sum())
            self.expect(")")
            return arguments
        factors = [self.factor()]
        while self.starts_factor() and self.peek() not in ("(", "[") and not self.at_function():
            factors.append(self.factor())
        if self.accept("/"):  # sin x/2
            raise Unread("where does the function end?")
        return [("mul", *factors) if len(factors) > 1 else factors[0]]

    def at_function(self) -> bool:
        name = self.peek().lstrip("\\")
        return name in _FUNCTIONS or bool(self.kind() == "letters" and _PREFIX_WORDS.match(name) and name[:2] != "pi")


_STARTS = {"frac", "sqrt", "binom", "pi", "infty", "lfloor", "lceil", *_FUNCTIONS, *_MARKS, *_FIGURES, *_GREEK}


def fraction(token: str) -> Fraction:
    """The number that a literal is, exactly. Raises Unread when it has thousands of digits."""
    if token.isdecimal() and len(token) < 300:
        return Fraction(int(token))
    if "overline" in token:
        head, period = re.findall(r"[\d.]+", token)
        places = len(head.partition(".")[2])
        return Fraction(head + ("0" if head.endswith(".") else "")) + Fraction(
            int(period), 10**places * (10 ** len(period) - 1)
        )
    if len(token) > 1000 or abs(int(token.lower().partition("e")[2] or 0)) > 5000:
        raise Unread("a number of too many digits")
    return Fraction(token.replace(",", ""))


def _signed(sign: str, node: Node) -> Node:
    if sign in (r"\pm", r"\mp"):
        return ("pm", 1 if sign == r"\pm" else -1, node)
    return ("neg", node) if sign == "-" else node


def _letters(token: str) -> Node:
    """AB is the segment AB, which is BA; abc is a product; four letters and more are a word."""
    bare = token.rstrip("'")
    if token in ("e", "i"):
        return ("const", token)
    if len(bare) == 1:
        return ("var", token)
    if "'" in token or not (bare.isupper() or (bare.islower() and len(bare) <= 3)):
        if re.fullmatch(r"(?:[A-Z]'*)+", token):
            return ("var", token)
        raise Unread(f"a word: {token}")
    if bare.isupper():
        return ("var", min(token, token[::-1]) if len(token) == 2 else token)
    return ("mul", *(_letters(letter) for letter in token))


def parse(text: str) -> Node:
    """The tree of a formula. Raises Unread when anything in it was not understood."""
    try:
        return _Parser(text).whole()
    except (RecursionError, ValueError, IndexError, ZeroDivisionError):
        raise Unread(text) from None


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node[1:]:
        if isinstance(child, tuple):
            yield from walk(child)


def names(node: Node) -> frozenset[str]:
    """The variables of a formula, functions that are only named included."""
    return frozenset(n[1] for n in walk(node) if n[0] == "var" or (n[0] == "fn" and n[1].startswith("call ")))


def spread(node: Node) -> list[Node]:
    r"""Both values of a formula with \pm (\mp is the other sign), or the formula alone."""
    if not any(n[0] == "pm" for n in walk(node)):
        return [node]
    return [_with_sign(node, sign) for sign in (1, -1)]


def _with_sign(node: Node, sign: int) -> Node:
    if node[0] == "pm":
        inner = _with_sign(node[2], sign)
        return inner if node[1] * sign > 0 else ("neg", inner)
    return tuple(_with_sign(child, sign) if isinstance(child, tuple) else child for child in node)
