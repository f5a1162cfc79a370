"""The launcher of the policy server, with small real processes in the server's place."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import serve_policy
from conftest import ROOT
from serve_policy import Server, serve_while, start

from mm_prm.cli import BadInput, Fault

SERVER = """
import http.server, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/v1/die":
            os._exit(9)
        self.send_response(200); self.end_headers()
        self.wfile.write(os.environ.get("CUDA_VISIBLE_DEVICES", "").encode())
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(tmp_path, server, command, port, timeout=10):
    return serve_while(command, [Server(server, port, tmp_path / "server.log")], timeout)


def two_servers(tmp_path):
    ports = [free_port(), free_port()]
    return [
        Server([sys.executable, "-c", SERVER, str(port)], port, tmp_path / f"server_{index}.log", gpus)
        for index, (port, gpus) in enumerate(zip(ports, (["4", "5"], ["GPU-6f", "7"]), strict=True))
    ]


def beside(body):
    """A command that has the URLs of its servers in `urls`."""
    given = "import os, sys, time, urllib.request as r; urls = os.environ['POLICY_ENDPOINT'].split(',')"
    die = "def die(url):\n    try: r.urlopen(url + '/die')\n    except OSError: pass"
    return [sys.executable, "-c", f"{given}\n{die}\n{body}"]


def is_up(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def runs(script):
    listed = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True).stdout.splitlines()
    return any(str(script) in line and "serve_while" not in line for line in listed)


@pytest.fixture(autouse=True)
def keep_signals():
    kept = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for name, handler in kept.items():
        signal.signal(name, handler)


def test_the_command_runs_beside_a_healthy_server_and_its_exit_code_is_ours(tmp_path):
    port = free_port()
    check = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/health'); raise SystemExit(7)"
    server = [sys.executable, "-c", SERVER, str(port)]
    assert serve(tmp_path, server, [sys.executable, "-c", check], port) == 7
    assert not is_up(port)


def test_a_server_that_dies_shows_the_end_of_its_log(tmp_path):
    dying = [sys.executable, "-c", "print('no such weights'); raise SystemExit(9)"]
    with pytest.raises(Fault, match=r"died \(exit code 9\)(.|\n)*no such weights"):
        serve(tmp_path, dying, ["true"], free_port())


def test_a_server_that_never_gets_healthy_is_stopped(tmp_path):
    sleeping = [sys.executable, "-c", "print('loading', flush=True); import time; time.sleep(60)"]
    started = time.monotonic()
    with pytest.raises(Fault, match=r"not healthy after 1 s(.|\n)*loading"):
        serve(tmp_path, sleeping, ["true"], free_port(), timeout=1)
    assert time.monotonic() - started < 20


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BadInput, match="is in use"):
            serve(tmp_path, ["false"], ["true"], taken.getsockname()[1])


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    command = [sys.executable, "data_pipeline/serve_policy.py", "--model", tmp_path, "--", "true"]  # as a user does
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "config.json is missing" in done.stderr


def test_every_server_has_its_gpus_and_the_command_finds_all_of_them(tmp_path, capfd):
    servers = two_servers(tmp_path)
    assert serve_while(beside("print([r.urlopen(url).read().decode() for url in urls], urls)"), servers, 10) == 0
    urls = [f"http://127.0.0.1:{server.port}/v1" for server in servers]
    assert f"{['4,5', 'GPU-6f,7']} {urls}" in capfd.readouterr().out
    assert not any(is_up(server.port) for server in servers)


def test_one_of_two_servers_may_die(tmp_path, capfd):
    servers = two_servers(tmp_path)
    assert serve_while(beside("die(urls[0]); time.sleep(0.5); r.urlopen(urls[1]); sys.exit(7)"), servers, 10) == 7
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and str(servers[0].log) in warnings[0]
    assert f"port {servers[0].port} died (exit code 9), 1 left" in warnings[0]


def test_the_last_server_may_not_die(tmp_path):
    started = time.monotonic()
    with pytest.raises(Fault, match=r"died \(exit code 9\)(.|\n)*GET /health"):
        serve_while(beside("die(urls[0]); die(urls[1]); time.sleep(60)"), two_servers(tmp_path), 10)
    assert time.monotonic() - started < 20


def test_a_server_may_not_die_before_all_are_healthy(tmp_path):
    healthy, _ = two_servers(tmp_path)
    dying = Server([sys.executable, "-c", "raise SystemExit(9)"], free_port(), tmp_path / "dying.log")
    with pytest.raises(Fault, match=r"died \(exit code 9\)"):
        serve_while(["true"], [healthy, dying], 10)
    assert not is_up(healthy.port)


def planned(monkeypatch, tmp_path, gpus, *flags):
    """The servers that a call with these flags would start."""
    (tmp_path / "config.json").touch()
    seen = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr("sys.argv", ["serve_policy.py", "--model", str(tmp_path), *flags, "--", "true"])
    monkeypatch.setattr(serve_policy, "serve_while", lambda command, servers, timeout: seen.extend(servers) or 0)
    with pytest.raises(SystemExit):
        serve_policy.main()
    return seen


@pytest.mark.parametrize(
    ("gpus", "flags", "groups"),
    [
        ("0,1,2", "", ["0", "1", "2"]),
        ("GPU-a, GPU-b,7,3", "-tp 2", ["GPU-a GPU-b", "7 3"]),
        ("0,1,2,3", "--tensor-parallel-size=4", ["0 1 2 3"]),
        ("0,1,2,3", "--tensor-parallel-size 2 --replicas 1", ["0 1"]),
        ("0,1,2,3", "--data-parallel-size=2 --tensor_parallel_size 2", ["0 1 2 3"]),
        ("0,1,2,3", "-dp 4", ["0 1 2 3"]),
        ("0,1", "-tp 4", ["0 1"]),
        ("0", "", ["0"]),
        ("", "", [""]),
        ("-1", "--replicas 2", ["", ""]),
    ],
)
def test_each_group_of_gpus_gets_a_server(monkeypatch, tmp_path, gpus, flags, groups):
    servers = planned(monkeypatch, tmp_path, gpus, "--port", "9000", "--log", "logs/s.log", *flags.split())
    assert [" ".join(server.gpus) for server in servers] == groups
    assert [server.port for server in servers] == [9000 + index for index in range(len(groups))]
    assert all(f"--port {server.port}" in " ".join(server.command) for server in servers)
    many = [Path(f"logs/s_{index}.log") for index in range(len(groups))]
    assert [server.log for server in servers] == (many if len(groups) > 1 else [Path("logs/s.log")])
    assert all(("--enforce-eager" in server.command) == (not server.gpus) for server in servers)


def test_flags_of_vllm_reach_every_server(monkeypatch, tmp_path):
    for server in planned(monkeypatch, tmp_path, "0,1,2,3", "-tp=2", "--max-model-len", "512"):
        assert " ".join(server.command).endswith("--max-model-len 512")
        assert server.command[server.command.index("--tensor-parallel-size") + 1] == "2"


def test_gpus_that_stay_idle_are_named_and_missing_ones_refused(monkeypatch, tmp_path, capsys):
    assert len(planned(monkeypatch, tmp_path, "0,1,2,6,7", "-tp", "2")) == 2
    assert "idle GPUs: 7 (" in capsys.readouterr().out
    with pytest.raises(BadInput, match="--replicas 3: each needs 2 GPUs"):
        serve_policy.gpu_groups(["0", "1", "2", "3"], 2, 3, [])


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_survives_the_launcher(tmp_path, name):
    port, child = free_port(), tmp_path / "child.py"  # a script below a shell, as in the shell scripts
    child.write_text("import time; from mm_prm import cli; cli.run(lambda: time.sleep(60))")
    launcher = f"""
from importlib.metadata import entry_points
from pathlib import Path
from serve_policy import Server, serve_while, start
import sys
server = Server([sys.executable, "-c", {SERVER!r}, "{port}"], {port}, Path({str(tmp_path / "log")!r}))
serve_while(["sh", "-c", "{sys.executable} {child} {port}; true"], [server], 10)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "data_pipeline")}
    process = subprocess.Popen([sys.executable, "-c", launcher], env=env, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "healthy" in line:
            break
    deadline = time.monotonic() + 10
    while not runs(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert runs(child)
    time.sleep(1)  # until it has asked to die with its parent
    urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
    process.send_signal(name)
    process.wait(20)
    deadline = time.monotonic() + 10
    while (is_up(port) or runs(child)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_up(port) and not runs(child)


@pytest.mark.parametrize(
    ("script", "env", "message"),
    [
        ("data_pipeline/run_data_pipeline.sh", {}, "set POLICY_MODEL"),
        ("data_pipeline/run_data_pipeline.sh", {"POLICY_ENDPOINT": "x", "SPLIT_DIR": "/none"}, "questions_part_"),
        ("eval/evaluate.sh", {}, "usage"),
    ],
)
def test_shell_scripts_say_what_is_missing(script, env, message):
    done = subprocess.run(
        ["sh", script], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2 and message in done.stderr


def pipeline(tmp_path, worker, parts=(), **env):
    """Environment of run_data_pipeline.sh on some chunks; `worker` is the shell script that stands in for Python."""
    for part in parts:
        (tmp_path / f"questions_part_{part}.json").touch()
    (tmp_path / "python").write_text(f"#!/bin/sh\n{worker}\n")
    (tmp_path / "python").chmod(0o755)
    own = {"PYTHON": tmp_path / "python", "SPLIT_DIR": tmp_path, "LOG_DIR": tmp_path, "OUT": tmp_path / "calls"}
    return {**os.environ, "POLICY_ENDPOINT": "http://h/v1", **{key: str(value) for key, value in (own | env).items()}}


def annotate(env, shell="sh"):
    done = subprocess.run(
        [shell, "data_pipeline/run_data_pipeline.sh"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30
    )
    calls = Path(env["OUT"]).read_text().split() if Path(env["OUT"]).exists() else []
    return done, [int(call.rsplit("_", 1)[1].removesuffix(".json")) for call in calls]


@pytest.mark.parametrize(
    ("nodes", "rank", "parts"), [(1, 0, [1, 2, 3, 9, 10, 11]), (4, 0, [1, 10]), (4, 1, [2, 11]), (4, 3, [9])]
)
def test_each_node_takes_its_chunks_in_natural_order(tmp_path, nodes, rank, parts):
    env = pipeline(tmp_path, 'echo "$3" >>"$OUT"', [10, 9, 1, 2, 3, 11, "x"], NNODES=nodes, NODE_RANK=rank)
    done, calls = annotate(env)
    assert done.returncode == 0 and calls == parts, done.stderr


def test_a_node_without_a_chunk_says_so_and_starts_no_server(tmp_path):
    env = pipeline(tmp_path, "exit 1", [1], NNODES=2, NODE_RANK=1, POLICY_MODEL="m", POLICY_ENDPOINT="")
    done, _ = annotate(env)
    assert done.returncode == 0 and "node 1 of 2" in done.stdout


@pytest.mark.parametrize(("nodes", "rank"), [("2", "2"), ("2", "-1"), ("2", "a"), ("b", "0"), ("0", "0")])
def test_a_bad_rank_is_one_line(tmp_path, nodes, rank):
    done, _ = annotate(pipeline(tmp_path, "exit 1", [1], NNODES=nodes, NODE_RANK=rank))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and f"NODE_RANK={rank}" in done.stderr


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize(
    ("codes", "ours", "parts"), [("0 0 0", 0, [1, 2, 3]), ("0 3 0", 3, [1, 2, 3]), ("3 1 0", 1, [1, 2])]
)
def test_unfinished_problems_let_the_next_chunk_go_on_and_a_fault_does_not(tmp_path, shell, codes, ours, parts):
    worker = f'echo "$3" >>"$OUT"\nset -- {codes}\nshift $(($(wc -l <"$OUT") - 1))\nexit $1'
    done, calls = annotate(pipeline(tmp_path, worker, [1, 2, 3]), shell)
    assert (done.returncode, calls) == (ours, parts), done.stderr


def test_the_launcher_calls_the_chunks_back_with_its_endpoints(tmp_path):
    worker = """[ -z "${MM_PRM_CHECK:-}" ] || exit 0
      case $1 in *serve_policy.py)
        echo "$@"
        while [ "$1" != -- ]; do shift; done
        shift
        POLICY_ENDPOINT=http://own/v1 exec "$@" ;;
      esac
      test "$POLICY_ENDPOINT $MM_PRM_DIE_WITH_PARENT" = "http://own/v1 1" && echo "$3" >>"$OUT" """
    env = pipeline(tmp_path, worker, [1, 2, 3], NNODES=2, POLICY_MODEL="m", POLICY_ENDPOINT="", VLLM_ARGS="-tp 2")
    done, calls = annotate(env)
    assert done.returncode == 0 and calls == [1, 3], done.stderr
    assert f"--log {tmp_path}/policy_server_node0.log -tp 2 --" in done.stdout


@pytest.mark.parametrize(
    ("shell", "name", "code", "ours"),
    [
        ("sh", signal.SIGTERM, 3, 3),
        ("bash", signal.SIGTERM, 3, 3),
        ("sh", signal.SIGINT, 143, 143),
        ("bash", signal.SIGINT, 0, 3),  # the chunk was done, the next one was not
        ("sh", signal.SIGHUP, 0, 3),
    ],
)
def test_a_signal_reaches_the_worker_and_no_other_chunk_is_begun(tmp_path, shell, name, code, ours):
    worker = f"""trap 'kill $!; sleep 0.3; touch "$OUT.saved"; exit {code}' TERM
sleep 30 &
echo "$3" >>"$OUT"
wait"""
    env = pipeline(tmp_path, worker, [1, 2])
    process = subprocess.Popen(
        [shell, "data_pipeline/run_data_pipeline.sh"],
        cwd=ROOT,
        env=env,
        preexec_fn=lambda: signal.signal(name, signal.SIG_DFL),  # the tests may run where it is ignored
    )
    deadline = time.monotonic() + 10
    while not (tmp_path / "calls").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(name)
    assert process.wait(10) == ours
    assert (tmp_path / "calls.saved").exists() and len((tmp_path / "calls").read_text().split()) == 1


def test_a_server_on_a_cpu_waits_asleep_and_every_message_wakes_it(monkeypatch, tmp_path):
    """Its processes wait for each other's messages without spinning: vLLM takes the installed plugin's word for it."""
    shm_broadcast = pytest.importorskip("vllm.distributed.device_communicators.shm_broadcast")
    zmq = pytest.importorskip("zmq")
    as_it_is = shm_broadcast.SpinCondition
    monkeypatch.setattr(shm_broadcast, "SpinCondition", as_it_is)
    (plugin,) = [found for found in entry_points(group="vllm.general_plugins") if found.name == "mm_prm"]
    monkeypatch.delenv("MM_PRM_VLLM_SPIN", raising=False)
    plugin.load()()
    assert shm_broadcast.SpinCondition is as_it_is  # on a GPU
    for name, value in serve_policy.cpu_variables().items():
        monkeypatch.setenv(name, value)
    plugin.load()()
    with zmq.Context() as context:
        address = f"ipc://{tmp_path}/notify"
        writer = shm_broadcast.SpinCondition(is_reader=False, context=context, notify_address=address)
        reader = shm_broadcast.SpinCondition(is_reader=True, context=context, notify_address=address)
        listener = context.socket(zmq.SUB)  # keeps them all, where a reader keeps the last
        listener.setsockopt_string(zmq.SUBSCRIBE, "")
        listener.connect(address)
        while not listener.poll(50):  # until it is known to the writer
            writer.notify()
        while listener.poll(200):
            listener.recv()
        for _ in range(100):
            writer.notify()
        woken = 0
        while woken < 100 and listener.poll(5000):
            listener.recv()
            woken += 1
        assert (reader.busy_loop_s, woken) == (0, 100)
        for one in (listener, writer.local_notify_socket, reader.local_notify_socket):
            one.close(linger=0)
        reader.write_cancel_socket.close(linger=0), reader.read_cancel_socket.close(linger=0)


@pytest.mark.parametrize(
    ("script", "seed", "message"),
    [
        (["data_pipeline/run_data_pipeline.sh", "--jugde", "rule"], {}, "--jugde"),
        (["data_pipeline/run_data_pipeline.sh"], {"image_path": "none.png"}, "none.png"),
        (["eval/evaluate.sh", "prm", "seed/questions_part_1.json", "--jugde", "rule"], {}, "--jugde"),
    ],
)
def test_flags_and_problems_are_read_before_a_server_is_started(tmp_path, script, seed, message):
    problem = {"id": "1", "question": "2 + 2?", "correct_answer": "4"} | seed
    for folder, name, text in (
        ("prm", "config.json", "{}"),
        ("seed", "questions_part_1.json", json.dumps([problem])),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    env = {**os.environ, "PYTHON": sys.executable, "POLICY_MODEL": "policy", "SPLIT_DIR": "seed", "LOG_DIR": "logs"}
    command = ["sh", ROOT / script[0], *script[1:]]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and message in done.stderr and "waiting for" not in done.stdout


def test_a_command_beside_the_servers_finds_the_python_that_started_it(tmp_path):
    env = {"PATH": "/usr/bin:/bin"}
    with start(
        ["python", "-c", f"import sys; open({str(tmp_path / 'who')!r}, 'w').write(sys.prefix)"], None, env
    ) as one:
        one.wait()
    assert (tmp_path / "who").read_text() == sys.prefix
