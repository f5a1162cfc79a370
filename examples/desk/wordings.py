"""The desk's language: a move of a solution, said in one of K ways.

A way is an opening, a body and an ending; the first is the plain one, which is all there is with K = 1. A computation
may be said the other way round, or together with the next one in a single step.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple


class Move(NamedTuple):
    """What a step does. kind: a key of BODIES; numbers: what is read, `a, b, result` of a computation, or the answer;
    words: what the sentence is about, the thing counted or the items bought."""

    kind: str
    numbers: tuple[int, ...]
    words: tuple[str, ...] = ()


COMPUTE = ("+", "-", "x")
JOINER = " and then "  # between two computations in one step
JOINED = 0.15  # how often two computations that follow one another are one step, where wordings vary

OPENINGS = {
    "read": ("", "in the figure ", "first, ", "given: ", "we find ", "the problem: ", "step one: ", "we have: ",
             "to begin, ", "in all of this "),
    "compute": ("", "then ", "next, ", "now ", "so ", "we get ", "step: ", "thus ", "and ", "here "),
    "say": ("", "so ", "thus ", "in the end ", "in all ", "the answer: ", "hence ", "we find ", "and so ", "at last, "),
}  # fmt: skip
ENDINGS = {
    "read": ("", " Yes.", " Good.", " Given.", " So far."),
    "compute": ("", " .", " ;", " here", " so far"),
    "say": ("", " Yes.", " Done.", " That is all.", " The answer."),
}

BODIES = {
    "read_bars": (
        "A has {0}, B has {1} and C has {2} {w0}.",
        "A owns {0}, B owns {1} and C owns {2} {w0}.",
        "there are {0} {w0} at A, {1} at B and {2} at C.",
        "the {w0} are {0} for A, {1} for B and {2} for C.",
        "A: {0}, B: {1}, C: {2} {w0}.",
        "the bars are {0}, {1} and {2} {w0} high.",
        "A holds {0} {w0}, B holds {1} and C holds {2}.",
        "bar A is {0}, bar B is {1} and bar C is {2} {w0}.",
        "the number of {w0} is {0} at A, {1} at B, {2} at C.",
        "the chart has {0}, {1} and {2} {w0}.",
    ),
    "read_angles": (
        "the angles are {0}, {1} and {2} degrees.",
        "three angles are known: {0}, {1} and {2} degrees.",
        "the figure has angles of {0}, {1} and {2} degrees.",
        "the corners are {0}, {1} and {2} degrees wide.",
        "angles: {0}, {1}, {2} degrees.",
        "one angle is {0}, one is {1} and one is {2} degrees.",
        "the known angles measure {0}, {1} and {2} degrees.",
        "we have {0} degrees, {1} degrees and {2} degrees.",
        "the figure is marked {0}, {1} and {2} degrees.",
        "{0}, {1} and {2} degrees are the angles.",
    ),
    "read_parts": (
        "the parts are {0} by {1} and {2} by {3}.",
        "one part is {0} by {1}, the other {2} by {3}.",
        "the shape is made of {0} by {1} and {2} by {3}.",
        "there is a part of {0} by {1} and one of {2} by {3}.",
        "parts: {0} by {1}, {2} by {3}.",
        "the upright is {0} by {1} and the foot {2} by {3}.",
        "two rectangles, {0} by {1} and {2} by {3}, make the shape.",
        "the rectangles measure {0} by {1} and {2} by {3}.",
        "the sides are {0} and {1}, and {2} and {3}.",
        "it splits into {0} by {1} and {2} by {3}.",
    ),
    "read_prices": (
        "{0} {w0} cost {1} each and {2} {w1} cost {3} each.",
        "there are {0} {w0} at {1} each and {2} {w1} at {3} each.",
        "the list has {0} {w0} for {1} each and {2} {w1} for {3} each.",
        "{0} {w0} are {1} each, {2} {w1} are {3} each.",
        "{w0}: {0} at {1}; {w1}: {2} at {3}.",
        "we buy {0} {w0} at {1} and {2} {w1} at {3}.",
        "the {0} {w0} have a price of {1}, the {2} {w1} of {3}.",
        "one takes {0} {w0} for {1} each, and {2} {w1} for {3} each.",
        "the table says {0} {w0} at {1} and {2} {w1} at {3}.",
        "{0} {w0} go for {1} each and {2} {w1} go for {3} each.",
    ),
    "read_sides": (
        "the sides are {0}, {1}, {2} and {3} m.",
        "the field has sides of {0}, {1}, {2} and {3} m.",
        "four sides are given: {0}, {1}, {2} and {3} m.",
        "the sides measure {0}, {1}, {2} and {3} m.",
        "sides: {0}, {1}, {2}, {3} m.",
        "the lengths are {0}, {1}, {2} and {3} m.",
        "around the field there are {0}, {1}, {2} and {3} m.",
        "the edges are {0}, {1}, {2} and {3} m long.",
        "{0}, {1}, {2} and {3} m are the sides.",
        "we have sides of {0} m, {1} m, {2} m and {3} m.",
    ),
    "+": (
        "{0} + {1} = {2}",
        "{1} + {0} = {2}",
        "together {0} + {1} = {2}",
        "{1} + {0} = {2} in all",
        "we add {0} + {1} = {2}",
        "{0} + {1} = {2} together",
        "the sum is {1} + {0} = {2}",
        "all of it: {0} + {1} = {2}",
        "we have {1} + {0} = {2}",
        "{0} + {1} = {2} is the sum",
    ),
    "-": (
        "{0} - {1} = {2}",
        "we take {0} - {1} = {2}",
        "{0} - {1} = {2} more",
        "more: {0} - {1} = {2}",
        "less is left: {0} - {1} = {2}",
        "the rest is {0} - {1} = {2}",
        "{0} - {1} = {2} is the rest",
        "we have {0} - {1} = {2}",
        "{0} - {1} = {2} in all",
        "find {0} - {1} = {2}",
    ),
    "x": (
        "{0} x {1} = {2}",
        "{1} x {0} = {2}",
        "one by one {0} x {1} = {2}",
        "{1} x {0} = {2} in all",
        "all of it: {0} x {1} = {2}",
        "{0} x {1} = {2} together",
        "we have {1} x {0} = {2}",
        "find {0} x {1} = {2}",
        "each: {1} x {0} = {2}",
        "{0} x {1} = {2} is that",
    ),
    "say_all": (
        "they have {0} {w0} in all.",
        "all three have {0} {w0}.",
        "there are {0} {w0} in all.",
        "the number of {w0} is {0}.",
        "A, B and C have {0} {w0}.",
        "they own {0} {w0} together.",
        "it is {0} {w0} in all.",
        "{0} {w0} are there in all.",
        "the answer is {0} {w0}.",
        "we count {0} {w0}.",
    ),
    "say_more": (
        "they have {0} more {w0}.",
        "A and B have {0} more {w0}.",
        "there are {0} more {w0}.",
        "it is {0} more {w0}.",
        "A and B together own {0} more {w0} than C.",
        "the answer is {0} more {w0}.",
        "C has {0} {w0} fewer.",
        "{0} more {w0} are at A and B.",
        "the two hold {0} more {w0}.",
        "they are {0} {w0} ahead.",
    ),
    "say_angle": (
        "the angle x is {0} degrees.",
        "x is {0} degrees.",
        "the angle is {0} degrees.",
        "the last angle has {0} degrees.",
        "x measures {0} degrees.",
        "the fourth angle is {0} degrees.",
        "{0} degrees are left for x.",
        "the answer is {0} degrees.",
        "the corner x has {0} degrees.",
        "we get {0} degrees for x.",
    ),
    "say_area": (
        "the area is {0} square cm.",
        "the shape has {0} square cm.",
        "it covers {0} square cm.",
        "the L has an area of {0} square cm.",
        "the whole area is {0} square cm.",
        "{0} square cm is the area.",
        "the answer is {0} square cm.",
        "the figure covers {0} square cm.",
        "the surface is {0} square cm.",
        "we find {0} square cm.",
    ),
    "say_cost": (
        "they cost {0} dollars.",
        "the price is {0} dollars.",
        "all of it costs {0} dollars.",
        "one pays {0} dollars.",
        "the bill is {0} dollars.",
        "together they cost {0} dollars.",
        "the answer is {0} dollars.",
        "it comes to {0} dollars.",
        "{0} dollars are paid.",
        "the cost is {0} dollars.",
    ),
    "say_fence": (
        "the fence is {0} m long.",
        "the fence has {0} m.",
        "it takes {0} m of fence.",
        "the field needs {0} m of fence.",
        "{0} m of fence are needed.",
        "the length is {0} m.",
        "the answer is {0} m.",
        "around the field it is {0} m.",
        "the fence measures {0} m.",
        "we need {0} m.",
    ),
}


def group(kind: str) -> str:
    """Which openings and endings a kind of move takes."""
    return "compute" if kind in COMPUTE else kind.split("_")[0]


def most_wordings() -> int:
    return min(len(BODIES[kind]) * len(OPENINGS[group(kind)]) * len(ENDINGS[group(kind)]) for kind in BODIES)


@cache
def ways(kind: str) -> tuple[tuple[str, str, str], ...]:
    """All (opening, body, ending) of a kind: the plain one first, then in an order that mixes them."""
    plain, *others = itertools.product(OPENINGS[group(kind)], BODIES[kind], ENDINGS[group(kind)])
    random.Random(kind).shuffle(others)
    return plain, *others


def say(move: Move, way: int = 0) -> str:
    """A move in one of its ways, with a capital where it begins with a word."""
    opening, body, ending = ways(move.kind)[way]
    words = {f"w{number}": word for number, word in enumerate(move.words)}
    text = opening + body.format(*move.numbers, **words) + ending
    return text[0].upper() + text[1:]


def say_all(moves: Sequence[Move], wordings: int, rng: random.Random) -> list[str]:
    """The steps of a solution, each move in one of `wordings` ways."""
    steps: list[str] = []
    before: Move | None = None
    for move in moves:
        text = say(move, rng.randrange(wordings) if wordings > 1 else 0)
        both = before is not None and {before.kind, move.kind} <= set(COMPUTE)
        if wordings > 1 and both and JOINER not in steps[-1] and rng.random() < JOINED:
            steps[-1] += JOINER + text[0].lower() + text[1:]
        else:
            steps.append(text)
        before = move
    return steps
