"""What going back, and steering, are worth on settings that fail: `python benchmarks/search/rescue.py NAME=SEARCH...`.

Each SEARCH (rescue.yaml beside this) varied `collapse.action` and `loss.gp_weight`, with three seeds each; those of
one NAME are of the same other settings. A run is good if it ends, by the median of its last three scores, within 1.5
times the best end of its NAME. Prints a table for docs/results.md.
"""

import json
import statistics
from collections import defaultdict
from pathlib import Path

import click

from act_ray.metrics.scores import WORST
from act_ray.runs.folder import RunFolder, read_config
from act_ray.tune.simulation import NEAR, wilson

LAST = 3  # scores


@click.command()
@click.argument("searches", nargs=-1, required=True, metavar="NAME=SEARCH...")
def main(searches: tuple[str, ...]) -> None:
    """A row for each setting and what was done about it."""
    ends = defaultdict[tuple[str, float, str], list[tuple[float, float]]](list)  # last and best scores
    for name, _, folder in (text.partition("=") for text in searches):
        for trial in sorted((Path(folder) / "trials").iterdir()):
            run = RunFolder(str(trial))
            cfg, scores = read_config(run), [float(row["score"]) for row in run.rows("scores.jsonl")]
            outcome = json.loads(run.read("result.json") or "{}").get("outcome", "stopped")
            if cfg is None or outcome == "stopped":  # interrupted
                continue
            ended = run.rows("scores.jsonl")[-1]["step"] >= cfg.train.total_steps
            last = statistics.median(scores[-LAST:]) if ended else WORST  # not: no rescue helped
            ends[name, cfg.loss.gp_weight, cfg.collapse.action].append((last, min(scores)))
    click.echo("| settings | `loss.gp_weight` | action | good | 95% | last scores | best scores |\n" + "|---" * 7 + "|")
    for (name, gp_weight, action), values in sorted(ends.items()):
        best = min(last for (other, *_), found in ends.items() if other == name for last, _ in found)
        good = sum(last <= NEAR * best for last, _ in values)
        low, high = wilson(good, len(values))
        lasts = ", ".join("ended early" if last >= WORST else f"{last:.3g}" for last, _ in sorted(values))
        bests = ", ".join(f"{score:.3g}" for _, score in sorted(values))
        row = (name, gp_weight, action, f"{good} of {len(values)}", f"{low:.2f}-{high:.2f}", lasts, bests)
        click.echo(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
