"""Starts the page's server: until somebody interrupts it, or beside something else in a thread."""

import asyncio
import secrets
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import quote

from aiohttp import web

from act_ray.dashboard.guard import is_loopback
from act_ray.dashboard.results import Results
from act_ray.dashboard.server import Server
from act_ray.errors import UserError

OWN_NAMES = ("localhost", "127.0.0.1", "::1")


def new_token() -> str:
    """One that nobody guesses."""
    return secrets.token_urlsafe(24)


@asynccontextmanager
async def listening(
    results: Results, host: str, port: int, token: str | None, names: tuple[str, ...] = ()
) -> AsyncIterator[str]:
    """Listen there until the block ends; yields the address to open. `names`: further ones it may be asked under.

    Raises UserError where nobody can listen, or where others would reach it without a token.
    """
    if not is_loopback(host) and token is None:
        raise UserError(f"--host {host}: others reach it there; add --token new")
    everywhere = host in ("0.0.0.0", "::")  # then any name of this machine is right, and the token decides
    hosts = frozenset() if everywhere and not names else frozenset(name.lower() for name in (*OWN_NAMES, host, *names))
    runner = web.AppRunner(Server(results, token, hosts).app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise UserError(f"--host {host} --port {port}: {error.strerror or error}; choose another port") from None
        at, number = runner.addresses[0][:2]
        name = socket.gethostname() if everywhere else f"[{at}]" if ":" in at else at
        yield f"http://{name}:{number}/" + (f"?token={quote(token, safe='')}" if token is not None else "")
    finally:
        await runner.cleanup()


def serve(
    results: Results, host: str, port: int, token: str | None, names: tuple[str, ...], ready: Callable[[str], None]
) -> None:
    """Until somebody interrupts it, or SIGTERM, upon which it returns; `ready` is told the address."""

    async def main() -> None:
        over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)  # an exit from within it is a traceback
        async with listening(results, host, port, token, names) as address:
            ready(address)
            await over.wait()

    asyncio.run(main())


@contextmanager
def beside(results: Results, host: str = "127.0.0.1", port: int = 0, token: str | None = None) -> Iterator[str]:
    """In a thread, until the block ends; yields the address."""
    loop, begun, told = asyncio.new_event_loop(), threading.Event(), list[str | Exception]()
    over = asyncio.Event()

    async def main() -> None:
        try:
            async with listening(results, host, port, token) as address:
                told.append(address)
                begun.set()
                await over.wait()
        except Exception as error:  # the caller is told
            told.append(error)
        finally:
            begun.set()

    def run() -> None:
        loop.run_until_complete(main())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    begun.wait()
    if isinstance(told[0], Exception):
        raise told[0]
    try:
        yield told[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
