"""A real HTTP server that speaks chat completions with scripted replies, for tests of clients and their faults."""

import hashlib
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer:
    """`reply(request)` returns the texts of the n choices (or their messages' fields), an HTTP status to fail with, or
    bytes to send as they are.

    Use as a context. requests: all that came; lives: whether it answers other questions while one is kept waiting.
    """

    def __init__(self, reply, port=0, finish_reason="stop", top_logprobs=(), lives=False):
        outer, self.requests = self, []
        self.finish_reason, self.top_logprobs = finish_reason, list(top_logprobs)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(request)
                out = reply(request)
                status = out if isinstance(out, int) else 200
                body = out if isinstance(out, bytes) else json.dumps({"message": "refused"}).encode()
                if isinstance(out, list):
                    body = json.dumps(outer.completion(out, request.get("stop") or ())).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "text/html" if isinstance(out, bytes) else "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client was killed

            def do_GET(self):
                self.send_error(404 if lives else 503)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def completion(self, texts, stop=()):
        token = {"token": "t", "logprob": -0.5, "top_logprobs": self.top_logprobs}
        choices = [
            {
                "index": i,
                "finish_reason": self.finish_reason,
                "stop_reason": next((end for end in stop if isinstance(text, str) and text.endswith(end)), None),
                "message": {"role": "assistant", **(text if isinstance(text, dict) else {"content": text})},
                "logprobs": {"content": [token] * 3},
            }
            for i, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 1, "completion_tokens": 3 * len(texts), "total_tokens": 4}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        return {**head, "choices": choices, "usage": usage}

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


def text_of(request):
    """The text of a request's user message."""
    content = request["messages"][0]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


UNSURE = "as many as before"  # what no rule can compare with a number


def seeded_policy(request):
    """A deterministic policy with slips: the same request gets the same n solutions; a slip makes the answer wrong.

    The right answer is 75; on UNSURE the rules give no verdict. Steps repeat between rollouts, so trees have shared
    prefixes and equal rollouts.
    """
    text = text_of(request)
    rng = random.Random(hashlib.md5(json.dumps([text, request["seed"]]).encode()).digest())
    before = text.partition("Previous Steps:")[2]
    solutions = []
    for _ in range(request["n"]):
        slipped, out = "slip" in before, ""
        for number in range(before.count("<step>"), 6):
            kind = rng.choices(["we read", "we add", "we slip"], [5, 3, 1])[0]
            slipped |= kind == "we slip"
            out += f"<step>{kind} in part {number} of the problem</step>"
        solutions.append(f"{out}<answer>{rng.choice(['57', '15', UNSURE]) if slipped else 75}</answer>")
    return solutions


def one_step(policy):
    """The policy for a client that may ask it to stop: the text up to the first of the request's stops."""

    def reply(request):
        texts = policy(request)
        for end in request.get("stop") or ():
            texts = [text[: text.index(end) + len(end)] if end in text else text for text in texts]
        return texts

    return reply
