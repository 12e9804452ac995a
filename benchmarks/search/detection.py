"""What the detector makes of labelled traces: `python benchmarks/search/detection.py TRACES [--split held-out]`."""

import click

from act_ray.collapse.rules import CollapseConfig
from act_ray.tune.recorded import load_recorded
from act_ray.tune.simulation import NEAR, Watched, watch, wilson

SOON = 0.4  # of the budget


@click.command()
@click.argument("traces")
@click.option("--split", type=click.Choice(["fit", "held-out"]))
@click.option("--each", is_flag=True, help="A line for each run.")
def main(traces: str, split: str | None, each: bool) -> None:
    """Per group: failing runs flagged before 40% of their budget, sound ones flagged and stopped, winners lost."""
    cfg = CollapseConfig()
    runs = [run for run in load_recorded(traces) if split is None or run.split == split]
    total = [0] * 6
    for group in dict.fromkeys(run.group for run in runs):
        mine = [watch(run, cfg) for run in runs if run.group == group]
        best = min(one.run.best for one in mine)
        failing = [one for one in mine if one.run.label == "failing"]
        sound = [one for one in mine if one.run.label != "failing"]
        near = [one for one in mine if one.run.best <= NEAR * best]
        counts = [
            len(failing), sum(one.flagged_at <= SOON for one in failing), len(sound),
            sum(one.flagged is not None for one in sound), len(near), sum(lost(one, best) for one in near),
        ]  # fmt: skip
        total = [a + b for a, b in zip(total, counts, strict=True)]
        click.echo(f"{group}: " + say(counts))
        if each:
            for one in mine:
                show(one)
    click.echo("all: " + say(total))


def lost(one: Watched, best: float) -> bool:
    """Whether a run was stopped before a score within NEAR times the group's best that it would have had."""
    before = min((score for share, score in one.reports if share < one.stopped_at), default=float("inf"))
    return one.stopped is not None and before > NEAR * best


def say(counts: list[int]) -> str:
    failing, soon, sound, flagged, near, lost_ones = counts
    low, high = wilson(soon, failing)
    return (
        f"{soon} of {failing} failing flagged by {SOON:.0%} ({low:.2f}-{high:.2f}); "
        f"{flagged} of {sound} sound flagged; "
        f"{lost_ones} of {near} within {NEAR:g} times the best lost (<{wilson(lost_ones, near)[1]:.1%})"
    )


def show(one: Watched) -> None:
    loss, data = one.run.cfg.loss, one.run.cfg.data
    click.echo(
        f"  {one.run.name} {one.run.label}: w {loss.w} {loss.w_mid} w_gp {loss.gp_weight} I_gp {loss.gp_interval} "
        f"subset {data.subset} aug {one.run.cfg.augment.enabled}; "
        f"flagged {one.flagged_at:.2f} stopped {one.stopped_at:.2f}; "
        f"best {one.run.best:.1f}, last {one.run.scores[-1]['score']:.1f}"
    )


if __name__ == "__main__":
    main()
