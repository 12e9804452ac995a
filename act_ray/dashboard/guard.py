"""Who may see the page: a token where one is set, a Host that is this server's, and nothing foreign is loaded."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)  # Plotly sets styles of its own
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def guard(token: str | None, hosts: frozenset[str]) -> Any:
    """A middleware. `hosts`: the names, without port, under which the server may be asked; empty: any."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = refusal(request, token, hosts)
        if response is None:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = error
        response.headers.update(HEADERS)
        if isinstance(response, web.HTTPException):
            raise response
        return response

    return check


def refusal(request: web.Request, token: str | None, hosts: frozenset[str]) -> web.StreamResponse | None:
    """The answer to who may not ask; None: the request may pass."""
    try:
        host = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        host = "?"
    if hosts and host not in hosts:  # a foreign name that was made to point here (DNS rebinding)
        return web.Response(status=421, text="asked under a name that is not this server's; see --allow-host\n")
    if token is not None and not allowed(request, token):
        given = request.query.get("token", "")
        if request.method == "GET" and request.path == "/" and same(given, token):
            response = web.HTTPSeeOther("/")
            response.set_cookie(cookie_name(token), cookie_value(token), httponly=True, samesite="Strict", path="/")
            return response
        return web.Response(status=401, text="open the address that the server printed: it has the token\n")
    origin = request.headers.get("Origin")
    if request.method not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != request.host:
        return web.Response(status=403, text="from another page\n")
    return None


def allowed(request: web.Request, token: str) -> bool:
    """Whether the request has the token, in its cookie or its header."""
    header = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return same(request.cookies.get(cookie_name(token), ""), cookie_value(token)) or same(header, token)


def cookie_name(token: str) -> str:
    """One for each token: cookies do not know ports, and two pages on one machine would log each other out."""
    return f"act_ray_{hashlib.sha256(token.encode()).hexdigest()[:12]}"


def cookie_value(token: str) -> str:
    """Not the token: every server on this machine is sent it."""
    return hmac.new(token.encode(), b"act_ray dashboard", "sha256").hexdigest()


def same(given: str, token: str) -> bool:
    """In a time that tells nothing."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())
