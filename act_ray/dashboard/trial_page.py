"""What the page of one trial says: its story, its evidence, its settings; and what a search has taught."""

import contextlib
from collections.abc import Iterator
from typing import Any

from act_ray.collapse.record import PruneRecord
from act_ray.dashboard.run_source import RunSource
from act_ray.dashboard.search_source import SearchSource
from act_ray.errors import UserError
from act_ray.explain.words import describe, describe_since
from act_ray.runs.folder import LINEAGE, RunFolder
from act_ray.runs.rows import Row
from act_ray.runs.story import tell
from act_ray.settings import in_words

Target = SearchSource | RunSource
COLUMNS = 8  # of a sample grid (pictures.grid_image)


def trial_page(source: Target, index: int) -> Row:
    """Everything but its curves and samples."""
    run = source.run_folder(index)
    run.fetch_root()
    return {
        "row": source.entries[index].row,
        "location": run.location,
        "story": [*story(source, index, run)],
        "evidence": evidence(run, source.entries[index].row),
        "standing": source.standing(index) if isinstance(source, SearchSource) else [],
        "settings": [{"name": n, "preset": before, "value": now} for n, before, now in source.differences(index)],
        "rerun": source.rerun(index),
        "notes": [row for row in source.notes() if int(row.get("trial", 0)) == index and row.get("text")],
    }


def story(source: Target, index: int, run: RunFolder) -> Iterator[Row]:
    """What happened, oldest first: the search's events, and the run's own."""
    rows = [{**row, "of": "search"} for row in source.entries[index].story] if source.kind == "search" else []
    rows += [{**row, "of": "run"} for row in run.rows("events.jsonl") if "event" in row]
    kept = [*(run.path / "checkpoints").glob("step-*")]
    rows += [{"time": p.stat().st_mtime, "event": "checkpoint", "of": "run", "step": int(p.name[5:])} for p in kept
             if p.name[5:].isdigit()]  # fmt: skip
    with contextlib.suppress(UserError):  # a damaged one
        if lineage := run.read_json(LINEAGE, dict[str, Any]):
            rows.append({"time": 0.0, "event": "forked", "of": "run", **lineage})
    begun = False
    for row in sorted(rows, key=lambda row: float(row.get("time", 0.0))):
        try:
            text = "the search lets it go on" if begun and row["event"] == "trial_started" else sentence(row)
        except (KeyError, TypeError, ValueError, AttributeError):  # a damaged line
            text = str(row["event"])
        begun = begun or row["event"] == "trial_started"
        if text is not None:
            yield {"time": row.get("time") or None, "event": row["event"], "text": text}


def sentence(row: Row) -> str | None:
    """An event in words; None for one that another tells as well."""
    match row["of"], row["event"]:
        case _, "trial_started":
            return "the search starts it"
        case _, "waiting":
            return f"it {row['reason']}"
        case _, "favoured":
            return "somebody asks that it goes on, to its end"
        case "search", "ended":
            how = "its collapse was confirmed" if row["outcome"] == "pruned" else row["outcome"]
            return f"over: {how}" + (f" ({row['reason']})" if row.get("reason") else "")
        case _, "note":
            return str(row.get("text", ""))
        case _, "forked":
            changes = f", with {in_words(row['changes'])}" if row["changes"] else ""
            return f"a fork of {row['parent']} from step {row['step']:,} on{changes}"
        case _, "checkpoint":
            return f"checkpoint of step {row['step']:,}, which is kept"
        case "run", _:
            return tell(row)
    return None


def evidence(run: RunFolder, row: Row) -> Row | None:
    """What the detector found, in words, and the steps that its rule looked at; None where it found nothing.

    row: the entry's, of which the score may have refuted it since.
    """
    text = run.read("prune.json")
    if text is None:
        return None
    try:
        record = PruneRecord.from_json(text)
    except (ValueError, KeyError, TypeError):
        return {"lines": ["prune.json cannot be read"], "window": None}
    since = None if row["rescues"] else describe_since(record, row["best"], row["best_step"])
    return {
        "lines": [*filter(None, [since]), *describe(record)],
        "window": [record.window[0][0], record.window[-1][0]],
        "step": record.step,
        "signature": record.signature,
        "confirmed": record.confirmed,
    }


def sample_steps(source: Target, index: int) -> Row:
    """The steps that there are grids of, and their layout."""
    run = source.run_folder(index)
    run.fetch_root("samples")
    steps = sorted(int(path.stem.removeprefix("step-")) for path in (run.path / "samples").glob("step-*.png"))
    cells = source.config(index).eval.grid
    return {"steps": steps, "columns": COLUMNS, "cells": cells}


def importance(source: Target) -> dict[str, float]:
    """fANOVA over the search's trials; nothing of a run."""
    if isinstance(source, RunSource):
        return {}
    from act_ray.tune.lessons import importances  # Optuna

    return importances(source.experiment.snapshot())
