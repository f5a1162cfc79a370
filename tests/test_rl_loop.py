"""The loop of stage 7 on the tiny model: rows and their gradients, processes, resuming, faults; a stand-in for vLLM."""

import hashlib
import json
import os
import random
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from conftest import ROOT, Forked, deepspeed_on_cpu, run_forked
from internvl.rl.advantages import advantages
from internvl.rl.batch import means_in, weigh_tokens
from internvl.rl.draw import Answer, Group
from internvl.rl.loop import Run
from internvl.rl.objectives import ALGORITHMS, reduce, token_loss
from internvl.rl.rows import RowMaker, in_rows, split_into, tokens_in
from internvl.rl.update import CHUNK, Learner, Objective, chunk_logprobs, head_logprobs, with_drawn_logprobs
from PIL import Image
from safetensors.torch import load_file
from test_serve_policy import free_port
from transformers import InternVLForConditionalGeneration

from mm_prm.cli import Fault
from mm_prm.files import read_jsonl
from mm_prm.prm_format import Encoder
from mm_prm.prm_model import image_tiles, load_model, load_processor
from mm_prm.prompts import policy_prompt
from mm_prm.records import read_seed

SCRIPT = "internvl_chat/internvl/train/internvl_chat_rl.py"
PARAMETERS = {"clip": 0.2, "dual_clip": 3.0, "drift_coef": 0.01, "drift_clip": 2.0}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Eight problems whose answer is their number, all but one with a picture."""
    folder, records = tmp_path_factory.mktemp("seeds"), []
    for number in range(8):
        Image.new("RGB", (112, 112), (30 * number, 200, 30)).save(folder / f"{number}.png")
        record = {"id": f"p{number}", "question": f"What is {number} + 0?", "correct_answer": str(number)}
        records.append(record | ({"image_path": f"{number}.png"} if number else {}))
    (folder / "seed.json").write_text(json.dumps(records))
    (folder / "held_out.json").write_text(
        json.dumps([{**record, "id": f"h{n}"} for n, record in enumerate(records[:2])])
    )
    return folder


@pytest.fixture(scope="module")
def processor(desk):
    return load_processor(str(desk))


def reply_texts(question, seed, count):
    """Like a policy: mostly in the format, right about half of the time, the same for the same seed."""
    draw = random.Random(hashlib.md5(f"{question} {seed}".encode()).digest())
    right = question.split()[2]
    for _ in range(count):
        answer = right if draw.random() < 0.5 else "99"
        yield draw.choice([f"<step>{answer} + 0 = {answer}</step>"] * 3 + ["so "]) + f"<answer>{answer}</answer>"


def prompt_ids(processor, question, images):
    encoder = Encoder(processor.tokenizer, marker=False)
    asked = encoder.sft(policy_prompt(question), "", [processor.image_seq_length] * images)
    return asked.input_ids[: asked.target_start]


def group_of(processor, problem, count, seed=0):
    """A group as the server would have drawn it. Its log-probabilities are made up."""
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    texts = list(reply_texts(problem.question, seed, count))
    ids = [[*processor.tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts]
    answers = [Answer(i, [-1.0] * len(i), t, ["a"], "1", False, None) for i, t in zip(ids, texts, strict=True)]
    return Group(problem, prompt_ids(processor, problem.question, len(problem.images)), answers)


# ---------------------------------------------------------------- rows


def stock_logprobs(model, processor, group):
    """The reference: every answer alone, its picture each time, the whole vocabulary. A list of [tokens]."""
    pixels, _ = image_tiles(processor, group.problem.images)
    found = []
    for answer in group.answers:
        ids = torch.tensor([group.prompt_ids + answer.ids])
        logits = model(input_ids=ids, pixel_values=pixels).logits[0, len(group.prompt_ids) - 1 : -1]
        found.append(logits.log_softmax(-1).gather(1, torch.tensor(answer.ids)[:, None])[:, 0])
    return found


def padded(parts):
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)


@pytest.fixture
def accelerator():
    """Its state belongs to the process, and a script in a fork wants one of its own."""
    yield Accelerator(cpu=True)
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "prompts", "tokens"),
    [("cpgd", 1, 9999), ("grpo", 1, 9999), ("cpgd", 2, 9999), ("grpo", 3, 9999), ("cpgd", 2, 90), ("grpo", 1, 90)],
)
def test_packed_rows_give_the_loss_and_gradients_of_separate_sequences(
    desk, processor, seeds, accelerator, name, prompts, tokens
):
    problems, _ = read_seed(seeds / "seed.json")
    groups = [group_of(processor, problem, 5) for problem in problems[:3]]
    rewards = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    for group, row in zip(groups, advantages("std", rewards).tolist(), strict=True):
        for answer, value in zip(group.answers, row, strict=True):
            answer.reward, answer.advantage = 1.0, value
    groups[1].answers[2].reward = float("nan")  # nobody could judge it
    stock = InternVLForConditionalGeneration.from_pretrained(desk)
    separate = [logprobs for group in groups for logprobs in stock_logprobs(stock, processor, group)]
    drift = [
        0.1 * torch.randn(len(part), generator=torch.Generator().manual_seed(n)) for n, part in enumerate(separate)
    ]
    old = [part.detach() + noise for part, noise in zip(separate, drift, strict=True)]
    answers = [answer for group in groups for answer in group.answers]
    new = padded(separate)
    mask = padded([torch.full((len(a.ids),), a.reward == a.reward) for a in answers])
    weight = torch.tensor([answer.advantage for answer in answers])
    loss = reduce(name, token_loss(name, new, padded(old), weight, **PARAMETERS), mask, [n // 5 for n in range(15)])
    loss.backward()

    model = with_drawn_logprobs(load_model(str(desk), torch.float32))
    maker, optimizer = RowMaker(processor, "tags"), torch.optim.SGD(model.parameters(), lr=0.0)
    learner = Learner(accelerator, model, optimizer, Objective(name, PARAMETERS))
    weigh_tokens(groups, name)
    means, total = means_in(groups), 0.0
    assert means == (3 if name == "cpgd" else 14)
    plan = in_rows(groups, tokens, prompts)
    assert len(plan) == (-(-3 // prompts) if tokens == 9999 else 7)
    for number, together in enumerate(plan):
        row = maker(*together)
        alone = sum(len(group.prompt_ids) + len(answer.ids) for group in together for answer in group.answers)
        assert row.inputs["input_ids"].shape[1] < min(0.5 * alone if tokens == 9999 else alone + 1, tokens)
        row.old = torch.cat([old.pop(0) for group in together for _ in group.answers])
        total += learner.backward(row, means, last=number == len(plan) - 1)["loss"]
    assert total == pytest.approx(loss.item(), abs=1e-5)
    ours, reference = gradients(model), gradients(stock)
    assert ours.keys() == reference.keys()
    for key, gradient in reference.items():
        torch.testing.assert_close(ours[key], gradient, atol=1e-5, rtol=1e-4)


def made_up(prompt, *lengths):
    return Group(None, [7] * prompt, [Answer([n] * n, [], "", [], None, False) for n in lengths])


def shape(rows):
    return [[(len(group.prompt_ids), *(len(answer.ids) for answer in group.answers)) for group in row] for row in rows]


def test_which_answers_share_a_row():
    groups = [made_up(10, 5, 5, 30), made_up(20, 5, 5), made_up(10, 90, 1)]
    assert shape(in_rows(groups, 1000, 1)) == [[(10, 5, 5, 30)], [(20, 5, 5)], [(10, 90, 1)]]
    assert shape(in_rows(groups, 1000, 2)) == [[(10, 5, 5, 30), (20, 5, 5)], [(10, 90, 1)]]
    assert shape(in_rows(groups, 50, 9)) == [[(10, 5, 5, 30)], [(20, 5, 5)], [(10, 90)], [(10, 1)]]
    assert shape(in_rows(groups, 49, 1)) == [[(10, 5, 5)], [(10, 30)], [(20, 5, 5)], [(10, 90)], [(10, 1)]]
    assert shape(in_rows(groups, 70, 2)) == [[(10, 5, 5, 30)], [(20, 5, 5)], [(10, 90)], [(10, 1)]]
    assert shape(in_rows(groups[:2], 80, 2)) == [[(10, 5, 5, 30), (20, 5, 5)]] and tokens_in(groups[:2]) == 80


def test_rows_are_split_until_every_process_has_as_many():
    rows = in_rows([made_up(10, 5, 5, 30), made_up(20, 5, 5)], 1000, 2)
    assert split_into(rows, 1) == rows
    assert shape(split_into(rows, 2)) == [[(10, 5, 5, 30)], [(20, 5, 5)]]
    assert shape(split_into(rows, 3)) == [[(10, 5)], [(10, 5, 30)], [(20, 5, 5)]]
    assert shape(split_into(rows, 5)) == [[(10, 5)], [(10, 5)], [(10, 30)], [(20, 5)], [(20, 5)]]


def test_what_the_trainer_says_of_a_row(desk, processor, seeds, accelerator):
    problems, _ = read_seed(seeds / "seed.json")
    group, stock = group_of(processor, problems[1], 4), InternVLForConditionalGeneration.from_pretrained(desk).eval()
    for answer in group.answers:
        answer.weight = 0.1
    model = with_drawn_logprobs(load_model(str(desk), torch.float32))
    learner = Learner(accelerator, model, torch.optim.SGD(model.parameters()), Objective("grpo", PARAMETERS))
    row = RowMaker(processor, "tags")(group)
    with torch.no_grad():
        expected = torch.cat(stock_logprobs(stock, processor, group))
    seen = learner.old([row])
    torch.testing.assert_close(row.old, expected, atol=1e-5, rtol=1e-5)
    assert seen["mismatch"] == pytest.approx((expected + 1).abs().max().item(), abs=1e-5)
    assert seen["tokens"] == sum(row.lengths) == len(expected) and 0 < seen["entropy_sum"] / seen["tokens"] < 7
    # ratios: nothing has changed, then everything
    assert learner.ratios(row, row.old) == {"ratio_max": 1.0, "trained": len(expected), "clipped": 0}
    row.advantages = torch.tensor([1.0, -1.0, 0.0, 0.0])
    assert learner.ratios(row, row.old + 1)["clipped"] == row.lengths[0]
    assert learner.ratios(row, row.old - 1)["clipped"] == row.lengths[1]


def test_an_image_token_that_the_policy_has_drawn_is_a_token_like_any_other(desk, processor, seeds):
    group, other = (group_of(processor, problem, 2) for problem in read_seed(seeds / "seed.json")[0][1:3])
    group.answers[0].ids[1] = processor.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    row = RowMaker(processor, "tags")(group, other)  # the other prompt's picture comes behind that token
    ours = with_drawn_logprobs(load_model(str(desk), torch.float32))
    stock = InternVLForConditionalGeneration.from_pretrained(desk)
    ids = torch.tensor([group.prompt_ids + group.answers[0].ids])
    with torch.no_grad():
        found = ours(**row.inputs, temperature=1.0)[: row.lengths[0], 0]
        embedded = stock.get_input_embeddings()(ids)
        at = group.prompt_ids.index(processor.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"))
        embedded[0, at : at + 16] = stock.model.get_image_features(
            pixel_values=row.inputs["pixel_values"][:1]
        ).pooler_output
        logits = stock(inputs_embeds=embedded).logits[0, len(group.prompt_ids) - 1 : -1].log_softmax(-1)
    expected = logits.gather(1, torch.tensor(group.answers[0].ids)[:, None])[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        alone = ours(**RowMaker(processor, "tags")(other).inputs)
        torch.testing.assert_close(ours(**row.inputs)[sum(row.lengths[:2]) :], alone, atol=1e-5, rtol=1e-5)


def test_logprobs_in_chunks_are_those_of_the_whole():
    torch.manual_seed(0)
    weight, hidden = torch.randn(50, 8, requires_grad=True), torch.randn(2 * CHUNK + 3, 8, requires_grad=True)
    targets = torch.randint(50, (len(hidden),))
    chunked = head_logprobs(SimpleNamespace(weight=weight), hidden, targets, 0.7, True)
    logits = (hidden @ weight.T / 0.7).log_softmax(-1)
    torch.testing.assert_close(chunked[:, 0], logits[torch.arange(len(hidden)), targets], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(chunked[:, 1], -(logits.exp() * logits).sum(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(chunked[:5], chunk_logprobs(weight, hidden[:5], targets[:5], 0.7, True))
    torch.testing.assert_close(chunked[:5, :1], chunk_logprobs(weight, hidden[:5], targets[:5], 0.7, False))
    ours = torch.autograd.grad(chunked[:, 0].sum(), (weight, hidden))
    whole = torch.autograd.grad(logits[torch.arange(len(hidden)), targets].sum(), (weight, hidden))
    torch.testing.assert_close(ours, whole, atol=1e-4, rtol=1e-4)


def test_a_prompt_that_the_server_reads_differently_is_a_fault(processor, seeds):
    group = group_of(processor, read_seed(seeds / "seed.json")[0][1], 2)
    group.prompt_ids.insert(7, 99)
    with pytest.raises(Fault, match=r"problem p1: server and trainer read the prompt differently .*the first .* at 7"):
        RowMaker(processor, "tags")(group)


# ---------------------------------------------------------------- the script


class Policy:
    """A stand-in for vLLM: deterministic replies, their ids, made-up log-probabilities; it takes new weights."""

    def __init__(self, processor, down=lambda request: False):
        outer, self.asked, self.loaded, end = self, [], [], processor.tokenizer.convert_tokens_to_ids("<|im_end|>")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = json.loads(data) if data else {}
                if self.path == "/collective_rpc":
                    outer.loaded.append(load_file(f"{request['kwargs']['folder']}/model.safetensors"))
                body, status = {}, 200
                if self.path.endswith("/chat/completions"):
                    if down(request):
                        status = 500
                    else:
                        body = outer.completion(request)
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.processor, self.end = processor, end
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def completion(self, request):
        content = request["messages"][0]["content"]
        question = content[-1]["text"].split("Question: ")[1]
        self.asked.append((question, request["seed"], request["n"]))
        choices = []
        for index, text in enumerate(reply_texts(question, request["seed"], request["n"])):
            ids = [*self.processor.tokenizer(text, add_special_tokens=False)["input_ids"], self.end]
            said = {"logprobs": {"content": [{"logprob": -1.0}] * len(ids)}, "token_ids": ids, "finish_reason": "stop"}
            choices.append({"index": index, "message": {"content": text}, **said})
        return {"choices": choices, "prompt_token_ids": prompt_ids(self.processor, question, len(content) - 1)}

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


def flags(desk, seeds, policy, output, *more):
    return [
        *("--model_name_or_path", desk, "--seed_file", seeds / "seed.json", "--output_dir", output),
        *(
            "--policy_endpoint",
            policy.url,
            "--prompts",
            4,
            "--rollouts",
            4,
            "--updates_per_rollout",
            2,
            "--steps",
            3,
        ),
        *("--learning_rate", 1e-3, "--max_mismatch", 100, "--weights_dir", output.parent, "--judge", "rule"),
        *more,
    ]


def steps_of(folder):
    """The log without times."""
    return [
        {name: value for name, value in row.items() if "second" not in name and "memory" not in name}
        for row in read_jsonl(folder / "steps.jsonl")
    ]


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def assert_same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=lambda said, name=name: f"{name}: {said}", **tolerance)


@pytest.fixture(scope="module")
def trained(desk, processor, seeds, tmp_path_factory):
    """(folder, policy) of a run of three steps, with evaluation and a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("rl") / "whole"
    with Policy(processor) as policy:
        done = run_forked(
            SCRIPT,
            *flags(desk, seeds, policy, folder, "--eval_file", seeds / "held_out.json", "--eval_every", 2),
            *("--save_every", 1),
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, policy, done


def test_a_run_writes_its_policy_its_log_and_its_page(desk, trained, seeds):
    folder, policy, done = trained
    rows = read_jsonl(folder / "steps.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert ["pass_at_1" in row for row in rows] == [True, False, True, True]
    for row in rows[1:]:
        assert row["drawn"] == 4 and row["refused"] == row["filtered"] == row["surplus"] == row["undecided"] == 0
        assert 0 <= row["accuracy"] <= 1 and row["gradient_norm"] > 0 and row["ratio_max"] >= 1
        assert {f"seconds_{part}" for part in ("draw", "weigh", "old", "update", "sync")} <= row.keys()
    assert len(policy.loaded) == 4  # before the first step and after each
    assert_same(policy.loaded[0], load_file(desk / "model.safetensors"), atol=0, rtol=0)
    assert_same(policy.loaded[-1], weights_of(folder), atol=0, rtol=0)
    assert any(not torch.equal(policy.loaded[0][name], tensor) for name, tensor in weights_of(folder).items())
    for name, tensor in weights_of(folder).items():
        if "vision" in name:
            assert torch.equal(tensor, policy.loaded[0][name])  # frozen by default
    assert load_processor(str(folder)) and load_model(str(folder), torch.float32)
    results = json.loads((folder / "train_results.json").read_text())
    assert results["steps"] == 3 and results["pass_at_1_before"] == rows[0]["pass_at_1"]
    assert "What is" in (folder / "samples.html").read_text() and list((folder / "runs").glob("events*"))
    assert not list(folder.parent.glob("mm_prm_rl_*")) and "pass@1 on 2 held-out problems" in done.stdout + done.stderr


def test_the_draws_are_seeded_by_problem_and_place(trained):
    _, policy, _ = trained
    trained_on = [(question, seed) for question, seed, n in policy.asked if n == 4]
    drawn = {pair for pair in trained_on if trained_on.count(pair) == 1}
    # 3 steps of 4 prompts: all 8 problems once, 4 of them again with other seeds; held-out ones always with the same
    assert len(drawn) == 12 and len({question for question, _ in drawn}) == 8
    assert sorted(trained_on.count(pair) for pair in set(trained_on) - drawn) == [3, 3]


def test_a_finished_run_says_so(desk, processor, seeds, trained):
    folder, policy, _ = trained
    done = run_forked(SCRIPT, *flags(desk, seeds, policy, folder))
    assert done.returncode == 0 and "finished already" in done.stdout


def test_a_stopped_run_goes_on_with_the_same_steps(desk, processor, seeds, trained, tmp_path):
    whole, _, _ = trained
    folder = tmp_path / "stopped"
    more = ("--eval_file", seeds / "held_out.json", "--eval_every", 2, "--max_outage", 0, "--save_every", 3)
    with Policy(processor) as policy:
        counted = []
        down = Policy(processor, down=lambda request: counted.append(request) or len(counted) > 2 + 4 + 3)
        with down:  # the second step's last problem finds the server gone
            done = run_forked(SCRIPT, *flags(desk, seeds, down, folder, *more))
        assert done.returncode == 3 and "1 of 3 steps done, run again to go on" in done.stderr, done.stderr[-3000:]
        assert [row["step"] for row in steps_of(folder)] == [0, 1]
        done = run_forked(SCRIPT, *flags(desk, seeds, policy, folder, *more))
    assert done.returncode == 0, done.stderr[-3000:]
    assert steps_of(folder) == steps_of(whole)
    assert_same(weights_of(folder), weights_of(whole), atol=0, rtol=0)


def test_an_evaluation_that_was_cut_off_is_made_up_for(desk, processor, seeds, trained, tmp_path):
    whole, _, _ = trained
    folder = tmp_path / "stopped"
    more = ("--eval_file", seeds / "held_out.json", "--eval_every", 2, "--max_outage", 0, "--save_every", 3)
    counted = []
    with Policy(processor, down=lambda request: counted.append(request) or len(counted) > 2 + 4 + 4) as down:
        done = run_forked(SCRIPT, *flags(desk, seeds, down, folder, *more))  # gone in the second step's evaluation
    assert done.returncode == 3 and "2 of 3 steps done" in done.stderr, done.stderr[-3000:]
    assert [row["step"] for row in steps_of(folder)] == [0, 1, 2] and "pass_at_1" not in steps_of(folder)[2]
    with Policy(processor) as policy:
        done = run_forked(SCRIPT, *flags(desk, seeds, policy, folder, *more))
    assert done.returncode == 0, done.stderr[-3000:]
    assert steps_of(folder) == steps_of(whole)


def test_passes_are_over_the_problems_that_drop_solved_leaves(desk, processor, seeds, tmp_path):
    solved = {"id": "p99", "question": "What is 99 + 0?", "correct_answer": "99"}  # always right
    seed_file = seeds / "with_solved.json"
    seed_file.write_text(json.dumps([*json.loads((seeds / "seed.json").read_text()), solved]))
    with Policy(processor) as policy:
        more = ("--seed_file", seed_file, "--drop_solved", "--prompts", 2, "--passes", 2)
        arguments = flags(desk, seeds, policy, tmp_path / "run", *more)
        at = arguments.index("--steps")
        done = run_forked(SCRIPT, *arguments[:at], *arguments[at + 2 :])
    assert done.returncode == 0, done.stderr[-3000:]
    left = sum(0 < row["accuracy"] < 1 for row in read_jsonl(tmp_path / "run" / "drop_solved.jsonl"))
    assert 0 < left < 9 and [row["step"] for row in steps_of(tmp_path / "run")] == list(range(1, left + 1))


def test_what_a_killed_run_left_in_the_folder_of_weights_is_removed(trained, tmp_path):
    run = SimpleNamespace(output=tmp_path / "run", weights=tmp_path, done=3)
    first = Run.new_folder(run)
    run.done = 4
    other = Run.new_folder(SimpleNamespace(output=tmp_path / "other", weights=tmp_path, done=4))
    second = Run.new_folder(run)
    assert not os.path.exists(first) and os.path.isdir(second) and os.path.isdir(other)


def test_a_gradient_that_is_no_number_stops_the_run_before_it_is_kept(desk, processor, seeds, tmp_path):
    with Policy(processor) as policy:
        done = run_forked(SCRIPT, *flags(desk, seeds, policy, tmp_path / "run", "--learning_rate", 1e20))
    assert done.returncode == 1 and ("not finite" in done.stderr or "it does not serve" in done.stderr), done.stderr
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_run_is_gone_on_with_as_it_was_begun(desk, processor, seeds, tmp_path):
    folder = tmp_path / "run"
    with Policy(processor, down=lambda request: True) as policy:
        done = run_forked(SCRIPT, *flags(desk, seeds, policy, folder, "--max_outage", 0))
        assert done.returncode == 3 and "0 of 3 steps done" in done.stderr
        done = run_forked(SCRIPT, *flags(desk, seeds, policy, folder, "--max_outage", 0, "--clip", 0.1))
    assert done.returncode == 2 and "was begun with another --clip; use another" in done.stderr


def join(rank, processes, port):
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in group.items()})


@pytest.mark.parametrize(("name", "tokens"), [("cpgd", 9999), ("grpo", 90)])  # 90: answers split over rows
def test_two_processes_of_two_prompts_are_one_of_four(desk, processor, seeds, tmp_path, name, tokens):
    more = ("--algorithm", name, "--updates_per_rollout", 1, "--steps", 1, "--row_tokens", tokens)
    with Policy(processor) as policy:
        alone = run_forked(SCRIPT, *flags(desk, seeds, policy, tmp_path / "one", *more))
        assert alone.returncode == 0, alone.stderr[-3000:]
        port = free_port()
        both = [
            Forked(SCRIPT, *flags(desk, seeds, policy, tmp_path / "two", *more), before=partial(join, rank, 2, port))
            for rank in (0, 1)
        ]
        for done in [one.wait() for one in both]:
            assert done.returncode == 0, done.stderr[-3000:]
    one, two = (steps_of(tmp_path / folder)[0] for folder in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert two[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    # Adam's first step is the gradient's sign: where it is next to nothing, its rounding decides
    assert_same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_deepspeed_trains_as_plain_torch_does_and_goes_on_where_it_was_stopped(desk, processor, seeds, tmp_path, stage):
    """Protects the engine of a GPU run: the same weights as plain torch, and the same after a stop."""

    def run(name, policy, *more):
        before = partial(one_process, free_port()) if more else None
        return run_forked(SCRIPT, *flags(desk, seeds, policy, tmp_path / name, *more), before=before)

    zero = ("--deepspeed", ROOT / f"internvl_chat/zero_stage{stage}_config.json", "--max_outage", 0)
    counted = []
    with Policy(processor) as policy:
        with Policy(processor, down=lambda request: counted.append(request) or len(counted) > 4 + 3) as down:
            done = run("stopped", down, *zero)  # the second step's last problem finds the server gone
        assert done.returncode == 3 and "1 of 3 steps done" in done.stderr, done.stderr[-3000:]
        for name, more in (("plain", ()), ("zero", zero), ("stopped", zero)):
            done = run(name, policy, *more)
            assert done.returncode == 0, done.stderr[-3000:]
    plain, whole, stopped = (steps_of(tmp_path / name) for name in ("plain", "zero", "stopped"))
    assert whole[0]["gradient_norm"] == pytest.approx(plain[0]["gradient_norm"], rel=1e-3)
    assert_same(weights_of(tmp_path / "plain"), weights_of(tmp_path / "zero"), atol=2e-3, rtol=0)
    assert stopped == whole
    assert_same(weights_of(tmp_path / "stopped"), weights_of(tmp_path / "zero"), atol=0, rtol=0)


def one_process(port):
    join(0, 1, port)
    deepspeed_on_cpu()


def test_a_mismatch_stops_the_run_and_says_why(desk, processor, seeds, tmp_path):
    with Policy(processor) as policy:
        done = run_forked(SCRIPT, *flags(desk, seeds, policy, tmp_path / "run", "--max_mismatch", 0.5))
    assert done.returncode == 1 and "it does not serve the weights that are trained" in done.stderr
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_judge_out_of_reach_stops_the_run_and_pays_nothing(desk, processor, seeds, tmp_path):
    judge = ("--judge", "llm", "--api_endpoint", f"http://127.0.0.1:{free_port()}/v1", "--judge_model", "j")
    with Policy(processor) as policy:
        done = run_forked(SCRIPT, *flags(desk, seeds, policy, tmp_path / "run", *judge, "--max_outage", 0))
    assert done.returncode == 3 and "0 of 3 steps done" in done.stderr and "judge" in done.stderr
    assert not (tmp_path / "run" / "steps.jsonl").exists()


def test_filters_before_and_while_training(desk, processor, seeds, tmp_path):
    more = ("--drop_solved", "--accuracy_bounds", 0.1, 0.9, "--steps", 1, "--prompts", 2, "--kl_coef", 0.1)
    with Policy(processor) as policy:
        done = run_forked(SCRIPT, *flags(desk, seeds, policy, tmp_path / "run", *more))
    assert done.returncode == 0, done.stderr[-3000:]
    row, asked = steps_of(tmp_path / "run")[0], [n for _, _, n in policy.asked]
    assert asked.count(8) == 8 and row["drawn"] == asked.count(4) == 2 + row["filtered"] + row["surplus"]
    kept = [r["accuracy"] for r in read_jsonl(tmp_path / "run" / "drop_solved.jsonl")]
    assert f"{sum(0 < a < 1 for a in kept)} of 8 problems left" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--prompts", 5), "--prompts 5: not a multiple of --updates_per_rollout 2 x 1 processes"),
        (("--prm_mode", "drop"), "--prm_mode drop needs --prm"),
        (("--prm", "x"), "--prm needs a --prm_mode"),
        (("--prm", "x", "--prm_mode", "min", "--accuracy_weight", 0), "--accuracy_weight 0: a PRM's scores alone"),
        (("--rollouts", 1), "--rollouts must be at least 2"),
        (("--bf16", "True"), "--bf16 True needs --deepspeed"),
        (("--freeze_mlp", "yes"), "must be True or False, got yes"),
        (("--temperature", 0), "--temperature must be above 0"),
        (("--clip", 1), "--clip must be below 1"),
        (("--accuracy_bounds", 0.9, 0.1), "--accuracy_bounds: LOW is above HIGH"),
        (("--eval_file", "SEED"), "8 of its problems are in"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_drawn(desk, processor, seeds, tmp_path, more, message):
    more = [seeds / "seed.json" if word == "SEED" else word for word in more]
    with Policy(processor) as policy:
        done = run_forked(SCRIPT, *flags(desk, seeds, policy, tmp_path / "run", *more))
    assert done.returncode == 2 and message in done.stderr and not policy.asked


def test_every_algorithm_takes_a_step(desk, processor, seeds, accelerator):
    problems, _ = read_seed(seeds / "seed.json")
    for name, row in ALGORITHMS.items():
        model = with_drawn_logprobs(load_model(str(desk), torch.float32))
        before = model.lm_head.weight.clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        learner = Learner(accelerator, model, optimizer, Objective(name, PARAMETERS))
        group = group_of(processor, problems[1], 4)
        for answer, value in zip(
            group.answers, advantages(row.advantage, torch.tensor([[1.0, 0, 0, 0]]))[0], strict=True
        ):
            answer.reward, answer.advantage = 1.0, value.item()
        weigh_tokens([group], name)
        made = RowMaker(processor, "tags")(group)
        learner.old([made])
        seen = learner.step([made], means_in([group]), 0.1)
        assert seen["gradient_norm"] > 0 and not torch.equal(model.lm_head.weight, before), name
