"""The weights command against a real server: what it fetches is whole and right, or not there, in one line."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from timm import get_pretrained_cfg
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.sample_similarity_lpips import URL_VGG16_LPIPS
from torchvision.models import VGG16_Weights

from act_ray import weight_files
from act_ray.weight_files import FEATURE_NETWORK, INCEPTION, LPIPS, VGG16, WeightFile
from act_ray.weights import __main__ as weights_command
from tests.helpers.command import Ended

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several blocks
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Server(ThreadingHTTPServer):
    """`torn`: how many bytes the next answer breaks off after. `ranges`: what was asked for."""

    torn: int | None = None
    ranges: list[str | None]


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if "absent" in self.path:
            return self.send_error(404)
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.server.torn])
        self.server.torn = None

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Weights of our own on a server of our own, which has no `absent`; and an empty torch hub."""
    with Server(("127.0.0.1", 0), Answer) as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        server.ranges = []
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        files = (
            WeightFile("good", f"{address}/good.pth", DIGEST, len(CONTENT), "something"),
            WeightFile("bad", f"{address}/bad.pth", "0" * 64, len(CONTENT), "something else"),
            WeightFile("absent", f"{address}/absent.pth", DIGEST[:8], len(CONTENT), "nothing"),
            WeightFile("huge", f"{address}/huge.pth", "1" * 64, 10**18, "nothing"),
            WeightFile("nowhere", f"http://127.0.0.1:{closed.getsockname()[1]}/nowhere.pth", "2" * 64, 1, "nothing"),
        )
        for module in (weight_files, weights_command):
            monkeypatch.setattr(module, "WEIGHT_FILES", files)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setenv("no_proxy", "*")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the weights are looked for."""
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_a_file_is_fetched_once_and_shown(capfd: pytest.CaptureFixture[str], server: Server, folder: Path) -> None:
    page = Ended(capfd, "weights").succeeded()
    assert page.count(" missing ") == 5
    assert str(folder) in page
    assert "weights get good bad absent huge nowhere" in page
    assert f"{folder}/good.pth; SHA-256: right" in Ended(capfd, "weights", "get", "good").succeeded()
    assert (folder / "good.pth").read_bytes() == CONTENT
    assert [*folder.iterdir()] == [folder / "good.pth"]
    assert "is there already" in Ended(capfd, "weights", "get", "good", "good").succeeded()
    page = Ended(capfd, "weights").succeeded()
    assert " SHA-256: right" in page
    assert server.ranges == [None]


def test_a_torn_download_goes_on(capfd: pytest.CaptureFixture[str], server: Server, folder: Path) -> None:
    server.torn = HALF
    message = Ended(capfd, "weights", "get", "good").mistake()
    assert f"the connection ended after {HALF:,} of {len(CONTENT):,} bytes; the same command goes on" in message
    assert not (folder / "good.pth").exists()
    Ended(capfd, "weights", "get", "good").succeeded()
    assert (folder / "good.pth").read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize(("left", "asked"), [(CONTENT, [1]), (CONTENT + b"x", [1, 0]), (b"another", [1])])
def test_what_an_earlier_call_left(
    left: bytes, asked: list[int], capfd: pytest.CaptureFixture[str], server: Server, folder: Path
) -> None:
    """A whole file that was not yet put in place is taken; a longer one is begun anew; a wrong one is thrown away."""
    folder.mkdir(parents=True)
    (folder / ".good.pth.part").write_bytes(left)
    if left == b"another":
        assert "was thrown away" in Ended(capfd, "weights", "get", "good").mistake()
        assert not [*folder.iterdir()]
    else:
        Ended(capfd, "weights", "get", "good").succeeded()
        assert (folder / "good.pth").read_bytes() == CONTENT
    assert [int(one is not None) for one in server.ranges] == asked


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad", f"bad.pth: the file has SHA-256 {DIGEST}, and {'0' * 64} is right (SHA-256); it was thrown away"),
        ("absent", "absent.pth: 404 Not Found; bring absent.pth by hand, and run `"),
        ("nowhere", "nowhere.pth: no answer: [Errno 111] Connection refused; bring nowhere.pth by hand"),
        ("huge", "needs 1e+06 TB free, has "),
        ("godo", "no weights 'godo'; did you mean 'good'?"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(
    name: str, message: str, capfd: pytest.CaptureFixture[str], server: Server, folder: Path
) -> None:
    assert message in Ended(capfd, "weights", "get", name).mistake()
    assert not folder.exists() or not [*folder.iterdir()]


def test_a_file_is_known_by_its_content(
    capfd: pytest.CaptureFixture[str], server: Server, folder: Path, tmp_path: Path
) -> None:
    brought, other = tmp_path / "from a friend", tmp_path / "good.pth"
    brought.write_bytes(CONTENT)
    other.write_bytes(CONTENT[1:])
    message = Ended(capfd, "weights", "put", brought, other).mistake()
    assert f"{other}: has SHA-256 {hashlib.sha256(CONTENT[1:]).hexdigest()}: good.pth has {DIGEST}; bring it" in message
    assert not folder.exists()
    Ended(capfd, "weights", "put", brought).succeeded()
    assert (folder / "good.pth").read_bytes() == CONTENT

    (folder / "good.pth").write_bytes(b"damaged")
    shown = Ended(capfd, "weights")
    assert (shown.code, "WRONG SHA-256" in shown.out) == (1, True)
    for how in (("get", "good"), ("put", brought)):
        assert "is there, and is not good; --overwrite replaces it" in Ended(capfd, "weights", *how).mistake()
    Ended(capfd, "weights", "put", brought, "--overwrite").succeeded()
    assert (folder / "good.pth").read_bytes() == CONTENT


def test_addresses_and_folder_are_those_of_the_libraries() -> None:
    assert INCEPTION.url == URL_INCEPTION_V3
    assert LPIPS.url == URL_VGG16_LPIPS
    assert VGG16.url == VGG16_Weights.IMAGENET1K_V1.url
    assert FEATURE_NETWORK.url == get_pretrained_cfg(FEATURE_NETWORK.name).url
    assert weight_files.hub_checkpoints() == Path(torch.hub.get_dir()) / "checkpoints"
    for weights in (INCEPTION, VGG16, FEATURE_NETWORK):  # torch hub's names end in the first digits
        assert weights.file.endswith(f"-{weights.sha256[:8]}.pth")
