"""The server: a socket, the application, and when to say that it is ready."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress

import click
import uvicorn

from ridgeline.errors import InputError
from ridgeline.web.answers import warm_up
from ridgeline.web.app import Application
from ridgeline.web.workers import Workers

MOST_CONNECTIONS = 1_000
"""Open at once; more are told to come back."""
IDLE_S = 10
"""After which a connection without a request is closed."""
LONGEST_HEAD = 32_768
"""Bytes of a request's line and headers."""


def serve(host: str, port: int, hosts: Iterable[str], workers: int) -> None:
    """Serve until interrupted.

    Parameters
    ----------
    host, port
        Where to listen; port 0 takes one that is free.
    hosts
        Names under which the server may be asked for.
    workers
        Processes that answer.

    Raises
    ------
    InputError
        The address cannot be listened on.
    """
    listener = _listen(host, port)
    app = Application(Workers(workers, warm_up), hosts)
    config = uvicorn.Config(
        app.guarded,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_S,
        h11_max_incomplete_event_size=LONGEST_HEAD,
        timeout_graceful_shutdown=2,
    )
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    click.echo("starting; the very first time compiles kernels, for a minute or two", err=True)
    with suppress(KeyboardInterrupt):  # how it is stopped
        _Server(config, address).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says where it is once it answers."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            click.echo(f"ready: {self._address}  (Ctrl-C stops it)", err=True)


def _listen(host: str, port: int) -> socket.socket:
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=kind)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"--host {host} --port {port}: cannot be listened on: {reason}") from None
