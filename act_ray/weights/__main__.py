"""`python -m act_ray.weights`: the weights that are not included, whether they are here, and how to get them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from act_ray.cli import PATH, overwrite_option, run
from act_ray.errors import UserError, nearest
from act_ray.typed import typed
from act_ray.weight_files import FEATURE_NETWORK, WEIGHT_FILES, WeightFile, hub_checkpoints


@click.group("weights", invoke_without_command=True, subcommand_metavar="[get NAME... | put FILE...]")
@click.pass_context
def command(context: click.Context) -> int:
    """Show the weights that are not included: what each is for, and whether it is here, with the right SHA-256.

    They are looked for in torch hub's folder; TORCH_HOME moves it. Exit code 1: a file is not the one that it should
    be.
    """
    return show() if context.invoked_subcommand is None else 0


@command.command("get", short_help="Fetch weights.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@overwrite_option
def get(names: tuple[str, ...], overwrite: bool) -> None:
    """Fetch weights from where their authors keep them, and check their SHA-256. Without NAME, `weights` shows all.

    An interrupted download goes on where it stopped when the command is given again.
    """
    from act_ray.weights.download import download

    for weights in [find(name) for name in dict.fromkeys(names)]:
        if is_free(weights, overwrite):
            click.echo(f"{weights.name}: fetching {weights.url}")
            download(weights, click.echo)
            say_where(weights)


@command.command("put", short_help="Take in weights that were brought from elsewhere.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=PATH)
@overwrite_option
def put(files: tuple[Path, ...], overwrite: bool) -> None:
    """Copy weights that were brought from elsewhere to where they are looked for. Their SHA-256 tells which they are.

    A FILE may have any name.
    """
    from act_ray.files import replace_atomically

    for weights, file in [(recognise(file), file) for file in files]:
        if is_free(weights, overwrite):
            try:
                weights.path.parent.mkdir(parents=True, exist_ok=True)
                replace_atomically(weights.path, lambda to, file=file: shutil.copyfile(file, to))  # type: ignore[misc]
            except OSError as error:
                raise UserError(f"{weights.path}: cannot be written: {error.strerror or error}") from None
            say_where(weights)


def find(name: str) -> WeightFile:
    """The weights of this name. Raises UserError."""
    by_name = {weights.name: weights for weights in WEIGHT_FILES}
    if name not in by_name:
        raise UserError(f"no weights '{name}'; {nearest(name, by_name)}")
    return by_name[name]


def recognise(file: Path) -> WeightFile:
    """Which weights a file is, by its SHA-256. Raises UserError where it is none of them."""
    from act_ray.files import sha256

    try:
        digest = sha256(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    for weights in WEIGHT_FILES:
        if weights.is_right(digest):
            return weights
    named = [weights for weights in WEIGHT_FILES if weights.file == file.name]
    should = f"{named[0].file} has {named[0].sha256}; bring it again, from {named[0].url}" if named else "none of ours"
    raise UserError(f"{file}: has SHA-256 {digest}: {should}")


def is_free(weights: WeightFile, overwrite: bool) -> bool:
    """Whether it is to be put in place. Raises UserError where something else would be replaced."""
    match state(weights):
        case "missing":
            return True
        case "wrong" if not overwrite:
            raise UserError(f"{weights.path}: is there, and is not {weights.name}; --overwrite replaces it")
        case "wrong":
            return True
    click.echo(f"{weights.name}: is there already: {weights.path}")
    return False


def state(weights: WeightFile) -> str:
    """missing, right or wrong."""
    from act_ray.files import sha256

    if not weights.path.is_file():
        return "missing"
    return "right" if weights.is_right(sha256(weights.path)) else "wrong"


def say_where(weights: WeightFile) -> None:
    """Where it lies, and what was checked."""
    click.echo(f"{weights.name}: {weights.path}; {weights.digits}: right")
    if weights is FEATURE_NETWORK:
        click.echo(f"use it with --set discriminator.feature_weights={weights.path}")


def show() -> int:
    """The table, and what to type; the exit code."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from act_ray.files import in_units

    states = {weights: state(weights) for weights in WEIGHT_FILES}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("name", "size", "for", "here"):
        table.add_column(heading, no_wrap=heading != "here")
    for weights, how in states.items():
        words = {"missing": "missing", "wrong": "WRONG SHA-256", "right": f"{weights.digits}: right"}
        table.add_row(weights.name, in_units(weights.size), f"{weights.purpose}\n{weights.file}", words[how])
    click.echo(f"looked for in {hub_checkpoints()} (TORCH_HOME moves it)")
    Console(width=max(100, Console().width), highlight=False).print(table)
    for line in advice(states):
        click.echo(line)
    return 1 if "wrong" in states.values() else 0


def advice(states: dict[WeightFile, str]) -> Iterator[str]:
    """What to type for those that are not there."""
    for weights, how in states.items():
        if how == "wrong":
            yield f"{weights.path} is not {weights.name}: `{typed('weights')} get {weights.name} --overwrite`"
    missing = [weights for weights, how in states.items() if how == "missing"]
    if missing:
        yield f"fetch them: {typed('weights')} get {' '.join(weights.name for weights in missing)}"
        yield f"or, without a network here, bring these files: {typed('weights')} put FILE..."
        yield from (f"  {weights.url}" for weights in missing)
    yield "other places: eval.inception_weights, loss.lpips_weights and discriminator.feature_weights name them"


if __name__ == "__main__":
    run(command)
