"""`python -m act_ray.dashboard RESULTS...`: a live page for comparing the trials of searches, and runs."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import click

from act_ray.cli import run

if TYPE_CHECKING:
    from act_ray.dashboard.results import Results

PORT = 8270


@click.command("dashboard")
@click.argument("results", metavar="RESULTS...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any that is free.")
@click.option("--token", metavar="TEXT", help="Ask for this token; 'new' makes one. It is needed to act from the page.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A further name under which the server may be asked.")
def command(results: tuple[str, ...], host: str, port: int, token: str | None, allow_host: tuple[str, ...]) -> int:
    """Serve a live page for comparing trials: curves, samples, parameters, and why each was flagged or stopped.

    RESULTS are folders of searches or runs, or folders that hold some, on this machine or an object store (s3://,
    gs://). Read from their own logs, while they run and afterwards. Ctrl-C ends it.
    """
    from act_ray.dashboard.guard import is_loopback
    from act_ray.dashboard.results import Results
    from act_ray.errors import UserError

    if token == "new":
        token = secrets.token_urlsafe(24)
    if token is not None and len(token) < 8:
        raise UserError("--token: needs 8 characters at least, or 'new'")
    if not is_loopback(host) and token is None:
        raise UserError(f"--host {host}: others reach it there; add --token new")
    hosts = frozenset({"localhost", "127.0.0.1", "::1", host, *allow_host})
    serve(Results(results), host, port, token, hosts)
    return 0


def serve(results: Results, host: str, port: int, token: str | None, hosts: frozenset[str]) -> None:
    """Until somebody interrupts it. Raises UserError where nobody can listen there."""
    import asyncio

    from aiohttp import web

    from act_ray.dashboard.server import Server
    from act_ray.errors import UserError

    async def main() -> None:
        runner = web.AppRunner(Server(results, token, hosts).app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            try:
                await site.start()
            except OSError as error:
                raise UserError(
                    f"--host {host} --port {port}: {error.strerror or error}; choose another port"
                ) from None
            address = runner.addresses[0]
            name = f"[{address[0]}]" if ":" in address[0] else address[0]
            query = f"/?token={token}" if token is not None else "/"
            click.echo(f"http://{name}:{address[1]}{query}")
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    asyncio.run(main())


if __name__ == "__main__":
    run(command)
