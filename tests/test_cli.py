"""`act-ray` and `python -m act_ray`: one page, instant, with completion; and how a command ends."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import pytest

from act_ray import cli
from act_ray.errors import Interrupted, UserError
from act_ray.runs import interrupt
from act_ray.runs.interrupt import on_interrupt


def act_ray(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "act_ray", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **env})


def test_without_a_command_it_shows_them_all() -> None:
    page = act_ray()
    assert (page.returncode, page.stderr) == (0, "")
    assert page.stdout == act_ray("--help").stdout
    for verb, what in cli.VERBS.items():
        assert f"  {verb} " in page.stdout
        assert what.split()[0] in page.stdout


def test_a_wrong_command_gets_a_hint() -> None:
    wrong = act_ray("trian")
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (
        2,
        "",
        "error: no command 'trian'; did you mean 'train'?\n",
    )


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb_imports_neither_torch_nor_ray(verb: str) -> None:
    code = (
        "import sys\nfrom act_ray.cli import main\nsys.argv = ['act-ray', sys.argv[1], '--help']\n"
        "try: main()\nexcept SystemExit as ended: assert ended.code == 0\n"
        "heavy = {'torch', 'ray', 'diffusers', 'torch_fidelity', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    ran = subprocess.run([sys.executable, "-c", code, verb], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"Usage: act-ray {verb}" in ran.stdout


def test_the_shell_completes_commands() -> None:
    program = Path(sys.executable).with_name("act-ray")
    environment = {**os.environ, "_ACT_RAY_COMPLETE": "bash_complete", "COMP_WORDS": "act-ray ev", "COMP_CWORD": "1"}
    ran = subprocess.run([program], capture_output=True, text=True, check=True, env=environment)
    assert ran.stdout.split() == ["plain,evaluate"]


def test_the_list_names_presets_spaces_and_runs(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("{}")
    page = act_ray("list", "--storage", str(tmp_path)).stdout
    for line in ("  digits  ", "  imagenet64  ", "  lambda_study  ", "  a  run, no step yet"):
        assert line in page
    for name, rows in (("b", 1), ("c", 0)):
        (tmp_path / name / "trials" / "000-x").mkdir(parents=True)
        (tmp_path / name / "experiment.yaml").write_text("{}")
        events = ['{"event": "search", "state": "interrupted"}', '{"event": "trial_started", "trial": 0}']
        events += ['{"event": "reported", "trial": 0, "report": {"best_score": 9.5}}'] * rows
        events += ['{"event": "ended", "trial": 0}'] * rows
        (tmp_path / name / "events.jsonl").write_text("\n".join(events) + "\n")
    page = act_ray("list", "--storage", str(tmp_path)).stdout
    assert "  b  search, interrupted: 1 trial(s) begun, 1 came to an end, best score 9.5" in page
    assert "  c  search, interrupted: 1 trial(s) begun, 0 came to an end" in page


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["train", "--workers", "0", "--storage", "runs", "--name", "a"], "run: {here}/runs/a"),
        (["init", "pictures", "--out", "mine"], "looking at pictures"),
        (["auto", "pictures", "--hours", "1", "--out", "mine"], "folder: {here}/mine"),
    ],
)
def test_the_first_line_comes_before_pytorch_is_loaded(arguments: list[str], first: str, tmp_path: Path) -> None:
    """In a process that cannot load it; what is printed goes into a pipe."""
    (tmp_path / "pictures").mkdir()
    code = "import sys; sys.modules['torch'] = None; from act_ray.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.stdout.splitlines()[:1] == [first.format(here=tmp_path)], ended.stderr
    assert "import of torch halted" in ended.stderr


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("loss.w = 2:\n too much"), 2, "error: loss.w = 2: too much\n"),
        (UserError(f"loss.w = {'9' * 100_000}: no"), 2, f"error: loss.w = {'9' * 80}...{'9' * 19}: no\n"),
        (UserError("1, " * 100_000), 2, "error: " + ("1, " * 500)[:1500] + " ... " + ("1, " * 500)[-501:-1] + "\n"),
        (click.UsageError("no"), 2, "error: no\n"),
        (Interrupted("go on with: X"), 130, "error: interrupted; go on with: X\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_how_a_command_ends(raised: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def command() -> None:
        raise raised

    with pytest.raises(SystemExit) as ended:
        cli.run(command, [])
    assert ended.value.code == code
    assert capsys.readouterr().err.lstrip() == said  # after ^C, click ends the line


def test_who_is_told_to_end_ends_with_the_code_of_the_signal() -> None:
    """Several SIGTERMs give up nothing, and one that is ignored stays so; before there is anything to save all end."""
    import signal

    before, asked = signal.signal(signal.SIGHUP, signal.SIG_IGN), list[str]()
    try:
        for sent, code in (((signal.SIGTERM, signal.SIGTERM), 143), ((signal.SIGHUP,), 130)):

            def work(sent: tuple[int, ...] = sent) -> None:
                for number in sent:
                    signal.raise_signal(number)

            on_interrupt(work, lambda: asked.append("asked"), "X")
            assert interrupt.exit_code(130) == code
        assert (asked, signal.getsignal(signal.SIGHUP)) == (["asked"], signal.SIG_IGN)
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with pytest.raises(Interrupted, match="again") as early:
                on_interrupt(partial(os.kill, os.getpid(), number), lambda: asked.append("late"), "X", lambda: "again")
            assert (early.value.code, asked) == (code, ["asked"])
        with pytest.raises(SystemExit) as ended:
            cli.run(click.command()(lambda: signal.raise_signal(signal.SIGTERM)), [])
        assert ended.value.code == 143
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize("gap", [0.0, 3600.0])
def test_a_second_interrupt_gives_up_and_says_how_to_go_on(gap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real signals: the first asks, a later one gives up; one that comes with the first is the same."""
    import signal
    import threading

    from act_ray.runs import interrupt

    monkeypatch.setattr(interrupt, "ONE_S", gap)
    asked, release = list[str](), threading.Event()

    def interrupt_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not asked:
            pass
        os.kill(os.getpid(), signal.SIGINT)
        while len(interrupt._received) < 2:
            pass
        if gap:
            release.set()

    def work() -> None:
        threading.Thread(target=interrupt_twice).start()
        release.wait(30)

    ask: Callable[[], None] = lambda: asked.append("asked")  # noqa: E731
    if gap:
        on_interrupt(work, ask, "go on with: X")
    else:
        with pytest.raises(Interrupted, match=r"given up: .* is lost; go on with: X"):
            on_interrupt(work, ask, "go on with: X")
        release.set()
    assert asked == ["asked"]
