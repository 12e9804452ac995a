"""What the detector makes of labelled traces: `python benchmarks/search/detection.py TRACES [--split held-out]`."""

from collections.abc import Sequence

import click

from act_ray.collapse.rules import CollapseConfig
from act_ray.tune.recorded import load_recorded
from act_ray.tune.simulation import NEAR, Watched, watch, wilson

SOON = 0.4  # of the budget
HEAD = (
    "runs", f"failing: flagged by {SOON:.0%}", "flagged", "confirmed", "sound: flagged", "confirmed",
    f"within {NEAR:g} times the best: stopped before that",
)  # fmt: skip


@click.command()
@click.argument("traces")
@click.option("--split", type=click.Choice(["fit", "held-out"]))
@click.option("--each", is_flag=True, help="A line for each run.")
def main(traces: str, split: str | None, each: bool) -> None:
    """A row for each group of runs, for docs/collapse.md."""
    cfg = CollapseConfig()
    runs = [run for run in load_recorded(traces) if split is None or run.split == split]
    groups = {
        group: [watch(run, cfg) for run in runs if run.group == group] for group in dict.fromkeys(r.group for r in runs)
    }
    counts = {group: count(members) for group, members in groups.items()}
    counts["all"] = [
        (sum(h for h, _ in column), sum(n for _, n in column)) for column in zip(*counts.values(), strict=True)
    ]
    click.echo(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for group, row in counts.items():
        high = wilson(*row[-1])[1]
        click.echo(f"| {group} | {' | '.join(f'{hits} of {n}' for hits, n in row)} (<{high:.0%}) |")
    for one in (one for members in groups.values() for one in members) if each else ():
        show(one)


def count(members: Sequence[Watched]) -> list[tuple[int, int]]:
    """(hits, of how many) for each column of HEAD."""
    best = min(one.run.best for one in members)
    failing = [one for one in members if one.run.label == "failing"]
    sound = [one for one in members if one.run.label != "failing"]
    near = [one for one in members if one.run.best <= NEAR * best]
    return [
        (sum(one.flagged_at <= SOON for one in failing), len(failing)),
        (sum(one.flagged is not None for one in failing), len(failing)),
        (sum(one.stopped is not None for one in failing), len(failing)),
        (sum(one.flagged is not None for one in sound), len(sound)),
        (sum(one.stopped is not None for one in sound), len(sound)),
        (sum(lost(one, best) for one in near), len(near)),
    ]


def lost(one: Watched, best: float) -> bool:
    """Whether a run was stopped before a score within NEAR times the group's best that it would have had."""
    before = min((score for share, score in one.reports if share < one.stopped_at), default=float("inf"))
    return one.stopped is not None and before > NEAR * best


def show(one: Watched) -> None:
    """What a run was, and what became of it."""
    loss, data = one.run.cfg.loss, one.run.cfg.data
    click.echo(
        f"  {one.run.name} {one.run.label}: w {loss.w} {loss.w_mid} w_gp {loss.gp_weight} I_gp {loss.gp_interval} "
        f"subset {data.subset} aug {one.run.cfg.augment.enabled}; "
        f"flagged {one.flagged_at:.2f} stopped {one.stopped_at:.2f}; "
        f"best {one.run.best:.1f}, last {one.run.scores[-1]['score']:.1f}"
    )


if __name__ == "__main__":
    main()
