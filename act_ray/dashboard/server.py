"""The live page's server: static files, and what results.py and curves.py say as JSON."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from aiohttp import web

from act_ray import jsonfile
from act_ray.dashboard.actions import ACTIONS, act
from act_ray.dashboard.curves import FIELDS, Curves
from act_ray.dashboard.guard import guard
from act_ray.dashboard.results import Results
from act_ray.dashboard.trial_page import importance, sample_steps, trial_page
from act_ray.errors import UserError
from act_ray.runs.folder import grid_name

PAGE = files("act_ray.dashboard") / "page"
SCRIPTS = (
    "data.js", "filter.js", "table.js", "charts.js", "curves.js", "samples.js", "parameters.js", "trial.js",
    "overview.js", "app.js",
)  # fmt: skip
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
EVERY_S = 1.0  # between two looks at the files
MOST_POINTS, MOST_RUNS = 2_000, 1_000


class Server:
    """Answers from one Results, which a thread keeps up to date."""

    def __init__(self, results: Results, token: str | None, hosts: frozenset[str]) -> None:
        self.results, self.curves, self.token = results, Curves(), token
        self.important: dict[str, tuple[int, dict[str, float]]] = {}  # version, shares
        self.lock = asyncio.Lock()  # the files are read by one thread at a time
        self.app = web.Application(middlewares=[guard(token, hosts)], client_max_size=1 << 16)
        self.app.cleanup_ctx.append(self.keep_up)
        self.app.add_routes(
            [
                web.get("/", self.page),
                web.get("/static/{name}", self.static),
                web.get("/api/state", self.state),
                web.get("/api/curves", self.curves_of),
                web.post("/api/curves", self.curves_of),
                web.get("/api/trial", self.trial),
                web.get("/api/importance", self.importance),
                web.get("/api/samples", self.samples),
                web.get("/api/sample", self.sample),
                web.post("/api/act", self.act),
            ]
        )

    async def keep_up(self, app: web.Application) -> AsyncIterator[None]:
        """Look at the files once a second, as long as the server runs."""

        async def look() -> None:
            while True:
                await asyncio.sleep(EVERY_S)
                await self.do(self.results.refresh)

        task = asyncio.create_task(look())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def do(self, function: Callable[..., Any], *args: Any) -> Any:
        """In a thread, one at a time."""
        async with self.lock:
            return await asyncio.to_thread(partial(function, *args))

    # ------------------------------------------------------------------------------------------ the page

    async def page(self, request: web.Request) -> web.Response:
        """The page itself."""
        return static("index.html")

    async def static(self, request: web.Request) -> web.StreamResponse:
        """Its scripts and styles, and Plotly."""
        name = request.match_info["name"]
        if name == "plotly.min.js":
            return web.FileResponse(plotly_path(), headers={"Cache-Control": "private, max-age=86400"})
        if name not in (*SCRIPTS, "style.css"):
            raise web.HTTPNotFound(text="no such file\n")
        return static(name)

    # ------------------------------------------------------------------------------------------ data

    async def state(self, request: web.Request) -> web.Response:
        """What has changed since a version."""
        since = whole(request, "since", 0)
        state = await self.do(self.results.state, since)
        return answer({**state, "acts": sorted(ACTIONS) if self.token is not None else []})

    async def curves_of(self, request: web.Request) -> web.Response:
        """Curves of trials: ids and fields separated by commas, at most so many points each, from a step to a step.

        A POST has the ids as its text: a thousand of them are more than an address may hold.
        """
        text = await request.text() if request.method == "POST" else request.query.get("ids", "")
        ids = [key for key in text.split(",") if key][:MOST_RUNS]
        fields = [name for name in request.query.get("fields", "").split(",") if name in FIELDS]
        points = min(MOST_POINTS, whole(request, "points", 300))
        first, last = (number(request, name, default) for name, default in (("first", 0.0), ("last", 1e12)))
        out = {}
        for key in ids:  # one at a time: the page's other questions are answered in between
            with contextlib.suppress(KeyError):
                out[key] = await self.do(self.curves_of_one, key, fields, points, first, last)
        return answer(out)

    def curves_of_one(self, key: str, fields: list[str], points: int, first: float, last: float) -> dict[str, Any]:
        source, index = self.results.find(key)
        run = self.curves.of(source.run_folder(index), partial(source.config, index))
        found = {name: run.curve(name, points, first, last) for name in fields}
        return {name: curve for name, curve in found.items() if curve is not None}

    async def trial(self, request: web.Request) -> web.Response:
        """All that is known of one trial."""
        return answer(await self.about(request, trial_page))

    async def samples(self, request: web.Request) -> web.Response:
        """The steps of a trial's sample grids, and how they are laid out."""
        return answer(await self.about(request, sample_steps))

    async def about(self, request: web.Request, function: Callable[..., Any]) -> Any:
        try:
            return await self.do(function, *self.results.find(request.query.get("id", "")))
        except KeyError:
            raise web.HTTPNotFound(text="no such trial\n") from None

    async def sample(self, request: web.Request) -> web.StreamResponse:
        """A sample grid."""
        try:
            source, index = self.results.find(request.query.get("id", ""))
        except KeyError:
            raise web.HTTPNotFound(text="no such trial\n") from None
        run, name = source.run_folder(index), grid_name(whole(request, "step", 0))
        path = run.path / "samples" / name
        if run.remote is not None and not path.is_file():
            await self.do(run.fetch_root, "samples")
        if not path.is_file():
            raise web.HTTPNotFound(text="no such picture\n")
        return web.Response(body=path.read_bytes(), content_type="image/png", headers={"Cache-Control": "no-cache"})

    async def importance(self, request: web.Request) -> web.Response:
        """What each parameter of a search explains."""
        source = self.results.sources.get(request.query.get("source", ""))
        if source is None:
            raise web.HTTPNotFound(text="no such search\n")
        found = self.important.get(source.key)
        if found is None or found[0] != self.results.version:
            found = (self.results.version, await asyncio.to_thread(importance, source))  # slow: others need not wait
            self.important[source.key] = found
        return answer(found[1])

    async def act(self, request: web.Request) -> web.Response:
        """Stop a trial, let one go on, mark it, or write a note; only where a token is set."""
        if self.token is None:
            raise web.HTTPForbidden(text="start the server with a token to act from here\n")
        try:
            asked = await request.json()
            source, index = self.results.find(str(asked["id"]))
            said = await self.do(act, source, index, str(asked["action"]), str(asked.get("text", "")))
        except (ValueError, KeyError, TypeError):
            raise web.HTTPBadRequest(text="needs id and action\n") from None
        except UserError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        await self.do(self.results.refresh)
        return answer({"said": said})


def static(name: str) -> web.Response:
    """A file of the page."""
    text = (PAGE / name).read_text()
    return web.Response(text=text, content_type=TYPES[Path(name).suffix], headers={"Cache-Control": "no-cache"})


def plotly_path() -> Path:
    """Plotly's script, which comes with its Python package."""
    return Path(str(files("plotly"))) / "package_data" / "plotly.min.js"


def answer(value: Any) -> web.Response:
    """Strict JSON."""
    return web.Response(text=json.dumps(jsonfile.plain(value)), content_type="application/json")


def whole(request: web.Request, name: str, default: int) -> int:
    """A whole number of the query."""
    text = request.query.get(name, str(default))
    if not re.fullmatch(r"\d{1,15}", text):
        raise web.HTTPBadRequest(text=f"{name}: a whole number\n")
    return int(text)


def number(request: web.Request, name: str, default: float) -> float:
    """A number of the query."""
    try:
        return float(request.query.get(name, default))
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name}: a number\n") from None
