"""The curves: what is marked, and where; units; runs side by side; long curves."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from act_ray import settings
from act_ray.figures import curves
from act_ray.figures.curves import History, Mark, draw_curves, envelope, labels, read_history, running_median
from act_ray.figures.style import COLOURS, styled


def plotted(figure: Figure, panel: int) -> list[tuple[list[float], list[float]]]:
    """Steps and values of the lines of a panel."""
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[panel].lines]  # type: ignore[arg-type]


def annotations(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts if isinstance(text, Annotation)]


def test_a_collapse_is_marked_where_it_was_found(drifted: Path) -> None:
    record = json.loads((drifted / "prune.json").read_text())
    assert record["signature"] == "drift"
    assert 500 < record["step"] < 1100
    with styled():
        figure = draw_curves([read_history(str(drifted))], ["one"])
    first, last = record["window"][0][0], record["window"][-1][0]
    assert len(figure.axes) == 2  # ||grad D||^2 and L_CT: no scores, no augmentation
    for panel, axis in enumerate(figure.axes):
        assert plotted(figure, panel)[-1][0] == [record["step"]] * 2
        (shade,) = axis.patches
        assert (shade.get_x(), shade.get_x() + shade.get_width()) == (first, last)  # type: ignore[attr-defined]
    assert annotations(figure) == [f"drift, step {record['step']:,}"]
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[1].get_yscale() == "linear"


def history(**changes: Any) -> History:
    """A run of 200 steps with w_gp = 0.5 unless told otherwise, and one evaluation that failed."""
    cfg = settings.load("digits", {"loss.gp_weight": 0.5, **{k.replace("__", "."): v for k, v in changes.items()}})
    rows: list[dict[str, Any]] = [{"step": k, "loss_ct": 1.0, "p_aug": 0.1} for k in range(200)]
    for row in rows[::16]:
        row |= {"gp": 2.0, "loss_gp": 2.0 * cfg.loss.gp_weight}
    rows[100]["loss_ct"], rows[101]["loss_ct"] = "nan", "inf"
    metric = "FD (classifier features, 500 samples)"
    scores = [
        {"step": k, "score": s, "diversity": 0.9, "metric": metric} for k, s in ((50, 9.0), (100, 1e9), (150, 7.0))
    ]
    return History("run", cfg, rows, scores, [])


def test_the_penalty_is_of_one_unit_and_what_is_not_finite_is_left_out() -> None:
    augmented = history(augment__enabled=True)
    with styled():
        alone = draw_curves([augmented], ["one"])
        both = draw_curves([augmented, history(loss__gp_weight=3.0)], ["one", "other"])
    (_, raw), _, (_, tau) = plotted(alone, 0)
    assert (set(raw), set(tau)) == ({1.0}, {0.55})  # w_gp ||grad D||^2 and its threshold
    values = [set(ys) for _, ys in plotted(both, 0)]
    assert values == [{2.0}, {2.0}, {1.1}, {2.0}, {2.0}]  # ||grad D||^2 and tau / w_gp
    assert annotations(both) == [r"$\tau/w_{gp}$ = 1.1"]
    steps, loss = plotted(alone, 1)[0]
    assert (len(steps), set(loss)) == (198, {1.0})
    assert plotted(alone, 2) == [([50, 150], [9.0, 7.0])]
    assert [axis.get_ylabel().split()[0] for axis in alone.axes] == ["$L_{gp}$", "$L_{CT}$", "FD", "$p_{aug}$"]


def test_labels_beside_stacked_panels_do_not_overlap() -> None:
    """The longest names, on axes of powers of ten with a value a decade below the others, and little room."""
    run = history(loss__gp_weight=0.001)
    for k, row in enumerate(run.metrics):
        row["loss_ct"] = 0.1 if k == 150 else 1.05 ** min(k, 90)
    scores = [{**row, "metric": "FD (self_supervised features, 10000 samples)"} for row in run.scores]
    for fields in ({"step", "loss_gp"}, {"step", "loss_gp", "loss_ct"}):
        rows = [{name: value for name, value in row.items() if name in fields} for row in run.metrics]
        with styled():
            figure = draw_curves(
                [replace(run, metrics=rows, scores=scores, marks=[Mark("spike", 150, (130, 150), "")])], ["one"]
            )
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
        boxes = [axis.yaxis.label.get_window_extent(canvas.get_renderer()) for axis in figure.axes]
        assert len(boxes) == len(fields)
        assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    low, high = figure.axes[1].get_ylim()
    assert [tick for tick in figure.axes[1].get_yticks() if low < tick < high] == [0.1, 1.0, 10.0]


def test_a_mode_collapse_shows_the_diversity_and_two_runs_their_own_marks() -> None:
    marked = [
        replace(history(), marks=[Mark(what, step, (step - 20, step), "")])
        for what, step in (("mode-collapse", 150), ("spike", 40))
    ]
    with styled():
        figure = draw_curves(marked, ["one", "other"])
    assert figure.axes[-1].get_ylabel().startswith("diversity")
    texts = {text.get_text(): text for text in figure.axes[0].texts}
    assert {name: text.get_color() for name, text in texts.items()} == {
        "mode-collapse, step 150": COLOURS[0],
        "spike, step 40": COLOURS[1],
    }
    assert [texts[name].get_ha() for name in sorted(texts)] == ["right", "left"]  # towards the middle
    assert len({text.xyann[1] for text in texts.values()}) == 2  # type: ignore[attr-defined]
    assert not any(axis.patches for axis in figure.axes)


def test_what_the_rule_saw_is_drawn_with_its_limit_in_the_curves_own_unit() -> None:
    record = {"signature": "drift", "step": 150, "threshold": 7.0, "message": "", "window": [[50, 2.0], [150, 15.0]],
              "trace": {"gp_weight": 0.5}}  # fmt: skip
    with styled():
        drifted = draw_curves([replace(history(), marks=[Mark.of(record)])], ["one"])
        steep = draw_curves([replace(history(), marks=[Mark.of({**record, "signature": "steep"})])], ["one"])
        worse = draw_curves([replace(history(), marks=[Mark.of({**record, "signature": "worse"})])], ["one"])
    assert history().cfg.loss.gp_weight == 0.5
    assert plotted(drifted, 0)[-2] == ([50, 150], [1.0, 7.5])  # L_gp: w_gp included
    assert plotted(steep, 0)[-2] == ([50, 150], [2.0, 15.0])  # it looks at L_gp itself
    assert plotted(worse, 2)[-2] == ([50, 150], [2.0, 15.0])
    limits = [figure.axes[at].collections[-1].get_segments()[0][0][1] for figure, at in ((drifted, 0), (worse, 2))]
    assert limits == [7.0, 14.0]
    assert [text.get_text() for text in worse.legends[0].texts][-2:] == ["what the rule saw", "its limit"]


def test_runs_are_named_by_what_differs() -> None:
    runs = [history(loss__w=w, collapse__blocks=blocks) for w, blocks in ((0.8, 50), (0.9, 60))]
    assert labels(runs, ["a/run", "b/run/"]) == ["a/run: loss.w = 0.8", "b/run: loss.w = 0.9"]
    assert labels(runs[:1], ["a/run"]) == ["run"]


def test_a_long_curve_keeps_its_extremes_and_a_short_one_its_points() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[54_321], values[12_345] = 50.0, -50.0
    (steps, raw), (middle, medians) = envelope(np.arange(100_000.0), values)
    assert len(raw) == 2 * len(medians) == 2 * curves.MOST
    for value, step in ((50.0, 54_321), (-50.0, 12_345)):
        (where,) = np.flatnonzero(raw == value)
        assert abs(steps[where] - step) < 100_000 / curves.MOST
    assert np.abs(medians).max() < 1
    assert (np.diff(middle) > 0).all()
    assert [list(line) for line in envelope(np.arange(3.0), np.ones(3))[1]] == [[0, 1, 2], [1, 1, 1]]
    assert running_median(np.array([1.0, 9.0, 2.0, 3.0, 8.0]), 3).tolist() == [5.0, 2.0, 3.0, 3.0, 5.5]
