"""What lies in people's folders and is no image, and files that lie about how much is in them."""

import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest

from act_ray.errors import UserError
from act_ray.prepare.conversion import PrepareOptions, prepare
from tests.helpers.command import Ended
from tests.helpers.sources import N, make_flat, png

pytestmark = pytest.mark.usefixtures("own_cache")


def test_named_pipes_and_devices_make_nothing_wait(pixels: np.ndarray, tmp_path: Path) -> None:
    source = make_flat(tmp_path / "src", pixels, [])
    for name in ("000a.png", "b.tar", "c.npz", "train-images-idx3-ubyte"):
        os.mkfifo(source / name)
    (source / "zero.png").symlink_to("/dev/zero")
    for src, dst, code in ((source, "dst", 0), (source / "b.tar", "none", 2)):
        args = ["-m", "act_ray.prepare", str(src), str(tmp_path / dst), "--max-bad", "0.5"]
        ended = subprocess.run([sys.executable, *args], timeout=100, capture_output=True, text=True, check=False)
        assert ended.returncode == code
    assert "b.tar: is neither a plain file nor a folder" in ended.stderr
    manifest = json.loads((tmp_path / "dst/manifest.json").read_text())
    assert manifest["count"] == N
    reasons = {entry["name"]: entry["reason"] for entry in manifest["quarantined"]}
    assert reasons == dict.fromkeys(["000a.png", "zero.png"], "is not a plain file")


def test_names_that_are_not_utf_8(pixels: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i, image in enumerate(pixels[:4]):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/src/caf\xe9%d" % (i % 2)))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / os.fsdecode(b"\xff%d.png" % i)).write_bytes(png(image) if i else b"")
    Ended(capfd, "prepare", tmp_path / "src", tmp_path / "dst", "--max-bad", 0.5).succeeded()
    manifest = json.loads((tmp_path / "dst/manifest.json").read_text())
    assert manifest["classes"] == ["caf\\xe90", "caf\\xe91"]
    assert [entry["name"] for entry in manifest["quarantined"]] == ["caf\\xe90/\\xff0.png"]


def patched(data: Path, content: bytes, *places: int) -> None:
    raw = bytearray(data.read_bytes())
    for place in places:
        raw[place : place + len(content)] = content
    data.write_bytes(raw)


ENTRIES = (120, 4096 + 120)  # where LMDB's two meta pages say how many entries there are


def test_an_lmdb_that_lies_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with lmdb.open(str(tmp_path / "src"), map_size=1 << 24) as environment, environment.begin(write=True) as writing:
        for i in range(N):
            writing.put(f"{i:040x}".encode(), png(np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)))
    data = tmp_path / "src/data.mdb"
    assert struct.unpack_from("<Q", data.read_bytes(), ENTRIES[1]) == (N,)
    for count, line in ((4, "has more than the 4 entries"), (1 << 60, "says 1,152,921,504,606,846,976 entries in")):
        patched(data, struct.pack("<Q", count), *ENTRIES)
        with pytest.raises(UserError, match=line):
            prepare(str(data.parent), tmp_path / f"dst{count}", PrepareOptions())
    patched(data, struct.pack("<Q", N), *ENTRIES)
    # A value's length is right before its key; LMDB itself believes it, and reads past the end of its map.
    patched(data, b"\xff\xff\xff\x7f", data.read_bytes().index(f"{3:040x}".encode()) - 8)
    with pytest.raises(
        UserError, match=r"src/data\.mdb: damaged, or not what its name says: reading it ended with SIG"
    ):
        prepare(str(data.parent), tmp_path / "long", PrepareOptions())


def test_packed_idx_labels_are_not_read_into_memory(
    pixels: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Headers of 4 billion images and labels, as a bomb has them, over a few: found where they end."""
    for name, head, content in (
        ("images-idx3", (0xFFFFFFFF, 8, 8), pixels[..., 0].tobytes()),
        ("labels-idx1", (0xFFFFFFFF,), bytes(10)),
    ):
        raw = bytes((0, 0, 8, len(head))) + struct.pack(f">{len(head)}I", *head) + content
        (tmp_path / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(raw))
    line = Ended(capfd, "prepare", tmp_path / "t10k-images-idx3-ubyte.gz", tmp_path.with_name("dst")).mistake()
    assert line.endswith("cut short after 0 of 4294967295 images")
