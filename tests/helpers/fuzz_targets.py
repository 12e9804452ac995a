"""What is fuzzed: folders as act_ray and others write them, which of their files, and everything that reads them."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from rich.console import Console

from act_ray import jsonfile, settings
from act_ray.auto.journal import Journal
from act_ray.dashboard.curves import FIELDS, Curves
from act_ray.dashboard.results import Results
from act_ray.dashboard.trial_page import sample_steps, trial_page
from act_ray.data import store
from act_ray.data.shards import open_data
from act_ray.errors import UserError
from act_ray.explain.__main__ import explain_run, explain_search, explain_standing
from act_ray.figures.curves import read_history
from act_ray.files import sha256
from act_ray.generators.reading import read_generator
from act_ray.init.start import _before
from act_ray.list.__main__ import runs
from act_ray.models.unet import unet_arguments
from act_ray.prepare.conversion import PrepareOptions, prepare
from act_ray.runs import checkpoint
from act_ray.runs.folder import RunFolder
from act_ray.runs.progress import read_progress
from act_ray.train.fork import read_lineage
from act_ray.train.loop import train
from act_ray.train.ranks import Ranks
from act_ray.train.rescue import changed, read_rescues
from act_ray.tune.experiment import Experiment
from act_ray.tune.recorded import load_recorded, read_run
from act_ray.tune.results import write_results
from act_ray.tune.space_files import load_space
from act_ray.tune.spent import saved_compute
from act_ray.tune.table import make_table
from tests.helpers.drifted_run import write_drifted_run
from tests.helpers.imported_models import openai_file
from tests.helpers.searches import made_up
from tests.helpers.sources import MAKERS, labels_in_turn, make_folder, make_lmdb, random_pixels
from tests.helpers.tiny_settings import FINISHED

Said = Callable[[object], object]


@dataclass(frozen=True)
class Target:
    """make(base): writes the folder. files: globs of what is changed in it. read(case): all that reads it; what it
    returns has to be what it is of the folder as it was, or the change was noticed. seal: make checksums right again,
    as somebody who means harm would. alike: whether what is read must not differ."""

    name: str
    make: Callable[[Path], object]
    files: Sequence[str]
    read: Callable[[Path], Any]
    seal: Callable[[Path], object] | None = None
    alike: bool = False
    weight: int = 1


# ---------------------------------------------------------------------------------------------- settings


def make_settings(base: Path) -> None:
    (base / "config.yaml").write_text(settings.dump(settings.load("digits", FINISHED)))
    (base / "own.yaml").write_text("preset: digits\nloss: {w: 0.5}\noptim.lr_g: 1e-3\n")
    (base / "space.yaml").write_text(
        "preset: digits\nset: {train.total_steps: 600}\ntrials: 3\nparameters:\n  loss.w: {choice: [0.8, 0.9]}\n"
        "  optim.lr_g: {loguniform: [5e-4, 4e-3]}\nconstraints: ['loss.w_mid <= loss.w']\n"
    )


def read_settings(case: Path) -> None:
    for name in ("config.yaml", "own.yaml"):
        with contextlib.suppress(UserError):
            settings.dump(settings.load_file(case / name))
    load_space(str(case / "space.yaml")).plan()


# ---------------------------------------------------------------------------------------------- models


def make_run(base: Path) -> None:
    assert [*train(settings.load("digits", FINISHED), RunFolder(str(base / "run")), Ranks())]


def read_model(case: Path, name: str) -> None:
    """The weights, put into the network that they say."""
    read_generator(str(case / name), image_size=8, head_width=64 if name.endswith("pt") else None).build(
        torch.device("cpu")
    )


def go_on(case: Path) -> None:
    """--resume of a run that is over: it reads the newest checkpoint that is whole."""
    for _ in train(settings.load_file(case / "run" / "config.yaml"), RunFolder(str(case / "run")), Ranks()):
        pass


def seal_checkpoint(case: Path) -> None:
    for folder in case.glob("run/checkpoints/*"):
        files = {
            p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)}
            for p in sorted(folder.iterdir())
            if p.name != checkpoint.MANIFEST
        }
        jsonfile.write(folder / checkpoint.MANIFEST, checkpoint._manifest(files))


def make_diffusers(base: Path) -> None:
    unet = UNet2DModel(**unet_arguments(settings.load("digits", FINISHED), 3, 8))
    ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler()).save_pretrained(base / "pipeline")


def make_openai(base: Path) -> None:
    openai_file(base / "cd_x.pt")


# ---------------------------------------------------------------------------------------------- images


def make_data(base: Path) -> None:
    """A prepared data set, and its decoded cache."""
    source = make_folder(base / "source", random_pixels(), labels_in_turn())
    prepare(str(source), base / "data", PrepareOptions(shard_images=4))
    shutil.rmtree(source)
    with cache_at(base / "cache"):
        read_data(base)


@contextlib.contextmanager
def cache_at(folder: Path) -> Any:
    before = os.environ["ACT_RAY_CACHE"]
    os.environ["ACT_RAY_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ["ACT_RAY_CACHE"] = before


def read_data(case: Path, decode: Any = "ahead") -> bytes:
    found = open_data(str(case / "data"), decode)
    return np.asarray(found.images[:]).tobytes() + (b"" if found.labels is None else found.labels.tobytes())


def read_fresh(case: Path, decode: Any = "ahead") -> bytes:
    """Without the cache that is there."""
    shutil.rmtree(case / "cache")
    return read_data(case, decode)


def seal_data(case: Path) -> None:
    path = case / "data" / "manifest.json"
    manifest = json.loads(path.read_text())
    for shard in manifest["shards"]:
        shard["sha256"] = sha256(case / "data" / shard["file"])
    manifest["checksum"] = store.checksum(manifest)
    path.write_text(json.dumps(manifest))


def make_source(base: Path, maker: Callable[..., Path]) -> None:
    maker(base / "source", random_pixels(), labels_in_turn())


def read_source(case: Path) -> None:
    source = next(case.glob("source*"))
    prepare(str(source), case / "out", PrepareOptions(size=8), max_bad=0.5)
    shutil.rmtree(case / "out")


# ---------------------------------------------------------------------------------------------- logs


def make_logs(base: Path) -> None:
    """A run with everything, a search, and what auto and init leave."""
    write_drifted_run(base / "run", 25)  # what would have had to differ takes long with 75
    rows = base / "run" / "metrics.jsonl"
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:60]))
    run = RunFolder(str(base / "run"))
    run.json("rescues.json", [{"signature": "drift", "confirmed": 30, "back_to": 20, "changes": {"loss.w": 0.3},
                               "seconds": 1.0}])  # fmt: skip
    run.json("lineage.json", {"parent": "runs/x", "step": 20, "changes": {"loss.w": 0.4}})
    run.json("progress.json", {"step": 40, "total_steps": 400, "steps_per_second": 2.0, "images_per_second": 9.0,
                               "score": 4.0})  # fmt: skip
    run.append("notes.jsonl", [{"time": 1.0, "trial": 0, "mark": "star"}, {"time": 2.0, "trial": 0, "text": "x"}])
    (base / "init.json").write_text(json.dumps({"asked": {"hours": 1.0}, "seconds_per_step": 0.1, "total_steps": 9}))
    saved = {"data": "d", "hours": 1.0, "sessions": [[1.0, 2.0]], "done": {"look": {"x": 1}}, "at": {"look": 1.0}}
    (base / "auto.json").write_text(json.dumps({**saved, "notes": ["n"]}))


def make_healthy(base: Path) -> None:
    """What is in prune.json takes a second to put into words."""
    make_logs(base)
    (base / "run" / "prune.json").unlink()


def make_search(base: Path) -> None:
    search = made_up(base / "search")
    search.dir.append("notes.jsonl", [{"time": 1.0, "trial": 0, "mark": "star"}])
    for plan in search.plans.values():
        run = RunFolder(search.trial_location(plan))
        rows = run.path / "metrics.jsonl"
        rows.write_bytes(b"\n".join(rows.read_bytes().split(b"\n")[:20]) + b"\n")
    for picture in base.rglob("*.png"):
        picture.unlink()


def all_of(*readers: Callable[[Path], object]) -> Callable[[Path], None]:
    """Each of them, whatever the others say; what is no UserError ends it."""

    def read(case: Path) -> None:
        said = 0
        for reader in readers:
            try:
                reader(case)
            except UserError:
                said += 1

    return read


def quiet(function: Callable[[], object]) -> None:
    """What a verb prints must be something that a terminal can be sent."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(out):
        function()
        out.flush()


def show(location: Path) -> None:
    """The dashboard's answers."""
    results, curves = Results([str(location)]), Curves()
    results.refresh()
    answers: list[object] = [results.state(0)]
    for source in results.sources.values():
        for index in [*source.entries]:
            answers += [trial_page(source, index), sample_steps(source, index)]
            rows = curves.of(source.run_folder(index), partial(source.config, index))
            answers += [rows.curve(name, 50, 0, 1e12) for name in FIELDS]
    json.dumps(jsonfile.plain(answers)).encode()


def print_all(lines: Any) -> None:
    quiet(lambda: [print(line) for line in lines])


read_run_logs = all_of(
    lambda case: print_all(runs(case)),
    lambda case: read_history(str(case / "run")).points("score"),
    lambda case: read_lineage(RunFolder(str(case / "run"))),
    lambda case: changed(read_history(str(case / "run")).cfg, read_rescues(RunFolder(str(case / "run")))),
    lambda case: read_progress(case / "run"),
    lambda case: read_run(str(case / "run"), "x"),
    lambda case: show(case / "run"),
    lambda case: Journal(case, "d", 1.0),
    lambda case: _before(case, {"hours": 1.0}, print),
)


explain_drawn = all_of(
    lambda case: quiet(lambda: explain_run(str(case / "run"), None)), lambda case: read_run(str(case / "run"), "x")
)


def read_search(case: Path) -> Experiment:
    experiment = Experiment.read(str(case / "search"), scratch="views")
    write_results(experiment)
    saved_compute(experiment.trials.values(), experiment.space.file.scheduler)
    out = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), width=120)
    if experiment.trials:
        out.print(*make_table(experiment, "FID", out))
    experiment.remaining()
    return experiment


read_search_logs = all_of(
    lambda case: print_all(runs(case)),
    read_search,
    lambda case: print_all(explain_search(str(case / "search"))),
    lambda case: [print_all(explain_standing(str(one))) for one in (case / "search" / "trials").glob("002-*")],
    lambda case: show(case / "search"),
    lambda case: load_recorded(str(case / "search")),
)

MODEL = partial(read_model, name="run")
STEP = "run/checkpoints/*"
TARGETS = [  # the weights: those that take long are few
    Target("settings", make_settings, ["*.yaml"], read_settings, weight=12),
    Target("run", make_run, [f"{STEP}/*", "run/*.yaml", "run/scores.jsonl"], MODEL, weight=6),
    Target("sealed run", make_run, [f"{STEP}/state.json", f"{STEP}/ema.*"], MODEL, seal_checkpoint, weight=6),
    Target("resumed", make_run, [f"{STEP}/*", "run/*.json*"], go_on),
    Target("resumed, sealed", make_run, [f"{STEP}/*"], go_on, seal_checkpoint),
    Target("diffusers", make_diffusers, ["pipeline/*/*", "pipeline/*.json"], partial(read_model, name="pipeline"),
           weight=4),
    Target("openai", make_openai, ["*.pt"], partial(read_model, name="cd_x.pt"), weight=4),
    Target("data", make_data, ["data/*"], read_fresh, weight=8),
    Target("sealed data", make_data, ["data/*"], read_fresh, seal_data, weight=8),
    Target("on the fly", make_data, ["data/*"], partial(read_fresh, decode="on_the_fly"), seal_data, weight=6),
    Target("cache", make_data, ["cache/*/*"], read_data, alike=True, weight=8),
    Target("a run's logs", make_healthy, ["run/*.json*", "run/*.yaml", "*.json"], read_run_logs, weight=12),
    Target("explained", make_logs, ["run/prune.json", "run/*.json*"], explain_drawn, weight=2),
    Target(
        "a search's logs", make_search, ["search/*.jsonl", "search/*.jsonl", "search/*.yaml", "search/trials/*/*"],
        read_search_logs, weight=6,
    ),
    *(
        Target(
            maker.__name__.removeprefix("make_"), partial(make_source, maker=maker), ["source*", "source/**/*"],
            read_source, weight=1 if maker is make_lmdb else 6,
        )
        for maker in MAKERS
    ),
]  # fmt: skip
