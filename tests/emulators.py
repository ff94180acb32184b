"""Emulators of Snowflake (fakesnow) and BigQuery (bqemulator), over HTTP on 127.0.0.1.

They are in an environment of their own, which ``make test-emulators`` creates. The program
`run_emulator` starts one of them.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.options import skip_without

PYTHON = Path(__file__).parents[1] / ".venv" / "emulators" / "bin" / "python"
PROGRAM = Path(__file__).with_name("run_emulator.py")


@contextmanager
def emulator(command, port, log):
    """Run an emulator until the block is left; skips the test if its environment is missing."""
    if not PYTHON.exists():
        skip_without("The emulators' environment (make test-emulators)")
    with log.open("wb") as output:
        process = subprocess.Popen([PYTHON, PROGRAM, *command], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while not listens(port):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def google_key(folder):
    """A key file of a service account, and the service that gives tokens for it."""
    with HTTPServer(("127.0.0.1", 0), _Tokens) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield make_key(folder, f"http://127.0.0.1:{service.server_port}/token")
        service.shutdown()
        thread.join()


def make_key(folder, token_uri):
    """A valid key file of a service account."""
    private = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {"type": "service_account", "project_id": "project", "client_email": "me@project"}
    file = folder / "key.json"
    file.write_text(
        json.dumps({**account, "private_key": private.decode(), "token_uri": token_uri})
    )
    return file


class _Tokens(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"access_token": "token", "expires_in": 3600}')

    def log_message(self, *args):
        return
