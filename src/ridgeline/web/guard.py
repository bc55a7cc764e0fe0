"""What stands before the application: limits of size, hosts that may be asked for, safe headers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST_LINK = 8_000
"""Characters of path and query; browsers and mail programs take at least this."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Of every response. Only our files run as scripts; plotly.js writes styles where it draws."""
METHODS = ("GET", "HEAD")


class Guard:
    """Refuses what no page of ours asks for.

    Parameters
    ----------
    app
        What is behind.
    hosts
        Names under which this server may be asked for, beside addresses. A page elsewhere whose
        name was made to point here (DNS rebinding) has another.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send_safely)
        else:
            status, line = refusal
            extra = {"Allow": ", ".join(METHODS)} if status == 405 else {}
            # A body that nobody reads would be taken for the next request.
            extra["Connection"] = "close"
            response = PlainTextResponse(f"error: {line}\n", status, headers=extra)
            await response(scope, receive, send_safely)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        if not self._knows(headers.get("host", "")):
            return 400, "host: not a name of this server; start it with --allow-host NAME"
        if len(scope["raw_path"]) + len(scope["query_string"]) > LONGEST_LINK:
            return 414, f"link: longer than {LONGEST_LINK:,} characters"
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            return 413, "body: a request carries none; everything is in the link"
        if scope["method"] not in METHODS:
            return 405, f"method: must be {' or '.join(METHODS)}"
        return None

    def _knows(self, host: str) -> bool:
        name = host.lower()
        if name.startswith("["):
            name, closed, _ = name[1:].partition("]")
            return bool(closed) and _is_address(name)
        name = name.rsplit(":", 1)[0] if ":" in name else name
        return name in self.hosts or _is_address(name)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
