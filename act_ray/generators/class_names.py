"""The names of a model's classes: those of the data that it was trained on, or those that an export holds."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from act_ray.data.shards import read_manifest
from act_ray.errors import UserError, nearest
from act_ray.generators.generator import Generator
from act_ray.generators.sampling import check_label

NAMES = "class_names.json"  # of an export: a list, in the order of the numbers


def class_names(generator: Generator) -> Sequence[str]:
    """In the order of their numbers; empty where nothing says them, as when the data has moved."""
    classes = generator.cfg.model.num_classes
    if classes is None:
        return ()
    try:
        if generator.step is None:
            names = json.loads((Path(generator.origin) / NAMES).read_text())
        else:
            manifest = read_manifest(generator.cfg.data.path)
            names = manifest["classes"] if manifest["checksum"] == generator.data_checksum else None
    except (UserError, OSError, ValueError):
        return ()
    return [str(name) for name in names] if isinstance(names, list) and len(names) == classes else ()


def parse_label(generator: Generator, text: str | None) -> int | None:
    """A class by its number, or by its name. Raises UserError for one that the model does not have."""
    if text is None:
        return None
    if re.fullmatch(r"-?\d+", text):
        check_label(generator, int(text))
        return int(text)
    classes, names = generator.cfg.model.num_classes, class_names(generator)
    if classes is None:
        raise UserError(f"--label {text}: {generator.origin} knows no classes")
    if text in names:
        return names.index(text)
    where = generator.origin if generator.step is None else generator.cfg.data.path
    hint = nearest(text, names) if names else f"their names are not (or no longer) in {where}"
    raise UserError(f"--label {text}: {generator.origin} has the classes 0 to {classes - 1}; {hint}")
