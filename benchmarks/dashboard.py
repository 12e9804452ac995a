"""How the live page bears large searches: `python benchmarks/dashboard.py [--trials 200 --points 5000]`.

Makes up a search of so many trials, serves it, opens it in a headless Chromium, and prints: the time until the table
can be used, until the curves of 12 and of all trials are drawn, how soon a new point is seen, and the server's memory.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from act_ray import settings
from act_ray.runs.folder import RunFolder
from act_ray.tune.experiment import Experiment
from act_ray.tune.space_files import parse_space

OPTIONS = {"workers_per_trial": 0, "concurrent": None, "max_failures": 0}


def make_search(folder: Path, trials: int, points: int) -> Experiment:
    """Trials that are all done but the last, which runs."""
    raw = {
        "preset": "digits", "trials": trials, "set": {"train.total_steps": points, "eval.every": points // 10},
        "parameters": {"loss.w": {"uniform": [0.75, 1.0]}, "optim.lr_g": {"loguniform": [1e-3, 4e-3]}},
    }  # fmt: skip
    search, rng = Experiment.create(str(folder), parse_space(raw, "x"), OPTIONS), np.random.default_rng(0)
    search.log_state("running")
    rows = "".join(
        f'{{"step": {k}, "loss_ct": {3 / (1 + k / 500) + rng.normal() / 20:.5g}, "loss_g": {rng.normal():.5g}, '
        f'"loss_d": {rng.normal():.5g}, "gp": {np.exp(rng.normal()):.5g}}}\n'
        for k in range(points)
    )
    for plan in search.remaining():
        search.log("trial_started", plan)
        run = RunFolder(search.trial_location(plan))
        run.path.mkdir(parents=True)
        run.write("config.yaml", settings.dump(plan.config))
        run.write("metrics.jsonl", rows)
        for i in range(1, 11):
            report(search, plan.index, i * points // 10, 500 / i + rng.uniform(0, 50))
            run.append("scores.jsonl", [{"step": i * points // 10, "score": 500 / i, "diversity": 0.9}])
        if plan.index < trials - 1:
            search.log("ended", plan, outcome="completed", reason=None, prune=None)
    return search


def report(search: Experiment, index: int, step: int, score: float) -> None:
    row = {
        "step": step, "images": 32 * step, "score": score, "best_score": score, "best_step": step, "diversity": 0.9,
        "seconds": step / 10, "outcome": None, "rescues": 0, "given_up": 0, "prune": None,
    }  # fmt: skip
    search.log("reported", search.plans[index], report=row)


@click.command()
@click.option("--trials", default=200, show_default=True)
@click.option("--points", default=5000, show_default=True)
def main(trials: int, points: int) -> None:
    """Measure."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.helpers.browser import browser

    with tempfile.TemporaryDirectory() as root:
        search = make_search(Path(root) / "s", trials, points)
        command = [sys.executable, "-m", "act_ray.dashboard", str(Path(root) / "s"), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, browser() as chromium:
            assert server.stdout is not None
            started = time.monotonic()
            address = server.stdout.readline().strip()
            click.echo(f"server ready after {time.monotonic() - started:.2f} s")
            page = chromium.new_page()
            measure(page, address, search, trials)
            status = Path(f"/proc/{server.pid}/status").read_text()
            click.echo(f"server's memory: {int(status.partition('VmHWM:')[2].split()[0]) / 1e3:.0f} MB at most")
            server.terminate()


def measure(page: object, address: str, search: Experiment, trials: int) -> None:
    """The times that a person waits."""

    def timed(what: str, selector: str) -> None:
        page.wait_for_selector(selector, timeout=120_000)  # type: ignore[attr-defined]
        click.echo(f"{what}: {time.monotonic() - start:.2f} s")

    start = time.monotonic()
    page.goto(f"{address}#/trials")  # type: ignore[attr-defined]
    timed(f"table of {trials} trials", "tbody a")
    start = time.monotonic()
    report(search, trials - 1, 10**6, 0.123)
    timed("a new score", "tbody >> text=0.123")
    for count in (12, trials):
        start = time.monotonic()
        page.evaluate(  # type: ignore[attr-defined]
            "n => { for (const row of [...act.trials.values()].slice(0, n)) choose(row.id, true);"
            "location.hash = '#/overview'; location.hash = '#/curves'; }", count,
        )  # fmt: skip
        names = "((document.querySelector('#chart-gp') || {}).data || []).flatMap((t) => t.text || [t.name])"
        drawn = f"new Set({names}.filter(Boolean)).size"
        while page.evaluate(drawn) < count:  # type: ignore[attr-defined]
            page.wait_for_timeout(20)  # type: ignore[attr-defined]
        click.echo(f"curves of {count} trials: {time.monotonic() - start:.2f} s")


if __name__ == "__main__":
    main()
