"""`python -m act_ray.report RESULTS... OUT.html`: the dashboard's page as one file."""

from __future__ import annotations

from pathlib import Path

import click

from act_ray.cli import PATH, run


@click.command("report")
@click.argument("results", metavar="RESULTS...", nargs=-1, required=True)
@click.argument("out", metavar="OUT.html", type=PATH)
@click.option("--overwrite", is_flag=True, help="Replace OUT.html where it is there.")
def command(results: tuple[str, ...], out: Path, overwrite: bool) -> int:
    """Write all that the dashboard shows of searches or runs as one file, which opens without a server or a network.

    RESULTS are folders of searches or runs, or folders that hold some, on this machine or an object store.
    """
    from act_ray.dashboard.results import Results
    from act_ray.errors import UserError
    from act_ray.files import replace_atomically
    from act_ray.report.single_file import write_report

    if out.suffix != ".html" or not out.resolve().parent.is_dir():
        raise UserError(f"{out}: the last argument is the file to write: in a folder that is there, ending in .html")
    if out.exists() and not overwrite:
        raise UserError(f"{out}: exists; choose another name, or --overwrite")
    text = write_report(Results(results), click.echo)
    replace_atomically(out, lambda temporary: temporary.write_text(text))
    click.echo(f"written: {out} ({len(text.encode()) / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    run(command)
