"""All figures of a run: which there are, what they show, and the index of those that were drawn."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from matplotlib.figure import Figure

from act_ray import settings
from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.figures import model_figures
from act_ray.figures.curves import History, draw_curves, labels, read_history
from act_ray.figures.model_figures import Subject
from act_ray.figures.style import COLOURS, Missing, save, styled
from act_ray.files import replace_atomically
from act_ray.generators.reading import read_generator

INDEX = "README.md"
LINES = (
    "Thin: what was measured; bold: its running median; points: evaluations. Dashed: where a signature of collapse was "
    "found; shaded: the steps that it was found over. Axes are logarithmic where values span more than a factor of 5."
)
FIGURES = {  # name: (in the paper, what it shows)
    "training_curves": (
        "Figs. 4, 5, 8 and 9",
        "The gradient penalty, the consistency loss and the score against the training steps, with p_aug and the "
        f"threshold tau of an augmented run. {LINES}",
    ),
    "training_curves_compared": (
        "Fig. 5 against 9; Fig. 8",
        "The same of several runs. The penalty is ||grad D||^2, without w_gp, where that differs between them. "
        + LINES,
    ),
    "samples": ("Fig. 3", "One-step samples, from the noise that all scores start from, beside real images."),
    "inpainting": (
        "Fig. 2",
        "The middle of real images, filled four times in 18 steps (CM Algorithm 4): what is given stays. Images that "
        "it was trained on do not show how well it fills others.",
    ),
    "trajectory": (
        "Figs. 6 and 7",
        "Real images x with more and more noise, x + t z at equidistant levels of the last grid (shown divided by "
        "(1 + 4 t^2)^(1/2)), and what f makes of each. Neighbours must look alike: below, how far they are apart.",
    ),
    "noise_levels": (
        "Fig. 1",
        "f(x + t z, t) of different x, a row per noise level, with its diversity: the mean distance between two images "
        f"of the row over that between the real ones ({model_figures.OVER} images each). About 1 is healthy; rows that "
        "look alike and a diversity near 0 are mode collapse.",
    ),
}


@dataclass(frozen=True)
class Request:
    """What the figures are of, and where they go."""

    location: str
    compare: Sequence[str]
    out: Path
    data: str | None  # where the images are, if not where the run found them
    which: Literal["best", "last"]
    device: torch.device
    overwrite: bool = False  # what `out` holds, if not this run's figures
    weights: Literal["ema", "teacher", "model"] | None = None  # None: those that the score is of


def draw_all(request: Request, say: Callable[[str], None]) -> int:
    """Write every figure that the run has something for, and their index; how many. Raises UserError.

    say: is told of each figure, and why one is left out.
    """
    locations = [request.location, *request.compare]
    if len(locations) > len(COLOURS):
        raise UserError(f"--compare: at most {len(COLOURS) - 1} runs, not {len(request.compare)}, can be told apart")
    histories = [read_history(location) for location in locations]
    for location, history in zip(locations, histories, strict=True):
        for line in history.left_out:
            say(f"{location}/{line}")
    again = open_folder(request, histories[0])
    draw: dict[str, Callable[[], Figure]] = {
        "training_curves": partial(draw_curves, histories[:1], labels(histories[:1], locations[:1]))
    }
    if request.compare:
        draw["training_curves_compared"] = partial(draw_curves, histories, labels(histories, locations))
    try:
        subject = open_subject(request)
    except Missing as reason:
        subject, lacking = None, str(reason)
    for name in ("samples", "inpainting", "trajectory", "noise_levels"):
        draw[name] = partial(getattr(model_figures, f"draw_{name}"), subject) if subject else partial(_lack, lacking)
    left_out = {}
    for name, figure in draw.items():
        try:
            with styled():
                save(figure(), request.out, name)
            say(f"{request.out / name}.png and .svg{', drawn again' if again else ''}")
        except Missing as reason:
            left_out[name] = str(reason)
            for kind in ("png", "svg"):
                (request.out / f"{name}.{kind}").unlink(missing_ok=True)  # of an earlier call
            say(f"skipped {name}: {reason}")
    write_index(request, histories, subject, [name for name in draw if name not in left_out], left_out)
    return len(draw) - len(left_out)


def open_folder(request: Request, history: History) -> bool:
    """Make the folder for the figures; whether it holds figures of this run already.

    Raises UserError where it holds anything else, unless `overwrite`: only files of figures' names are replaced then.
    """
    out, hint = request.out, "name another folder, or replace figures there with --overwrite"
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = sorted(path.name for path in out.iterdir())
        index = (out / INDEX).read_text() if INDEX in held else ""
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made: {error.strerror}") from error
    ours = {INDEX, *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg"))}
    same = index.endswith(_signed(history))
    if held and not request.overwrite:
        if not same:
            what = "figures of another run" if "<!-- figures of " in index else f"other files ({held[0]})"
            raise UserError(f"--out {out}: holds {what}; {hint}")
        if others := [name for name in held if name not in ours]:
            raise UserError(f"--out {out}: holds other files ({others[0]}); {hint}")
    return same


def _signed(history: History) -> str:
    """The index's last line, by which a later call knows the run, also where its folder was renamed or moved."""
    digest = hashlib.sha256(settings.dump(history.cfg).encode()).hexdigest()[:16]
    return f"<!-- figures of the run with settings {digest} -->\n"


def open_subject(request: Request) -> Subject:
    """The run's network and images. Raises Missing where it has none; UserError for other images than it needs."""
    try:
        generator = read_generator(request.location, which=request.which, weights=request.weights)
    except UserError as error:
        raise Missing(str(error)) from error
    path = request.data or generator.cfg.data.path
    try:
        data = open_data(path, generator.cfg.data.decode)
    except UserError as error:
        if request.data is not None:
            raise
        raise Missing(f"{error}; --data DIR says where the images are now") from error
    if (shape := data.images.shape[1:]) != generator.shape:
        raise UserError(
            f"--data {path}: images [C, H, W] = {list(shape)}; {generator.origin} makes {list(generator.shape)}"
        )
    classes = generator.cfg.model.num_classes
    if classes is not None and not 0 < data.num_classes <= classes:
        raise UserError(f"--data {path}: has {data.num_classes} classes; {generator.origin} knows {classes}")
    return Subject(generator, generator.build(request.device), data, request.device)


def _lack(reason: str) -> Figure:
    raise Missing(reason)


def write_index(
    request: Request,
    histories: Sequence[History],
    subject: Subject | None,
    drawn: Sequence[str],
    left_out: dict[str, str],
) -> None:
    """README.md: every figure with what it shows and where the paper has it."""
    lines = [f"# Figures of {histories[0].name}", ""]
    if subject is not None:
        score = "" if subject.generator.score is None else f", score {subject.generator.score:.4g}"
        lines += [f"Pictures: step {subject.generator.step:,}{score}; images: {subject.data.name}.", ""]
    for history in histories:
        lines += [f"- {history.name}: {mark.message}" for mark in history.marks]
    for name in drawn:
        paper, shows = FIGURES[name]
        lines += ["", f"## {name}", "", f"![{name}]({name}.png)", "", f"{shows} Paper: {paper}. [SVG]({name}.svg)"]
    if left_out:
        lines += ["", "## Left out", "", *(f"- {name}: {reason}" for name, reason in left_out.items())]
    text = "\n".join([*lines, "", _signed(histories[0])])
    replace_atomically(request.out / INDEX, lambda temporary: temporary.write_text(text))
