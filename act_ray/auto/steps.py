"""The whole way from a folder of pictures to a model and its report, step by step; what is done is not done again."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from act_ray import settings
from act_ray.auto import plan as planning
from act_ray.auto.journal import Found, Journal
from act_ray.auto.plan import Costs, Plan
from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.files import replace_atomically
from act_ray.init.start import Ask
from act_ray.metrics.scores import resolve_features
from act_ray.pictures import grid_image, save_png
from act_ray.runs.rows import Row
from act_ray.tune.space_files import load_space
from act_ray.typed import typed

MODEL, SAMPLES, REAL, REPORT = "model", "samples.png", "real.png", "report.html"
SHOWN = 64  # samples in the picture
EVALUATED = 10_000  # samples at most
NFE = (1, 2)
FEATURES_MOST = 50_000  # real images whose features are kept for precision and recall
EVALUATION = 0.6  # of the time that is left after the repeats

Say = Callable[[str], None]


def carry_out(source: str, folder: Path, journal: Journal, ask: Ask, say: Say, dry_run: bool) -> None:
    """Everything, or with `dry_run` no more than the plan. Raises UserError, Interrupted."""
    planning.require_hours(journal.hours)
    started = journal.step("init", lambda: begin(source, folder, journal.hours, ask, say))
    cfg = resolve_features(settings.absolute_paths(load_space(started["space"]).example()))
    at_once = trials_at_once(cfg)
    costs = Costs(**journal.step("measure", lambda: measure(cfg, started["seconds_per_step"], at_once, say)))
    plan = Plan(**journal.step("plan", lambda: asdict(planning.make_plan(journal.left, journal.whole, costs, at_once))))
    from act_ray.auto.training import read_search_space, train_all
    from act_ray.tune.disk import describe_disk

    space = read_search_space(Path(started["space"]), plan, costs.step)
    if "repeats" not in journal.done:
        for line in (*planning.describe(plan, costs, journal.whole, journal.used), *describe_disk(space, str(folder))):
            say(line)
    if dry_run:
        say("nothing was trained; the same command without --dry-run goes on")
        return
    train_all(folder, space, plan, journal)
    found = journal.done["repeats"]
    if found["winner"] is None:
        raise UserError(f"{folder}: no trial has a score; {typed('explain', folder / 'search')} says why")
    journal.step("samples", lambda: draw(found["winner"], folder))
    journal.step("evaluate", lambda: evaluate(found["winner"], journal, costs, say))
    journal.step("export", lambda: export(found["winner"], folder / MODEL))
    journal.step("report", lambda: report(folder, journal, say))
    journal.step("took", lambda: {"seconds": round(journal.used, 1)})


def begin(source: str, folder: Path, hours: float, ask: Ask, say: Say) -> Found:
    """Look at the data, prepare it, choose network and settings for what one trial may take."""
    from act_ray.init.start import TooFewHours, start, this_machine

    machine = this_machine(None)
    at_once = torch.cuda.device_count() if machine.gpu else machine.cores
    try:
        made = start(source, folder, planning.trial_hours(hours, at_once), say, ask)
    except TooFewHours as few:  # the plan says what is the least of all
        try:
            made = start(source, folder, hours, say, replace(ask, size=few.size))
        except TooFewHours as even:
            raise UserError(f"{even}, and another --out") from None
    return {"config": str(made.config), "space": str(made.space), "data": made.data,
            "seconds_per_step": made.seconds_per_step}  # fmt: skip


def trials_at_once(cfg: Config) -> int:
    """One for each GPU; without any, one for each core, or a single one where a step uses all cores."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return (os.cpu_count() or 1) if cfg.train.threads else 1


def measure(cfg: Config, step: float, at_once: int, say: Say) -> Found:
    """What a step and a score take."""
    from act_ray.auto.measure import measure_costs

    return asdict(measure_costs(cfg, step, at_once, say))


# ---------------------------------------------------------------------------------------------- of the winner


def draw(winner: str, folder: Path) -> Found:
    """samples.png, and real.png beside it."""
    from act_ray.api import load_generator, sample_images
    from act_ray.tune.picture import real_grid

    generator = load_generator(winner)
    cfg = generator.cfg.model_copy(update={"eval": generator.cfg.eval.model_copy(update={"grid": SHOWN})})
    save_png(folder / REAL, real_grid(cfg))
    save_png(folder / SAMPLES, grid_image(sample_images(generator, SHOWN)))
    return {"samples": SAMPLES, "real": REAL}


def evaluate(winner: str, journal: Journal, costs: Costs, say: Say) -> Found:
    """Frechet distance, precision and recall, with as many samples as the time allows.

    What it takes is measured by a small one first, which is all where the time is over.
    """
    from act_ray.evaluate.__main__ import append, destination, load, plan_samplers
    from act_ray.evaluate.__main__ import evaluate as measured

    known = load(winner, None, ["fid"], {}, {})
    few, images = known.cfg.eval.samples, len(known.real.images)
    real = images * costs.score / few  # seconds for the features of all real images
    metrics = ["fid", "prc"] if images <= FEATURES_MOST and real < EVALUATION / 2 * journal.left else ["fid"]
    target, name = destination(winner, known.generator, None)

    def rows(samples: int, nfe: str) -> Iterator[Row]:
        comparison = load(winner, None, metrics, {"samples": samples}, {})
        for row in measured(comparison, plan_samplers(comparison.generator, nfe, None), 0, None):
            append(target, name, row)
            shown = ", ".join(f"{metric} {value:.4g}" for metric, value in row["metrics"].items())
            say(f"evaluation, {row['nfe']} step(s), {samples:,} samples: {shown}")
            yield row

    found = [*rows(few, "1")]
    samples = fit_samples(journal.left, found[0]["seconds"], few, known.cfg.eval.batch)
    if samples > few:
        found = [*rows(samples, ",".join(map(str, NFE)))]
    if samples < EVALUATED:
        journal.note(f"The evaluation has {samples:,} samples instead of {EVALUATED:,}, for the time was short.")
    return {"rows": found}


def fit_samples(left: float, seconds: float, few: int, batch: int) -> int:
    """How many samples the time is enough for, at each of NFE, where `few` took so many seconds at one evaluation.

    Not in proportion: precision and recall need the distances between all samples.
    """
    times = max(0.0, EVALUATION * left / (seconds * sum(NFE))) ** 0.5
    return max(few, min(EVALUATED, int(few * times)) // batch * batch)


def export(winner: str, target: Path) -> Found:
    """The winner as a diffusers folder; an earlier call may have been killed in it."""
    from act_ray.api import load_generator
    from act_ray.export.folder import write_export

    difference = write_export(load_generator(winner), str(target), "diffusers", "unknown", overwrite=target.exists())
    return {"model": str(target), "difference": difference}


def report(folder: Path, journal: Journal, say: Say) -> Found:
    """report.html."""
    from act_ray.auto.page import summary
    from act_ray.auto.training import SEARCH
    from act_ray.dashboard.results import Results
    from act_ray.report.single_file import write_report

    places = [folder / SEARCH, *sorted((folder / SEARCH).glob("finalists*"))]
    text = write_report(Results([str(place) for place in places]), say, summary(folder, journal))
    replace_atomically(folder / REPORT, lambda temporary: temporary.write_text(text))
    return {"report": REPORT}
