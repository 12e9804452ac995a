"""importance.png: which parameters mattered in a search, and how the trials' scores hang on them."""

from pathlib import Path

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from act_ray.figures.style import COLOURS, GREY, WIDTH, save, styled
from act_ray.tune.experiment import Experiment
from act_ray.tune.trials import TrialRecord

MOST = 4  # parameters whose trials are drawn


def draw_importances(experiment: Experiment, found: dict[str, float], trials: list[tuple[TrialRecord, float]]) -> Path:
    """How much each parameter explains, and each trial's score, or what it promises, against those that do most."""
    most = [*found][:MOST]
    with styled():
        figure = Figure((WIDTH, 2.0 + 0.2 * len(found)), layout="constrained")
        rows = figure.subfigures(2, 1, height_ratios=[0.4 + 0.2 * len(found), 1.6], squeeze=False)
        shares, scores = rows[:, 0]
        bars = shares.subplots()
        bars.barh([*found][::-1], [100 * share for share in found.values()][::-1], color=COLOURS[0])
        bars.set_xlabel("share of the variance of log scores that it explains, %")
        bars.grid(axis="y", visible=False)
        for axes, name in zip(scores.subplots(1, len(most), sharey=True, squeeze=False)[0], most, strict=True):
            kind, values = experiment.space.specs[name]
            listed = kind in ("choice", "grid")
            at = [t.plan.values[name] for t, _ in trials]
            if listed:
                values = sorted(values, key=_numbers_first)
                axes.set_xticks(range(len(values)), map(str, values))
                at = [values.index(value) for value in at]
            colours = [GREY if t.waiting else COLOURS[1 if t.prune else 0] for t, _ in trials]
            axes.scatter(at, [score for _, score in trials], 10, colours)
            axes.set(xlabel=name, yscale="log")
            _plain_log(axes.yaxis)
            if kind == "loguniform":
                axes.set_xscale("log")
                _plain_log(axes.xaxis)
        scores.axes[0].set_ylabel("score")
        ended = sum(t.waiting is None for t, _ in trials)
        said = "Grey: waits, and its trend promises this; orange: showed a signature of collapse; blue: all others"
        scores.suptitle(f"{ended} of {len(trials)} trials ended. {said}", fontsize=7)
        save(figure, experiment.dir.path, "importance")
    return experiment.dir.path / "importance.png"


def _numbers_first(value: object) -> tuple[bool, float]:
    return (False, float(value)) if isinstance(value, int | float) else (True, 0.0)


def _plain_log(axis: Axis) -> None:
    """1, 2, 5, 10, ... and not powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_locator(NullLocator())
