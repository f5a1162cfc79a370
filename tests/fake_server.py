"""A real HTTP server that speaks chat completions with scripted replies, for tests of clients and their faults."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer:
    """`reply(request)` returns the texts of the n choices, or an HTTP status to fail with. Use as a context."""

    def __init__(self, reply, port=0):
        outer, self.requests = self, []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(request)
                out = reply(request)
                body = json.dumps(outer.completion(out) if isinstance(out, list) else {"message": "refused"}).encode()
                self.send_response(200 if isinstance(out, list) else out)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @staticmethod
    def completion(texts):
        tokens = {"content": [{"token": "t", "logprob": -0.5, "top_logprobs": []}] * 3}
        choices = [
            {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": t}, "logprobs": tokens}
            for i, t in enumerate(texts)
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
