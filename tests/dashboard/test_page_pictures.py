"""The page's curves, samples and parameters in a real browser."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from act_ray.runs.folder import grid_name
from tests.helpers.browser import needs_browser, served
from tests.helpers.page import READY, see, until
from tests.helpers.searches import append_report, made_up

pytestmark = [needs_browser, pytest.mark.xdist_group("browser")]


def test_a_trial_keeps_its_colour_when_another_becomes_the_best(page: Any, tmp_path: Path) -> None:
    """The names above the curves and the curves went by the place, which may change between the two."""
    search = made_up(tmp_path / "s")
    lines = "Object.fromEntries(document.querySelector('#chart-score').data.map((t) => [t.name, t.line.color]))"
    dots = (
        "Object.fromEntries([...document.querySelectorAll('#which .dot')].map((d) => "
        "[d.nextElementSibling.textContent, getComputedStyle(d).getPropertyValue('--mine')]))"
    )
    with served([tmp_path / "s"]) as address:
        page.goto(address)
        see(page, "curves")
        before = page.evaluate(lines)
        assert len(set(before.values())) == len(before) == 5
        append_report(search, 4, 200, 1.5)
        page.wait_for_selector("#which a >> nth=0 >> text=004")
        assert page.evaluate(lines) == page.evaluate(dots) == before


def test_zoom_is_kept_when_new_points_come(page: Any, tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    with served([tmp_path / "s"]) as address:
        page.goto(f"{address}/#/curves")
        page.wait_for_selector(READY["curves"])
        page.evaluate("Plotly.relayout('chart-score', { 'xaxis.range': [50, 250] })")
        append_report(search, 4, 200, 55.0)
        seen = (
            "poll().then(() => act.views.curves.update(document.getElementById('view')))"
            ".then(() => act.trials.get('s0.4').best)"
        )
        while page.evaluate(seen) != 55:  # the server looks once a second
            page.wait_for_timeout(50)
        assert page.evaluate("document.getElementById('chart-score').layout.xaxis.range") == [50, 250]


@pytest.mark.slow
def test_one_zoom_for_all_curves_kept_with_its_data(page: Any, tmp_path: Path) -> None:
    """Curves that were left and seen again had whole axes, and points of what was zoomed to only."""
    made_up(tmp_path / "s")
    seen = (
        "id => { const c = document.getElementById(id); const x = c.data.flatMap((t) => t.x);"
        " return [c.layout.xaxis.range, Math.min(...x), Math.max(...x)]; }"
    )
    near = "id => Math.max(...(document.getElementById(id).data || [{ x: [999] }]).flatMap((t) => t.x)) <= 250"
    with served([tmp_path / "s"]) as address:
        page.goto(f"{address}/#/curves")
        page.wait_for_selector(READY["curves"])
        page.evaluate("Plotly.relayout('chart-score', { 'xaxis.range': [50, 250] })")
        until(page, f"({near})('chart-loss_ct')")
        page.uncheck("text=log scale")
        assert page.evaluate(seen, "chart-score") == [[50, 250], 100, 200]
        see(page, "trials")
        see(page, "curves")
        until(page, f"({near})('chart-gp')")
        assert page.evaluate(seen, "chart-score") == [[50, 250], 100, 200]
        page.click("text=Quantities")
        for field in ("L_D", "L_G"):
            page.check(f".choices >> text='{field}'")  # the list stays open
        page.wait_for_selector("#chart-loss_g .main-svg")
        page.click("text=see all again")
        ranges = "[...new Set([...document.querySelectorAll('.js-plotly-plot')].map((c) => `${c.layout.xaxis.range}`))]"
        assert page.evaluate(ranges) == ["0,412"]  # also of what is measured from step 0 to 399
        until(page, "Math.max(...document.getElementById('chart-score').data.flatMap((t) => t.x)) === 400")


def test_flags_are_named_above_the_curves_and_no_two_trials_look_the_same(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    boxes = (
        "s => [...document.querySelectorAll(s)].map((one) => one.getBoundingClientRect())"
        ".map((b) => [b.left, b.top, b.right, b.bottom])"
    )
    with served([tmp_path / "s"]) as address:
        page.goto(f"{address}/#/curves")
        page.wait_for_selector(READY["curves"])
        page.evaluate(
            "act.trials.get('s0.1').flag.step = 130; act.views.curves.update(document.getElementById('view'))"
        )
        page.wait_for_selector("#chart-score .annotation >> nth=1")
        (first, second), (plot,) = (page.evaluate(boxes, f"#chart-score {s}") for s in (".annotation", ".nsewdrag"))
        assert max(first[3], second[3]) <= plot[1] + 2
        assert first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]
        look = "(id, i) => { act.chosen.set(id, i); const d = dot({ id }); return d.dataset.dash + d.style.cssText; }"
        looks = page.evaluate(f"[...'abcdefghi'].map({look})")
        assert len(set(looks)) == 9


def test_a_cell_without_its_gutter_and_a_stop_of_the_slider_for_each_score(page: Any, tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    grid = search.local_trial(search.plans[1]) / "samples" / grid_name(400)
    Image.new("RGB", (411, 411)).save(grid)  # 16 x 16
    with served([tmp_path / "s"]) as address:
        page.goto(f"{address}/#/samples?chosen=s0.0,s0.1")
        page.wait_for_selector("canvas >> nth=1")
        assert "different shapes" in page.inner_text("#noise")
        page.focus("#when")
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector("figure >> nth=0 >> text=step 300 of 400")
        assert "FD 40" in page.inner_text("figcaption >> nth=0")
        assert page.inner_text("#noise").startswith("All from the same noise")
        page.click("canvas >> nth=0", position={"x": 5, "y": 5})
        page.wait_for_selector("text=cell 1 of 64")
        assert page.evaluate("[...document.querySelectorAll('canvas')].map((c) => [c.width, c.height])") == [
            [53, 53],
            [53, 53],
        ]


def test_a_choice_is_spaced_evenly_and_a_point_opens_its_trial(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    with served([tmp_path / "s"]) as address:
        page.goto(f"{address}/#/parameters")
        page.wait_for_selector(READY["parameters"])
        members = "[0.3, 0, 0.001, 0.001].map((g) => ({ values: { g } }))"
        axis = page.evaluate(f"[axisOf('g', {members}).labels, axisOf('g', {members}).at(0.001)]")
        assert axis == [[[0, "0"], [0.5, "0.001"], [1, "0.3"]], 0.5]
        page.wait_for_selector("text=too few trials with a score")
        until(page, "document.querySelector('#scatter').dataset.opens")
        page.evaluate("document.querySelector('#scatter').emit('plotly_click', { points: [{ customdata: 's0.1' }] })")
        page.wait_for_selector("h1 >> text=of s")
        assert page.inner_text("nav [aria-current]") == "Trials"
        page.wait_for_selector("text=the newest, and the best: step 400")
