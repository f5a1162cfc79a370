"""The documents: every script they call is there and knows the flags they give it, every link leads somewhere."""

import dataclasses
import json
import re
import runpy
import sys
from functools import cache

import pytest
from conftest import ROOT
from guided.methods import Plan
from internvl.rl.arguments import make_parser
from internvl.train.arguments import DataArguments, FinetuneArguments, ModelArguments
from omegaprm import SearchParams
from PIL import Image

DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("eval/**/*.md")]
FILES = [
    *(
        path
        for folder in ("data_pipeline", "internvl_chat", "eval", "examples", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".sh")
    ),
    *(ROOT / name for name in ("quickstart.sh", "run_tests.sh", "install.sh")),
]
SCRIPTS = {name: [path for path in FILES if path.name == name] for name in {path.name for path in FILES}}
# Shell scripts hand flags on.
BEHIND = {"evaluate.sh": "generate_rollouts.py", "run_data_pipeline.sh": "run_data_pipeline.py"}
HELP = [path for path in FILES if re.search(r"Parser\(__doc__|HfArgumentParser\(", path.read_text())]
CALL = re.compile(r"(?:^|\s)(?:python|sh|bash|torchrun|exec)\s[^`]*?([\w.-]+\.(?:py|sh))\b([^`]*)", re.DOTALL)


SHARED = {  # functions that add flags to a parser, and where they are
    name: ROOT / path
    for name, path in (
        ("add_policy_flags", "mm_prm/policy.py"),
        ("add_judge_flags", "mm_prm/judge.py"),
        ("add_data_flags", "eval/benchmarks.py"),
        ("add_dataset_flags", "mm_prm/dataset_files.py"),
        ("add_prm_flags", "eval/guided/prms.py"),
        ("add_endpoint_flag", "mm_prm/servers.py"),  # these last: others call them
        ("add_outage_flag", "mm_prm/servers.py"),
    )
}


@cache
def flags_of(script):
    if re.search(r"_(prm|policy)\.sh$", script) or script == "internvl_chat_finetune.py":
        parts = (ModelArguments, DataArguments, FinetuneArguments)
        return {f"--{field.name}" for part in parts for field in dataclasses.fields(part)}
    if re.search(r"_(cpgd|mm_eureka)\.sh$", script) or script == "internvl_chat_rl.py":
        return {name for action in make_parser()._actions for name in action.option_strings}
    paths = SCRIPTS[BEHIND.get(script, script)]
    if script.endswith(".sh") and script not in BEHIND:
        return {"run_tests.sh": {"--fast"}, "rl.sh": {"--quick"}}.get(script, set())
    source = "".join(path.read_text() for path in paths)
    sources = [source]
    for name, file in SHARED.items():
        if any(name in text for text in sources):
            sources.append(file.read_text())
    of_fields = [kind for kind in (SearchParams, Plan) if f"{kind.__name__}(" in source]
    search = {f"--{field.name}" for kind in of_fields for field in dataclasses.fields(kind)}
    return search | set(re.findall(r'"(--\w+)"', "".join(sources)))


def commands(text):
    """What stands in code blocks, a command each, and between backticks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for block in blocks:
        lines = re.sub(r"\s#.*", "", block).replace("\\\n", " ").splitlines()
        yield from (part for line in lines for part in re.split(r"&&|;|\|\|?", line))
    yield from re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_name_scripts_and_flags_that_exist(path):
    found = [call.groups() for command in commands(path.read_text()) for call in CALL.finditer(command)]
    for script, rest in found:
        assert script in SCRIPTS, script
        if script != "serve_policy.py":  # hands unknown flags to vLLM
            unknown = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", rest)) - flags_of(script)
            assert not unknown, f"{script}: {unknown}"
    if path.name in ("README.md", "pipeline.md", "reproduce.md"):
        assert len(found) > 5


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


@pytest.mark.parametrize("script", HELP, ids=lambda path: path.name)
def test_help_fits_80_columns(script, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    assert end.value.code == 0 and "--" in shown
    own = [line for line in shown.splitlines() if "restore_callback_states" not in line]  # transformers' longest name
    assert not [line for line in own if len(line) > 80]


def test_the_figure_of_the_stages_shows_the_readme_as_it_is():
    draw = runpy.run_path(str(ROOT / "docs/draw_stages.py"))
    stages = draw["read_stages"]((ROOT / "README.md").read_text())
    assert json.loads(Image.open(ROOT / "docs/stages.png").info["Description"]) == json.loads(
        json.dumps([vars(stage) for stage in stages])
    )
    assert [stage.number for stage in stages] == ["0", "1", "2", "3", "4", "5", "6", "6b", "7"]
    assert all(stage.script in SCRIPTS for stage in stages)
    assert draw["ends"](stages, "trees") == [(2, True), (3, False)]
    for thing in draw["things"](stages):  # nothing is read before it is written, but what one brings along
        assert draw["ends"](stages, thing)[0][1] or thing in ("solutions", "problems"), thing
