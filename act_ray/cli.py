"""How every verb ends: its exit code, and one line on stderr instead of a traceback for a user's mistake."""

import difflib
import importlib
import sys
from typing import NoReturn

import click

from act_ray import __version__
from act_ray.errors import UserError

VERBS = ("tune", "train", "prepare", "evaluate", "sample", "edit", "figures", "export")


def run(command: click.Command, args: list[str] | None = None, prog_name: str | None = None) -> NoReturn:
    """Run a click command and exit: 0, 2 for a mistake in what the user gave, 130 when interrupted.

    args: default sys.argv[1:]. Any other exception is our bug, and keeps its traceback.
    """
    try:
        # Without standalone mode click returns the code of --help and ctx.exit, and else what the command returns.
        value = command.main(args=args, prog_name=prog_name, standalone_mode=False)
    except UserError as error:
        fail(str(error))
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", 130)
    sys.exit(value if isinstance(value, int) else 0)


def fail(message: str, code: int = 2) -> NoReturn:
    """Print `error: message` as one line on stderr and exit with `code`."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def main() -> NoReturn:
    """The console script `act-ray VERB ...`; only the verb asked for is imported, so that --help is instant."""
    verb, *rest = sys.argv[1:] or ["--help"]
    if verb in ("--help", "-h"):
        print(f"Usage: act-ray VERB [ARGS]...\n\nVerbs: {', '.join(VERBS)}\n\n`act-ray VERB --help` says more.")
        sys.exit(0)
    if verb == "--version":
        print(f"act-ray {__version__}")
        sys.exit(0)
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        fail(f"no verb {verb!r}" + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(VERBS)}"))
    try:
        module = importlib.import_module(f"act_ray.{verb}.__main__")
    except ModuleNotFoundError as error:
        if error.name != f"act_ray.{verb}":
            raise
        fail(f"act-ray {verb} is not part of this installation")
    run(module.command, rest, prog_name=f"act-ray {verb}")
