"""``ridgeline web``: the pages on this machine."""

from __future__ import annotations

import click

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NEEDS = ("starlette", "uvicorn", "jinja2", "plotly")
LEAST_WORKERS, MOST_WORKERS = 2, 4


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8700,
    show_default=True,
    help="Port; 0 takes any that is free.",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Another name under which this server may be asked for; may be repeated.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Processes that answer; one for each core, from 2 to 4, by default.",
)
def web(host: str, port: int, allow_host: tuple[str, ...], workers: int | None) -> None:
    """Serve a small web application: choose, see the answer change, compare, share the link.

    \b
    For example, on http://127.0.0.1:8700 :
      ridgeline web
    It needs the extra "web": pip install 'ridgeline[web]'.
    """  # noqa: D301  (click's mark of preformatted text is a backspace)
    import os
    from importlib.util import find_spec

    from ridgeline.errors import InputError

    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise InputError(
            f"ridgeline web: needs {', '.join(missing)}; install with: pip install 'ridgeline[web]'"
        )
    from ridgeline.web.server import serve

    if host not in LOOPBACK:
        click.echo(
            f"warning: {host} is not loopback: whoever reaches this address can use the "
            "application, unencrypted and without a password",
            err=True,
        )
    count = workers or min(MOST_WORKERS, max(LEAST_WORKERS, os.cpu_count() or 1))
    serve(host, port, (host, "localhost", *allow_host), count)
