"""Training curves, the paper's Figs. 4, 5, 8 and 9: the gradient penalty, L_CT and the score against the steps."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.figures.style import COLOURS, GREY, MARK, WIDTH, Missing
from act_ray.metrics.scores import WORST
from act_ray.runs.folder import RunFolder, read_config
from act_ray.runs.rows import Row

MOST = 600  # blocks that a curve is drawn from, however long the run
SMOOTH = 1 / 30  # share of a curve that its running median spans
LABEL = 18  # letters of a line beside an axis: longer ones reach the labels of the panels above and below
LOG_RANGE = 5.0  # largest over smallest value from which an axis is logarithmic
RATIOS = ("drift", "spike", "worse")  # signatures whose threshold is a ratio to the least value that the rule saw
DISTANCES = {"lpips": "LPIPS", "l2": "L2", "l1": "L1", "pseudo_huber": "pseudo-Huber"}
NO_CURVE = ("preset", "collapse.", "eval.", "checkpoint.", "train.log_every", "train.threads")  # settings of others

Points = tuple[NDArray[Any], NDArray[Any]]  # steps, values


@dataclass(frozen=True)
class Mark:
    """Where a run collapsed: by which signature, when, the steps that the rule looked at, and what it saw there."""

    signature: str
    step: int
    window: tuple[int, int]
    message: str
    seen: tuple[tuple[int, float], ...] = ()  # (step, value) as the rule has smoothed it
    limit: float | None = None  # what it must exceed
    gp_weight: float | None = None  # w_gp then; an older record does not say

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Mark":
        """Of what prune.json holds."""
        seen = tuple((int(step), float(value)) for step, value in record["window"])
        limit = None
        if record["signature"] in RATIOS:
            limit = min(value for _, value in seen) * float(record["threshold"])
        elif record["signature"] == "steep":
            limit = float(record["threshold"])
        span = (seen[0][0], seen[-1][0])
        weight = record.get("trace", {}).get("gp_weight")
        message = str(record["message"])
        return cls(str(record["signature"]), int(record["step"]), span, message, seen if limit else (), limit, weight)


@dataclass(frozen=True)
class Broken:
    """evidence.json."""

    step: int
    what: str


@dataclass(frozen=True)
class History:
    """What a run wrote down of its training."""

    name: str
    cfg: Config
    metrics: list[Row]
    scores: list[Row]
    marks: list[Mark]
    left_out: list[str] = field(default_factory=list)  # lines about rows that cannot be read

    def points(self, field: str) -> Points:
        """The finite values of a field of the metrics, or of the scores, where it was measured."""
        rows = self.scores if field in ("score", "diversity") else self.metrics
        pairs = [(row["step"], float(row[field])) for row in rows if row.get(field) is not None]
        limit = WORST if field == "score" else math.inf
        table = np.array([pair for pair in pairs if abs(pair[1]) < limit], float).reshape(-1, 2)  # nan is not, either
        return table[:, 0], table[:, 1]


# ---------------------------------------------------------------------------------------------- reading


def read_history(location: str) -> History:
    """The rows of a run's folder or URI. Raises UserError for a folder that is no run's, such as a search's."""
    location = location.rstrip("/")
    run = RunFolder(location, scratch="views")
    cfg = read_config(run)
    if cfg is None:
        hint = "not a run's folder"
        if run.read("experiment.yaml") is not None:
            trials = sorted(path.name for path in run.path.glob("trials/*"))
            hint = f"a search: give one of its trials' folders, e.g. {location}/trials/{(trials or ['NAME'])[0]}"
        raise UserError(f"{location}: no config.yaml there; {hint}")
    run.fetch_root()
    name = run.path.name if run.remote is None else location.rpartition("/")[2]
    metrics, scores = run.rows("metrics.jsonl"), run.rows("scores.jsonl")
    return History(name, cfg, metrics, scores, _marks(run), [*run.left_out()])


def _marks(run: RunFolder) -> list[Mark]:
    """The signature that was found and, of older runs, the first value that was not finite."""
    marks = []
    if (record := run.read_json("prune.json", dict[str, Any])) is not None:
        try:
            marks.append(Mark.of(record))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(f"{run.location}/prune.json: damaged: {type(error).__name__} {error}") from None
    # Runs from before prune.json held the evidence: evidence.json may tell of a value after another signature.
    broken = run.read_json("evidence.json", Broken)
    if broken is not None and "divergence" not in [mark.signature for mark in marks]:
        marks.append(Mark("not finite", broken.step, (broken.step,) * 2, broken.what))
    return marks


def labels(histories: Sequence[History], locations: Sequence[str]) -> list[str]:
    """The runs' names and, where they are at most three, the settings in which they differ."""
    names = [history.name for history in histories]
    if len(set(names)) < len(names):
        names = [location.rstrip("/") for location in locations]
    flat = [_flat(history.cfg.model_dump()) for history in histories]
    keys = sorted({key for one in flat for key in one if not key.startswith(NO_CURVE)})
    differing = [key for key in keys if len({str(one.get(key)) for one in flat}) > 1]
    if not 0 < len(differing) <= 3:
        return names
    return [
        f"{name}: {', '.join(f'{key} = {_number(one.get(key))}' for key in differing)}"
        for name, one in zip(names, flat, strict=True)
    ]


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


# ---------------------------------------------------------------------------------------------- smoothing


def envelope(steps: NDArray[Any], values: NDArray[Any], most: int = MOST) -> tuple[Points, Points]:
    """A curve as ((steps, values) through the extremes of at most `most` blocks, (steps, values) of their medians)."""
    if len(values) <= most:
        return (steps, values), (steps, values)
    parts = list(zip(np.array_split(steps, most), np.array_split(values, most), strict=True))
    ends = [(s[[0, -1]], (v.min(), v.max())) for s, v in parts]
    middle = np.array([(np.median(s), np.median(v)) for s, v in parts])
    outer = np.concatenate([s for s, _ in ends]), np.concatenate([v for _, v in ends])
    return outer, (middle[:, 0], middle[:, 1])


def running_median(values: NDArray[Any], width: int) -> NDArray[Any]:
    """Median over `width` neighbours, centred; over fewer at the ends."""
    half = width // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


# ---------------------------------------------------------------------------------------------- drawing


@dataclass(frozen=True)
class Panel:
    """One axis of the column: a field of the rows, its label, and whether it has a value at (nearly) every step."""

    field: str
    label: str
    dense: bool = True
    log: bool = True  # where its values need it


def panels(histories: Sequence[History]) -> list[Panel]:
    """The panels for which at least one of the runs has something to show."""
    losses = [history.cfg.loss for history in histories]
    weights = {loss.gp_weight for loss in losses}
    penalty = Panel("gp", r"$\Vert\nabla_x D\,\Vert^2$" + "\n(without $w_{gp}$)")
    if len(weights) == 1 and min(weights) > 0:  # else the runs' L_gp are of different units, or none
        penalty = Panel("loss_gp", f"$L_{{gp}}$\n($w_{{gp}}$ = {min(weights):g}\nincluded)")
    distance = " / ".join(sorted({DISTANCES[loss.distance] for loss in losses}))
    metrics = {row["metric"] for history in histories for row in history.scores}
    wanted = [
        penalty,
        Panel("loss_ct", f"$L_{{CT}}$\n({distance})"),
        Panel("loss_dsm", "denoising loss"),
        Panel("score", "\nor ".join(textwrap.fill(metric, LABEL) for metric in sorted(metrics)), dense=False),
        Panel("p_aug", "$p_{aug}$", log=False),
    ]
    if "mode-collapse" in {mark.signature for history in histories for mark in history.marks}:
        wanted.append(Panel("diversity", "diversity\n(data: 1)", dense=False, log=False))
    return [panel for panel in wanted if any(len(history.points(panel.field)[0]) for history in histories)]


def draw_curves(histories: Sequence[History], names: Sequence[str]) -> Figure:
    """One panel per quantity over a common axis of steps, a colour per run, and a line where a run collapsed.

    Raises Missing when no run has trained yet.
    """
    shown = panels(histories)
    if not shown:
        raise Missing("no metrics yet")
    figure = Figure(figsize=(WIDTH, 0.8 + 1.2 * len(shown)), layout="constrained")
    axes: list[Axes] = list(figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0])
    for axis, panel in zip(axes, shown, strict=True):
        _draw_panel(axis, panel, histories, names)
    last = max([*(axis.dataLim.x1 for axis in axes), *(mark.step for history in histories for mark in history.marks)])
    axes[-1].set_xlim(0, last * 1.01)
    axes[-1].set_xlabel("training steps")
    thousand = last >= 10_000
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 1000:g}k" if thousand and v else f"{v:,.0f}"))
    _draw_marks(axes, histories, last)
    figure.align_ylabels(axes)
    lines = axes[0].get_legend_handles_labels()
    if len(histories) == 1 and shown[0].dense:
        rule = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        rule.pop(names[0])
        lines = [*axes[0].lines[:2], *rule.values()], ["measured", "running median", *rule]
    figure.legend(*lines, loc="outside upper left", ncols=2 if max(map(len, lines[1])) < 45 else 1)
    return figure


def _draw_panel(axis: Axes, panel: Panel, histories: Sequence[History], names: Sequence[str]) -> None:
    """Raw values thin with their running median bold; evaluations as points."""
    everything = []
    for history, name, colour in zip(histories, names, COLOURS, strict=False):
        steps, values = history.points(panel.field)
        everything.append(values)
        if panel.dense:
            raw, (steps, values) = envelope(steps, values)
            axis.plot(*raw, color=colour, lw=0.5, alpha=0.35)
            values = running_median(values, max(5, round(len(values) * SMOOTH)))
        axis.plot(steps, values, color=colour, lw=1.4, marker=None if panel.dense else "o", ms=2.8, label=name)
        if history.cfg.augment.enabled and panel.field in ("gp", "loss_gp"):
            _draw_tau(axis, panel, history, GREY if len(histories) == 1 else colour)
        if len(histories) == 1:
            everything += [*_draw_seen(axis, panel, history)]
    _set_scale(axis, np.concatenate(everything), panel.log)
    axis.set_ylabel(panel.label)


def _draw_seen(axis: Axes, panel: Panel, history: History) -> Iterator[NDArray[Any]]:
    """What the rule that found the collapse saw of this curve, and its limit."""
    for mark in history.marks:
        if mark.limit is None or panel.field not in (("score",) if mark.signature == "worse" else ("gp", "loss_gp")):
            continue
        unit, weight = 1.0, history.cfg.loss.gp_weight if mark.gp_weight is None else mark.gp_weight
        if panel.field == "loss_gp" and mark.signature != "steep":
            unit = weight
        elif panel.field == "gp" and mark.signature == "steep":
            unit = 1 / weight
        steps, values = (np.array(column, float) for column in zip(*mark.seen, strict=True))
        axis.plot(steps, unit * values, color=MARK, lw=1.6, label="what the rule saw")
        axis.hlines(unit * mark.limit, steps[0], mark.step, color=MARK, lw=1.2, ls=":", label="its limit")
        yield np.append(unit * values, unit * mark.limit)


def _draw_tau(axis: Axes, panel: Panel, history: History, colour: str) -> None:
    """The threshold that L_gp is held near; tau includes w_gp."""
    weight = history.cfg.loss.gp_weight if panel.field == "gp" else 1.0
    tau = history.cfg.augment.tau
    if tau == "auto":
        found = history.points("tau")[1]
        tau = float(found[-1]) if len(found) else 0.0
        if tau == 0:  # not found yet
            return
    tau /= weight
    axis.axhline(tau, color=colour, lw=0.8, ls=(0, (4, 2)))
    text = rf"$\tau$ = {tau:.3g}" if weight == 1 else rf"$\tau/w_{{gp}}$ = {tau:.3g}"
    axis.annotate(text, (1, tau), (3, 0), axis.get_yaxis_transform(), "offset points", color=colour, va="center")


def _draw_marks(axes: Sequence[Axes], histories: Sequence[History], last: float) -> None:
    """A dashed line at each finding with its name above the top panel; shaded, if of one run, the steps before it."""
    several = len(histories) > 1
    marks = [(mark, colour if several else MARK) for history, colour in zip(histories, COLOURS, strict=False)
             for mark in history.marks]  # fmt: skip
    for row, (mark, colour) in enumerate(sorted(marks, key=lambda pair: -pair[0].step)):
        for axis in axes:
            axis.axvline(mark.step, color=colour, lw=1, ls=(0, (4, 2)))
            if len({other for _, other in marks}) == 1:
                axis.axvspan(*mark.window, color=colour, alpha=0.1, lw=0)
        right = mark.step < 0.7 * last
        axes[0].annotate(
            f"{mark.signature}, step {mark.step:,}",
            (mark.step, 1),
            (3 if right else -3, 3 + 10 * row),  # one above the other: runs often collapse at about the same step
            axes[0].get_xaxis_transform(),
            "offset points",
            color=colour,
            ha="left" if right else "right",
        )


def _set_scale(axis: Axes, values: NDArray[Any], log: bool) -> None:
    """Logarithmic where the values span more than LOG_RANGE; a few that are near 0 may fall below the axis."""
    positive = values[values > 0]
    low, high = (np.percentile(positive, 1), positive.max()) if len(positive) else (1.0, 1.0)
    if not log or high / low <= LOG_RANGE or len(positive) < 0.9 * len(values):
        axis.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        return
    axis.set_yscale("log")
    bottom, top = max(positive.min(), low / 10) / 1.2, high * 1.2
    axis.set_ylim(bottom, top)
    if top / bottom < 200:  # with more, these ticks would touch each other
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:g}"))
    axis.minorticks_off()
