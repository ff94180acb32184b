"""Object stores on 127.0.0.1: moto and SeaweedFS (S3), fake-gcs-server and Azurite.

`make test-emulators` installs them into the environment of the emulators. A gateway is between
them and the warehouse: it counts requests, and it translates Google's XML API, which obstore
writes with, into the JSON API, since fake-gcs-server checks conditions there only.
"""

from __future__ import annotations

import hmac
import json
import subprocess
import threading
import time
from base64 import b64decode, b64encode
from contextlib import closing, contextmanager
from email.utils import formatdate
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import boto3
import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from tests.emulators import PYTHON, listens
from tests.options import skip_without
from tests.processes import free_port

STORES = ("moto", "seaweedfs", "fake-gcs-server", "azurite")
HOME = PYTHON.parents[1]
AZURE_ACCOUNT = "devstoreaccount1"
# The account of every Azurite: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


class Gateway(ThreadingHTTPServer):
    """Forwards requests to a server.

    Attributes:
        requests: the method and path of each request.
        most_at_once: how many requests were open at once at most.
        honours_conditions: whether it forwards conditions.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port, *, is_google=False):
        super().__init__(("127.0.0.1", 0), _Forwarder)
        self.port = port
        self.is_google = is_google
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.honours_conditions = True
        self._lock = threading.Lock()
        self.reset()

    def reset(self):
        """Forget the requests."""
        self.requests, self._open, self.most_at_once = [], 0, 0

    @contextmanager
    def counted(self, request):
        with self._lock:
            self.requests.append(request)
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
        yield
        with self._lock:
            self._open -= 1

    def handle_error(self, request, client_address):
        """A killed client closed its connection."""


class _Forwarder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        with self.server.counted(f"{self.command} {self.path}"):
            self._send(*self._exchange())

    def _exchange(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        # fake-gcs-server lists objects only for the host that it was started for.
        dropped = {"connection", *(["host"] if self.server.is_google else [])}
        if not self.server.honours_conditions:
            dropped |= {"if-match", "if-none-match"}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        method, path = self.command, self.path
        if method == "PUT" and self.server.is_google:
            method, path, headers, body = _as_json_upload(path, headers, body)
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, dict(reply.headers), content

    def _send(self, status, headers, content):
        if content.startswith(b'{"kind":"storage#object"') and self.command == "PUT":
            written = json.loads(content)
            headers |= {"ETag": written["etag"], "x-goog-generation": written["generation"]}
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in {"transfer-encoding", "connection", "content-length", "date"}:
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        length = headers.get("Content-Length", "0") if is_head else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if not is_head:
            self.wfile.write(content)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815 - the names of the base class

    def log_message(self, *args):
        return


def _as_json_upload(path, headers, body):
    """A PUT of Google's XML API as an upload of its JSON API."""
    bucket, _, name = urlsplit(path).path[1:].partition("/")
    generation = next(
        (v for k, v in headers.items() if k.lower() == "x-goog-if-generation-match"), ""
    )
    condition = f"&ifGenerationMatch={generation}" if generation else ""
    metadata = json.dumps({"name": unquote(name)}).encode()
    parts = b"".join(
        b"--limit\r\nContent-Type: %s\r\n\r\n%s\r\n" % part
        for part in ((b"application/json", metadata), (b"application/octet-stream", body))
    )
    target = f"/upload/storage/v1/b/{quote(bucket)}/o?uploadType=multipart{condition}"
    return (
        "POST",
        target,
        {"Content-Type": "multipart/related; boundary=limit"},
        parts + b"--limit--",
    )


@contextmanager
def running_store(name, folder):
    """A gateway to a store, and the environment and URL by which users would reach it."""
    port = free_port()
    command = _command(name, port, folder)
    if not PYTHON.exists() or not Path(command[0]).exists():
        skip_without("The emulators' environment (make test-emulators)")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + 60
        while not listens(port):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        with Gateway(port, is_google=name == "fake-gcs-server") as gateway:
            thread = threading.Thread(target=gateway.serve_forever)
            thread.start()
            yield RunningStore(name, gateway, folder)
            gateway.shutdown()
            thread.join()
    finally:
        process.kill()
        process.wait(30)


def _command(name, port, folder):
    at = ["127.0.0.1", str(port)]
    if name == "moto":
        return [HOME / "bin" / "moto_server", "-H", at[0], "-p", at[1]]
    if name == "azurite":
        program = HOME / "node" / "node_modules" / ".bin" / "azurite-blob"
        return [program, "--silent", "--skipApiVersionCheck", "--disableTelemetry",
                "--blobHost", at[0], "--blobPort", at[1], "--location", folder]  # fmt: skip
    if name == "fake-gcs-server":
        found = [*HOME.glob("lib/*/site-packages/fake_gcs*/vendor/*/bin/fake-gcs-server-*")]
        return [*(found or ["none"]), "-scheme", "http", "-backend", "memory", "-host", at[0],
                "-port", at[1], "-public-host", ":".join(at)]  # fmt: skip
    identity = {"name": "me", "actions": ["Admin", "Read", "Write", "List"]}
    identity["credentials"] = [{"accessKey": "key", "secretKey": "secret"}]
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = [f"-{part}={free_port()}" for part in ("master.port", "volume.port", "filer.port")]
    grpc = [f"-{part}.port.grpc={free_port()}" for part in ("master", "volume", "filer", "s3")]
    return [HOME / "bin" / "weed", "server", f"-dir={folder}", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.port={port}", "-s3.config=s3.json",
            # Its port is otherwise that of another SeaweedFS on this machine.
            "-s3.port.iceberg=0",
            "-master.volumeSizeLimitMB=64", "-volume.max=50", *ports, *grpc]  # fmt: skip


class RunningStore:
    """A store with an empty bucket.

    Attributes:
        gateway: counts the requests.
        environment: the variables by which clients find the store and their credentials.
        bucket: the URL of the bucket.
        store: reads and writes the bucket, for tests.
    """

    def __init__(self, name, gateway, folder):
        self.gateway = gateway
        options = {"client_options": {"allow_http": True}}
        if name == "azurite":
            endpoint = f"{gateway.url}/{AZURE_ACCOUNT}"
            self.environment = {
                "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;AccountName="
                f"{AZURE_ACCOUNT};AccountKey={AZURE_KEY};BlobEndpoint={endpoint};"
            }
            login = {"account_name": AZURE_ACCOUNT, "account_key": AZURE_KEY, "endpoint": endpoint}
            self.bucket, self.store = "az://bucket", AzureStore("bucket", **login, **options)
            self._create_azure_container(endpoint)
        elif name == "fake-gcs-server":
            key = folder / "key.json"
            account = {"gcs_base_url": gateway.url, "disable_oauth": True, "private_key": ""}
            key.write_text(json.dumps(account | {"client_email": "", "private_key_id": ""}))
            self.environment = {"GOOGLE_SERVICE_ACCOUNT": str(key)}
            self.bucket = "gs://bucket"
            self.store = GCSStore("bucket", service_account_path=str(key), **options)
            body = json.dumps({"name": "bucket"})
            headers = {"Content-Type": "application/json"}
            self._request("POST", "/storage/v1/b?project=project", body, headers)
        else:
            login = {"access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
            self.environment = {"AWS_ENDPOINT_URL": gateway.url, "AWS_DEFAULT_REGION": "us-east-1"}
            self.environment |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
            self.bucket = "s3://bucket"
            self.store = S3Store("bucket", endpoint=gateway.url, **login, **options)
            self._create_s3_bucket(login)

    def _request(self, method, path, body, headers):
        with closing(HTTPConnection("127.0.0.1", self.gateway.port, timeout=30)) as connection:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            assert reply.status < 300, reply.read()

    def _create_s3_bucket(self, login):
        names = {"access_key_id": "aws_access_key_id", "secret_access_key": "aws_secret_access_key"}
        options = {names.get(name, f"{name}_name"): value for name, value in login.items()}
        client = boto3.client("s3", endpoint_url=self.gateway.url, **options)
        client.create_bucket(Bucket="bucket")

    def _create_azure_container(self, endpoint):
        """obstore has no request for this: sign one."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        lines = [*(f"{name}:{value}" for name, value in headers.items())]
        resource = f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/bucket\nrestype:container"
        text = "PUT\n" + "\n" * 11 + "\n".join([*lines, resource])
        signature = b64encode(hmac.digest(b64decode(AZURE_KEY), text.encode(), "sha256")).decode()
        headers["Authorization"] = f"SharedKey {AZURE_ACCOUNT}:{signature}"
        path = f"/{AZURE_ACCOUNT}/bucket?restype=container"
        self._request("PUT", path, b"", headers | {"Content-Length": "0"})


def files_of(store, prefix):
    """Path -> content of all objects below a prefix."""
    paths = [one["path"] for one in obstore.list(store, prefix).collect()]
    return {path: bytes(obstore.get(store, path).bytes()) for path in paths}
