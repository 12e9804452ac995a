"""The options by which a user decides how images are prepared: those of `init`, and of `auto`."""

import click

from act_ray.cli import options
from act_ray.errors import UserError

prepare_options = options(
    click.option(
        "--size", type=click.IntRange(8, 1024), help="Side in pixels. Default: by the images and the machine."
    ),
    click.option("--grey", is_flag=True, help="Without colours."),
    click.option(
        "--split", metavar="NAME", help="Which of DATA's train, val, ...; `all` of them. Default: the training images."
    ),
    click.option("--labels", metavar="NAME", help="As of act-ray prepare."),
    click.option("--no-labels", is_flag=True, help="Leave the labels out."),
)


def check_options(size: int | None, labels: str | None, no_labels: bool) -> None:
    """Raises UserError for what does not go together."""
    if labels is not None and no_labels:
        raise UserError(f"--labels {labels}: not with --no-labels; leave one out")
    if size is not None and size % 4:
        raise UserError(f"--size {size}: must be a multiple of 4; the nearest is {(size + 2) // 4 * 4}")
