"""Stands for a router or a worker where only the launcher is tested: ready after a while, stops when told.

What it shall do comes in `STUB_*` variables; what it did goes, line by line, into the file `STUB_JOURNAL`.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def run(name: str, port: int) -> None:
    started, says = time.monotonic(), os.environ.get("STUB_SAYS", "a warning")
    print("only --verbose shows this", file=sys.stderr)
    print(
        json.dumps({"level": "warning", "message": says, "action": "stub", "of": name}),
        file=sys.stderr,
    )
    if os.environ.get("STUB_CRASH") == name:
        print("the reason why", file=sys.stderr)
        raise SystemExit(7)

    class Probe(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready = time.monotonic() - started > 0.5
            body = json.dumps({"ready": ready, "stage": "ready" if ready else "loading"}).encode()
            self.send_response(200 if ready else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((os.environ["WARMBASE_HOST"], port), Probe)

    def stop(*_: object) -> None:
        _journal(f"{name} is asked to stop")
        if os.environ.get("STUB_STUBBORN") != name:
            threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever(poll_interval=0.05)
    _journal(f"{name} has stopped")


def _journal(line: str) -> None:
    if "STUB_JOURNAL" in os.environ:
        with Path(os.environ["STUB_JOURNAL"]).open("a") as journal:
            journal.write(line + "\n")
