"""An S3 store that answers as it should until it is told to fail, and then says more than it should."""

from __future__ import annotations

import threading
import urllib.parse
from collections import Counter

import moto.server
import pytest
import s3fs
from airflow.sdk.io import attach
from werkzeug.serving import make_server

ACCESS_KEY = "AKIA0CANARY012345678"
SECRET_KEY = "s3cr3t/c4nary+0123456789abcdef01234567"
SIGNATURE = "c4narys1gnature0123456789abcdef"
SIGNED = (
    f"https://bucket.s3.amazonaws.com/out/part?X-Amz-Credential={ACCESS_KEY}%2F20260101&X-Amz-Signature={SIGNATURE}"
)
SAID = f"no access with {SECRET_KEY} to {SIGNED}"

ANSWERS = {
    "denied": (403, "AccessDenied"),
    "wrong signature": (403, "SignatureDoesNotMatch"),
    "expired": (400, "ExpiredToken"),
    "no such key": (403, "InvalidAccessKeyId"),
    "no such bucket": (404, "NoSuchBucket"),
    "odd": (400, "InvalidRequest"),
    "down": (500, "InternalError"),
    "busy": (503, "SlowDown"),
    "page": (502, None),
}


class FailingS3:
    """Moto behind a door that fails."""

    def __init__(self):
        self._app = moto.server.DomainDispatcherApplication(moto.server.create_backend_app)
        self._faults = ()
        self._rights = None
        self._stumbles = {}
        self.stumbled = Counter()
        """Method and path → how often they stumbled."""
        self.failed = 0
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=moto.server.MotoRequestHandler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def conn_id(self):
        """What Airflow knows it by, which keeps a file system for good."""
        return f"canary_{self._server.server_port}"

    def filesystem(self):
        """A way in that tries each call once: the package itself tries again."""
        filesystem = s3fs.S3FileSystem(
            key=ACCESS_KEY,
            secret=SECRET_KEY,
            endpoint_url=f"http://127.0.0.1:{self._server.server_port}",
            client_kwargs={"region_name": "us-east-1"},
            config_kwargs={"retries": {"max_attempts": 0}},
            skip_instance_cache=True,
        )
        filesystem.retries = 1
        return filesystem

    def play(self, *faults):
        """From now on requests of a method whose path or query holds all needles get an answer: (answer, method, *needles)."""
        self._faults = faults

    def stumble(self, **answers):
        """From now on the first requests of a method for each path get these answers, one after the other.

        ``lost``: what was asked for is done, and 500 says that nobody knows.
        """
        self._stumbles = answers

    def allow(self, *rights):
        """From now on everything else is denied: (method, beginning of the path and query)."""
        self._rights = rights

    def stop(self):
        """Let go of the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ, start_response):
        asked = urllib.parse.unquote(f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}")
        for answer, method, *needles in self._faults:
            if method == environ["REQUEST_METHOD"] and all(needle in asked for needle in needles):
                return self._fail(*ANSWERS[answer], environ, start_response)
        coming, met = (
            self._stumbles.get(environ["REQUEST_METHOD"], ()),
            (environ["REQUEST_METHOD"], environ["PATH_INFO"]),
        )
        if self.stumbled[met] < len(coming):
            self.stumbled[met] += 1
            answer = coming[self.stumbled[met] - 1]
            if answer == "lost":
                for _ in self._app(environ, lambda *_: None):
                    pass
                environ["CONTENT_LENGTH"] = ""  # it was read
            return self._fail(*ANSWERS["down" if answer == "lost" else answer], environ, start_response)
        asked_for = (environ["REQUEST_METHOD"], asked.removeprefix("/"))
        if self._rights is not None and not any(
            asked_for[0] == m and asked_for[1].startswith(p) for m, p in self._rights
        ):
            return self._fail(*ANSWERS["denied"], environ, start_response)
        return self._app(environ, start_response)

    def _fail(self, status, code, environ, start_response):
        self.failed += 1
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        error = f"<Error><Code>{code}</Code><Message>{SAID}</Message><StringToSign>{SAID}</StringToSign></Error>"
        body = error.replace("&", "&amp;") if code else f"<html><body>{SAID}</body></html>"
        kind = "application/xml" if code else "text/html"
        start_response(f"{status} Error", [("Content-Type", kind), ("Content-Length", str(len(body.encode())))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body.encode()]


@pytest.fixture
def s3():
    """A bucket behind a door that can fail."""
    store = FailingS3()
    filesystem = store.filesystem()
    filesystem.call_s3("create_bucket", Bucket="bucket")
    attach("s3", conn_id=store.conn_id, fs=filesystem)
    yield store
    store.stop()
