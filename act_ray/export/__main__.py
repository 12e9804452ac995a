"""`python -m act_ray.export MODEL DST`: a trained model for diffusers or ONNX Runtime, with a model card."""

from pathlib import Path
from typing import Literal

import click

from act_ray.cli import run


@click.command("export", context_settings={"show_default": True})
@click.argument("location", metavar="MODEL")
@click.argument("dst")
@click.option("--format", "kind", type=click.Choice(["diffusers", "onnx"]), default="diffusers", help="What to write.")
@click.option("--license", default="unknown", help="For the model card: an identifier of the Hugging Face hub.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export in DST.")
@click.option("--which", type=click.Choice(["best", "last"]), default="best", help="Checkpoint of a run.")
@click.option("--weights", type=click.Choice(["ema", "model"]), default="ema", help="Averaged weights or not.")
@click.option("--image-size", type=click.IntRange(1), help="For OpenAI's .pt, which does not say it.")
def command(
    location: str,
    dst: str,
    kind: Literal["diffusers", "onnx"],
    license: str,
    overwrite: bool,
    which: Literal["best", "last"],
    weights: Literal["ema", "model"],
    image_size: int | None,
) -> None:
    """Write the one-step generator MODEL to the folder DST, as others load it, and check that it makes our samples.

    MODEL is a run's folder or URI, one of its checkpoints, a diffusers folder, or the ACT authors' .ckpt. DST holds
    a diffusers ConsistencyModelPipeline, or model.onnx (needs act-ray[onnx]), and README.md, a model card.
    """
    from act_ray.export.writing import export
    from act_ray.generators.reading import read_generator

    source = read_generator(location, which=which, weights=weights, image_size=image_size)
    difference = export(source, dst, kind, license, overwrite)
    size = sum(path.stat().st_size for path in Path(dst).expanduser().rglob("*") if path.is_file())
    click.echo(f"{source.origin}: {kind}, {size / 2**20:.1f} MiB, samples within {difference:.1e} of act_ray's: {dst}")


if __name__ == "__main__":
    run(command)
