"""What tells early that a run will fail: `python benchmarks/search/witnesses.py TRACES [--split fit]`.

For each witness and each share of the budget: the area under the ROC curve for "this run is failing" (collect.py), from
what had been measured until then. .5: it tells nothing; under .5: the other way round. Runs without the witness (no
penalty, no discriminator, no images kept back) are left out of its line, which says how many there are.
"""

from collections.abc import Callable

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from act_ray.tune.recorded import Recorded, load_recorded

SHARES = (0.2, 0.3, 0.4, 0.5, 0.6)
Witness = Callable[[Recorded, float], float | None]


def column(run: Recorded, name: str, share: float) -> list[float]:
    """A column of the scores until then."""
    rows = [row for row in run.scores if row["step"] <= share * run.total and row.get(name) is not None]
    return [float(row[name]) for row in rows]


def over_best(name: str) -> Witness:
    """The last value over the least so far."""

    def measure(run: Recorded, share: float) -> float | None:
        values = column(run, name, share)
        return values[-1] / min(values) if len(values) > 1 and min(values) > 0 else None

    return measure


def under_best(run: Recorded, share: float) -> float | None:
    """The best diversity so far over the last."""
    values = column(run, "diversity", share)
    return max(values) / max(values[-1], 1e-9) if values else None


def held_out(run: Recorded, share: float) -> float | None:
    """(D(train) - D(held)) / (D(train) - D(fake)): how much of what D knows is of its own images alone (ADA)."""
    train, held, fake = (column(run, name, share) for name in ("d_train", "d_held", "d_fake"))
    if not train or len(held) != len(train):
        return None
    gap = np.array(train) - np.array(fake)
    return float(np.median(((np.array(train) - np.array(held)) / np.maximum(np.abs(gap), 1e-3))[-3:]))


def penalty(run: Recorded, share: float) -> float | None:
    """The median of L_gp over the last tenth of the budget."""
    values = run.steps["gp"][int(max(0, share - 0.1) * run.total) : int(share * run.total)]
    values = values[np.isfinite(values)]
    weight = run.cfg.loss.gp_weight
    return float(np.median(values)) * weight if len(values) and weight else None


def rise(run: Recorded, share: float) -> float | None:
    """log of the median ||grad D||^2 over the last tenth, over that from 10% to 20% of the budget."""

    def level(first: float, last: float) -> float | None:
        values = run.steps["gp"][int(first * run.total) : int(last * run.total)]
        values = values[np.isfinite(values) & (values > 0)]
        return float(np.median(np.log(values))) if len(values) else None

    now, before = level(share - 0.1, share), level(0.1, 0.2)
    return None if now is None or before is None else now - before


WITNESSES: dict[str, Witness] = {
    "score over its best": over_best("score"),
    "L_CT, low noise, over its least": over_best("loss_ct_low"),
    "L_CT, high noise, over its least": over_best("loss_ct_high"),
    "best diversity over the last": under_best,
    "D: its own images against held-out ones": held_out,
    "L_gp": penalty,
    "rise of ||grad D||^2": rise,
}


def area(failing: list[float], sound: list[float]) -> float:
    """The area under the ROC curve: the chance that a failing run has the larger value."""
    if not failing or not sound:
        return float("nan")
    pairs = np.subtract.outer(np.array(failing), np.array(sound))
    return float(np.mean((pairs > 0) + 0.5 * (pairs == 0)))


@click.command()
@click.argument("traces")
@click.option("--split", type=click.Choice(["fit", "held-out"]))
def main(traces: str, split: str | None) -> None:
    """Print a table for each group of runs."""
    runs = [run for run in load_recorded(traces) if split is None or run.split == split]
    for group in dict.fromkeys(run.group for run in runs):
        members = [run for run in runs if run.group == group]
        table = Table(*["witness", *(f"at {share:.0%}" for share in SHARES), "failing / sound"], box=box.SIMPLE_HEAD)
        for name, measure in WITNESSES.items():
            cells, counts = [], ""
            for share in SHARES:
                found = {label: [v for run in members if run.label == label and (v := measure(run, share)) is not None]
                         for label in ("failing", "sound")}  # fmt: skip
                cells.append(f"{area(found['failing'], found['sound']):.2f}")
                counts = f"{len(found['failing'])} / {len(found['sound'])}"
            table.add_row(name, *cells, counts)
        console = Console(width=110)
        console.print(f"{group}: {len(members)} runs")
        console.print(table)


if __name__ == "__main__":
    main()
