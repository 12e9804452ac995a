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


def until(page: Any, condition: str) -> None:
    """Wait for an expression; Playwright's own way is an eval in the page, which its policy forbids."""
    page.evaluate(f"(async () => {{ while (!({condition})) await new Promise(requestAnimationFrame); }})()")
