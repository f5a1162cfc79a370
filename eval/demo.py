"""Watch a PRM guide a policy: a web page for one's own pictures and questions.

    python eval/demo.py --policy_endpoint http://127.0.0.1:8000/v1 \\
        --model policy --checkpoint work_dirs/mm_prm --examples test.json

Drop a picture, ask a question, choose a method of guided_search.py: candidates
appear step by step, each step coloured by its score, the chosen one on top, the
search tree beside them. Needs gradio (pip install -e '.[demo]'). The page is
for this machine; --host 0.0.0.0 opens it to the network, without a password.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from guided.methods import METHODS, Candidate, Plan, StepScore
from guided.page import CSS, Seen, candidates_html, spelled, tree_html
from guided.prms import add_prm_flags, prm_from_flags
from guided.search import Search

from mm_prm import cli
from mm_prm.pictures import look
from mm_prm.policy import PolicyClient, add_policy_flags, policy_from_flags
from mm_prm.records import Problem, placed_question, read_seed
from mm_prm.selection import AGGREGATIONS

PAUSE = 0.25  # seconds between two looks of the page at a search
MOST = 64  # candidates of one search
EXAMPLES = 6
UPLOAD = "20mb"
HINT = "Ask about a picture, or click an example, then Search. Each step comes with its score: red is 0, green is 1."


class WatchedSearch(Search):
    """A search that notes what it draws and scores."""

    def __init__(self, policy: Any, prm: Any, seen: Seen):
        super().__init__(policy, prm)
        self.seen = seen

    async def draw(self, prefix: Candidate, n: int, whole: bool = False) -> list[Candidate]:
        drawn = await super().draw(prefix, n, whole)
        self.seen.drawn(drawn)
        return drawn

    async def score(self, candidates: Sequence[Candidate]) -> list[list[StepScore]]:
        scores = await super().score(candidates)
        self.seen.scored(candidates, scores)
        return scores


class Demo:
    """The engines, shared by all who look at the page."""

    def __init__(self, client: PolicyClient, prm: Any):
        self.client, self.prm = client, prm

    async def search(
        self, picture: str | None, question: str, method: str, candidates: int, branch: int, score: str, seed: int
    ) -> AsyncIterator[tuple[str, str, str]]:
        """What the page shows, again and again until the search is over: a line, the candidates, the tree."""
        seen = Seen(score)
        try:  # a large picture takes its time: not that of the others
            problem = await asyncio.to_thread(asked, picture, question, seed)
            policy = await asyncio.to_thread(self.client.for_problem, problem)
            search = WatchedSearch(policy, self.prm, seen)
        except (ValueError, cli.Fault) as error:
            yield note(str(error)), "", ""
            return
        plan = Plan(candidates=int(candidates), branch=int(branch), score=score)
        task = asyncio.ensure_future(search.run(method, plan))
        try:
            while not (await asyncio.wait({task}, timeout=PAUSE))[0]:
                yield note(f"searching: {search.policy.tokens} tokens drawn"), candidates_html(seen), tree_html(seen)
            found, _ = await task
            seen.finish([one.steps for one in found if one.answer])
            yield note(said(search, seen)), candidates_html(seen), tree_html(seen)
        except cli.Fault as error:
            yield note(str(error)), candidates_html(seen), tree_html(seen)
        finally:
            task.cancel()


def asked(picture: str | None, question: str, seed: int) -> Problem:
    """The problem of a visitor. Raises ValueError that says what is wrong with it."""
    if not (question or "").strip():
        raise ValueError("ask a question")
    images = [picture] if picture else []
    for path in images:
        look(path)
    question = placed_question(question.strip(), images)
    return Problem("visitor", question, "", images, {"id": str(int(seed or 0)), "question": question})


def note(text: str) -> str:
    return f"<div>{spelled(text)}</div>"


def said(search: Search, seen: Seen) -> str:
    cost, found = search.accounts, len(seen.final or ())
    saved = f"{cost.prm_tokens} tokens read by the PRM ({cost.prm_tokens_anew} had every text been read whole)"
    head = f"{found} candidates" if found else "no candidate came to an end"
    return f"{head}; {cost.policy_tokens} tokens drawn; {saved}; {cost.seconds:.1f} s"


# ---------------------------------------------------------------- the page


def example_rows(path: Path | None) -> list[list[str | None]]:
    """Picture and question of the first problems of a seed file that have one picture at most."""
    if path is None:
        return []
    problems, _ = read_seed(path)
    few = [problem for problem in problems if len(problem.images) <= 1][:EXAMPLES]
    return [[problem.images[0] if problem.images else None, problem.question] for problem in few]


def make_page(demo: Demo, examples: list[list[str | None]], in_flight: int) -> Any:
    """in_flight: searches at once, of all visitors."""
    import gradio as gr

    plan = Plan()
    kept = (3600, 3600)  # seconds between two looks at old uploads, and their age
    head = {"title": "MM-PRM: guided search", "analytics_enabled": False, "fill_width": True, "delete_cache": kept}
    with gr.Blocks(**head) as page, gr.Row():  # type: ignore[arg-type]
        with gr.Column(scale=2):
            # image_mode None: the file as it came, opened in the project's own way
            picture = gr.Image(
                label="Picture", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=240
            )
            question = gr.Textbox(label="Question", lines=3)
            method = gr.Radio(list(METHODS), value="beam", label="Method")
            with gr.Row():
                run = gr.Button("Search", variant="primary", elem_id="run")
                stop = gr.Button("Stop")
            if examples:
                gr.Examples(examples, [picture, question], label="Examples")
            with gr.Accordion("Settings", open=False):
                number = gr.Slider(1, MOST, value=plan.candidates, step=1, label="N, candidates")
                branch = gr.Slider(1, 16, value=plan.branch, step=1, label="M, continuations of a prefix")
                score = gr.Dropdown(list(AGGREGATIONS), value=plan.score, label="Score of a prefix")
                seed = gr.Number(value=0, precision=0, label="Seed")
        with gr.Column(scale=3):
            line = gr.HTML(note(HINT), elem_id="line")
            found = gr.HTML(elem_id="candidates")
        with gr.Column(scale=3):
            tree = gr.HTML(elem_id="tree")
        inputs = [picture, question, method, number, branch, score, seed]
        running = run.click(
            demo.search, inputs, [line, found, tree], concurrency_limit=in_flight, show_progress="hidden"
        )
        stop.click(lambda: note("stopped"), None, line, cancels=[running])
    return page


def parse_args() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--examples", type=Path, help="seed file whose first problems can be clicked")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; whoever reaches it searches on your servers"
    )
    parser.add_argument("--page_port", type=cli.positive_int, default=7860, help="port of the page")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    add_prm_flags(parser)
    add_policy_flags(parser)
    parser.set_defaults(prefix_mode="prefill")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is asked of the network
    with cli.refusing("the page needs gradio: pip install -e '.[demo]'"):
        import gradio as gr
    client, examples = policy_from_flags(args), example_rows(args.examples)
    page = make_page(Demo(client, prm_from_flags(args)), examples, args.concurrency)
    # Fonts of the machine, none from the network
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    print(f"http://{args.host}:{args.page_port}", flush=True)
    page.queue().launch(
        server_name=args.host,
        server_port=args.page_port,
        inbrowser=args.open,
        max_file_size=UPLOAD,
        allowed_paths=[row[0] for row in examples if row[0]],
        show_error=True,
        quiet=True,
        footer_links=[],
        ssr_mode=False,
        theme=theme,
        css=CSS,
    )


if __name__ == "__main__":
    cli.run(main)
