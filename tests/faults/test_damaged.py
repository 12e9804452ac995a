"""Damage that was a traceback, a hang, or accepted, each with what is said of it now."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from act_ray import jsonfile
from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.prepare.conversion import PrepareOptions, prepare
from act_ray.runs import checkpoint
from act_ray.tune.experiment import Experiment
from act_ray.yamlfile import read_yaml
from tests.helpers.mutations import BOMB
from tests.helpers.searches import made_up
from tests.helpers.sources import labels_in_turn, make_folder, random_pixels

TORN = b'{"time": 1, "event": "repo'
WRONG = b'{"event": "reported", "trial": 0, "values": {}, "report": {"step": "x"}}'


@pytest.mark.parametrize("bad", [TORN, WRONG, b"\xff\xfe", b"[" * 9_000])
def test_a_bad_line_amid_a_searchs_log_costs_no_other(tmp_path: Path, bad: bytes) -> None:
    made_up(tmp_path / "s")
    log = tmp_path / "s" / "events.jsonl"
    whole, lines = Experiment.read(str(tmp_path / "s")), log.read_bytes().splitlines()
    log.write_bytes(b"\n".join([*lines[:4], bad, *lines[4:]]) + b"\n")
    read = Experiment.read(str(tmp_path / "s"))
    assert (read.trials, read.bad) == (whole.trials, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is empty"), (" \n", "is empty"), ("space: {preset: digits}\n", "options"), ("[1]\n", "damaged"),
     ("space: 3\noptions: {}\n", "space"), ("\xff", "cannot be read")],
)  # fmt: skip
def test_a_damaged_experiment_yaml_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    made_up(tmp_path / "s")
    (tmp_path / "s" / "experiment.yaml").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=said) as error:
        Experiment.read(str(tmp_path / "s"))
    assert "\n" not in str(error.value)


GROWS = [(BOMB, "aliases"), ("&a [*a]", "aliases"), ("x" * (1 << 19), "characters"), ("[" * 9_000, "deeply")]


@pytest.mark.parametrize(("text", "said"), GROWS)
def test_yaml_that_grows_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_yaml(text, "x")


def test_long_yaml_takes_no_longer_than_it_is() -> None:
    began = time.process_time()
    assert len(read_yaml("1" * 60_000 + "x", "x")) == 60_001  # a pattern for numbers tried all ways to split it
    assert time.process_time() - began < 2


def test_a_flip_in_the_decoded_cache_is_noticed(tmp_path: Path, own_cache: Path) -> None:
    source = make_folder(tmp_path / "source", random_pixels(), labels_in_turn())
    prepare(str(source), tmp_path / "data", PrepareOptions())
    right = np.array(open_data(str(tmp_path / "data")).images)
    for name in ("images.npy", "labels.npy"):
        file = next(own_cache.glob(f"*/{name}"))
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)
        found = open_data(str(tmp_path / "data"))
        assert (found.images == right).all()
        assert found.labels is not None
        assert found.labels.max() == 2


def test_a_checkpoints_list_leads_nowhere_else(tmp_path: Path) -> None:
    """Whoever makes a list can make its sum; a device would be read for ever."""
    for name in ("/dev/zero", "../x", "link"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to("/dev/zero")
        jsonfile.write(tmp_path / checkpoint.MANIFEST, checkpoint._manifest({name: {"bytes": 0, "sha256": ""}}))
        with pytest.raises(checkpoint.CorruptCheckpoint, match="not what was written"):
            checkpoint.verify(tmp_path)


@pytest.mark.parametrize("text", ["[" * 99_999, '"\\ud800"', "{", "9" * 9_999])
def test_json_that_nobody_can_use_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        jsonfile.parse(text)


def test_a_manifests_other_fields_are_checked(tmp_path: Path, own_cache: Path) -> None:
    """Those that its checksum does not cover."""
    source = make_folder(tmp_path / "source", random_pixels(), labels_in_turn())
    prepare(str(source), tmp_path / "data", PrepareOptions())
    path = tmp_path / "data" / "manifest.json"
    whole = json.loads(path.read_text())
    for name, value in (("count", "10"), ("bytes", -1), ("file", "../shard-00000.parquet")):
        path.write_text(json.dumps({**whole, "shards": [{**whole["shards"][0], name: value}]}))
        with pytest.raises(UserError, match="damaged"):
            open_data(str(tmp_path / "data"))
