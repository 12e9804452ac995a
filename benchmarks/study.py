"""What the trials of searches show, grouped by all settings but the seed: `python benchmarks/study.py NAME SEARCH...`.

Each SEARCH is a folder that `act-ray tune` wrote, or a run's. Writes docs/study/NAME.csv with a row for each run,
docs/images/study_NAME.png with its curves, and prints a table for docs/results.md: mean and standard deviation over
seeds. FD is the mean of a run's last three scores, never the best of many; L_gp, L_CT and p_aug are medians over the
last third of the steps. `--redraw` makes the table anew from the CSV, when the runs are gone.
"""

import csv
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure

from act_ray import settings
from act_ray.figures.curves import History, read_history
from act_ray.figures.style import COLOURS, WIDTH, save, styled

ROOT = Path(__file__).parents[1]
LETTERS = {"loss.w": "w", "loss.w_mid": "w_mid", "loss.gp_weight": "w_gp", "loss.gp_interval": "I_gp"}
MEASURED = {  # column -> the field of metrics.jsonl that it is the median of
    "L_gp": "loss_gp", "grad2": "gp", "L_CT": "loss_ct", "p_aug": "p_aug",
}  # fmt: skip
LAST = 3  # scores
PANELS = {"score": "FD", "gp": r"$\|\nabla D\|^2$", "loss_ct": "$L_{CT}$", "p_aug": "$p_{aug}$"}


def find_runs(folders: Iterable[str]) -> Iterator[History]:
    """The finished runs in searches' folders, or the folders themselves."""
    for folder in map(Path, folders):
        inside = sorted((folder / "trials").glob("*")) if (folder / "trials").is_dir() else [folder]
        yield from (read_history(str(path)) for path in inside if (path / "result.json").exists())


def differing(histories: Sequence[History]) -> list[str]:
    """The settings that are not the same in all runs, the seed left out."""
    aside = ("train.seed", "data.path", "checkpoint.")
    names = [n for n in settings.field_names() if not n.startswith(aside)]
    return [name for name in names if len({str(settings.get(h.cfg, name)) for h in histories}) > 1]


def measure(history: History, names: Sequence[str]) -> dict[str, Any]:
    """A run as a row."""
    scores = history.points("score")[1]
    row: dict[str, Any] = {name: settings.get(history.cfg, name) for name in names}
    row |= {"train.seed": history.cfg.train.seed, "step": history.scores[-1]["step"]}
    row |= {"FD": float(np.mean(scores[-LAST:])), "FD_last": float(scores[-1]), "FD_best": float(scores.min())}
    for kind in ("ema", "teacher", "model"):
        last = [float(found[f"score_{kind}"]) for found in history.scores[-LAST:] if f"score_{kind}" in found]
        row[f"FD_{kind}"] = statistics.mean(last) if last else None
    row["diversity"] = float(np.mean(history.points("diversity")[1][-LAST:]))
    for column, field in MEASURED.items():
        steps, values = history.points(field)
        late = values[steps >= 2 / 3 * history.cfg.train.total_steps]
        row[column] = float(np.median(late)) if len(late) else None
    row["found"] = "; ".join(f"{mark.signature} at {mark.step}" for mark in history.marks)
    return row


def groups(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[tuple[str, ...], list[Mapping[str, Any]]]:
    """Rows of the same settings."""
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(str(row[name]) for name in names), []).append(row)
    return found


def _order(text: str) -> tuple[float, str]:
    """Numbers by their size, then the rest."""
    try:
        return float(text), ""
    except ValueError:
        return math.inf, text


def table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Mean and spread of each group, as Markdown."""
    columns = [c for c in ("FD", "FD_teacher", "FD_model", "L_gp", "grad2", "L_CT", "p_aug", "diversity")
               if any(row.get(c) not in (None, "") for row in rows)]  # fmt: skip
    head = [*(LETTERS.get(name, f"`{name}`") for name in names), "seeds", *columns]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for key, members in sorted(groups(rows, names).items(), key=lambda item: [_order(text) for text in item[0]]):
        cells = [*key, str(len(members))]
        for column in columns:
            values = [round(float(row[column]), 6) for row in members if row.get(column) not in (None, "")]
            spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3g}{spread}" if values else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(histories: Sequence[History], names: Sequence[str]) -> Figure:
    """Score, gradient, L_CT and p_aug of each group: the mean of its runs, and their range shaded."""
    panels = [f for f in PANELS if any(len(h.points(f)[0]) for h in histories)]
    if not any(h.points("p_aug")[1].any() for h in histories if len(h.points("p_aug")[0])):
        panels = [panel for panel in panels if panel != "p_aug"]
    figure = Figure(figsize=(WIDTH, 1.35 * len(panels) + 0.5), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    kinds: dict[tuple[str, ...], list[History]] = {}
    for history in histories:
        kinds.setdefault(tuple(str(settings.get(history.cfg, name)) for name in names), []).append(history)
    for i, (key, members) in enumerate(kinds.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "lw": 1.3, "ls": "-" if i < len(COLOURS) else "--"}
        label = ", ".join(f"{LETTERS.get(n, n.rpartition('.')[2])} {v}" for n, v in zip(names, key, strict=True))
        for axis, panel in zip(axes, panels, strict=True):
            lines = [smooth(*h.points(panel)) for h in members if len(h.points(panel)[0])]
            if not lines:
                continue
            grid = np.linspace(max(s[0] for s, _ in lines), min(s[-1] for s, _ in lines), 60)
            each = np.stack([np.interp(grid, *line) for line in lines])
            axis.plot(grid, each.mean(0), label=label if axis is axes[0] else None, **style)
            axis.fill_between(grid, each.min(0), each.max(0), color=style["color"], alpha=0.12, lw=0)
    for axis, panel in zip(axes, panels, strict=True):
        axis.set_ylabel(PANELS[panel])
        if panel != "p_aug":
            axis.set_yscale("log")
    axes[-1].set_xlabel("steps")
    if names:
        longest = max(len(text.get_text()) for text in figure.legend().get_texts())
        figure.legends.clear()
        figure.legend(loc="outside upper center", ncols=max(1, 100 // (longest + 6)))
    return figure


def smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running median where there are many values."""
    if len(values) < 30:
        return steps, values
    width = max(3, len(values) // 15)
    middle = [np.median(values[max(0, i - width) : i + width + 1]) for i in range(len(values))]
    return steps, np.array(middle)


@click.command()
@click.argument("name")
@click.argument("searches", nargs=-1)
@click.option("--redraw", is_flag=True, help="Only the table, from docs/study/NAME.csv.")
def main(name: str, searches: tuple[str, ...], redraw: bool) -> None:
    """Measure, tabulate and draw."""
    path = ROOT / "docs" / "study" / f"{name}.csv"
    if redraw:
        with path.open(newline="") as file:
            rows: list[Any] = list(csv.DictReader(file))
        names = list(rows[0])[: list(rows[0]).index("train.seed")]
    else:
        histories = list(find_runs(searches))
        names = differing(histories)
        rows = [measure(history, names) for history in histories]
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
        with styled():
            save(draw(histories, names), ROOT / "docs" / "images", f"study_{name}")
        (ROOT / "docs" / "images" / f"study_{name}.svg").unlink()
    print(table(rows, names))


if __name__ == "__main__":
    main()
