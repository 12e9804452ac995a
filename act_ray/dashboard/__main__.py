"""`python -m act_ray.dashboard RESULTS...`: a live page for comparing the trials of searches, and runs."""

from __future__ import annotations

import signal

import click

from act_ray.cli import run


@click.command("dashboard")
@click.argument("results", metavar="RESULTS...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8270, show_default=True, help="0: any that is free.")
@click.option("--token", metavar="TEXT", help="Ask for this token; 'new' makes one. It is needed to act from the page.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A further name under which the server may be asked.")
def command(results: tuple[str, ...], host: str, port: int, token: str | None, allow_host: tuple[str, ...]) -> int:
    """Serve a live page for comparing trials: curves, samples, parameters, and why each was flagged or stopped.

    RESULTS are folders of searches or runs, or folders that hold some, on this machine or an object store (s3://,
    gs://). Read from their own logs, while they run and afterwards. Ctrl-C ends it.
    """
    from act_ray.dashboard.guard import is_loopback
    from act_ray.dashboard.results import Results
    from act_ray.dashboard.serving import new_token, serve
    from act_ray.errors import UserError

    if token == "new":
        token = new_token()
    if token is not None and len(token) < 8:
        raise UserError("--token: needs 8 characters at least, or 'new'")
    if not is_loopback(host) and token is None:
        raise UserError(f"--host {host}: others reach it there; add --token new")
    try:
        serve(Results(results), host, port, token, allow_host, click.echo)
    except KeyboardInterrupt:  # as its help says
        return 0
    return 128 + signal.SIGTERM


if __name__ == "__main__":
    run(command)
