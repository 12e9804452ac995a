"""Complete runs of searches as labelled traces: `python benchmarks/search/collect.py OUT [GROUP=]SEARCH...`.

Runs of a group have the same data and budget, so that their scores compare; a search is one unless GROUP is given.
A run is failing if it ends worse than it was: each of its last three scores is over 1.3 times its best, or each of its
last three diversities under .75 of its highest, or a score is not finite. So labels come from the later course
of score and diversity alone, and not from what a detector sees. Half of the configurations, by a hash of their
settings, are held out. OUT, which may have runs already, gets runs.parquet, steps.parquet and scores.parquet
(act_ray/tune/recorded.py).
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import click

from act_ray.metrics.scores import WORST
from act_ray.tune.recorded import Recorded, load_recorded, read_run, save_recorded

WORSE, ALIKE, LAST = 1.3, 0.75, 3


def label(run: Recorded) -> str:
    """failing or sound."""
    scores = [row["score"] for row in run.scores]
    diversity = [row["diversity"] for row in run.scores if row["diversity"] is not None]
    if max(scores) >= WORST or min(scores[-LAST:]) > WORSE * min(scores):
        return "failing"
    return "failing" if max(diversity[-LAST:]) < ALIKE * max(diversity) else "sound"


def split(run: Recorded) -> str:
    """fit or held-out, the same for all seeds of a configuration."""
    cfg = run.cfg.model_dump(mode="json")
    del cfg["train"]["seed"]
    digest = hashlib.sha256(json.dumps(cfg, sort_keys=True).encode()).digest()
    return "fit" if digest[0] % 2 else "held-out"


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("searches", nargs=-1, required=True)
def main(out: Path, searches: tuple[str, ...]) -> None:
    """Add the completed trials of SEARCHES to what is in OUT."""
    runs = load_recorded(str(out)) if (out / "runs.parquet").exists() else []
    known = {run.name for run in runs}  # keep their split: a setting that came later would change the hash
    for text in searches:
        group, _, folder = text.rpartition("=")
        group = group or Path(folder).name.removeprefix("gt_")
        for trial in sorted((Path(folder) / "trials").iterdir()):
            run = read_run(str(trial), group)
            if run is not None and run.name not in known:
                runs.append(replace(run, label=label(run), split=split(run)))
    save_recorded(runs, out)
    for group in dict.fromkeys(run.group for run in runs):
        mine = [run for run in runs if run.group == group]
        failing = sum(run.label == "failing" for run in mine)
        click.echo(f"{group}: {len(mine)} runs, {failing} failing, {sum(r.split == 'fit' for r in mine)} to fit on")


if __name__ == "__main__":
    main()
