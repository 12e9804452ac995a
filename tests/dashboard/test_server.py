"""Who may ask the page's server, and what it answers."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from act_ray.dashboard.guard import cookie_name, cookie_value
from act_ray.dashboard.results import Results
from act_ray.dashboard.server import Server
from tests.helpers.command import Ended
from tests.helpers.searches import made_up

TOKEN = "a-long-enough-token"
GETS = (
    "/",
    "/static/app.js",
    "/static/plotly.min.js",
    "/api/state",
    "/api/curves?ids=s0.0&fields=gp",
    "/api/trial?id=s0.0",
    "/api/importance?source=s0",
    "/api/samples?id=s0.0",
    "/api/sample?id=s0.0&step=100",
)
WRONG = {
    "/api/trial?id=s9.9": 404,
    "/api/trial?id=s0.999": 404,
    "/api/trial": 404,
    "/api/samples?id=x": 404,
    "/api/sample?id=s0.0&step=7": 404,
    "/api/sample?id=s0.0&step=..%2F..%2Fetc": 400,
    "/api/state?since=x": 400,
    "/api/curves?ids=s9.1,s0.0&fields=gp,nothing": 200,
    "/api/curves?first=x": 400,
    "/static/..%2Fserver.py": 404,
    "/static/server.py": 404,
    "/api/importance?source=s7": 404,
}


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "s"
    made_up(folder)
    return folder


def asked(search: Path, token: str | None, talk: Callable[[Any], Awaitable[None]]) -> None:
    """Talk to a server over this search."""

    async def main() -> None:
        server = Server(Results([str(search)]), token, frozenset({"localhost", "127.0.0.1"}))
        async with TestClient(TestServer(server.app)) as client:
            await talk(client)

    asyncio.run(main())


def test_without_the_token_nothing_is_told(search: Path) -> None:
    async def talk(client: Any) -> None:
        for path in (*GETS, "/nowhere", "/api/nowhere"):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
                for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"{cookie_name(TOKEN)}={TOKEN}"}):
                    reply = await client.request(method, path, headers=headers)
                    assert reply.status == 401, (method, path)
                    assert "s0" not in await reply.text()
        assert (await client.post("/api/act", json={"id": "s0.4", "action": "stop"})).status == 401
        assert (await client.get("/?token=wrong")).status == 401

    asked(search, TOKEN, talk)


def test_the_printed_address_gives_a_cookie_that_scripts_do_not_see(search: Path) -> None:
    async def talk(client: Any) -> None:
        reply = await client.get(f"/?token={TOKEN}", allow_redirects=False)
        assert (reply.status, reply.headers["Location"]) == (303, "/")
        cookie = reply.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert TOKEN not in cookie
        assert "SameSite=Strict" in cookie
        for path in GETS:
            given = {"Cookie": f"{cookie_name(TOKEN)}={cookie_value(TOKEN)}"}
            assert (await client.get(path, headers=given)).status == 200
            assert (await client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})).status == 200

    asked(search, TOKEN, talk)


def test_every_answer_lets_the_page_load_nothing_foreign(search: Path) -> None:
    async def talk(client: Any) -> None:
        for path in (*GETS, "/nowhere"):
            reply = await client.get(path)
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
            assert reply.headers["X-Content-Type-Options"] == "nosniff"

    asked(search, None, talk)


def test_another_name_and_another_page_are_refused(search: Path) -> None:
    async def talk(client: Any) -> None:
        assert (await client.get("/api/state", headers={"Host": "evil.example"})).status == 421
        both = {"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil.example"}
        assert (await client.post("/api/act", json={"id": "s0.4", "action": "stop"}, headers=both)).status == 403
        assert not list(search.glob("trials/*/STOP"))

    asked(search, TOKEN, talk)


def test_odd_bytes_and_names_are_refused_and_not_crashed_on(search: Path) -> None:
    async def talk(client: Any) -> None:
        for headers, status in (
            ({"Authorization": "Bearer \udcff"}, 401),
            ({"Cookie": f"{cookie_name(TOKEN)}=\udcff"}, 401),
            ({"Host": "[::1"}, 421),
        ):
            assert (await client.get("/api/state", headers=headers)).status == status
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for index in ("²", "1" * 5000, "-1", "0x1"):
            assert (await client.get("/api/trial", params={"id": f"s0.{index}"}, headers=headers)).status in (400, 404)

    asked(search, TOKEN, talk)


def test_a_thousand_trials_curves_are_asked_for_in_a_body(search: Path) -> None:
    async def talk(client: Any) -> None:
        ids = ",".join(f"s0.{i}" for i in range(1000))
        reply = await (await client.post("/api/curves?fields=score", data=ids)).json()
        assert sorted(reply) == [f"s0.{i}" for i in range(5)]

    asked(search, None, talk)


def test_acting_needs_a_token(search: Path) -> None:
    async def talk(client: Any) -> None:
        assert (await (await client.get("/api/state")).json())["acts"] == []
        assert (await client.post("/api/act", json={"id": "s0.4", "action": "stop"})).status == 403

    asked(search, None, talk)


def test_mistakes_are_answered_and_not_crashed_on(search: Path) -> None:
    async def talk(client: Any) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for path, status in WRONG.items():
            assert (await client.get(path, headers=headers)).status == status, path
        for body in (
            "",
            "[]",
            "{}",
            '{"id": "s0.0"}',
            '{"id": "s0.0", "action": "burn"}',
            '{"id": "s0.0", "action": "stop"}',
        ):
            reply = await client.post("/api/act", data=body, headers=headers)
            assert reply.status == 400, body
        curves = await (await client.get("/api/curves?ids=s0.0&fields=gp,score", headers=headers)).json()
        assert curves["s0.0"]["score"]["y"] == [90, 60, 40, 30]

    asked(search, TOKEN, talk)


def test_an_answer_is_strict_json(search: Path) -> None:
    async def talk(client: Any) -> None:
        text = await (await client.get("/api/state")).text()
        json.loads(text, parse_constant=lambda name: pytest.fail(name))

    asked(search, None, talk)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_a_signal_ends_the_command_without_a_word(number: int, code: int, search: Path) -> None:
    args = [sys.executable, "-m", "act_ray.dashboard", str(search), "--port", "0"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("http://127.0.0.1:")
        server.send_signal(number)
        _, err = server.communicate(timeout=60)
    assert (server.returncode, err) == (code, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others reach it there; add --token new"),
        (["--host", "192.168.1.7", "--port", "0"], "--host 192.168.1.7: others reach it there; add --token new"),
        (["--token", "short"], "--token: needs 8 characters at least, or 'new'"),
    ],
)
def test_who_may_reach_it_is_decided_before_anything_is_read(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert Ended(capfd, "dashboard", "/nowhere", *arguments).mistake() == said
