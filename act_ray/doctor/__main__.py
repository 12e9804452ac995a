"""`python -m act_ray.doctor`: what a run or a search needs, and whether it is there."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from act_ray.cli import data_option, gpu_option, run, set_option, storage_option, waiting

if TYPE_CHECKING:
    from act_ray.doctor.plan import Plan
    from act_ray.doctor.rows import Row

ORDER = (  # of the rows
    "software", "machine", "ray", "settings", "data", "teacher", "weights", "storage", "disk", "memory", "time", "step",
)  # fmt: skip


@click.command("doctor")
@click.argument("target", metavar="[CONFIG|SPACE]", required=False)
@click.option("--space", "space_name", metavar="NAME|FILE", help="A search space, where a preset has the same name.")
@set_option
@data_option
@click.option("--workers", type=click.IntRange(0), help="Ray Train workers of the run or of a trial.  [1; a trial: 0]")
@gpu_option
@storage_option
@click.option("--address", metavar="ADDRESS", help="Of a Ray cluster, as in RAY_ADDRESS.  [RAY_ADDRESS]")
@click.option(
    "--limit", default=10.0, type=click.FloatRange(0.1), show_default=True, help="Seconds that the real step may take."
)
def command(
    target: str | None,
    space_name: str | None,
    overrides: tuple[str, ...],
    data: str | None,
    workers: int | None,
    gpu: bool | None,
    storage: str,
    address: str | None,
    limit: float,
) -> int:
    """Say what a run or a search needs, and whether it is there: a table, with what to do.

    CONFIG is a preset's name, a file with settings or a run's folder; SPACE a search space's name or file. Default:
    digits, and for other --data small. Versions, machine, data, weights, settings that do not fit, disk and storage;
    and by real training steps, in a process of their own, the memory and time that it will take. Exit code 0: all is
    there, or there are only warnings; 1: something is missing; 2: a mistake in the input.
    """
    from act_ray.doctor.plan import make_plan
    from act_ray.doctor.rows import conclude, show, weights_to_get

    plan = make_plan(target, space_name, overrides, data, workers)
    given = {"target": target, "space_name": space_name, "overrides": overrides, "data": data, "workers": workers}
    rows = [*everything(plan, {**given, "storage": storage, "gpu": gpu}, address, limit)]
    show(rows)
    if weights := weights_to_get(rows):
        click.echo(weights)
    line, code = conclude(plan.name, rows)
    click.echo(line)
    return code


def everything(plan: Plan, request: dict[str, Any], address: str | None, limit: float) -> list[Row]:
    """All rows, in the order of the table; what takes long is looked at side by side."""
    from concurrent.futures import ThreadPoolExecutor

    from act_ray.doctor import places
    from act_ray.doctor.machine import software
    from act_ray.doctor.watch import child, look_inside

    with (
        ThreadPoolExecutor() as pool,  # whose end waits for its threads: the child has ended by then
        child("-m", "act_ray.doctor.inside", json.dumps(request)) as process,
        waiting("looking, and making a few training steps"),
    ):
        inside = pool.submit(lambda: [*look_inside(process, limit)])
        storage = pool.submit(places.storage, request["storage"])
        rows = [software("projected" if plan.cfg.discriminator.kind == "projected" else "")]
        rows += places.weights_that_are_there(plan.cfg)
        if address or os.environ.get("RAY_ADDRESS"):
            from act_ray.doctor.ray_address import look

            rows.append(look(address or os.environ["RAY_ADDRESS"]))
        rows += [storage.result(), *inside.result()]
    return sorted(rows, key=lambda row: ORDER.index(row.what))


if __name__ == "__main__":
    run(command)
