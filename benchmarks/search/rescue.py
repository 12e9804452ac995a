"""What going back, and steering, are worth on settings that fail: `python benchmarks/search/rescue.py SEARCH...`.

Each SEARCH varied `collapse.action` over settings that fail: let run on (`record`), rescued, steered, and once with a
constant penalty that is known to be good, with three seeds each. A run is good if it ends, by the median of its last
three scores, within 1.5 times the best of all runs here. Prints a table for docs/results.md.
"""

import statistics
from collections import defaultdict
from pathlib import Path

import click

from act_ray import settings
from act_ray.metrics.scores import WORST
from act_ray.runs.folder import RunFolder, read_config
from act_ray.tune.experiment import Experiment
from act_ray.tune.simulation import NEAR, wilson

LAST = 3  # scores


@click.command()
@click.argument("searches", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(searches: tuple[Path, ...]) -> None:
    """A row for each setting and what was done about it."""
    ends = defaultdict[tuple[str, ...], list[float]](list)  # setting, arm -> last scores
    spaces = [Experiment.read(str(search), scratch="views").space.file for search in searches]
    names = [name for space in spaces for name in space.parameters]
    names = [*dict.fromkeys(n for n in names if n not in ("train.seed", "collapse.action"))]
    for search in searches:
        for folder in sorted((search / "trials").iterdir()):
            run = RunFolder(str(folder))
            cfg, scores = read_config(run), run.rows("scores.jsonl")
            if cfg is None or not scores:
                continue
            last = [float(row["score"]) for row in scores[-LAST:]]
            if scores[-1]["step"] < cfg.train.total_steps:  # a value was not finite, or no rescue helped
                last = [WORST]
            about = tuple(str(settings.get(cfg, name)) for name in names)
            ends[(*about, cfg.collapse.action)].append(statistics.median(last))
    best = min(value for values in ends.values() for value in values)
    click.echo("| " + " | ".join([*(f"`{name}`" for name in names), "action", "good", "95%", "last scores"]) + " |")
    click.echo("|" + "---|" * (len(names) + 4))
    for about, values in sorted(ends.items()):
        good = sum(value <= NEAR * best for value in values)
        low, high = wilson(good, len(values))
        shown = ", ".join("ended early" if value >= WORST else f"{value:.3g}" for value in sorted(values))
        click.echo(f"| {' | '.join(about)} | {good} of {len(values)} | {low:.2f}-{high:.2f} | {shown} |")


if __name__ == "__main__":
    main()
