"""Whether a score without labels ranks models as a classifier does: `python benchmarks/features.py GROUND=SEARCH...`.

Each SEARCH is a search whose trials were scored with eval.features=classifier. For every checkpoint at a step that was
scored, samples are drawn and compared with the data in other features; prints, for each GROUND, Spearman's rank
correlation with the recorded scores, over all checkpoints and over the better half.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from scipy.stats import spearmanr

from act_ray.config import EvalConfig
from act_ray.data.shards import ImageData, label_counts, open_data
from act_ray.generators.reading import read_generator
from act_ray.generators.sampling import draw_batch
from act_ray.metrics.features import FeatureNetwork, compute_features, load_network
from act_ray.metrics.frechet import frechet_distance
from act_ray.metrics.reference import reference_statistics
from act_ray.pictures import to_uint8
from act_ray.runs.folder import RunFolder, read_config

CPU = torch.device("cpu")
BATCH = 250


@click.command()
@click.argument("searches", nargs=-1, required=True, metavar="GROUND=SEARCH...")
@click.option("--samples", default=1000, show_default=True)
@click.option("--every", default=1, show_default=True, help="Take every so-many-th checkpoint.")
def main(searches: tuple[str, ...], samples: int, every: int) -> None:
    """A line for each ground."""
    torch.set_num_threads(1)
    pairs = defaultdict[str, list[tuple[float, float]]](list)
    for ground, _, folder in (text.partition("=") for text in searches):
        for recorded, checkpoint, path in list(scored_checkpoints(Path(folder)))[::every]:
            pairs[ground].append((recorded, measure(checkpoint, path, samples)))
    click.echo("| ground | checkpoints | rank correlation | of the better half |\n|---|---|---|---|")
    for ground, found in pairs.items():
        recorded, measured = np.array(found).T
        better = recorded <= np.median(recorded)
        whole, half = (spearmanr(recorded[part], measured[part])[0] for part in (recorded > 0, better))
        click.echo(f"| {ground} | {len(found)} | {whole:.3f} | {half:.3f} |")


def scored_checkpoints(search: Path) -> Iterator[tuple[float, Path, str]]:
    """(the classifier's score, checkpoint, data) of each step that has both."""
    for trial in sorted((search / "trials").iterdir()):
        run = RunFolder(str(trial))
        cfg = read_config(run)
        scores = {row["step"]: float(row["score"]) for row in run.rows("scores.jsonl")}
        for checkpoint in sorted((trial / "checkpoints").glob("step-*")):
            step = int(checkpoint.name.removeprefix("step-"))
            if cfg is not None and cfg.eval.features == "classifier" and step in scores:
                yield scores[step], checkpoint, cfg.data.path


_opened = dict[str, tuple[ImageData, FeatureNetwork, dict[str, np.ndarray]]]()


def measure(checkpoint: Path, path: str, samples: int) -> float:
    """The Frechet distance of a checkpoint's samples in self-supervised features."""
    if path not in _opened:
        data, started = open_data(path), time.monotonic()
        network = load_network(EvalConfig(features="self_supervised"), data, CPU, click.echo)
        click.echo(f"{data.name}: features ready after {time.monotonic() - started:.1f} s")
        _opened[path] = data, network, reference_statistics(network, data)
    data, network, reference = _opened[path]
    generator = read_generator(str(checkpoint))
    model, shape, counts = generator.build(CPU), data.images.shape[1:], label_counts(data)
    with torch.no_grad():
        parts = [
            to_uint8(draw_batch(model, generator.cfg, shape, counts, i, BATCH, CPU)[0]) for i in range(samples // BATCH)
        ]
    return frechet_distance(torch.cat([compute_features(network, part) for part in parts]), reference)


if __name__ == "__main__":
    main()
