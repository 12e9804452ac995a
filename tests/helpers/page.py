"""The dashboard's page, as its tests look at it."""

from typing import Any

VIEWS = ("overview", "trials", "curves", "samples", "parameters", "trial/s0.1")
READY = {
    "overview": "#best .main-svg", "trials": "tbody a", "curves": "#chart-score .main-svg", "samples": "canvas",
    "parameters": "#scatter .main-svg", "trial/s0.1": ".story li",
}  # fmt: skip


def see(page: Any, view: str) -> None:
    page.evaluate("view => { location.hash = `#/${view}`; }", view)
    page.wait_for_selector(READY[view])
