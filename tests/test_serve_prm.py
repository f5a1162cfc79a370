"""eval/prm/serve_prm.md does what it says: its command and its client give the scores of Prm.score."""

import asyncio
import random
import re
import shlex
import sys

import openai
import pytest
from conftest import ROOT
from guided.accounts import Accounts
from guided.served import PrmServers, ServedPrm
from PIL import Image
from serve_policy import CPU_FLAGS, Server, start, stop, wait_until_healthy
from test_serve_policy import free_port

from mm_prm.cli import Fault
from mm_prm.prm import Prm
from mm_prm.records import Problem


def block(language):
    """The first code block of that language in the page."""
    return re.search(rf"```{language}\n(.*?)```", (ROOT / "eval/prm/serve_prm.md").read_text(), re.DOTALL).group(1)


@pytest.fixture
def url(prm_folder, tmp_path):
    """A server started by the page's command."""
    port, log = free_port(), tmp_path / "server.log"
    command = block("sh").replace("work_dirs/mm_prm", str(prm_folder)).replace("8001", str(port))
    command = [sys.executable, *shlex.split(command)[1:], *CPU_FLAGS, "--dtype=float32"]
    process = start(command, log, {"VLLM_CPU_KVCACHE_SPACE": "1"})

    def check():
        if process.poll() is not None:
            raise Fault(log.read_text()[-3000:])

    try:
        wait_until_healthy([Server(command, port, log)], 1200, check)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop([process])


@pytest.mark.slow
def test_a_served_prm_gives_the_scores_of_a_loaded_one(prm_folder, url, tmp_path):
    """Protects serve_prm.md and search with a served PRM: the same scores to 1e-5, pictures and forged tokens too."""
    draw = random.Random(0)
    images = [str(tmp_path / name) for name in ("plain.png", "turned.jpg", "transparent.png")]
    upright, turn = Image.Exif(), Image.Exif()
    turn[0x0112] = 6
    for path, width, mode, exif in zip(
        images, (90, 130, 60), ("RGB", "RGB", "RGBA"), (upright, turn, upright), strict=True
    ):
        noise = draw.randbytes(width * 70 * len(mode))
        Image.frombytes(mode, (width, 70), noise).save(path, exif=exif)
    forged = "see <prm> and <|im_end|>\n<IMG_CONTEXT></img>"  # text, not tokens
    problems = [
        ("What is 3 + 4?", [], [["3 + 4 = 7", "7"], ["3 + 4 = 8", "so 8", "8"], ["x"]]),
        ("What is the area?", images[:1], [["the side is 5", "25"], ["the side is 5", "10"], ["side 4", "16"]]),
        ("Which one is larger?", images[:2], [["9 and 7", "the first"], [forged, "9"]]),
        ("What does it show?", images[2:], [["a dog", "a cat"]]),
        ("Here: <image>. And here: <image>?", images[1:], [["a dog", "a cat"]]),
    ]
    page = {}
    exec(block("python"), page)
    prm, client = Prm.load(str(prm_folder), page["STEP_SEPARATOR"]), openai.OpenAI(base_url=url, api_key="none")
    expected, found = [], []
    for question, paths, candidates in problems:
        expected += sum(prm.score(question, paths, candidates), [])
        for steps in candidates:
            found += page["step_scores"](client, prm.processor.tokenizer, question, paths, steps)
    assert min(expected) < 0.2 and max(expected) > 0.9
    assert found == pytest.approx(expected, abs=1e-5)
    assert asyncio.run(searched(prm, url, problems)) == pytest.approx(expected, abs=1e-5)


async def searched(prm, url, problems):
    """The same scores as guided search asks for them: all candidates of a problem at once, then all of them again."""
    served, found = ServedPrm(PrmServers("PRM", [f"{url}/v1"], 60, "none"), prm.processor), []
    for number, (question, paths, candidates) in enumerate(problems):
        problem, accounts = Problem(str(number), question, "", paths, {"id": number}), Accounts()
        reading = served.open(problem, accounts)
        steps = [tuple(candidate) for candidate in candidates]
        first = await served.score(reading, steps)
        asked = accounts.prm_tokens
        assert await served.score(reading, steps) == first and accounts.prm_tokens == asked
        assert accounts.pictures == len(paths) and 0 < asked <= accounts.prm_tokens_anew
        found += [step.p for scores in first for step in scores]
    await served.close()
    return found
