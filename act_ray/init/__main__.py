"""`python -m act_ray.init DATA --out DIR`: from a folder of images to settings that train on them here."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from act_ray.cli import run
from act_ray.errors import Interrupted, UserError
from act_ray.init.options import check_options, prepare_options
from act_ray.typed import typed


@click.command("init")
@click.argument("data", metavar="DATA")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="New folder for all of it.")
@click.option(
    "--hours",
    type=click.FloatRange(0, 10_000, min_open=True),
    default=1.0,
    show_default=True,
    help="That a training may take here.",
)
@prepare_options
@click.option("--gpu/--cpu", default=None, help="Default: a GPU where there is one.")
def command(
    data: str, out: Path, hours: float, size: int | None, grey: bool, split: str | None, labels: str | None,
    no_labels: bool, gpu: bool | None,
) -> None:  # fmt: skip
    """Look at the images in DATA, prepare them, measure what this machine makes of them, and choose the settings.

    DATA is whatever act-ray prepare reads. DIR gets data/ (the prepared images), config.yaml (each choice with its
    reason) and space.yaml (a search around it). Nothing is asked that can be found out; the options decide otherwise.
    The same command again goes on where it was interrupted.
    """
    warnings.simplefilter("ignore")
    check_options(size, labels, no_labels)
    click.echo(f"looking at {data}")  # before what takes long: importing PyTorch
    from act_ray.data.records import LabelChoice
    from act_ray.init.start import Ask, TooFewHours, start

    ask = Ask(size, grey, split, LabelChoice(labels, not no_labels), gpu)
    try:
        made = start(data, out, hours, click.echo, ask)
    except TooFewHours as few:
        raise UserError(f"{few}, with --size {few.size} as it is prepared, or with another --out") from None
    except KeyboardInterrupt:
        raise Interrupted("the same command goes on") from None
    click.echo(f"a step takes {made.seconds_per_step:.2g} s here; {made.total_steps:,} of them fit into {hours:g} h")
    click.echo(f"train:  {typed('train', '--config', made.config, '--workers', 0)}")
    click.echo(f"search: {typed('tune', '--space', made.space)}")


if __name__ == "__main__":
    run(command)
