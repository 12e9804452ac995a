"""The pictures of docs/choosing-settings.md: `python benchmarks/settings_guide.py`.

Points are the runs of docs/study/*.csv (a row each: the mean of its last three scores), joined at their means. Curves
are the same runs as benchmarks/search/traces recorded them: the mean over seeds, and their range shaded. Writes
docs/images/settings_NAME.png.
"""

import csv
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from scipy.stats import spearmanr
from study import smooth

from act_ray import settings
from act_ray.config import Config
from act_ray.figures.style import COLOURS, WIDTH, save, styled
from act_ray.tune.recorded import Recorded, load_recorded

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
HEIGHT = 2.3  # inches
ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "ncols": 2, "handlelength": 1.2}
LABELS = {"score": "FD", "gp": r"$\|\nabla D\|^2$", "loss_gp": "$L_{gp}$"}
Wanted = Mapping[str, object]  # dotted name -> value
FIXED: Wanted = {  # what is the same in all runs of digits' study, where a picture does not say otherwise
    "loss.w": 0.7, "loss.w_mid": 0.7, "loss.gp_weight": 0.3, "loss.gp_interval": 16, "train.global_batch": 32,
    "optim.lr_g": 1e-3, "schedule.s1": 10, "data.flip": False, "train.discriminator_images": "own",
    "discriminator.kind": "ddpm", "discriminator.time_embedding": True, "discriminator.activation": "silu",
    "discriminator.residual": False, "discriminator.head": "norm_act",
}  # fmt: skip
DRAWN = {"digits_600": "digits, 600 steps", "harsh_1200": "digits, 1,200 steps", "cifar10_16": "CIFAR-10, 500 steps"}
RATES: dict[str, Callable[[Config], float]] = {
    "optim.lr_g": lambda cfg: cfg.optim.lr_g,
    "optim.lr_d": lambda cfg: cfg.optim.lr_d or cfg.optim.lr_g,
}


# ---------------------------------------------------------------------------------------------- what was measured


def rows(name: str, **wanted: str) -> list[dict[str, str]]:
    """The runs of docs/study/NAME.csv with these texts in these columns (a dot is written as two underscores)."""
    with (ROOT / "docs" / "study" / f"{name}.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [row for row in found if all(row[key.replace("__", ".")] == text for key, text in wanted.items())]


def chosen(runs: Sequence[Recorded], group: str, wanted: Wanted) -> list[Recorded]:
    """The recorded runs of a group with these settings, one for each seed."""
    seeds: dict[int, Recorded] = {}
    for run in runs:
        if run.group == group and all(settings.get(run.cfg, name) == value for name, value in wanted.items()):
            seeds.setdefault(run.cfg.train.seed, run)
    assert len(seeds) == 3, f"{group}, {wanted}: {len(seeds)} seeds"
    return list(seeds.values())


def curve(run: Recorded, field: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the score, or of what was measured at steps, as a running median where they are many."""
    if field == "score":
        return np.array([row["step"] for row in run.scores]), np.array([row["score"] for row in run.scores])
    values = run.steps["gp" if field == "loss_gp" else field]
    steps = np.flatnonzero(~np.isnan(values))
    return smooth(steps, values[steps] * (run.cfg.loss.gp_weight if field == "loss_gp" else 1))


# ---------------------------------------------------------------------------------------------- drawing


def points(
    axis: Axes, found: Sequence[Mapping[str, str]], column: str, colour: str = COLOURS[0], label: str = ""
) -> None:
    """A dot for each run over the values of a setting, which stand side by side, and a line through the means."""
    values = sorted({float(row[column]) for row in found})
    means = []
    for x, value in enumerate(values):
        each = [float(row["FD"]) for row in found if float(row[column]) == value]
        axis.plot([x] * len(each), each, "o", ms=3.2, color=colour, alpha=0.75)
        means.append(statistics.mean(each))
    axis.plot(range(len(values)), means, color=colour, lw=1.2, label=label or None)
    axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    logarithmic(axis)


def curves(axis: Axes, field: str, kinds: Mapping[str, Sequence[Recorded]]) -> None:
    """The mean over seeds of each kind of run, and their range shaded."""
    for (label, members), colour in zip(kinds.items(), COLOURS, strict=False):
        lines = [curve(run, field) for run in members]
        grid = np.linspace(max(s[0] for s, _ in lines), min(s[-1] for s, _ in lines), 80)
        each = np.stack([np.interp(grid, *line) for line in lines])
        axis.plot(grid, each.mean(0), color=colour, lw=1.3, label=label)
        axis.fill_between(grid, each.min(0), each.max(0), color=colour, alpha=0.12, lw=0)
    axis.set_xlabel("steps")
    axis.set_ylabel(LABELS[field])
    logarithmic(axis)


def logarithmic(axis: Axes) -> None:
    """Powers, and 2 and 5 times these where they have room, written out."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.minorticks_off()


def canvas(n: int) -> tuple[Figure, list[Axes]]:
    """A figure with `n` axes beside each other."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def pair(found: Sequence[Mapping[str, str]], column: str, name: str, field: str,
         kinds: Mapping[str, Sequence[Recorded]]) -> Figure:  # fmt: skip
    """FD over a setting's values, and a curve over the steps for each of them."""
    figure, (left, right) = canvas(2)
    points(left, found, column)
    left.set(xlabel=name, ylabel="FD")
    curves(right, field, kinds)
    right.legend(**ABOVE)
    return figure


# ---------------------------------------------------------------------------------------------- the pictures


def weights(runs: Sequence[Recorded]) -> Figure:
    """lambda: the same at every level, and growing with the level."""
    figure, (left, middle, right) = canvas(3)
    points(left, rows("lambda"), "loss.w")
    left.set(xlabel="w = w_mid", ylabel="FD")
    for w, colour in (("0.7", COLOURS[0]), ("0.9", COLOURS[1])):
        points(middle, rows("weights", loss__w=w), "loss.w_mid", colour, f"w = {w}")
    middle.set(xlabel="w_mid", ylabel="FD")
    middle.legend(**ABOVE)
    curves(right, "score", {
        f"w = {w:g}": chosen(runs, "study_1200", {**FIXED, "loss.w": w, "loss.w_mid": w}) for w in (0, 0.3, 0.7, 1)
    })  # fmt: skip
    right.legend(**ABOVE)
    return figure


def penalty(runs: Sequence[Recorded]) -> Figure:
    """w_gp."""
    kinds = {
        f"w_gp = {value:g}": chosen(runs, "study_1200", {**FIXED, "loss.gp_weight": value})
        for value in (0, 0.03, 0.3, 3)
    }
    return pair(rows("penalty"), "loss.gp_weight", "w_gp", "gp", kinds)


def interval(runs: Sequence[Recorded]) -> Figure:
    """I_gp."""
    kinds = {
        f"I_gp = {value}": chosen(runs, "study_1200", {**FIXED, "loss.gp_interval": value}) for value in (1, 4, 16, 64)
    }
    return pair(rows("interval"), "loss.gp_interval", "I_gp", "gp", kinds)


def batch(runs: Sequence[Recorded]) -> Figure:
    """B, for consistency training and ACT."""
    figure, (left, right) = canvas(2)
    for w, colour, label in (("0.7", COLOURS[0], "ACT, w = 0.7"), ("0", COLOURS[1], "consistency training, w = 0")):
        points(left, rows("batch", loss__w=w), "train.global_batch", colour, label)
    left.set(xlabel="batch", ylabel="FD")
    left.legend(**ABOVE)
    kinds = {
        f"batch {value}": chosen(runs, "study_1200", {**FIXED, "train.global_batch": value}) for value in (16, 32, 64)
    }
    for label, members in kinds.items():
        at = {step: statistics.mean(dict(zip(*curve(run, "score"), strict=True))[step] for run in members)
              for step in (600, 1200)}  # fmt: skip
        print(f"{label}: FD {at[600]:.3g} after 600 steps, {at[1200]:.3g} after 1,200")
    curves(right, "score", kinds)
    right.legend(**ABOVE)
    return figure


def augmentation(runs: Sequence[Recorded]) -> Figure:
    """Augmentation and tau, on 200 images."""
    few = {**FIXED, "data.subset": 200}
    kinds = {"no augmentation": chosen(runs, "study_3000", {**few, "augment.enabled": False})}
    for tau in (0.3, 0.55, "auto"):
        wanted = {**few, "augment.enabled": True, "augment.tau": tau, "augment.controller": "paper"}
        kinds[f"tau {tau}"] = chosen(runs, "study_3000", wanted)
    figure, axes = canvas(2)
    for axis, field in zip(axes, ("score", "loss_gp"), strict=True):
        curves(axis, field, kinds)
    axes[0].legend(**ABOVE)
    return figure


def discriminators(runs: Sequence[Recorded]) -> Figure:
    """The discriminator's kind and parts: a row of dots each."""
    names = {
        "the preset's (ddpm)": {}, "time_embedding=false": {"time_embedding": "False"},
        "activation=leaky_relu": {"activation": "leaky_relu"}, "residual=true": {"residual": "True"},
        "head=act": {"head": "act"}, "head=plain": {"head": "plain"}, "kind=stylegan2": {"kind": "stylegan2"},
    }  # fmt: skip
    preset = {"kind": "ddpm", "time_embedding": "True", "activation": "silu", "residual": "False", "head": "norm_act"}
    figure, (axis,) = canvas(1)
    for y, changed in enumerate(names.values()):
        wanted = {f"discriminator__{key}": value for key, value in (preset | changed).items()}
        each = [float(row["FD"]) for row in rows("discriminators", **wanted)]
        axis.plot(each, [y] * len(each), "o", ms=3.6, color=COLOURS[0], alpha=0.75)
        axis.plot(statistics.mean(each), y, "|", ms=12, color=COLOURS[1])
    axis.set_yticks(range(len(names)), list(names))
    axis.set_xlabel("FD")
    axis.invert_yaxis()
    return figure


def rates(runs: Sequence[Recorded]) -> Figure:
    """Both learning rates, in runs of which everything else was drawn as well; prints the rank correlations."""
    figure, axes = canvas(2)
    for axis, (name, value) in zip(axes, RATES.items(), strict=True):
        for (group, label), colour in zip(DRAWN.items(), COLOURS, strict=False):
            mine = [run for run in runs if run.group == group and run.cfg.data.subset != 50]
            ends = [statistics.median(row["score"] for row in run.scores[-3:]) for run in mine]
            values = [value(run.cfg) for run in mine]
            axis.plot(values, ends, "o", ms=3, color=colour, alpha=0.75, label=label if axis is axes[0] else None)
            found = spearmanr(values, ends)
            print(
                f"{label}: {name} and FD at the end: rho {found.statistic:.2f}, p {found.pvalue:.2g}, {len(mine)} runs"
            )
        axis.set(xscale="log", xlabel=name, ylabel="FD at the end")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        logarithmic(axis)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def main() -> None:
    """Draw all of them."""
    runs = load_recorded(str(ROOT / "benchmarks" / "search" / "traces"))
    for draw in (weights, penalty, interval, batch, augmentation, discriminators, rates):
        with styled():
            save(draw(runs), IMAGES, f"settings_{draw.__name__}")
        (IMAGES / f"settings_{draw.__name__}.svg").unlink()


if __name__ == "__main__":
    main()
