"""Trained networks from wherever they are: a run, one of its checkpoints, a diffusers folder, the authors' files."""

import json
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file

from act_ray import settings
from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.files import EVALUATIONS
from act_ray.generators.foreign import SUFFIXES, Network, read_folder, read_weights
from act_ray.generators.generator import Generator
from act_ray.models.unet import ARGUMENTS, FIXED
from act_ray.runs import checkpoint
from act_ray.runs.checkpoint import CorruptCheckpoint
from act_ray.runs.folder import Row, RunFolder, read_config

PREFIX = "network.unet."  # of UNet2DModel's weights in a checkpoint
MEASURED = ("scores.jsonl", EVALUATIONS)


# ---------------------------------------------------------------------------------------------- reading


def read_generator(
    location: str,
    *,
    which: Literal["best", "last"] = "best",
    weights: Literal["ema", "model"] = "ema",
    image_size: int | None = None,
) -> Generator:
    """The generator of a run's folder (or URI), a checkpoint's, a diffusers folder, the ACT authors' .ckpt, or OpenAI's
    .pt (which does not say its images' side: image_size). Raises UserError for anything else.
    """
    location = location.rstrip("/")
    local = Path(location).expanduser()
    if "://" not in location:
        if not local.exists():
            raise UserError(f"{location}: no such file or folder; give a run, a checkpoint or a model's folder")
        if local.suffix in SUFFIXES and local.is_file():
            return _foreign(read_weights(local, image_size), local)
        if (local / "model_index.json").exists() or (local / "config.json").exists():
            return _foreign(read_folder(local), local)
        if (local / checkpoint.MANIFEST).exists():
            return _lone_checkpoint(local.resolve(), weights)
        location = str(local)
    run = RunFolder(location, scratch="views")
    cfg = read_config(run)
    if cfg is None:
        hint = "a search: give one of its trials' folders" if run.read("experiment.yaml") else "not a run's folder"
        raise UserError(f"{location}: no run, checkpoint or model: no config.yaml there; {hint}")
    try:
        return _checkpoint(run, cfg, _choose(run, which), weights)
    except CorruptCheckpoint as error:
        raise UserError(f"best checkpoint damaged: {error}; the last one may be whole") from None


def _choose(run: RunFolder, which: str) -> Path:
    """The run's best or newest checkpoint that is whole. Raises CorruptCheckpoint when the best is not."""
    steps = checkpoint.saved_steps(run.checkpoints) if run.remote is None else run.checkpoint_steps()
    problems = []
    for step in reversed(steps):
        try:
            folder = _whole(run, step)
        except CorruptCheckpoint as error:
            problems.append(str(error))
            continue
        best = json.loads((folder / "state.json").read_text())["best"]
        return _whole(run, best[1]) if which == "best" and best and best[1] in steps and best[1] != step else folder
    raise UserError(f"{run.location}: no whole checkpoint yet" + (f" ({problems[0]})" if problems else ""))


def _whole(run: RunFolder, step: int) -> Path:
    """Have a checkpoint here, and verify it. Raises CorruptCheckpoint."""
    folder = checkpoint.step_folder(run.checkpoints, step)
    try:
        run.fetch(folder / checkpoint.MANIFEST)
    except OSError as error:  # only half of it is in the object store, or it was pruned just now
        raise CorruptCheckpoint(f"{folder.name} cannot be fetched ({error})") from None
    checkpoint.verify(folder)
    return folder


def _lone_checkpoint(folder: Path, weights: str) -> Generator:
    """A checkpoint's folder, in its run."""
    run = RunFolder(str(folder.parents[1]))
    cfg = read_config(run)
    if cfg is None:
        raise UserError(f"{folder}: a checkpoint outside of its run: no config.yaml in {run.location}")
    try:
        checkpoint.verify(folder)
    except CorruptCheckpoint as error:
        raise UserError(f"checkpoint damaged: {error}") from None
    return _checkpoint(run, cfg, folder, weights)


def _checkpoint(run: RunFolder, cfg: Config, folder: Path, weights: str) -> Generator:
    state = json.loads((folder / "state.json").read_text())
    if "image_shape" not in state:
        raise UserError(f"{folder}: the checkpoint does not say 'image_shape': an older act_ray wrote it")
    tensors = load_file(folder / f"{weights}.safetensors")
    channels, height, width = state["image_shape"]
    rows = [row for name in MEASURED for row in _rows(run.read(name) or "")]  # those of scores.jsonl are of the ema
    return Generator(
        cfg,
        (channels, height, width),
        {name.removeprefix(PREFIX): value for name, value in tensors.items()},
        f"{run.location}, step {state['step']:,}",
        step=state["step"],
        score=state["score"],
        label_counts=state["label_counts"],
        data_checksum=state["data_checksum"],
        weights=weights,
        name=run.path.name if run.remote is None else run.location.rpartition("/")[2],
        measured=[row for row in rows if (row["step"], row.get("weights", "ema")) == (state["step"], weights)],
    )


def _rows(text: str) -> list[Row]:
    """The whole lines of a .jsonl file that may be in the middle of a write."""
    return [json.loads(line) for line in text.split("\n")[:-1]]


# ---------------------------------------------------------------------------------------------- foreign files


def _foreign(network: Network, path: Path) -> Generator:
    """With the config that is nearest to what the file says."""
    arguments, size = network.arguments, network.arguments["sample_size"]
    return Generator(
        settings.build({"schedule": network.schedule, "model": model_section(arguments)}, str(path)),
        (arguments["in_channels"], size, size),
        network.tensors,
        str(path),
        name=path.resolve().name,
        foreign=network.unfit,
        denoises=network.denoises,
    )


def model_section(arguments: dict[str, Any]) -> dict[str, Any]:
    """The config's model section for UNet2DModel arguments: all of them in `unet`, and what act_ray needs to know."""
    unet = {key: _plain(value) for key, value in arguments.items() if key in ARGUMENTS and key not in FIXED}
    return {
        "block_out_channels": unet["block_out_channels"],
        "down": "".join("A" if name.startswith("Attn") else "D" for name in unet["down_block_types"]),
        "up": "".join("A" if name.startswith("Attn") else "U" for name in unet["up_block_types"]),
        "layers_per_block": unet["layers_per_block"],
        "attention_head_dim": unet["attention_head_dim"],
        "norm_num_groups": unet.get("norm_num_groups") or 1,
        "num_classes": unet.get("num_class_embeds"),
        "unet": unet,
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# ---------------------------------------------------------------------------------------------- warm start
