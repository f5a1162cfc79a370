"""Sampled answers and their rewards as one HTML page; what a model wrote is text there and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from internvl.rl.draw import Answer, Group
from mm_prm.pictures import data_uri

MAX_SIDE = 400  # pixels; a larger picture is scaled down
STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;border-left:4px solid #999;padding:.3rem .8rem;margin:.3rem 0 1rem}
pre.right{border-color:#2a8a3e}pre.wrong{border-color:#c0392b}img{max-width:100%}"""


def answer_html(answer: Answer) -> str:
    verdict = {True: "right", False: "wrong", None: "undecided"}[answer.right]
    facts = [verdict, "in format" if answer.well_formed else "not in format", f"{len(answer.ids)} tokens"]
    facts += ["cut"] if answer.cut else []
    facts += [f"PRM {' '.join(f'{score:.2f}' for score in answer.scores)}"] if answer.scores else []
    facts += [f"reward {answer.reward:.2f}", f"advantage {answer.advantage:+.2f}"]
    return f'<p>{escape(", ".join(facts))}</p><pre class="{verdict}">{escape(answer.text)}</pre>'


def group_html(group: Group) -> str:
    problem = group.problem
    pictures = "".join(f'<img alt="" src="{data_uri(path, MAX_SIDE)}">' for path in problem.images)
    head = f"<h3>{escape(problem.id)}</h3>{pictures}<p>{escape(problem.question)}</p>"
    answers = "".join(map(answer_html, group.answers))
    return f"{head}<p>reference answer: {escape(problem.answer)}</p>{answers}"


def samples_page(steps: Iterable[tuple[int, Sequence[Group]]]) -> str:
    """steps: a step's number and the groups to show of it."""
    body = "".join(f"<h2>step {number}</h2>{''.join(map(group_html, groups))}" for number, groups in steps)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # no script runs, nothing is fetched
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    return f"<!doctype html><html lang=en>{head}<title>Sampled answers</title><style>{STYLE}</style>{body}</html>\n"
