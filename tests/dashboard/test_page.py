"""The page in a real browser, over a search that is being written."""

from pathlib import Path
from typing import Any

import pytest

from act_ray.dashboard.results import Results
from act_ray.report.single_file import write_report
from tests.helpers.browser import AXE, needs_axe, needs_browser, served, watched
from tests.helpers.command import Ended
from tests.helpers.page import READY, VIEWS, see, until
from tests.helpers.searches import append_report, made_up

pytestmark = [needs_browser, pytest.mark.xdist_group("browser")]


def test_every_view_is_drawn_without_an_error_and_without_asking_anybody_else(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    asked, wrong = watched(page)
    with served([tmp_path / "s"]) as address:
        page.goto(address)
        for view in VIEWS:
            see(page, view)
        page.click("#theme")
        page.wait_for_selector(READY["trial/s0.1"])
        page.set_viewport_size({"width": 390, "height": 844})
        for view in VIEWS:
            see(page, view)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
    assert wrong == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def test_a_new_score_is_seen_and_a_name_stays_text(page: Any, tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=window.pwned=1>"
    search = made_up(folder, about="<script>window.pwned = 1</script>")
    _, wrong = watched(page)
    with served([folder]) as address:
        page.goto(f"{address}/#/trials")
        page.wait_for_selector("tbody a")
        append_report(search, 4, 200, 12.34)
        page.wait_for_selector("tbody >> text=12.34", timeout=10_000)
        see(page, "overview")
        assert folder.name in page.inner_text("main")
        assert "<script>window.pwned = 1</script>" in page.inner_text("main")
        assert page.evaluate("window.pwned") is None
    assert wrong == []


def test_plotly_reads_no_html_in_a_name(page: Any, tmp_path: Path) -> None:
    for name in ("<a href='https:evil.example'>x<b>y", "%{x}&amp;"):
        made_up(tmp_path / name.replace("/", ""))
    with served([tmp_path]) as address:
        page.goto(address)
        page.wait_for_selector("#best .legendtext")
        texts = page.evaluate("[...document.querySelectorAll('#best .legendtext')].map((t) => t.textContent)")
        assert any("<a href='https:evil.example'>x<b>y" in text for text in texts)
        see(page, "curves")
        assert page.evaluate("document.querySelectorAll('#view svg a').length") == 0


def test_a_poll_takes_neither_focus_nor_zoom_nor_a_range(page: Any, tmp_path: Path) -> None:
    search = made_up(tmp_path / "s")
    (tmp_path / "s" / "trials" / search.plans[1].name / "prune.json").write_text("{}")
    with served([tmp_path / "s"]) as address:
        page.goto(f"{address}/#/parameters")
        page.wait_for_selector(READY["parameters"])
        page.focus(".parallel [tabindex]")
        page.keyboard.press("ArrowUp")
        held = "document.activeElement.getAttribute('aria-label')"
        before = page.evaluate(held)
        assert before.startswith("loss.w: ")
        assert page.evaluate("space.brushes['loss.w']") is not None
        append_report(search, 4, 200, 55.0)
        while page.evaluate("poll().then(() => act.trials.get('s0.4').best)") != 55:
            page.wait_for_timeout(50)
        assert page.evaluate(held) == before
        see(page, "trial/s0.1")
        first = page.query_selector(".story")
        append_report(search, 4, 300, 54.0)
        while page.evaluate("poll().then(() => act.trials.get('s0.4').best)") != 54:
            page.wait_for_timeout(50)
        assert first.is_visible()  # nothing of this trial is new: it was not drawn again


def test_by_keyboard_alone(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    with served([tmp_path / "s"]) as address:
        page.goto(address)
        page.wait_for_selector("#tabs a")
        for _ in range(3):  # the link to the content, Overview, Trials
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("tbody a")
        assert page.evaluate("document.activeElement.id") == "view"
        page.focus("[aria-label='choose 001']")
        page.keyboard.press("Space")
        page.wait_for_selector("tr.chosen")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "choose 001"


@pytest.mark.slow
def test_the_address_holds_what_is_chosen_and_shown(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    with served([tmp_path / "s"]) as address:
        page.goto(f"{address}/#/trials")
        page.wait_for_selector("tbody a")
        page.click("thead button[data-name=step]")
        page.fill("input[type=search]", "best < 90")
        page.check("[aria-label='choose 001']")
        see(page, "curves")
        page.select_option("[aria-label='Horizontal axis']", "images")
        page.uncheck("text=log scale")
        assert page.title() == "Curves – s – act_ray"
        page.reload()
        page.wait_for_selector(READY["curves"])
        assert page.evaluate("[[...act.chosen.keys()], table.filter, table.sort, curves.x, curves.log]") == [
            ["s0.1"], "best < 90", ["step", 1], "images", False]  # fmt: skip
        page.click("#chosen >> text=none")
        page.click("nav >> text=Trials")
        assert page.evaluate("location.hash").startswith("#/trials?filter=best")
        assert "chosen" not in page.url
        page.check("[aria-label='choose 001']")
        page.click("tbody a:text-is('000')")
        page.check("text=chosen for curves")
        page.go_back()
        page.wait_for_selector("tbody a")
        assert page.evaluate("[...act.chosen.keys()]") == ["s0.1", "s0.0"]  # Back goes to a view, not to a choice
        page.goto(f"{address}/#/trials?chosen=s0.1,s9.9")
        until(page, "act.chosen.size === 1")  # of an address from elsewhere, what is here
        assert "chosen=s0.1" in page.url
        assert "s9.9" not in page.url


def test_the_theme_follows_the_system_until_somebody_clicks(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    with served([tmp_path / "s"]) as address:
        page.goto(f"{address}/#/trials")
        page.wait_for_selector("tbody a")
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_selector(f"html[data-theme={scheme}]")
        page.click("#theme")
        page.reload()
        page.wait_for_selector("html[data-theme=dark]")


def test_a_server_that_is_gone_is_told(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    with served([tmp_path / "s"]) as address:
        page.goto(f"{address}/#/trials")
        page.wait_for_selector("tbody a")
    page.wait_for_selector("text=no connection", timeout=10_000)
    assert page.query_selector("tbody a")  # what was seen stays


def test_the_report_opens_from_a_file(page: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s", about="</script><script>window.pwned = 1</script>")
    out = tmp_path / "report.html"
    out.write_text(write_report(Results([str(tmp_path / "s")])))
    asked, wrong = watched(page)
    page.goto(out.as_uri())
    for view in VIEWS:
        see(page, view)
    assert page.evaluate("window.pwned") is None
    assert wrong == []
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {out.as_uri()}


def test_the_report_from_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made_up(tmp_path / "s")
    out = tmp_path / "r.html"
    assert Ended(capfd, "report", tmp_path / "s", out).succeeded().startswith(f"written: {out} (")
    assert "exists; choose another name, or --overwrite" in Ended(capfd, "report", tmp_path / "s", out).mistake()
    assert (
        "in a folder that is there, ending in .html"
        in Ended(capfd, "report", tmp_path / "s", tmp_path / "r.pdf").mistake()
    )


@needs_axe
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(theme: str, chromium: Any, tmp_path: Path) -> None:
    made_up(tmp_path / "s")
    out = tmp_path / "report.html"
    out.write_text(write_report(Results([str(tmp_path / "s")])))
    context = chromium.new_context(color_scheme=theme, bypass_csp=True)
    page = context.new_page()
    page.goto(out.as_uri())
    page.add_script_tag(path=str(AXE))
    for view in VIEWS:
        see(page, view)
        found = page.evaluate("axe.run().then((r) => r.violations.map((v) => [v.id, v.impact, v.nodes[0].html]))")
        assert [fault for fault in found if fault[1] in ("serious", "critical")] == [], view
    context.close()
