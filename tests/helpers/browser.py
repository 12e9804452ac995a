"""A headless browser of this machine, for tests of pages; where there is none they are left out. CI installs one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
AXE = Path(__file__).parents[2] / "build" / "node_modules" / "axe-core" / "axe.min.js"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
needs_axe = pytest.mark.skipif(not AXE.exists(), reason="no axe-core (npm install --prefix build axe-core)")


@contextmanager
def browser() -> Iterator[Any]:
    """A Chromium, until the block ends."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def served(locations: list[Path], token: str | None = None) -> Iterator[str]:
    """The dashboard over these folders, in a thread; its address."""
    from act_ray.dashboard.results import Results
    from act_ray.dashboard.serving import beside

    with beside(Results([str(place) for place in locations]), token=token) as address:
        yield address.partition("/?")[0].rstrip("/")


def watched(page: Any) -> tuple[list[str], list[str]]:
    """What the page asks for, and what goes wrong in it, as it happens."""
    asked, wrong = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    return asked, wrong
