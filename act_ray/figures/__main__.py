"""`python -m act_ray.figures RUN`: the ACT paper's figures from any run."""

from pathlib import Path
from typing import Literal

import click

from act_ray.cli import PATH, gpu_option, overwrite_option, run, weights_option, which_option


@click.command("figures", context_settings={"show_default": True})
@click.argument("location", metavar="RUN")
@click.option("-o", "--out", type=PATH, metavar="DIR", help="Default: RUN/figures.")
@overwrite_option
@click.option("--compare", multiple=True, metavar="RUN", help="Draw this run's curves into the same axes; repeatable.")
@click.option("--data", metavar="DIR", help="Where the run's images are, if not at its data.path any more.")
@which_option
@weights_option
@gpu_option
def command(
    location: str,
    out: Path | None,
    overwrite: bool,
    compare: tuple[str, ...],
    data: str | None,
    which: Literal["best", "last"],
    weights: Literal["ema", "teacher", "model"] | None,
    gpu: bool | None,
) -> int:
    """Draw the ACT paper's figures from the folder or URI of a run, or of a search's trial.

    Training curves with where the run collapsed (Figs. 4, 5, 8, 9), samples beside real images (Fig. 3), inpainting
    (Fig. 2), the trajectory of f (Figs. 6, 7) and samples per noise level (Fig. 1), each as PNG and SVG, with an index
    in README.md. A figure that the run has nothing for is skipped. Drawn again, they are the same files; a folder that
    holds anything but figures of this run is left alone. --compare adds a figure of several runs' curves; one that
    collapsed is best looked at with --which last.

    Exit code 0: figures were drawn; 1: the run has nothing for any; 2: a mistake in the input.
    """
    from act_ray.device import best_device
    from act_ray.figures.run_figures import Request, draw_all

    location = location.rstrip("/")
    if out is None:
        out = Path(location) / "figures" if "://" not in location else Path(f"{location.rpartition('/')[2]}-figures")
    request = Request(location, compare, out, data, which, best_device(gpu), overwrite, weights)
    return 0 if draw_all(request, click.echo) else 1


if __name__ == "__main__":
    run(command)
