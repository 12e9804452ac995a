"""The page's overview, table and trials in a real browser."""

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import needs_browser, served
from tests.helpers.page import READY, see, until
from tests.helpers.searches import append_report, made_up

pytestmark = [needs_browser, pytest.mark.xdist_group("browser")]


def test_filter_sort_group_and_choose(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    with served([tmp_path / "s"]) as address:
        page.goto(f"{address}/#/trials")
        page.wait_for_selector("tbody a")
        names = "[...document.querySelectorAll('tbody a')].map((a) => a.textContent)"
        assert page.evaluate(names) == ["000", "001", "003", "004", "002"]  # by the best score
        page.fill("input[type=search]", "best < 80 and not (status = confirmed)")
        assert page.evaluate(names) == ["000", "003"]
        page.fill("input[type=search]", "flag = drift or loss.w > 9")
        assert page.evaluate(names) == ["001", "003"]
        page.fill("input[type=search]", "status = done or status = waits")
        assert page.evaluate(names) == ["000", "002"]
        page.evaluate("act.trials.get('s0.3').best = null")
        page.fill("input[type=search]", "best < 80")  # what has no score is not under 80
        assert page.evaluate(names) == ["000", "001"]
        page.evaluate("act.trials.get('s0.3').best = 70")
        for text, found in (  # a column as its heading says, and words of a trial's texts
            ("best FD < 40", ["000"]), ("trial = 3", ["003"]), ("why = behind", ["003", "002"]),
            ("best < last", ["001"]), ("step < planned", ["003", "004", "002"]),
            ("best = last", ["000", "003", "004", "002"]),
            ("running", ["004"]), ("drift not collapse", ["003"]), ("search = s loss.w = 0.75", ["000", "001"]),
        ):  # fmt: skip
            page.fill("input[type=search]", text)
            assert page.evaluate(names) == found, text
        page.fill("input[type=search]", "trial and not flag")  # a number of 0 is there, too
        assert page.evaluate(names) == ["000", "004", "002"]
        page.fill("input[type=search]", "!flag")
        assert page.inner_text("#problem").startswith("filter: what is ! doing there?")
        page.fill("input[type=search]", "bets < 3")
        assert page.inner_text("#problem").startswith("filter: no column bets")
        assert page.inner_text("tbody") == "the filter cannot be read"
        page.fill("input[type=search]", "")
        page.check("text=hide what was stopped")
        assert page.evaluate(names) == ["000", "003", "004", "002"]
        hidden = (
            "act.trials.get('s0.4').status = 'interrupted'; act.views.trials.update(document.getElementById('view'));"
        )
        assert page.evaluate(f"(() => {{ {hidden} return {names}; }})()") == ["000", "003", "002"]  # asked to stop
        page.evaluate("act.trials.get('s0.4').status = 'running'")
        sorted_by = page.inner_text("[aria-sort=ascending]").split()
        assert sorted_by == ["best", "FD", "(lower", "is", "better)", "lowest", "first"]
        page.click("thead button[data-name=best]")
        assert page.evaluate(names) == ["002", "004", "003", "000"]
        assert "highest first" in page.inner_text("[aria-sort=descending]")
        page.check("[aria-label='choose 003']")
        assert "003" in page.inner_text("#chosen")
        see(page, "curves")
        assert page.inner_text("#which").split() == ["chosen:", "003"]


def test_the_csv_has_what_is_shown_and_a_group_leaves_out_what_runs(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    with served([tmp_path / "s"]) as address:
        page.goto(f"{address}/#/trials")
        page.wait_for_selector("tbody a")
        page.evaluate("Object.assign(act.trials.get('s0.1'), { reason: '=1+1, \"x\"' })")
        page.fill("input[type=search]", "drift")
        with page.expect_download() as saved:
            page.click("button:text('CSV')")
        rows = list(csv.DictReader(saved.value.path().open()))
        assert [(row["search"], row["trial"], row["best score"], row["flagged at step"]) for row in rows] == [
            ("s", "001", "50", "480"),
            ("s", "003", "70", "100"),
        ]
        assert rows[0]["why"].startswith('\'=1+1, "x"')  # no formula
        ids = "['s0.2', 's0.3', 's0.4'].map((id) => act.trials.get(id))"
        page.evaluate(f"{ids}.forEach((row) => {{ row.values = {{}}; }})")
        page.fill("input[type=search]", "trial > 1")
        page.check("text=group by all but the seed")
        assert "85 ± 21 (n=2)" in page.inner_text("tbody")  # of 100 and 70; 85 still runs


def test_the_table_keeps_its_place_its_head_and_its_flags(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    page.set_viewport_size({"width": 390, "height": 300})
    with served([tmp_path / "s"]) as address:
        page.goto(f"{address}/#/trials")
        page.wait_for_selector("tbody a")
        assert "drift at step 100" in page.inner_text("tr:has([data-id='s0.3']) td >> nth=0")
        page.evaluate("document.querySelector('.scroll').scrollTo(60, 90)")
        until(page, "table.at[1] === 90")
        top = "s => document.querySelector(s).getBoundingClientRect()"
        assert abs(page.evaluate(top, "thead th")["y"] - page.evaluate(top, ".scroll")["y"]) < 3
        assert abs(page.evaluate(top, "tbody td")["x"] - page.evaluate(top, ".scroll")["x"]) < 3
        see(page, "trial/s0.1")
        page.go_back()
        page.wait_for_selector("tbody a")
        assert page.evaluate(
            "[document.querySelector('.scroll').scrollLeft, document.querySelector('.scroll').scrollTop]"
        ) == [60, 90]


def test_searches_are_not_ranked_against_each_other(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "one")
    other = made_up(tmp_path / "two")
    for index in range(4):
        append_report(other, index, 900, 2.0 + index)  # lower than all of the first search
    with served([tmp_path / "one", tmp_path / "two"]) as address:
        page.goto(address)
        page.wait_for_selector(".winner >> nth=1")
        assert page.evaluate(
            "[...document.querySelectorAll('.winner')].map((w) => w.innerText.match(/^\\w+|[\\d.]+(?= at)/g))"
        ) == [["one", "30"], ["two", "2"]]
        see(page, "curves")
        assert page.evaluate("shown().map((row) => row.id)") == ["s0.0", "s1.0", "s0.1", "s1.1", "s0.3", "s1.2"]
        see(page, "trials")
        assert page.inner_text(".part >> nth=1").strip() == "two 5 of 5 trials"
        page.fill("input[type=search]", "search = two best < 3 or two best = 5")
        assert page.evaluate("[...document.querySelectorAll('tbody a')].map((a) => a.hash)") == [
            "#/trial/s1.0",
            "#/trial/s1.3",
        ]


def test_the_overview_says_what_runs_and_does_not_jump(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    page.set_viewport_size({"width": 390, "height": 844})
    page.add_init_script(
        "window.moved = 0; new PerformanceObserver((s) => { for (const one of s.getEntries()) moved += one.value; })"
        ".observe({ type: 'layout-shift', buffered: true });"
    )
    with served([tmp_path / "s"]) as address:
        page.goto(address)
        page.wait_for_selector(".frame img")
        page.wait_for_selector(READY["overview"])
        assert "004 at step 107 of 400; last FD 85, best 85" in page.inner_text("#now")
        tiles = page.evaluate(
            "[...document.querySelectorAll('.card')].map((card) => card.innerText.replace('\\n', ' '))"
        )
        assert "2 of 5 flagged as collapsing; 1 of them confirmed" in [" ".join(tile.split()) for tile in tiles]
        assert not [tile for tile in tiles if tile.startswith(("0 ", "– "))]
        assert page.evaluate("window.moved") < 0.05


def test_acting_from_the_page_with_the_token_that_was_printed(page: Any, tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    with served([tmp_path / "s"], token="a-long-enough-token") as address:
        assert page.goto(address).status == 401
        page.goto(f"{address}/?token=a-long-enough-token")
        page.wait_for_selector("#tabs a")
        assert "token" not in page.url
        page.evaluate("location.hash = '#/trial/s0.4'")
        stop, answers = tmp_path / "s" / "trials" / search.plans[4].name / "STOP", ["dismiss", "accept"]
        page.on("dialog", lambda dialog: getattr(dialog, answers.pop(0))())
        page.click("text=Stop it")
        assert not stop.exists()
        page.click("text=Stop it")
        page.wait_for_selector("#say >> text=asked to save and end")
        assert stop.exists()
        page.fill("textarea", "looks odd")
        page.click("text=write")
        page.wait_for_selector("text=looks odd")
        search.log_state("finished")
        page.evaluate("location.hash = '#/trial/s0.2'")
        page.wait_for_selector("text=its search does not run; resume it first", timeout=10_000)
        assert page.is_disabled("text=Let it go on")
