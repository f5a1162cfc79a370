"""The launcher of the policy server, with small real processes in the server's place."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT, run_script
from serve_policy import serve_while, server_command

from mm_prm.cli import BadInput, Fault

SERVER = """
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(tmp_path, server, command, port, timeout=10):
    return serve_while(command, server, port, tmp_path / "server.log", timeout)


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
    done = run_script("data_pipeline/serve_policy.py", "--model", tmp_path, "--", "true")
    assert done.returncode == 2 and "config.json is missing" in done.stderr


def test_one_replica_per_gpu_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr("serve_policy.gpu_count", lambda: 8)
    command = server_command("m", "policy", 1, [])
    assert command[command.index("--data-parallel-size") + 1] == "8"
    assert "--data-parallel-size" not in server_command("m", "policy", 1, ["--tensor-parallel-size=8"])


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_survives_the_launcher(tmp_path, name):
    port, child = free_port(), tmp_path / "child.py"  # a script below a shell, as in the shell scripts
    child.write_text("import time; from mm_prm import cli; cli.run(lambda: time.sleep(60))")
    launcher = f"""
from pathlib import Path
from serve_policy import serve_while
import sys
serve_while(["sh", "-c", "{sys.executable} {child} {port}; true"],
            [sys.executable, "-c", {SERVER!r}, "{port}"], {port}, Path({str(tmp_path / "log")!r}), 10)
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
        (
            "internvl_chat/shell/internvl2.5/2nd_finetune/internvl2_5_38b_dynamic_res_2nd_finetune_full_prm.sh",
            {},
            "MODEL_PATH=",
        ),
        (
            "internvl_chat/shell/internvl2.5/2nd_finetune/internvl2_5_38b_dynamic_res_2nd_finetune_full_prm.sh",
            {"PRESET": "x"},
            "must be paper or released",
        ),
        ("eval/evaluate.sh", {}, "usage"),
    ],
)
def test_shell_scripts_say_what_is_missing(script, env, message):
    done = subprocess.run(
        ["sh", script], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2 and message in done.stderr
