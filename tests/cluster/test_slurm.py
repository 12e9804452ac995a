"""cluster/slurm.sh run as Slurm runs it, with commands of Slurm that do on this machine what they do on a cluster."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.tiny_settings import ON_RAY

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm.sh"
DEADLINE_S = 400  # on a busy machine Ray alone takes a minute

# Each node of a step is a process of the command; a signal to srun goes on to all of them.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$CALLS"
while [[ $1 == --* ]]; do
  if [[ $1 == --ntasks=* ]]; then many=${1#*=}; fi
  shift
done
trap 'kill -TERM $(jobs -p)' TERM
for ((i = 0; i < many; i++)); do "$@" & done
while [[ -n $(jobs -pr) ]]; do wait; done
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >>"$CALLS"
if [[ $1 == show ]]; then printf '%s\\n' ${3//,/ }; fi
"""


class Slurm:
    """One job; `run` is one time that it is started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, folder / "calls.txt"
        self.job = str(os.getpid())
        (folder / "bin").mkdir()
        for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        shutil.copy(SCRIPT, folder / "slurm_script")  # Slurm runs a copy of the file
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CALLS": str(self.calls),
            "SLURM_JOB_ID": self.job,
            "SLURM_JOB_NODELIST": "n1,n2",
            "SLURM_CPUS_ON_NODE": "1",
        }

    def run(self, *arguments: str, terminate_once: Callable[[], bool] | None = None, **env: str) -> tuple[int, str]:
        """Exit code and output; SIGTERM goes to the script alone, as `--signal=B:TERM` has it."""
        command = ["bash", str(self.folder / "slurm_script"), *arguments]
        output = self.folder / "slurm.out"
        with output.open("w") as out:
            script = subprocess.Popen(command, env=self.env | env, cwd=self.folder, stdout=out, stderr=out)
        try:
            end = time.monotonic() + DEADLINE_S
            while terminate_once is not None and not terminate_once():
                assert script.poll() is None, output.read_text()
                assert time.monotonic() < end, output.read_text()
                time.sleep(0.1)
            if terminate_once is not None:
                script.send_signal(signal.SIGTERM)
            return script.wait(DEADLINE_S), output.read_text()
        finally:
            script.terminate()
            script.wait(DEADLINE_S)

    def processes(self) -> list[str]:
        """What is still there of the job's Ray."""
        words = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
        return [line for line in words if f"/tmp/ray-{self.job}" in line]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    slurm = Slurm(tmp_path)
    yield slurm
    shutil.rmtree(f"/tmp/ray-{slurm.job}", ignore_errors=True)


def test_anything_but_tune_and_train_is_refused(slurm: Slurm) -> None:
    code, output = slurm.run("tuen", "--space", "digits")
    assert (code, output) == (2, "error: sbatch cluster/slurm.sh tune ARGUMENTS, or train ARGUMENTS\n")


@pytest.mark.slow
@pytest.mark.own_ray
def test_a_search_saves_when_its_time_is_up_and_goes_on_after_the_requeue(slurm: Slurm) -> None:
    space = slurm.folder / "space.yaml"
    settings = {**ON_RAY, "train.total_steps": 100, "eval.every": 10, "checkpoint.every": 40}
    parameters = {"train.seed": {"grid": [0, 1]}}
    space.write_text(json.dumps({"preset": "digits", "set": settings, "scheduler": "none", "parameters": parameters}))
    arguments = ["tune", "--space", str(space), "--storage", str(slurm.folder / "act"), "--cpu"]
    log = slurm.folder / "act" / f"slurm-{slurm.job}" / "events.jsonl"

    def reported() -> bool:
        return log.exists() and '"reported"' in log.read_text()

    code, output = slurm.run(*arguments, terminate_once=reported, ACT_RAY_REQUEUE="1")
    assert code == 143, output
    assert f"--resume slurm-{slurm.job}" in output
    assert slurm.processes() == []
    calls = slurm.calls.read_text()
    assert "--nodelist=n1 --nodes=1 --ntasks=1" in calls
    assert "--nodelist=n2 --nodes=1 --ntasks=1" in calls
    assert '"trial_slot": 2' in calls
    assert "token" not in calls.lower()  # nobody finds it in a list of processes
    assert calls.endswith(f"scontrol requeue {slurm.job}\n")

    code, output = slurm.run(*arguments, ACT_RAY_REQUEUE="1", SLURM_RESTART_COUNT="1")
    assert code == 0, output
    assert "2 trials: 2 ran to their end" in output
    assert slurm.processes() == []
    assert slurm.calls.read_text().count("requeue") == 1
    for trial in (log.parent / "trials").iterdir():
        steps = [json.loads(line)["step"] for line in (trial / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(100))
