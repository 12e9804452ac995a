"""`python -m act_ray.prepare SRC DST`: turn a data set into the checksummed shards that training reads."""

import time
import warnings
from pathlib import Path

import click

from act_ray.cli import run
from act_ray.data import store
from act_ray.errors import UserError
from act_ray.files import in_units
from act_ray.prepare.conversion import PrepareOptions, prepare


@click.command("prepare")
@click.argument("src")
@click.argument("dst", type=click.Path(path_type=Path))
@click.option("--size", type=click.IntRange(min=1), help="Side in pixels; others are cropped and resized (Lanczos).")
@click.option("--channels", type=click.Choice(["1", "3"]), help="Default: 1 if the first image is greyscale, else 3.")
@click.option("--grey", is_flag=True, help="As --channels 1.")
@click.option(
    "--crop",
    type=click.Choice(["center", "random-box"]),
    default="center",
    show_default=True,
    help="Where an image that is not square is cropped; random-box: anywhere along its longer side, by its name.",
)
@click.option("--shard-images", type=click.IntRange(min=1), help="Images per shard. Default: 64 MiB of pixels.")
@click.option("--max-bad", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Bad images tolerated.")
@click.option("--only", metavar="PATTERN", help="Only images whose name matches, as 'train-*' or 'data_batch_*'.")
@click.option(
    "--split", metavar="NAME", help="Only this sub-folder of SRC, as train of train/, val/ and test/; or `all` of them."
)
@click.option(
    "--labels",
    metavar="NAME",
    help="The column of .parquet, key of a WebDataset's .json, or coarse_labels of CIFAR-100.",
)
@click.option("--no-labels", is_flag=True, help="Leave the labels out.")
def command(
    src: str,
    dst: Path,
    size: int | None,
    channels: str | None,
    grey: bool,
    crop: str,
    shard_images: int | None,
    max_bad: float,
    only: str | None,
    split: str | None,
    labels: str | None,
    no_labels: bool,
) -> None:
    """Turn the data set SRC into checksummed shards in the folder DST, to be given to training as data.path.

    SRC is a folder of images (one sub-folder per class, or flat), Python batches of CIFAR-10, CIFAR-100 (folder or
    .tar.gz) or the downsampled ImageNet, Hugging Face .parquet or save_to_disk, MNIST's idx files, LSUN's LMDB,
    ImageNet-64 or EDM .npz, .npy of uint8 images, an EDM/StyleGAN .zip or a WebDataset .tar; a folder of several such
    files counts as one set. All of SRC is read, test parts too: --only takes a part. Names are FILE/IMAGE, or the path
    within a folder or archive.

    Labels are the class folders, CIFAR-10's, the column of .parquet (or key of .json) that is called label, class or
    the like, a .cls beside an image, labels or arr_1 in .npz, dataset.json in .zip, idx1 files beside MNIST's idx3;
    CIFAR-100's fine ones, unless --labels coarse_labels. Names of classes become numbers in
    sorted order. Where there is a choice, or labels would be lost, you are asked for --labels, --no-labels or --split.

    Without --size the images must be square and all as large as the first good one; an image of another size is
    quarantined, since cropping is yours to decide. Damaged images and suspicious archive members are quarantined as
    well: left out, and listed with the reason in DST/manifest.json. More than --max-bad of them is an error.

    An interrupted call goes on at the first missing shard when it is given again.
    """
    warnings.filterwarnings("ignore", module="PIL")  # what Pillow has to say of a bad image is in the quarantine list
    start = time.monotonic()
    if labels is not None and no_labels:
        raise UserError(f"--labels {labels}: not with --no-labels; leave one out")
    if grey and channels == "3":
        raise UserError("--grey: not with --channels 3; leave one out")
    if crop != "center" and size is None:
        raise UserError(f"--crop {crop}: needs --size, without which nothing is cropped")
    options = PrepareOptions(
        size,
        1 if grey else int(channels) if channels else None,
        shard_images,
        only,
        split,
        labels,
        not no_labels,
        crop,
    )
    manifest = prepare(src, dst, options, max_bad, say=click.echo)
    shape = "x".join(str(manifest[key]) for key in ("height", "width", "channels"))
    classes = store.num_classes(manifest)
    click.echo(
        f"{manifest['count']:,} images, {shape}, {f'{classes} classes' if classes else 'no labels'}, "
        f"{len(manifest['quarantined'])} quarantined, {time.monotonic() - start:.1f} s: {dst}"
    )
    decoded, stored = (
        in_units(n) for n in (store.decoded_bytes(manifest), sum(s["bytes"] for s in manifest["shards"]))
    )
    click.echo(
        f"training decodes the {stored} of shards to {decoded} on each machine, once; "
        "with --set data.decode=on_the_fly it reads the shards"
    )


if __name__ == "__main__":
    run(command)
