"""The model card of an export: what it is, how to sample it, what was measured of it, how it was trained."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from act_ray import __version__, settings
from act_ray.errors import LISTED
from act_ray.generators.class_names import NAMES, class_names
from act_ray.generators.generator import Generator
from act_ray.generators.sampling import NOISE_SEED
from act_ray.runs.rows import Row
from act_ray.yamlfile import write_yaml

Format = Literal["diffusers", "onnx"]

GRAPH = "model.onnx"
# Of the exported scheduler: 840 is a multiple of 1..8, so that 1 to 8 steps are those of multistep_levels.
SCHEDULER_STEPS = 841

CARD = """\
---
{front}---

# {title}

{what}

## Sampling

```python
{snippet}
```

{notes}

## Measured

{measured}

## Training

{training}

```yaml
{settings}```
"""

DIFFUSERS = """\
from diffusers import ConsistencyModelPipeline

pipe = ConsistencyModelPipeline.from_pretrained("{name}")
images = pipe(batch_size=4{labels}).images
images[0].save("sample.png")"""

DIFFUSERS_NOTES = f"""\
`num_inference_steps=2` to `8` take more steps (Algorithm 1 of arXiv 2303.01469), at levels even on the axis of
t^(1/rho). Other levels: `timesteps=[i, ..., 0]`, descending; 0 is sigma_max, {SCHEDULER_STEPS - 1} sigma_min.
`generator=torch.manual_seed(0)` fixes the noise; `latents=` the pipeline accepts for images of three channels only."""

ONNX = """\
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("{name}/{graph}")
z = np.random.default_rng(0).standard_normal((4, {shape}), dtype=np.float32)
images = session.run(["images"], {{"z": z{labels}}})[0]  # [4, {shape}] in [-1, 1]"""

CONDITIONS = {"features": "{} features", "samples": "{:,} samples", "nfe": "NFE {}", "images": "against {:,} images"}
HOW = {"diversity": "mean distance between samples over that between the data's images"}

ONNX_NOTES = "`z` is noise from N(0, I), of any batch size; the noise level is in the graph."


def write_card(generator: Generator, name: str, form: Format, license: str, difference: float) -> str:
    """README.md as the Hugging Face hub reads it; name: of the folder, difference: of its samples from act_ray's."""
    channels, height, width = generator.shape
    classes = generator.cfg.model.num_classes
    front = {
        "library_name": form,
        **({} if classes else {"pipeline_tag": "unconditional-image-generation"}),  # there is none for classes
        "license": license,
        "tags": ["consistency-model", "one-step", "act-ray", *(["class-conditional"] if classes else [])],
    }
    colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels}-channel")
    what = (
        f"A generator of {height}x{width} {colours} images, {f'of {classes} classes' if classes else 'unconditional'}, "
        f"that needs one network evaluation per image: {training_method(generator)}. Exported by act_ray {__version__} "
        f"in float32; its samples, in [-1, 1], differ from act_ray's own by at most {difference:.1e}."
    )
    snippet, notes = usage(generator, name, form)
    return CARD.format(
        front=write_yaml(front),
        title=generator.name or name,
        what=what,
        snippet=snippet,
        notes=notes + about_classes(class_names(generator)),
        measured=table(generator.measured),
        training=training(generator),
        settings=write_yaml(shareable_settings(generator)),
    )


def usage(generator: Generator, name: str, form: Format) -> tuple[str, str]:
    """How to sample four images, and what else to know."""
    classes = generator.cfg.model.num_classes
    numbers = [i % classes for i in range(4)] if classes else []
    if form == "diffusers":
        return DIFFUSERS.format(name=name, labels=f", class_labels={numbers}" if classes else ""), DIFFUSERS_NOTES
    shape = ", ".join(str(side) for side in generator.shape)
    labels = f', "labels": np.array({numbers})' if classes else ""
    return ONNX.format(name=name, graph=GRAPH, shape=shape, labels=labels), ONNX_NOTES


def about_classes(names: Sequence[str]) -> str:
    """Their numbers and names, of many the first; nothing where there are none."""
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(names[:LISTED]))
    return f"\n\nClasses (`{NAMES}`): {listed}{', ...' if len(names) > LISTED else '.'}" if names else ""


def training_method(generator: Generator) -> str:
    """What it was trained by, as far as is known."""
    loss = generator.cfg.loss
    if generator.step is None:
        return f"converted from {generator.name}"
    if loss.w_mid == 1:
        return "trained by the adversarial loss alone (ACT, arXiv 2311.14097, at lambda = 1)"
    kind = "consistency distillation" if generator.cfg.distill.teacher else "consistency training"
    return f"{kind} (arXiv 2303.01469)" if loss.w == 0 else f"adversarial {kind} (ACT, arXiv 2311.14097)"


def table(rows: Iterable[Row]) -> str:
    """A line per value that was measured."""
    lines = []
    for row in rows:
        how = ", ".join(conditions(row))
        lines += [f"| {name} | {value:.5g} | {HOW.get(name, how)} |" for name, value in values(row)]
    if not lines:
        return "Nothing was measured of these weights."
    noise = f"Samples are one-step samples from fixed noise (seed {NOISE_SEED}), or from NFE evaluations."
    return "\n".join(["| | value | how |", "|---|---|---|", *lines, "", noise])


def values(row: Row) -> Iterator[tuple[str, float]]:
    """Of a row of scores, which also has losses and logits, or of evaluations."""
    found = {"score": row.get("score"), "diversity": row.get("diversity"), **row.get("metrics", {})}
    return ((name, value) for name, value in found.items() if isinstance(value, float))


def conditions(row: Row) -> Iterator[str]:
    """How a row's values were measured."""
    if "metric" in row:
        yield row["metric"]
    for name, text in CONDITIONS.items():
        if name in row:
            yield text.format(row[name])


def training(generator: Generator) -> str:
    """Data, steps and seed; nothing for a file that does not say."""
    return (
        "".join(f"- {name}: {value}\n" for name, value in provenance(generator).items())
        + "\nAll settings (`config.yaml`):"
    )


def provenance(generator: Generator) -> dict[str, str]:
    """What is known of the weights, as short texts without paths of this machine."""
    cfg, step = generator.cfg, generator.step
    known = {"act_ray": __version__, "source": generator.name}
    if step is not None:
        images = step * cfg.train.global_batch
        known |= {
            "step": f"{step:,} of {cfg.train.total_steps:,}, {cfg.train.global_batch} images each: {images:,} images",
            "weights": {
                "ema": f"averaged (EMA, up to {cfg.train.ema_decay})",
                "teacher": "the teacher theta^- (averaged by mu(k))",
                "model": "not averaged",
            }[generator.weights],
            "seed": str(cfg.train.seed),
            "data": shareable_settings(generator)["data"]["path"],
            "data checksum": generator.data_checksum or "unknown",
        }
    return known


def shareable_settings(generator: Generator) -> dict[str, Any]:
    """The config without paths of this machine; of others' files only what they say."""
    values = generator.cfg.model_dump(mode="json")
    values = settings.replace_paths(values, without_folders)
    return values if generator.step is not None else {key: values[key] for key in ("schedule", "model")}


def without_folders(path: str) -> str:
    """A path or URI without its folders; the dots keep it from being taken for a name such as `digits`."""
    return ".../" + path.rstrip("/").rpartition("/")[2]
