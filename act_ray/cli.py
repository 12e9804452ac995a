"""What all commands share: the group `act-ray`, options, and how a command ends."""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from act_ray import __version__
from act_ray.errors import Interrupted, UserError, nearest, too_many_workers
from act_ray.runs.interrupt import leave

VERBS = {
    "auto": "From a folder of images to a model and its report, in the hours given.",
    "init": "Look at images, measure this machine, and choose the settings.",
    "prepare": "Turn a data set into the shards that training reads.",
    "train": "Train one model.",
    "tune": "Search hyper-parameters, with no compute for trials that collapse.",
    "evaluate": "FID, Inception score, KID, precision and recall of a model.",
    "sample": "Draw images from a model.",
    "edit": "Inpaint, colorize, enlarge, ... with a model.",
    "dashboard": "A live page for comparing the trials of searches, and runs.",
    "report": "The same page as one file.",
    "explain": "Why a run was flagged or stopped, and what would have had to differ.",
    "figures": "Draw the paper's figures from a run.",
    "export": "Write a model for diffusers or ONNX Runtime.",
    "list": "Presets, search spaces, runs and searches.",
    "doctor": "What a run or a search needs, and whether it is there.",
    "weights": "The weights that are not included: which are here, and how to get them.",
}

# ---------------------------------------------------------------------------------------------- how a command ends

LONG = 500  # letters: no path is so long; a value that somebody gave may be


def run(command: click.Command, args: list[str] | None = None, prog_name: str | None = None) -> NoReturn:
    """Run a click command and exit: 0, 2 for a mistake in what the user gave; interrupted: 130, 143 by SIGTERM, 129.

    args: default sys.argv[1:]. Any other exception is our bug, and keeps its traceback.
    """
    here = threading.current_thread() is threading.main_thread()
    if here and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, _end)  # where there is something to save, runs/interrupt.py takes its place
    try:
        # Without standalone mode click returns the code of --help and ctx.exit, and else what the command returns.
        value = command.main(args=args, prog_name=prog_name, standalone_mode=False)
    except UserError as error:
        fail(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except Interrupted as error:
        complain(f"interrupted; {error}")
        leave(error.code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", 130)
    sys.exit(value if isinstance(value, int) else 0)


def _end(number: int, frame: object) -> NoReturn:
    fail(f"ended by {signal.Signals(number).name}", 128 + number)


def fail(message: str, code: int = 2) -> NoReturn:
    """Print `error: message` as one line on stderr and exit with `code`."""
    complain(message)
    leave(code)


def complain(message: str) -> None:
    """Print `error: message` as one line on stderr, without the middle of a word or a list that is very long."""
    words = (word if len(word) <= LONG else f"{word[:80]}...{word[-20:]}" for word in message.split())
    line = " ".join(words)
    print("error: " + (line if len(line) <= 4 * LONG else f"{line[: 3 * LONG]} ... {line[-LONG:]}"), file=sys.stderr)


@contextlib.contextmanager
def waiting(what: str, after: float = 2.0) -> Iterator[None]:
    """On a terminal, say what is going on if it takes more than `after` seconds."""
    timer = threading.Timer(after, click.echo, [what], {"err": True})
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


# ---------------------------------------------------------------------------------------------- the group act-ray


class LazyGroup(click.Group):
    """Imports only the verb that is asked for, so that help and completion are instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"act_ray.{cmd_name}.__main__").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise UserError(f"no command '{args[0]}'; {nearest(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    "act-ray",
    cls=LazyGroup,
    epilog="`act-ray COMMAND --help` says more; `python -m act_ray.COMMAND` is the same. Completion: "
    'eval "$(_ACT_RAY_COMPLETE=bash_source act-ray)".',
)
@click.version_option(__version__, prog_name="act-ray")
def group() -> None:
    """Train ACT, a one-step image generator, on one machine or a Ray cluster, and search its hyper-parameters."""


def main() -> NoReturn:
    """The console script `act-ray`, and `python -m act_ray`."""
    run(group, prog_name="act-ray")


# ---------------------------------------------------------------------------------------------- shared options

PATH = click.Path(path_type=Path)
Decorator = Callable[[Any], Any]


def options(*decorators: Decorator) -> Decorator:
    """All of them on one command, shown in this order."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


MODEL_HELP = (  # the epilog of every verb that takes a MODEL
    "MODEL is a run's folder or URI, one of its checkpoints, a diffusers folder, the ACT authors' .ckpt, or OpenAI's "
    ".pt."
)
model_argument = click.argument("location", metavar="MODEL")
which_option = click.option(
    "--which", type=click.Choice(["best", "last"]), default="best", show_default=True, help="Checkpoint of a run."
)
weights_option = click.option(
    "--weights",
    type=click.Choice(["ema", "teacher", "model"]),
    help="The slow average, theta^- as the authors take, or theta. Default: the first of the run's eval.weights.",
)
image_size_option = click.option(
    "--image-size", type=click.IntRange(1), help="Side of the images of OpenAI's .pt, which does not say it."
)
head_width_option = click.option(
    "--head-width", type=click.IntRange(1), help="Width of an attention head of OpenAI's .pt, if of no released size."
)
kind_option = click.option(
    "--kind",
    type=click.Choice(["consistency", "denoiser"]),
    help="What OpenAI's .pt is, if its name does not begin with cd_, ct_ or edm_.",
)
clip_option = click.option(
    "--clip/--no-clip",
    default=None,
    help="Clamp the network's answer to [-1, 1] at every evaluation. Default: as the model's files say (OpenAI's do); "
    "off for act_ray's runs.",
)
model_options = options(  # the keywords of generators.reading.read_generator
    which_option, weights_option, image_size_option, head_width_option, kind_option, clip_option
)
gpu_option = click.option("--gpu/--cpu", default=None, help="Default: a GPU when there is one.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what an earlier call wrote there.")


def require_free(path: Path, overwrite: bool) -> None:
    """Raises UserError where an output file cannot be written, or would replace something without --overwrite."""
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder; name a file")
    if path.exists() and not overwrite:
        raise UserError(f"--out {path}: is there already; name another file, or --overwrite it")


def require_cpus(option: str, workers: int) -> None:
    """Raises UserError, before Ray is started on this machine, for more workers than it will count CPUs."""
    cpus = os.cpu_count() or 1
    if workers > cpus and not os.environ.get("RAY_ADDRESS"):
        raise too_many_workers(option, workers, cpus)


data_option = click.option(
    "--data", help="'digits' or a folder (or s3:// URI) written by act_ray.prepare; short for data.path."
)
recipe_option = click.option(
    "--recipe",
    metavar="NAME",
    help="Whose choices, where they differ: paper, or authors (their code). Default: the preset's.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=C",
    help="Change a setting, e.g. --set loss.w=0.5; docs/settings.md lists all.",
)
storage_option = click.option(
    "--storage", default="runs", show_default=True, help="Folder or URI under which a folder of its own is made."
)
shared_storage_option = click.option(
    "--shared-storage", is_flag=True, help="--storage is a folder that all nodes mount (NFS)."
)
tensorboard_option = click.option("--tensorboard", is_flag=True, help="Also write event files for TensorBoard.")
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Check everything, print the resolved settings as YAML, and stop."
)
