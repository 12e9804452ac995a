"""The verb: resuming, the limit on bad images, exit codes."""

import io
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from act_ray import cli
from act_ray.data.records import Record
from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.files import locked
from act_ray.prepare import conversion, decoded
from act_ray.prepare.__main__ import command
from act_ray.prepare.conversion import PrepareOptions, prepare
from tests.helpers.sources import N, make_flat, make_zip, png

pytestmark = pytest.mark.usefixtures("own_cache")


def quarantined(manifest: dict) -> dict[str, str]:
    return {entry["name"]: entry["reason"] for entry in manifest["quarantined"]}


# ---------------------------------------------------------------- resuming

KILLED = """
import os, signal, sys
from pathlib import Path
from act_ray import files
from act_ray.prepare import conversion, decoded
module, name, after = (files, "publish", int(sys.argv[3])) if sys.argv[4] == "publish" else (
    conversion, "decode_one", int(sys.argv[3]))
original, calls = getattr(module, name), 0
def dying(*args):
    global calls
    calls += 1
    if calls > after:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)
setattr(module, name, dying)
decoded.GROUP_IMAGES = 1
conversion.prepare(sys.argv[1], Path(sys.argv[2]), conversion.PrepareOptions(shard_images=3), 0.5)
"""


@pytest.mark.parametrize(("after", "where"), [(5, "decode"), (1, "publish"), (2, "publish"), (7, "publish")])
def test_killed_and_resumed_gives_the_same_bytes(after: int, where: str, pixels: np.ndarray, tmp_path: Path) -> None:
    folder = make_flat(tmp_path / "src", pixels, [0] * N)
    (folder / "0025.png").write_bytes(b"bad")
    whole = prepare(str(folder), tmp_path / "whole", PrepareOptions(shard_images=3), 0.5)
    dst = tmp_path / "dst"
    child = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(dst), str(after), where], check=False)
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="preparation was not finished"):
        open_data(str(dst))
    assert prepare(str(folder), dst, PrepareOptions(shard_images=3), 0.5) == whole
    assert {p.name: p.read_bytes() for p in dst.iterdir()} == {p.name: p.read_bytes() for p in whole_files(tmp_path)}
    assert len(whole["shards"]) == 4
    assert set(quarantined(whole)) == {"0025.png"}


def whole_files(tmp_path: Path) -> Iterator[Path]:
    return (tmp_path / "whole").iterdir()


def test_whole_shards_are_not_decoded_again(
    pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_flat(tmp_path / "src", pixels, [0] * N)
    original, calls = conversion.decode_one, []

    def counted(*args):  # type: ignore[no-untyped-def]
        calls.append(args[-1].name)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(conversion, "decode_one", counted)
    monkeypatch.setattr(decoded, "GROUP_IMAGES", 1)
    with pytest.raises(KeyboardInterrupt):
        prepare(str(folder), tmp_path / "dst", PrepareOptions(shard_images=3))
    assert not list((tmp_path / "dst").glob(".shard*"))
    prepare(str(folder), tmp_path / "dst", PrepareOptions(shard_images=3))
    assert calls[8:] == [f"{i:03d}.png" for i in range(6, N)]
    before = len(calls)
    prepare(str(folder), tmp_path / "dst", PrepareOptions(shard_images=3))  # finished: nothing is left to do
    assert len(calls) == before
    with pytest.raises(UserError, match=r"with other options: shard_images 3, now 4$"):
        prepare(str(folder), tmp_path / "dst", PrepareOptions(shard_images=4))
    (folder / "000.png").touch()
    with pytest.raises(UserError, match="its files have changed since"):
        prepare(str(folder), tmp_path / "dst", PrepareOptions(shard_images=3))


def test_a_folder_with_other_things_or_another_writer_is_refused(pixels: np.ndarray, tmp_path: Path) -> None:
    folder = make_flat(tmp_path / "src", pixels, [0] * N)
    (tmp_path / "dst").mkdir()
    with locked(tmp_path / "dst/.lock"), pytest.raises(UserError, match="another process is preparing it"):
        prepare(str(folder), tmp_path / "dst", PrepareOptions())
    (tmp_path / "dst/thesis.tex").touch()
    with pytest.raises(UserError, match=r"is not empty \(found thesis.tex\)"):
        prepare(str(folder), tmp_path / "dst", PrepareOptions())
    with pytest.raises(UserError, match=r"thesis.tex: cannot be written"):
        prepare(str(folder), tmp_path / "dst/thesis.tex", PrepareOptions())


# ---------------------------------------------------------------- the verb


def verb(*args: object) -> Result:
    """Run the verb as its console script does: through cli.run, which gives the exit code and the one line."""

    def main(**_: object) -> None:
        cli.run(command, [str(arg) for arg in args])

    return CliRunner().invoke(click.command()(main), [])


def test_the_verb_says_what_it_made_and_what_training_decodes(
    pixels: np.ndarray, labels: list[int], tmp_path: Path
) -> None:
    result = verb(make_zip(tmp_path / "src", pixels, labels), tmp_path / "dst")
    assert result.exit_code == 0
    assert result.stderr == ""  # no progress bar where there is no terminal
    assert result.stdout.startswith("10 images, 8x8x3, 3 classes, 0 quarantined, ")
    assert "of shards to 1.92 kB on each machine, once; with --set data.decode=on_the_fly" in result.stdout
    assert result.stdout.count("\n") == 2


def test_boxes_anywhere_in_grey(tmp_path: Path) -> None:
    """Each box is a square of the image, not all at the centre, the same at each call; `--grey` gives one channel."""
    ramp = np.tile(np.arange(80, dtype=np.uint8), (8, 1))
    make_flat(tmp_path / "src", np.stack([np.stack([ramp] * 3, -1)] * N), [0] * N)
    args = (tmp_path / "src", "--size", "8", "--crop", "random-box", "--grey")
    images = []
    for name in ("one", "two"):
        assert verb(*args, tmp_path / name).exit_code == 0
        images.append(np.asarray(open_data(str(tmp_path / name)).images))
    np.testing.assert_array_equal(*images)
    left = images[0][:, 0, 0, 0]
    np.testing.assert_array_equal(images[0], left[:, None, None, None] + np.arange(8, dtype=np.uint8) * np.ones((8, 1)))
    assert len(set(left)) > 5
    assert left.max() <= 72
    result = verb(*args[:1], "--crop", "random-box", tmp_path / "three")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: --crop random-box: needs --size, without which nothing is cropped\n",
    )


def test_too_many_bad_images_exit_with_2(pixels: np.ndarray, tmp_path: Path) -> None:
    images = np.concatenate([pixels] * 10)
    folder = make_flat(tmp_path / "src", images, [0] * 100)
    (folder / "000.png").write_bytes(b"")
    assert verb(folder, tmp_path / "one").exit_code == 0  # 1 of 100 is not over 1%
    (folder / "001.png").write_bytes(b"")
    result = verb(folder, tmp_path / "two")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: 2 of 100 images are bad, over --max-bad 0.01: '000.png': zero bytes; '001.png': zero bytes\n"
    )
    assert not (tmp_path / "two/manifest.json").exists()
    assert verb(folder, tmp_path / "two", "--max-bad", "0.05").exit_code == 0  # keeps the shards it has


def test_a_hopeless_source_is_given_up_early(pixels: np.ndarray, tmp_path: Path) -> None:
    rows = [png(pixels[0])] + [b"bad"] * 5000
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
    result = verb(tmp_path / "a.parquet", tmp_path / "dst")
    assert result.exit_code == 2
    assert "101 of 102 images are bad" in result.stderr
    assert not [thread.name for thread in threading.enumerate() if "ThreadPool" in thread.name]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["nowhere"], "Missing argument 'DST'"),
        (["nowhere", "dst"], "nowhere: no such file or folder"),
        (["a", "b", "--sizes", "3"], "No such option"),
        (["a", "b", "--size", "0"], "0 is not in the range x>=1"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(args: list[str], line: str) -> None:
    result = verb(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert line in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_console_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def act_ray(*args: str) -> tuple[object, io.StringIO]:
        monkeypatch.setattr(sys, "argv", ["act-ray", *args])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return exit.value.code, capsys.readouterr()

    code, out = act_ray()
    assert code == 0
    assert all(name in out.out for name in cli.VERBS)
    code, out = act_ray("prepar")
    assert (code, out.err) == (2, "error: no command 'prepar'; did you mean 'prepare'?\n")
    code, out = act_ray("prepare", "--help")
    assert code == 0
    assert "Usage: act-ray prepare" in out.out


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("act_ray.prepare.__main__.prepare", interrupted)
    result = verb("a", tmp_path / "b")
    assert result.exit_code == 130
    assert result.stderr.split() == ["error:", "interrupted"]


def test_pixels_in_an_array_count_as_what_they_take(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "GROUP_BYTES", 3 * 192)
    records = [Record(str(i), image, None) for i, image in enumerate(pixels)]
    assert [len(group) for group in decoded._groups(iter(records))] == [4, 4, 2]
