"""`python -m act_ray.auto DATA --hours H`: from a folder of pictures to a model and its report, in the time given."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from act_ray.cli import PATH, run
from act_ray.errors import Interrupted, UserError
from act_ray.init.options import check_options, prepare_options


@click.command("auto")
@click.argument("data", metavar="DATA")
@click.option("--hours", type=click.FloatRange(0.01, 10_000), required=True, help="Time that it may take in all.")
@click.option("--out", type=PATH, metavar="DIR", help="Folder for everything.  [runs/auto-DATA-Hh]")
@prepare_options
@click.option("--dry-run", is_flag=True, help="Look, prepare and measure, print the plan, and stop.")
def command(
    data: str, hours: float, out: Path | None, size: int | None, grey: bool, split: str | None, labels: str | None,
    no_labels: bool, dry_run: bool,
) -> int:  # fmt: skip
    """Make a one-step generator of the images in DATA, a folder or whatever act-ray prepare reads, in H hours.

    Prepares the data, measures this machine, plans, searches settings, trains the best again with new seeds, evaluates
    and exports the winner to DIR/model, and writes DIR/report.html. The plan is printed before anything is trained.
    The same command again goes on where it was interrupted or killed; the time between does not count.
    Exit code 0: all is done; 2: a mistake in the input, or too few hours; 130, 143, 129: interrupted.
    """
    warnings.simplefilter("ignore")
    check_options(size, labels, no_labels)
    from act_ray.auto.journal import Journal
    from act_ray.runs.lock import LOCK, exclusive
    from act_ray.typed import typed

    source = data if "://" in data else str(Path(data).expanduser().resolve())
    folder = (out or Path("runs") / f"auto-{Path(source).name}-{hours:g}h").expanduser().resolve()
    options = {"size": size, "grey": grey, "split": split, "labels": labels, "no-labels": no_labels}
    asked = {name: value for name, value in options.items() if value not in (None, False)}
    journal = Journal(folder, source, hours, asked)
    words = [*([] if out is None else ["--out", out]),
             *(word for name, value in asked.items() for word in (f"--{name}", value) if word is not True)]  # fmt: skip
    again = typed("auto", data, "--hours", hours, *words)
    if "took" in journal.done:
        return tell(folder, journal)
    click.echo(f"folder: {folder}")  # before what takes long: importing PyTorch
    from act_ray.data.records import LabelChoice
    from act_ray.init.start import Ask, check_places

    ask = Ask(size, grey, split, LabelChoice(labels, not no_labels), search=True)
    if not journal.done:
        check_places(source, folder, ask)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written: {error.strerror}") from None
    with exclusive(folder, f"{folder}: another process is working there"), saved_by_the_journal(again):
        from act_ray.auto.steps import carry_out

        try:
            with journal.at_work():
                carry_out(source, folder, journal, ask, click.echo, dry_run)
        except UserError:
            if not journal.done:  # so that the right data may go there
                journal.path.unlink(missing_ok=True)
            raise
    return 0 if dry_run else tell(folder, journal)


@contextlib.contextmanager
def saved_by_the_journal(again: str) -> Iterator[None]:
    """A signal ends the command, with the line that goes on: each step is written down when it is done.

    While trials run, runs/interrupt.py takes the signals, and they save.
    """
    from act_ray.runs.interrupt import exit_code, heeding

    came = list[int]()

    def end(number: int, frame: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    try:
        with heeding(end):
            yield
    except (KeyboardInterrupt, Interrupted):
        code = 128 + came[0] if came else exit_code(130)
        raise Interrupted(f"go on with: {again}", code) from None


def tell(folder: Path, journal: Any) -> int:
    """What there is at the end."""
    from act_ray.auto.page import how_to_use
    from act_ray.runs.progress import format_seconds

    found = journal.done["repeats"]
    took, asked = format_seconds(journal.done["took"]["seconds"]), format_seconds(journal.whole)
    click.echo(f"done in {took} of {asked}: {found['metric']} {found['best']:.4g}")
    for line in journal.notes:
        click.echo(f"note: {line}")
    click.echo(f"model: {folder / 'model'}")
    for what, line in how_to_use(folder, found):
        click.echo(f"{what}: {line}")
    click.echo(f"report: {folder / 'report.html'}")
    return 0


if __name__ == "__main__":
    run(command)
