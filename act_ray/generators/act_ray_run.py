"""The generator of a run of act_ray: of its folder or URI, or of one of its checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file

from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.files import EVALUATIONS
from act_ray.generators.generator import Generator, Kind
from act_ray.runs import checkpoint
from act_ray.runs.checkpoint import CorruptCheckpoint
from act_ray.runs.folder import MANIFEST, RunFolder, read_config
from act_ray.runs.rows import Row, parse_rows

PREFIX = "network.unet."  # of UNet2DModel's weights in a checkpoint
Weights = Literal["ema", "teacher", "model"]
MEASURED = ("scores.jsonl", EVALUATIONS)


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint's."""
    return (path / MANIFEST).exists()


def read_run(location: str, which: Literal["best", "last"], weights: Weights | None) -> Generator:
    """The generator of a run's best or newest whole checkpoint. Raises UserError for what is no run's folder or URI."""
    run = RunFolder(location, scratch="views")
    cfg = read_config(run)
    if cfg is None:
        hint = "a search: give one of its trials' folders" if run.read("experiment.yaml") else "not a run's folder"
        raise UserError(f"{location}: no run, checkpoint or model: no config.yaml there; {hint}")
    try:
        folder, problems = _choose(run, which)
        return _read(run, cfg, folder, weights, problems)
    except CorruptCheckpoint as error:
        raise UserError(f"best checkpoint damaged: {error}; the last one may be whole") from None


def read_checkpoint(folder: Path, weights: Weights | None) -> Generator:
    """The generator of a checkpoint's folder, which lies in its run's. Raises UserError."""
    run = RunFolder(str(folder.parents[1]))
    cfg = read_config(run)
    if cfg is None:
        raise UserError(f"{folder}: a checkpoint outside of its run: no config.yaml in {run.location}")
    try:
        checkpoint.verify(folder)
        return _read(run, cfg, folder, weights)
    except CorruptCheckpoint as error:
        raise UserError(f"checkpoint damaged: {error}") from None


def _choose(run: RunFolder, which: str) -> tuple[Path, list[str]]:
    """The run's best or newest checkpoint that is whole, and what is wrong with newer ones.

    Raises CorruptCheckpoint when the best is not.
    """
    steps = checkpoint.saved_steps(run.checkpoints) if run.remote is None else run.checkpoint_steps()
    problems = []
    for step in reversed(steps):
        try:
            folder = _whole(run, step)
        except CorruptCheckpoint as error:
            problems.append(str(error))
            continue
        best = checkpoint.read_state(folder).best
        if which == "best" and best and best[1] in steps and best[1] != step:
            folder = _whole(run, best[1])
        return folder, problems
    raise UserError(f"{run.location}: no whole checkpoint yet" + (f" ({problems[0]})" if problems else ""))


def _whole(run: RunFolder, step: int) -> Path:
    """Have a checkpoint here, and verify it. Raises CorruptCheckpoint."""
    folder = checkpoint.step_folder(run.checkpoints, step)
    try:
        run.fetch(folder / MANIFEST)
    except OSError as error:  # only half of it is in the object store, or it was pruned just now
        raise CorruptCheckpoint(f"{folder.name} cannot be fetched ({error})") from None
    checkpoint.verify(folder)
    return folder


def _read(run: RunFolder, cfg: Config, folder: Path, asked: Weights | None, problems: Sequence[str] = ()) -> Generator:
    """problems: with newer checkpoints, which is told wherever the model's origin is."""
    weights = asked or cfg.scored_weights[0]
    if weights == "teacher" and cfg.train.method == "diffusion":
        raise UserError(f"--weights teacher: {run.location} is a diffusion run, which has none; ema or model")
    state = checkpoint.read_state(folder)
    try:
        tensors = load_file(folder / f"{weights}.safetensors")
    except (SafetensorError, OSError) as error:
        raise CorruptCheckpoint(f"{folder}/{weights}.safetensors: {error}") from None
    texts = ((name, (run.read(name) or "").encode()) for name in MEASURED)
    rows = [row for name, text in texts for row in parse_rows(text, name)[0] if row.get("step") == state.step]
    measured = [found for row in rows if (found := _of_weights(row, weights)) is not None]
    return Generator(
        cfg,
        state.image_shape,
        {name.removeprefix(PREFIX): value for name, value in tensors.items()},
        f"{run.location}, step {state.step:,}" + "".join(f" (a newer one is damaged: {line})" for line in problems[:1]),
        Kind.DENOISER if cfg.train.method == "diffusion" else Kind.CONSISTENCY,
        step=state.step,
        score=next((float(row["score"]) for row in measured if row.get("score") is not None), None),  # "NaN"
        label_counts=state.label_counts,
        data_checksum=state.data_checksum,
        weights=weights,
        name=run.name,
        measured=measured,
    )


def _of_weights(row: Row, weights: str) -> Row | None:
    """What a row of scores or evaluations says of some weights; None where it says nothing."""
    if row.get("weights", "ema") == weights:
        return {name: value for name, value in row.items() if not name.startswith("score_")}
    if (score := row.get(f"score_{weights}")) is None:
        return None
    return {"step": row["step"], "score": score, "weights": weights, "metric": row["metric"]}
