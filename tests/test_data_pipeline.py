"""Stages 1 and 2 as a user runs them: scripts, files and exit codes, against a real HTTP policy server."""

import json

import pytest
from conftest import run_forked
from fake_server import ChatServer

STEP = "<step>We read the picture very carefully.</step>"


def policy(request):
    """A deterministic policy: half of the rollouts right, the wrong ones wrong at their second step."""
    user = request["messages"][-1]["content"]
    text = user if isinstance(user, str) else user[-1]["text"]
    if "It is 1" in text:
        return [f"<answer>{'1'}</answer>"] * request["n"]
    right = f"{STEP}<step>It is 75</step><answer>75</answer>"
    wrong = f"{STEP}<step>It is 1</step><answer>1</answer>"
    return [right if i % 2 else wrong for i in range(request["n"])]


def annotate(seed, out, url, *flags):
    return run_forked(
        *["data_pipeline/run_data_pipeline.py", "--input_file", seed, "--output_dir", out, "--policy_endpoint", url],
        *["--model", "m", "--judge", "rule", "--max_outage", "0.6", "--max_search_count", "2", *flags],
    )


def test_chunks_hold_all_records_and_still_find_their_pictures(seed_file, tmp_path):
    done = run_forked(
        *["data_pipeline/process_json.py", "--input_file", seed_file, "--output_dir", tmp_path / "c", "--num_splits", 2]
    )
    assert done.returncode == 0, done.stderr
    parts = [json.loads((tmp_path / "c" / f"questions_part_{n}.json").read_text()) for n in (1, 2)]
    assert [len(part) for part in parts] == [2, 1]
    originals = json.loads(seed_file.read_text())
    for copy, original in zip(parts[0] + parts[1], originals, strict=True):
        assert {**copy, "image_path": 0} == {**original, "image_path": 0}
    assert (tmp_path / "c" / parts[0][0]["image_path"]).resolve() == tmp_path / "p0.png"
    done = run_forked(
        *["data_pipeline/process_json.py", "--input_file", seed_file, "--output_dir", tmp_path / "c", "--num_splits", 4]
    )
    assert done.returncode == 2 and "only 3 problems" in done.stderr
    again = ["data_pipeline/process_json.py", "--output_dir", tmp_path / "c", "--num_splits", 1, "--input_file"]
    done = run_forked(*again, tmp_path / "c" / "questions_part_1.json")
    assert done.returncode == 2 and "is a chunk in --output_dir itself" in done.stderr
    done = run_forked(*again, seed_file)
    assert "questions_part_2.json, of an earlier split" in done.stdout and len(list((tmp_path / "c").iterdir())) == 1


def test_a_bad_seed_file_ends_with_every_record_named(seed_file, tmp_path):
    good = json.loads(seed_file.read_text())[0]
    seed_file.write_text(
        json.dumps([good, {**good, "id": "x", "correct_answer": ""}, {**good, "id": "y", "image_path": "z"}])
    )
    args = [
        "data_pipeline/process_json.py",
        "--input_file",
        seed_file,
        "--output_dir",
        tmp_path / "c",
        "--num_splits",
        1,
    ]
    done = run_forked(*args)
    assert done.returncode == 2 and not (tmp_path / "c").exists()
    assert (
        "record 2 (id x): field 'correct_answer'" in done.stderr
        and "record 3 (id y): field 'image_path'" in done.stderr
    )
    done = run_forked(*args, "--skip_invalid")
    assert done.returncode == 0 and "skipped: " in done.stdout and "id y" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--judge", "guess"], "invalid choice"),
        (["--num_rollouts", "0"], "at least 1"),
        (["--num_rollouts", "8:4"], "must be N or N:MOST with N at most MOST, got 8:4"),
        (["--half_width", "2"], "--half_width"),
        (["--beta", "-1"], "between 0 and 1"),
        (["--temperature", "nan"], "at least 0"),
        (["--checkpoint_every", "-1"], "at least 0, got -1"),
        (["--prefix_mode", "x"], "invalid choice"),
        (["--judge", "llm"], "--api_endpoint"),
        (["--policy_endpoint", "localhost:8000"], "not a URL"),
        (["--unknown"], "unrecognized"),
    ],
)
def test_bad_flags_exit_2(seed_file, tmp_path, flags, message):
    done = annotate(seed_file, tmp_path / "t", "http://127.0.0.1:9/v1", *flags)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_without_a_search_a_problem_is_one_request(seed_file, tmp_path):
    with ChatServer(policy) as server:
        done = annotate(seed_file, tmp_path / "t", server.url, "--num_rollouts", "4", "--max_search_count", "0")
        assert done.returncode == 0, done.stderr
        assert len(server.requests) == 3 and all(request["n"] == 4 for request in server.requests)
    for path in (tmp_path / "t").glob("*.json"):
        root = json.loads(path.read_text())
        assert root["num_rollouts"] == 4 == root["search"]["rollouts"] and root["search"]["searches"] == 0
        assert not any(child["children"] for child in root["children"])


def test_seed_to_trees_and_a_second_run_asks_nobody(seed_file, tmp_path):
    out, log = tmp_path / "t", tmp_path / "log.jsonl"
    with ChatServer(policy) as server:
        done = annotate(seed_file, out, server.url, "--num_rollouts", "4", "--log_file", log)
        assert done.returncode == 0, done.stderr
        trees = {tree["id"]: tree for tree in (json.loads(path.read_text()) for path in out.glob("*.json"))}
        assert set(trees) == {"a", "2", "c"}
        root = trees["a"]
        assert root["mc_value"] == 0.5 and root["num_rollouts"] == 4 and root["correct_counts"] == [2]
        assert root["image_path"] == str(tmp_path / "p0.png") and trees["c"]["image_path"] is None
        assert root["search"]["parameters"]["num_rollouts"] == 4 and root["search"]["judge"] == "rule"
        # The first step is good, the second is the first error.
        leaf, wrong, good = root["children"][:3]
        assert (leaf["mc_value"], wrong["mc_value"], good["mc_value"]) == (1, 0, 0.5)
        assert wrong["partial_solution"] == ["We read the picture very carefully.", "It is 1"]
        assert good["partial_solution"] == ["We read the picture very carefully."]
        assert {json.loads(line)["id"] for line in log.read_text().splitlines()} == {"a", "2", "c"}
        images = [part["type"] for part in server.requests[-1]["messages"][0]["content"]]
        assert images[-1] == "text" and all(kind == "image_url" for kind in images[:-1])
        before, asked = {p: p.read_bytes() for p in out.iterdir()}, len(server.requests)
        again = annotate(seed_file, out, server.url, "--num_rollouts", "4")
        assert again.returncode == 0 and "3 trees already there" in again.stdout
        assert len(server.requests) == asked and {p: p.read_bytes() for p in out.iterdir()} == before
        assert "warning" not in again.stderr
        other = annotate(seed_file, out, server.url, "--num_rollouts", "5", "--seed", "1")
        assert other.returncode == 0 and "was made with another --seed, --num_rollouts" in other.stderr


def test_no_two_requests_of_a_run_share_a_sample_seed(seed_file, tmp_path):
    # The server gives sample i of a request the seed `seed + i`.
    with ChatServer(policy) as server:
        annotate(seed_file, tmp_path / "t", server.url, "--num_rollouts", "4")
        one_by_one = {str(request): request["seed"] for request in server.requests}
    used = [seed + i for seed in one_by_one.values() for i in range(4)]
    assert len(one_by_one) > 6 and len(set(used)) == len(used)


def test_trees_do_not_depend_on_how_many_are_grown_at_once(seed_file, tmp_path):
    with ChatServer(policy) as server:
        for width in ("1", "3"):
            annotate(seed_file, tmp_path / width, server.url, "--num_rollouts", "4", "--concurrency", width)
    one, three = ({p.name: p.read_bytes() for p in (tmp_path / width).iterdir()} for width in ("1", "3"))
    assert one == three and len(one) == 3


def test_the_prefix_travels_in_the_question_or_as_the_reply(seed_file, tmp_path):
    for mode in ("prompt", "prefill"):
        with ChatServer(policy) as server:
            annotate(seed_file, tmp_path / mode, server.url, "--num_rollouts", "2", "--prefix_mode", mode)
            longer = [r for r in server.requests if "carefully" in str(r["messages"])]
            assert longer
            for request in longer:
                if mode == "prefill":
                    assert request["messages"][-1]["role"] == "assistant" and request["continue_final_message"]
                    assert request["messages"][-1]["content"].startswith(STEP)
                else:
                    text = request["messages"][0]["content"][-1]["text"]
                    assert f"\nPrevious Steps: {STEP}" in text and "continue_final_message" not in request


def test_a_policy_that_is_down_leaves_every_problem_unfinished_and_the_next_run_finishes(seed_file, tmp_path):
    done = annotate(seed_file, tmp_path / "t", "http://127.0.0.1:9/v1")
    assert done.returncode == 3 and list((tmp_path / "t").iterdir()) == []
    assert "3 of 3 problems unfinished" in done.stderr
    assert all(f"  {id_}: policy" in done.stderr for id_ in ("a", "2", "c"))
    with ChatServer(policy) as server:
        assert annotate(seed_file, tmp_path / "t", server.url, "--num_rollouts", "2").returncode == 0
    assert len(list((tmp_path / "t").iterdir())) == 3


def test_a_refused_request_is_not_tried_again(seed_file, tmp_path):
    with ChatServer(lambda request: 400) as server:
        done = annotate(seed_file, tmp_path / "t", server.url)
        assert done.returncode == 3 and "refused" in done.stderr and len(server.requests) == 3


def test_a_server_that_stumbles_is_tried_again(seed_file, tmp_path):
    stumbles = iter([503, 429, 500])

    def reply(request):
        return next(stumbles, None) or policy(request)

    with ChatServer(reply) as server:
        done = annotate(seed_file, tmp_path / "t", server.url, "--num_rollouts", "2", "--max_outage", "20")
        assert done.returncode == 0, done.stderr


def test_a_judge_that_is_down_makes_no_tree(seed_file, tmp_path):
    judge = ["--judge", "llm", "--api_endpoint", "http://127.0.0.1:9/v1", "--judge_model", "j"]
    with ChatServer(policy) as server:
        done = annotate(seed_file, tmp_path / "t", server.url, *judge)
    assert done.returncode == 3 and "judge" in done.stderr and list((tmp_path / "t").glob("*.json")) == []


def test_rollouts_for_evaluation_resume_and_keep_the_order(seed_file, tmp_path):
    out = tmp_path / "rollouts.json"
    args = [
        "eval/generate_rollouts.py",
        "--data",
        seed_file,
        "--output_file",
        out,
        "--model",
        "m",
        "--num_rollouts",
        "4",
    ]
    args += ["--max_outage", "0.6", "--policy_endpoint"]

    def one_refused(request):
        return 400 if "Which one" in str(request) else policy(request)

    with ChatServer(one_refused) as server:
        done = run_forked(*args, server.url)
        assert done.returncode == 3 and "1 of 3 problems unfinished" in done.stderr and not out.exists()
    partial = tmp_path / "rollouts.json.partial.jsonl"
    partial.write_text(partial.read_text() + '{"key": "cut sho')  # what SIGKILL in a write leaves
    with ChatServer(policy) as server:
        other = run_forked(*args, server.url, "--seed", "1")
        assert other.returncode == 2 and "begun with other flags" in other.stderr
        done = run_forked(*args, server.url)
        assert done.returncode == 0, done.stderr
        assert len(server.requests) == 1
    records = json.loads(out.read_text())
    assert [record["id"] for record in records] == ["a", "2", "c"] and not partial.exists()
    assert run_forked(*args, "http://127.0.0.1:9/v1").returncode == 0
    other = run_forked(*args, "http://127.0.0.1:9/v1", "--seed", "1")
    assert other.returncode == 2 and "rollouts.json was made with another --seed" in other.stderr
    assert records[0]["labels"] == [0, 1, 0, 1] and records[0]["answers"] == ["1", "75", "1", "75"]
    assert records[0]["solutions_splits"][1] == ["We read the picture very carefully.", "It is 75", "75"]
    assert records[0]["logprobs"] == [-1.5] * 4
    run = json.loads((tmp_path / "rollouts_run.json").read_text())
    assert run["seed"] == 0 and run["num_rollouts"] == 4 and run["policy"] == "m" and run["top_k"] == 50
