"""`python -m act_ray.export MODEL DST`: a trained model for diffusers or ONNX Runtime, with a model card."""

from pathlib import Path
from typing import Any, Literal

import click

from act_ray.cli import MODEL_HELP, model_argument, model_options, overwrite_option, run, waiting


@click.command("export", context_settings={"show_default": True}, epilog=MODEL_HELP)
@model_argument
@click.argument("dst")
@click.option("--format", "form", type=click.Choice(["diffusers", "onnx"]), default="diffusers", help="What to write.")
@click.option("--license", default="unknown", help="For the model card: an identifier of the Hugging Face hub.")
@model_options
@overwrite_option
def command(
    location: str, dst: str, form: Literal["diffusers", "onnx"], license: str, overwrite: bool, **model: Any
) -> None:
    """Write the one-step generator MODEL to the folder DST, as others load it, and check that it makes our samples.

    DST holds a diffusers ConsistencyModelPipeline, or model.onnx (needs act-ray[onnx]), and README.md, a model card.
    """
    with waiting("loading PyTorch"):
        from act_ray.export.folder import write_export
        from act_ray.generators.reading import read_generator

    with waiting(f"reading {location}"):
        generator = read_generator(location, **model)
    difference = write_export(generator, dst, form, license, overwrite)
    size = sum(path.stat().st_size for path in Path(dst).expanduser().rglob("*") if path.is_file())
    click.echo(
        f"{generator.origin}: {form}, {size / 2**20:.1f} MiB, samples within {difference:.1e} of act_ray's: {dst}"
    )


if __name__ == "__main__":
    run(command)
