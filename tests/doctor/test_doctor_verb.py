"""The doctor: one table of all that is missing, real steps, and a step that the machine does not survive."""

import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from act_ray import settings
from act_ray.data.shards import open_data
from act_ray.doctor import inside, measure
from act_ray.doctor.__main__ import everything
from act_ray.doctor.places import storage, weights_that_are_there
from act_ray.doctor.plan import make_plan
from act_ray.doctor.ray_address import look as look_at_ray
from act_ray.doctor.rows import Row, State, weights_to_get
from act_ray.doctor.watch import child, look_inside
from act_ray.files import sha256
from act_ray.weight_files import INCEPTION
from tests.helpers import sources
from tests.helpers.command import Ended
from tests.helpers.tiny_settings import TINY

TINY_SETS = [word for name, value in TINY.items() for word in ("--set", f"{name}={json.dumps(value)}")]


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; another one takes its three seconds."""
    monkeypatch.setattr(measure, "MEASURE_S", 0.1)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "hub" / "checkpoints"


def test_a_run_that_has_all_is_measured(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = Ended(capfd, "doctor", "digits", *TINY_SETS, "--storage", tmp_path / "runs", "--cpu").succeeded()
    for line in (
        " digits: 1,797 images of 8x8, grey, 10 classes ",
        " a file was written, read and removed ",
        " a step of batch 8: peak ",
        " s for 12 steps; scores not ",
        "\ndigits: nothing is missing\n",
    ):
        assert line in page, page
    assert not [*tmp_path.iterdir()]


def test_all_that_is_missing_is_named_at_once(hub: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "nowhere")
    rows = [
        row
        for row in inside.look(make_plan("cifar10", None, ("eval.features=inception",), data, 0), str(tmp_path), False)
        if isinstance(row, Row)
    ]
    text = "".join(f"{row.found} {row.todo}\n" for row in rows if row.state is State.MISSING)
    for name in (f"{data}: no such folder", INCEPTION.file, "weights-vgg16-lpips.pth", "vgg16-397923af.pth"):
        assert name in text
    assert str(weights_to_get(rows)).endswith(" get inception lpips vgg16`")


def test_without_lpips_and_on_data_that_is_not_decoded_steps_are_measured(
    hub: Path, own_cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rgb.npy", sources.random_pixels())
    Ended(capfd, "prepare", tmp_path / "rgb.npy", tmp_path / "rgb").succeeded()
    monkeypatch.setattr(inside, "DECODE", 0)
    more = ("loss.distance=lpips", *(f"{name}={json.dumps(value)}" for name, value in TINY.items()))
    plan = make_plan("digits", None, more, str(tmp_path / "rgb"), 2)
    rows = {row.what: row for row in inside.look(plan, str(tmp_path), False) if isinstance(row, Row)}
    assert f"the first start decodes 1.92 kB to {own_cache}" in rows["data"].found
    assert [*own_cache.glob("**/*.npy")] == []
    assert "weights-vgg16-lpips.pth and vgg16-397923af.pth not in" in rows["weights"].found
    assert rows["memory"].found.startswith("a step of batch 4 without LPIPS: peak ")
    assert " in each of 2 workers, of " in rows["memory"].found
    _, row = inside.open_or_stand_in(plan.cfg.data.model_copy(update={"decode": "on_the_fly"}))
    assert row.found.endswith("; read on the fly, whose time is not measured")


def test_a_search_is_measured_at_its_largest(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    tiny = {name: value for name, value in TINY.items() if name not in ("train.global_batch", "loss.w")}
    fixed = "".join(f"  {name}: {json.dumps(value)}\n" for name, value in tiny.items())
    space.write_text(
        f"preset: digits\ntrials: 6\nset:\n{fixed}  discriminator.feature_size: 64\n"
        "parameters:\n  train.global_batch: {choice: [4, 16]}\n"
        "  discriminator.kind: {choice: [ddpm, projected]}\n"
    )
    rows = {row.what: row for row in inside.look(make_plan(str(space), None, (), None, None), str(tmp_path), False)
            if isinstance(row, Row)}  # fmt: skip
    assert "discriminator.feature_weights is not set" in rows["weights"].found
    assert " for each of 6 trials: " in rows["disk"].found
    assert rows["memory"].found.startswith("a step of batch 16: peak ")
    assert " for 12 steps of each of 6 trials" in rows["time"].found


def test_weights_that_are_there_are_checked(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = settings.load("digits", {"eval.features": "inception"})
    assert [*weights_that_are_there(cfg)] == []
    hub.mkdir(parents=True)
    (hub / INCEPTION.file).write_bytes(b"other")
    (row,) = weights_that_are_there(cfg)
    assert (row.state, row.found.endswith("is not the published file")) == (State.WARNING, True)
    monkeypatch.setattr("act_ray.weight_files.WeightFile.is_right", lambda self, digest: digest == sha256(self.path))
    (row,) = weights_that_are_there(cfg)
    assert (row.state, row.found.endswith("SHA-256: right")) == (State.OK, True)


@pytest.mark.parametrize("kind", ["", "file://"])
def test_storage_is_tried(kind: str, tmp_path: Path) -> None:
    assert storage(f"{kind}{tmp_path}/not/yet").state is State.OK
    assert not [*tmp_path.iterdir()]
    (tmp_path / "file").touch()
    row = storage(f"{kind}{tmp_path}/file/runs")
    assert (row.state, row.found) == (State.MISSING, f"{kind}{tmp_path}/file/runs: cannot be written: Not a directory")
    assert storage("s4://bucket/runs").found.startswith("s4://bucket/runs: cannot be written: s4://bucket")


BEGUN = """print('{"what": "data", "found": "x", "state": "ok"}\\n{"step": "begins"}', flush=True)\n"""


@pytest.mark.parametrize(
    ("then", "state", "found"),
    [
        (
            "import os; os.kill(os.getpid(), 9)",
            "missing",
            "a step was killed, as when memory runs out; memory so far: ",
        ),
        ("import time; time.sleep(60)", "warning", "not measured in 0.3 s; memory so far: "),
        ("raise ValueError('our bug')", "missing", "failed with exit code 1: ValueError: our bug"),
    ],
)
def test_a_process_that_does_not_survive_its_step_is_a_row(
    then: str, state: str, found: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with child("-c", BEGUN + then) as process:
        rows = [*look_inside(process, 0.3)]
    assert rows[0] == Row("data", "x")
    assert (rows[1].state, rows[1].found.startswith(found)) == (state, True), rows
    assert ("our bug" in capfd.readouterr().err) is ("our bug" in then)


def test_a_child_ends_with_its_block_and_hears_no_ctrl_c_of_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        with child("-c", "import time; print(1, flush=True); time.sleep(60)") as process:
            begun.append(process.process)
            assert next(process.lines) == "1\n"
            assert os.getpgid(process.process.pid) != os.getpgid(0)
            raise KeyboardInterrupt

    begun = list[Any]()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (begun[0].returncode, capfd.readouterr().err) == (-signal.SIGKILL, "")


def test_an_interruption_does_not_wait_for_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(cfg: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("act_ray.doctor.watch.child", lambda *_: child("-c", BEGUN + "import time; time.sleep(60)"))
    monkeypatch.setattr("act_ray.doctor.places.weights_that_are_there", stopped)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        everything(make_plan("digits", None, (), None, 0), {"storage": "runs"}, None, 60)
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_a_row(tmp_path: Path) -> None:
    """A real one, under a limit of 6 GB of addresses, of which torch takes some; what fits is not waited for."""
    more = [f"{n}={json.dumps(v)}" for n, v in {**TINY, "train.global_batch": 1_000_000}.items()]
    request = {"target": "digits", "space_name": None, "overrides": more, "data": None, "workers": 0}
    text = json.dumps({**request, "storage": str(tmp_path), "gpu": False})
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (6_000_000_000,) * 2)\n"
    with child("-c", f"{limit}from act_ray.doctor.inside import main; main()", text) as process:
        memory = next(row for row in look_inside(process, 120) if row.what == "memory")
    assert (memory.state, "does not fit" in memory.found) == (State.MISSING, True), memory
    assert memory.todo.startswith("try train.micro_batch=500000, which changes no number; or")


def test_the_largest_micro_batch_that_fits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(cfg: Any, *_: Any) -> measure.Measured:
        tried.append(cfg.train.global_batch)
        if cfg.train.global_batch > 24:
            raise measure.OutOfMemory("")
        return measure.Measured(1.0, 1, 1, 2_000_000_000)

    tried = list[int]()
    monkeypatch.setattr(inside, "measure", step)
    plan = make_plan("digits", None, ("train.global_batch=96",), None, 2)
    row = inside.what_fits(plan, plan.cfg, open_data("digits"), None)
    assert (row, tried) == (Row("smaller", "train.micro_batch=12 fits: peak 2 GB"), [48, 24])


def test_the_mean_step_is_over_a_whole_interval() -> None:
    assert measure.average([9.0], 4) == 9.0
    assert measure.average([9.0, 1.0, 1.0, 1.0, 5.0, 1.0], 4) == 2.0
    assert measure.average([9.0, 1.0], 4) == 3.0  # there is no other step with the gradient penalty
    assert measure.average([9.0, 2.0, 4.0], 1) == 3.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digtis",), "digtis: no preset, search space or file; did you mean 'digits'?"),
        (("digits", "--space", "digits"), "--space digits: not with digits; look at one after the other"),
        (("--set", "loss.ww=1"), "loss.ww: no such setting; did you mean 'loss.w'?"),
        (("nowhere.yaml",), "nowhere.yaml: no such file"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert message in Ended(capfd, "doctor", *words).mistake()


# ---------------------------------------------------------------------------------------------- a Ray cluster


class Jobs(http.server.BaseHTTPRequestHandler):
    """The address of jobs, as far as it says its version."""

    answer: dict[str, Any]

    def do_GET(self) -> None:
        assert self.path == "/api/version"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.answer).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Jobs) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_cluster_that_takes_jobs_is_asked_for_its_version(jobs: str) -> None:
    Jobs.answer = {"ray_version": ray.__version__}
    assert look_at_ray(jobs).state is State.OK
    Jobs.answer = {"ray_version": "1.2.3"}
    row = look_at_ray(jobs)
    assert (row.state, row.todo.startswith("pip install 'ray==1.2.3'")) == (State.MISSING, True)
    Jobs.answer = {"something": "else"}
    assert look_at_ray(jobs).state is State.MISSING


def test_a_cluster_is_joined_for_a_moment(cluster: None) -> None:
    address = ray.get_runtime_context().gcs_address
    assert look_at_ray(address) == Row("ray", f"{address}: Ray {ray.__version__}, 1 node(s), 2 CPUs, 0 GPUs")
    row = look_at_ray("127.0.0.1:1")
    assert (row.state, row.found) == (State.MISSING, "127.0.0.1:1: no answer: Connection refused")
    assert look_at_ray("head").found == "head: no HOST:PORT"
