"""`python -m act_ray.train`: mistakes are one line and exit code 2, Ctrl-C saves, --resume goes on."""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from act_ray.cli import require_cpus
from act_ray.config import Config
from act_ray.metrics import classifier, learning
from act_ray.runs import checkpoint
from act_ray.runs.folder import RunFolder
from act_ray.settings import build
from act_ray.train import follow
from act_ray.train.__main__ import nothing_yet
from act_ray.train.follow import Follow, count_starts
from act_ray.train.ranks import Ranks
from act_ray.yamlfile import read_yaml
from tests.helpers.command import Ended
from tests.helpers.tiny_settings import TINY, as_options


def short(more: dict[str, Any] | None = None) -> list[str]:
    """Options of a run of eight steps with two scores."""
    return as_options({**TINY, "train.total_steps": 8, "eval.every": 4, **(more or {})})


def verb(capfd: pytest.CaptureFixture[str], *args: str) -> Ended:
    return Ended(capfd, "train", "--workers", "0", *args)


@pytest.fixture
def done(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """A finished run."""
    ended = verb(capfd, "--storage", str(tmp_path), "--name", "a", *short())
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"run: {tmp_path}/a\n")
    assert ended.out.splitlines()[-1].startswith("done: score ")
    return tmp_path / "a"


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--set", "loss.ww=0.3"], "loss.ww: no such setting; did you mean 'loss.w'?"),
        (["--set", "loss.w"], "--set loss.w: write it as section.name=value, e.g. --set loss.w=0.3"),
        (["--set", "loss.w=2"], "loss.w = 2: must be less than or equal to 1"),
        (["--set", "loss.w={"], "--set loss.w={"),
        (["--set", "loss=3"], "loss: no such setting"),
        (["--set", "train.micro_batch=10"], "train.micro_batch = 10: must divide train.global_batch = 32; nearest: 8"),
        (["--set", "train.global_batch=7"], "train.global_batch = 7: must be a multiple of 2"),
        (["--set", "data.path=5"], "data.path = 5: must be a valid string"),
        (["--set", "data.path="], "data.path = None: must be a valid string"),
        (["--set", "model.num_classes=3"], "model.num_classes = 3: digits has 10 classes"),
        (
            ["--set", "eval.features=inception", "--set", "eval.inception_weights=no.pth"],
            " get inception` puts torch-fidelity's",
        ),
        (["--preset", "digit"], "--preset digit: no such preset; did you mean 'digits'?"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--data", "gopher://x/y"], "gopher://x/y: not a usable URI"),
        (["--storage", "gopher://x"], "not a usable URI"),
        (["--storage", "taken/file"], "taken/file"),
        (
            ["--name", "old"],
            "runs/old exists; continue it with `python -m act_ray.train --resume runs/old --workers 0`, or choose",
        ),
        (
            ["--resume", "runs/none"],
            "--resume runs/none: no config.yaml there; give the folder of a run, e.g. runs/NAME",
        ),
        (["--resume", "gopher://x/y"], "gopher://x/y: not a usable URI"),
        (["--resume", "taken/file"], "--resume taken/file: no config.yaml there"),
        (["--resume", "broken"], "broken/config.yaml, line 2: not valid YAML"),
        (["--resume", "runs/old", "--set", "loss.w=0.1"], "--resume RUN: takes its settings from the run"),
        (["--workers", "-1"], "-1 is not in the range x>=0"),
        (["--wrokers", "2"], "No such option"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line(
    args: list[str], line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("runs/old/config.yaml", "{}"), ("broken/config.yaml", "a: 1\n: ]["), ("taken/file", "")):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    assert line in verb(capfd, *args).mistake()
    assert not (tmp_path / "runs").joinpath("digits").exists()
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"old"}


def test_a_name_that_is_taken_on_a_store_is_refused(
    done: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = verb(capfd, "--storage", tmp_path.as_uri(), "--name", "a", *short({"loss.w": 0.9}))
    assert ended.code == 2
    assert (
        f"{tmp_path.as_uri()}/a exists; continue it with `python -m act_ray.train --resume {tmp_path.as_uri()}/a"
        in ended.err
    )


def test_more_workers_than_cpus_are_refused_before_ray_starts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And before a batch that they cannot share. Of a cluster nobody knows yet what it has."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("act_ray.ray_cluster.connected", lambda: pytest.fail("Ray was started"))
    for verb, option in (("train", "--workers"), ("tune", "--workers-per-trial")):
        said = Ended(capfd, verb, "--storage", tmp_path / "runs", option, 5).mistake()
        assert said == f"{option} 5: this machine has 2 CPUs, one per worker; at most 2"
    assert not (tmp_path / "runs").exists()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    require_cpus("--workers", 5)


def test_a_gpu_that_is_too_small_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised as PyTorch raises it: there is no GPU here that could run out."""
    wanted = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00"
    full = torch.OutOfMemoryError(f"{wanted} MiB is free. Including non-PyTorch memory, this process has 7 GiB in use.")

    def runs_out(*_: object) -> None:
        raise full

    step, batch, again = "act_ray.train.loop.train_step", {"train.global_batch": 12}, "train.gradient_checkpointing"
    free = ", which changes no number"
    for number, (function, changes, setting, hint) in enumerate([
        (step, batch, "train.global_batch = 12", f"try train.micro_batch=6{free}"),
        (step, {**batch, "train.micro_batch": 6}, "train.micro_batch = 6", f"try train.micro_batch=2{free}"),
        (step, {**batch, "train.micro_batch": 2}, "train.micro_batch = 2", f"it cannot be less; try {again}=true"),
        (step, {**batch, "train.micro_batch": 2, again: True}, "train.micro_batch = 2",
         "it cannot be less; try smaller model.block_out_channels"),
        ("act_ray.train.run.TrainingRun.evaluate", batch, "eval.batch = 16", "try 8"),
    ]):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(function, runs_out)
            options = short({**changes, "eval.batch": 16})
            said = verb(capfd, "--storage", str(tmp_path), "--name", str(number), *options).mistake()
        assert said == f"{setting}: needs more memory than the GPU has: {wanted} MiB is free; {hint}"


def test_gpu_or_cpu_is_what_was_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    ended = verb(capfd, "--gpu", "--storage", str(tmp_path), *short())
    assert (ended.code, ended.err) == (2, "error: --gpu: PyTorch finds no GPU on this machine; try --cpu\n")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    seen: list[str] = []

    def trained(cfg: Config, run: RunFolder, ranks: Ranks) -> Iterator[dict[str, Any]]:
        seen.append(ranks.device.type)
        yield {"step": 8, "outcome": "completed", "score": 1.0, "best_score": 1.0}

    monkeypatch.setattr("act_ray.train.loop.train", trained)
    for choice in ([], ["--gpu"], ["--cpu"]):
        assert verb(capfd, *choice, "--storage", str(tmp_path), "--name", f"a{choice}", *short()).code == 0
    assert seen == ["cuda", "cuda", "cpu"]


def test_a_mistake_in_a_real_process_has_no_traceback() -> None:
    args = [sys.executable, "-m", "act_ray.train", "--workers", "0", "--set", "los.w=1"]
    ended = subprocess.run(args, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: los.w: no such setting; did you mean 'loss.w'?\n"


# ---------------------------------------------------------------------------------------------- ends


def test_resuming_a_finished_run_says_so(done: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (done / "metrics.jsonl").read_bytes()
    ended = verb(capfd, "--resume", str(done))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1].startswith("done: score ")
    assert (done / "metrics.jsonl").read_bytes() == before


def test_what_an_earlier_process_or_another_one_wrote_is_not_told_as_news(
    done: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "QUIET_S", 0.0)
    run = RunFolder(str(done))
    (score, *_), (start, *_) = run.rows("scores.jsonl"), run.rows("events.jsonl")
    for begins, told in ((False, []), (True, ["started with 1 worker(s)", "step 4/8: FD"])):
        capfd.readouterr()
        with Follow(str(done), 8):
            run.append("events.jsonl", [start] if begins else [])
            run.append("scores.jsonl", [score])
        lines = [line for line in capfd.readouterr().out.splitlines() if line != "no step yet after 0 s"]
        assert [line[: len(begin)] for line, begin in zip(lines, told, strict=True)] == told


def test_one_line_per_event_and_no_bar_without_a_terminal(done: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ended = verb(capfd, "--storage", str(done.parent), "--name", "b", *short())
    start, *scored, end, last = ended.out.splitlines()[1:]
    assert start == "started with 1 worker(s)"
    assert [line.split(":")[0] for line in scored] == ["step 4/8", "step 8/8"]
    assert end == "completed at step 8"
    assert last.startswith("done")


def test_a_collapsed_run_exits_with_1_and_names_its_evidence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (str(tmp_path), tmp_path.joinpath("store").as_uri()):
        diversities = itertools.chain([1.0], itertools.repeat(0.1))
        monkeypatch.setattr("act_ray.train.scoring.diversity", lambda *_, values=diversities: next(values))
        ended = verb(capfd, "--storage", place, "--name", "c", *short({"eval.every": 2, "train.total_steps": 12}))
        assert (ended.code, ended.err) == (1, "")
        *_, why, evidence = ended.out.splitlines()
        assert why.startswith("stopped at step ")
        assert evidence == f"evidence: {place}/c/prune.json; --set collapse.action=record lets such a run go on"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_an_interrupt_saves_and_the_command_it_prints_goes_on(
    number: int, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A real process and a real signal; what it wrote is then finished here, equal to a run without an interrupt."""
    run, total = tmp_path / "a", 200
    more = short({"train.total_steps": total, "eval.every": 200, "checkpoint.every": 200, "collapse.enabled": False})
    args = [sys.executable, "-u", "-m", "act_ray.train", "--workers", "0", "--storage", str(tmp_path), "--name", "a"]
    with subprocess.Popen([*args, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").stat().st_size:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (code, "")
    assert "interrupted: saving a checkpoint (Ctrl-C again gives up)" in out
    last = out.splitlines()[-1]
    step, problems = checkpoint.newest_whole(run / "checkpoints")
    assert problems == []
    assert step is not None
    assert 0 < step < total
    assert last == f"saved at step {step} of {total}; go on with: python -m act_ray.train --resume {run} --workers 0"
    assert json.loads((run / "result.json").read_text())["outcome"] == "stopped"

    ended = verb(capfd, *last.partition("act_ray.train ")[2].split())
    assert (ended.code, ended.err) == (0, "")
    assert f"resumed from step {step} with 1 worker(s)" in ended.out
    rows = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(total))


@pytest.mark.slow
def test_before_the_first_step_a_signal_ends_at_once_and_keeps_what_is_prepared(
    tmp_path: Path, own_cache: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the classifier behind the score is learning, for which random labels leave much to do."""
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "src.npz", pixels, np.arange(2000) % 10)
    Ended(capfd, "prepare", tmp_path / "src.npz", tmp_path / "data").succeeded()
    start = ["train", "--workers", "0", "--data", str(tmp_path / "data"), "--preset", "digits"]
    start += ["--storage", str(tmp_path), "--name", "a", *short({"eval.features": "classifier"})]

    def kept() -> list[Path]:
        return [*(own_cache / "features").glob("*.partial")]

    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "act_ray", *start], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        deadline = time.monotonic() + 120
        while not kept():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    how = "nothing was trained yet; the same command goes on from what it has prepared"
    assert (process.returncode, err) == (143, f"error: interrupted; {how}\n")
    (partial,) = kept()
    with safe_open(partial, "pt") as file:
        steps = int(file.metadata()["step"])
    assert steps >= 100

    taken = itertools.count()
    monkeypatch.setattr(learning.Adam, "step", lambda *_: next(taken))
    monkeypatch.setattr(classifier, "STEPS", steps + 3)
    assert Ended(capfd, *start).succeeded().splitlines()[-1].startswith("done: score ")
    assert (next(taken), kept()) == (3, [])
    run = str(tmp_path / "a")  # which has begun, and could be resumed
    assert nothing_yet(run, count_starts(run), "go on") == "nothing was trained yet; go on"
    assert nothing_yet(run, 0, "go on") is None


# ---------------------------------------------------------------------------------------------- settings


def test_a_dry_run_prints_what_a_config_file_takes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    storage = ["--storage", str(tmp_path / "runs")]
    shown = verb(capfd, *storage, "--seed", "7", "--dry-run", *short({"loss.w": 0.9}))
    assert (shown.code, shown.err) == (0, "")
    assert not (tmp_path / "runs").exists()
    (tmp_path / "mine.yaml").write_text(shown.out)
    again = verb(capfd, *storage, "--config", str(tmp_path / "mine.yaml"), "--dry-run")
    assert again.out == shown.out
    cfg = settings_of(shown.out)
    assert (cfg.train.seed, cfg.loss.w, cfg.preset) == (7, 0.9, "digits")
    for wrong, said in (
        (["--config", str(tmp_path / "mine.yaml"), "--preset", "digits"], "not with --preset"),
        (["--seed", "1", "--set", "train.seed=2"], "--seed 1: given twice"),
        (["--config", str(tmp_path / "mien.yaml")], "did you mean"),
    ):
        ended = verb(capfd, *storage, *wrong)
        assert ended.code == 2
        assert said in ended.err


@pytest.mark.parametrize(("verb", "kind"), [("train", "preset"), ("tune", "space")])
def test_other_images_than_the_digits_have_a_network_of_their_own(
    verb: str, kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a line says so; with a name given, or for the digits, there is nothing to say."""
    monkeypatch.chdir(tmp_path)
    np.save("grey.npy", np.zeros((20, 28, 28, 1), np.uint8))
    Ended(capfd, "prepare", "grey.npy", "grey").succeeded()
    ended = Ended(capfd, verb, "--data", "grey", "--dry-run")
    assert ended.code == 0
    assert f"no --{kind}: small, for images of your own" in ended.err
    assert "preset: small" in ended.out
    for arguments in (["--data", "grey", f"--{kind}", "small"], ["--data", "digits"], []):
        ended = Ended(capfd, verb, *arguments, "--dry-run")
        assert (ended.code, ended.err) == (0, "")
        assert f"preset: {'small' if len(arguments) == 4 else 'digits'}" in ended.out


def settings_of(text: str) -> Config:
    return build(read_yaml(text, "config"))
