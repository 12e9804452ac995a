"""`tune --simulate TRACES`: what each scheduler would have found over recorded runs, and for how much compute."""

import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from act_ray.errors import UserError
from act_ray.figures.style import COLOURS, WIDTH, save, styled
from act_ray.tune.recorded import Recorded, load_recorded
from act_ray.tune.schedulers import SCHEDULERS, Plan
from act_ray.tune.simulation import NEAR, TIE, Replay, Watched, resample, watch, wilson
from act_ray.tune.space import Space

LEAST = 4  # runs of a group that two trials can be drawn from in more than one way


@dataclass(frozen=True)
class Simulated:
    """The replays of one scheduler over one group of runs."""

    group: str
    scheduler: str
    trials: int
    replays: list[Replay]

    @property
    def row(self) -> dict[str, object]:
        """What came of them, with 95% intervals (Wilson)."""
        ties = sum(replay.best <= TIE for replay in self.replays)
        lost, stopped = sum(r.lost for r in self.replays), sum(r.stopped for r in self.replays)
        low, high = wilson(ties, len(self.replays))
        return {
            "group": self.group, "scheduler": self.scheduler, "trials": self.trials, "searches": len(self.replays),
            "within_2_percent": ties / len(self.replays), "low": low, "high": high,
            "best_over_unpruned": float(np.mean([r.best for r in self.replays])),
            "compute": float(np.mean([r.compute for r in self.replays])),
            "stopped": stopped, "lost": lost, "lost_high": wilson(lost, stopped)[1] if stopped else 0.0,
        }  # fmt: skip


def simulate(
    location: str,
    space: Space,
    budget: str | None,
    split: str | None,
    names: Sequence[str],
    workers: int,
    resamples: int,
) -> Iterator[Simulated]:
    """Replay `resamples` searches of each scheduler over each group of runs; the group `all` is all of them together.

    Says which groups have too few runs; raises UserError where all have.
    """
    runs = [run for run in load_recorded(location) if split is None or run.split == split]
    groups: dict[str, list[Recorded]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    few = [f"{group} ({len(members)})" for group, members in groups.items() if len(members) < LEAST]
    groups = {group: members for group, members in groups.items() if len(members) >= LEAST}
    if not groups:
        raise UserError(f"--simulate {location}: has {len(runs)} runs of that split; needs {LEAST} of a group")
    if few:
        click.echo(f"left out, as they have under {LEAST} runs of that split: {', '.join(few)}", err=True)
    share = 0.0
    if (text := budget or space.file.budget) is not None:
        plan = space.plan(text)
        if plan.budget is None:
            raise UserError(f"--budget {text}: a replay takes no time; give trials, steps, images or %")
        share = plan.budget / plan.trials
    cfg = space.example().collapse
    watched = {name: [watch(run, cfg) for run in members] for name, members in groups.items()}
    for name in names:
        together: list[Replay] = []
        for group, members in watched.items():
            found = simulate_group(group, members, space, share, name, workers, resamples)
            together += found.replays
            yield found
        if len(watched) > 1:
            yield Simulated("all", name, 0, together)


def simulate_group(
    group: str, members: Sequence[Watched], space: Space, share: float, name: str, workers: int, resamples: int
) -> Simulated:
    """Searches of as many trials as the space has, but at most half of the runs, so that draws differ.

    share: of all their steps, where there is a budget. `none` is the unpruned search: nor does the detector stop any.
    """
    trials = min(space.trials, len(members) // 2)
    every, file = max(_spacing(member) for member in members), space.file
    plan = Plan(trials, share * trials or None, grace=file.grace, reduction=file.reduction, every=every)
    stopping = members if name != "none" else [Watched(m.run, m.run.diverged, m.run.diverged) for m in members]
    return Simulated(group, name, trials, resample(stopping, SCHEDULERS[name].build, plan, workers, resamples))


def _spacing(member: Watched) -> float:
    """The largest share between two of a run's scores."""
    shares = [0.0, *(share for share, _ in member.reports)]
    return max(b - a for a, b in itertools.pairwise(shares))


def make_table(found: Sequence[Simulated]) -> Table:
    """For the terminal."""
    out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    heads = ("runs", "scheduler", "trials", "P(best within 2%)", "best / unpruned", "compute", "stopped", "lost")
    for head in heads:
        out.add_column(head, no_wrap=True)
    for row in (one.row for one in found):
        out.add_row(
            str(row["group"]), str(row["scheduler"]), str(row["trials"] or ""),
            f"{row['within_2_percent']:.3f} ({row['low']:.3f}-{row['high']:.3f})", f"{row['best_over_unpruned']:.3f}",
            f"{row['compute']:.2f}", f"{row['stopped']:,}", f"{row['lost']:,} (<{row['lost_high']:.1%})",
        )  # fmt: skip
    return out


def explain_table(resamples: int) -> str:
    """What the columns are."""
    return (
        f"{resamples:,} replayed searches each, 95% intervals (Wilson). compute: images, over those of the search in\n"
        f"which every trial runs to its end, and best: over that search's. lost: trials that were stopped for good,\n"
        f"and would have had a score within {NEAR:g} times the best after that."
    )


def write_simulation(found: Sequence[Simulated], folder: Path) -> list[Path]:
    """simulation.csv, and simulation.png and .svg: the best score so far against compute."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [one.row for one in found]
    with (folder / "simulation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with styled():
        save(draw(found), folder, "simulation")
    return [folder / f"simulation.{kind}" for kind in ("csv", "png")]


def draw(found: Sequence[Simulated]) -> Figure:
    """The median over searches, and the middle half, of the best score so far over the unpruned search's."""
    groups = [group for group in dict.fromkeys(one.group for one in found) if group != "all"]
    figure = Figure(figsize=(WIDTH, 2.6 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), squeeze=False)[:, 0]
    grid = np.linspace(0.02, 1, 99)
    for axis, group in zip(axes, groups, strict=True):
        for colour, one in zip(COLOURS, (o for o in found if o.group == group), strict=False):
            curves = np.array([_at(replay.curve, grid) for replay in one.replays])
            low, middle, high = np.nanquantile(curves, (0.25, 0.5, 0.75), axis=0)
            axis.plot(grid, middle, color=colour, label=one.scheduler)
            axis.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set(title=f"{group}, {one.trials} trials", yscale="log", ylabel="best / unpruned best", xlim=(0, 1))
        axis.legend()
    axes[-1].set_xlabel("compute, over that of the unpruned search")
    return figure


def _at(curve: Sequence[tuple[float, float]], grid: np.ndarray) -> np.ndarray:
    compute, best = np.array(curve).T
    index = np.searchsorted(compute, grid, side="right") - 1
    return np.where(index >= 0, best[np.maximum(index, 0)], np.nan)
