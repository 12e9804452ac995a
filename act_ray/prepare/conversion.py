"""Any accepted source to the one format training reads; streaming, and resumable shard by shard."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from act_ray import jsonfile
from act_ray.data import decoding, formats, store
from act_ray.data.decoding import BadImage
from act_ray.data.records import LabelChoice, Record, Source
from act_ray.errors import UserError
from act_ray.files import locked, sha256
from act_ray.prepare.decoded import ImagePlan, Results, decode_one, decoded
from act_ray.progress_bar import ProgressBar

SHARD_BYTES = 64 << 20  # pixels in a shard when --shard-images does not say: 21,845 images of 32x32x3
HOPELESS = 100  # bad images after which a source that is mostly bad is given up at once
MAX_CLASSES = 100_000

Say = Callable[[str], None]


@dataclass(frozen=True)
class PrepareOptions:
    """What the user asked for; None leaves size and channels to the first good image, and the label to its name.

    crop: center, or random-box, a square of the shorter side somewhere along the longer. labelled: False leaves the
    labels out.
    """

    size: int | None = None
    channels: int | None = None
    shard_images: int | None = None
    only: str | None = None
    split: str | None = None
    labels: str | None = None
    labelled: bool = True
    crop: str = "center"


@dataclass
class Preparation:
    """What an interrupted call needs to go on. shards: manifest entries of the whole ones."""

    identity: dict[str, Any]
    plan: ImagePlan
    shards: list[dict[str, Any]] = field(default_factory=list)

    @property
    def records(self) -> int:
        """Records of the source that went into whole shards, quarantined ones among them."""
        return self.shards[-1]["records"] if self.shards else 0


def prepare(
    src: str, dst: Path, options: PrepareOptions, max_bad: float = 0.01, say: Say = lambda line: None
) -> dict[str, Any]:
    """Prepare `src` into the folder `dst`, going on where an interrupted call stopped; returns the manifest.

    say: takes lines about what takes long, and about labels that might be there and are not read. Raises UserError for
    a source that is not accepted, a destination that holds something else, or more than the fraction `max_bad` of
    images quarantined.
    """
    source = formats.detect(src, options.split, LabelChoice(options.labels, options.labelled))
    if source.note is not None:
        say(source.note)
    identity = {"path": str(source.path.resolve()), "format": source.format, "options": asdict(options)}
    refuse_inside(dst, source.path)
    identity["fingerprint"] = fingerprint(source.path)
    try:
        dst.mkdir(parents=True, exist_ok=True)
        with locked(dst / ".lock", wait=False):
            if (done := _finished(dst, identity)) is not None:
                return done
            work = _resume(dst, identity) or _start(dst, identity, source, options)
            trailing = _write_shards(dst, work, source, options, max_bad, say)
            return _finish(dst, work, source, trailing, max_bad)
    except BlockingIOError as error:
        raise UserError(f"{dst}: another process is preparing it") from error
    except OSError as error:
        raise UserError(f"{dst}: cannot be written: {error}") from error


# ---------------------------------------------------------------- where it stands


def refuse_inside(dst: Path, src: Path) -> None:
    """Raises UserError where what is made of the images would be taken for images."""
    if dst.resolve().is_relative_to(src.resolve()):
        raise UserError(f"{dst}: lies inside the source {src}; choose a folder outside it")


def fingerprint(path: Path) -> str:
    """Hash of the names, sizes and modification times of the source's files: cheap, and changes when they do."""
    digest = hashlib.sha256()
    folder_of_all = path if path.is_dir() else path.parent
    walk = os.walk(path, followlinks=False) if path.is_dir() else [(str(path.parent), [], [path.name])]
    for folder, folders, files in walk:
        folders.sort()
        for file in sorted(files):
            full = Path(folder, file)
            if full.exists():
                stat = full.stat()
                about = f"{full.relative_to(folder_of_all)}\0{stat.st_size}\0{stat.st_mtime_ns}\0"
                digest.update(os.fsencode(about))  # a name may hold bytes that are not UTF-8
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = jsonfile.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}; remove {path.parent} to start anew") from error
    return content if isinstance(content, dict) else {}


def _finished(dst: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest when `dst` already holds this very preparation; raises UserError when it holds another one."""
    manifest = _read_json(dst / store.MANIFEST)
    if manifest is not None:
        _refuse_another(dst, manifest.get("source"), identity)
    return manifest


def _resume(dst: Path, identity: dict[str, Any]) -> Preparation | None:
    """The progress of an interrupted preparation up to its first missing or damaged shard, or None for a new one."""
    content = _read_json(dst / store.PROGRESS)
    if content is None:
        if other := sorted(set(os.listdir(dst)) - {".lock", f".{store.PROGRESS}.tmp"}):
            raise UserError(f"{dst}: is not empty (found {other[0]}); choose a new folder")
        return None
    _refuse_another(dst, content.get("identity"), identity)
    work = Preparation(identity, ImagePlan(*content["plan"]))
    for shard in content["shards"]:
        path = dst / shard["file"]
        if not path.exists() or sha256(path) != shard["sha256"]:
            break
        work.shards.append(shard)
    return work


def _refuse_another(dst: Path, before: object, now: dict[str, Any]) -> None:
    for key in ("path", "format", "options", "fingerprint"):
        old = before.get(key) if isinstance(before, dict) else None
        if key == "options" and isinstance(old, dict):
            old = {**asdict(PrepareOptions()), **old}  # written before an option was added
        if old != now[key]:
            what = "its files have changed since" if key == "fingerprint" else f"{key} {old}, now {now[key]}"
            if key == "options" and isinstance(old, dict):
                what = ", ".join(f"{n} {old.get(n)}, now {now[key][n]}" for n in now[key] if old.get(n) != now[key][n])
            raise UserError(f"{dst}: holds a preparation of another source or with other options: {what}")


def _start(dst: Path, identity: dict[str, Any], source: Source, options: PrepareOptions) -> Preparation:
    """Settle size, channels and labels by the first good image, and write them down."""
    reasons = list[str]()
    for record in _selected(source, options):
        try:
            height, width, channels = decoding.probe(record.image)
        except BadImage as bad:
            reasons.append(f"{record.name!r}: {bad}")
            if len(reasons) == HOPELESS:
                break
            continue
        if options.size is None and height != width:
            raise UserError(
                f"{record.name!r} is {width} wide and {height} high, not square: give --size to crop and resize"
            )
        plan = ImagePlan(options.size or height, options.channels or channels, record.label is not None)
        work = Preparation(identity, plan)
        jsonfile.write(dst / store.PROGRESS, asdict(work))
        return work
    if reasons:
        raise UserError(f"{source.path}: none of the first {len(reasons)} images can be used; {reasons[0]}")
    raise UserError(f"{source.path}: no images" + (f" named like {options.only!r}" if options.only else ""))


def _selected(source: Source, options: PrepareOptions) -> Iterator[Record]:
    return (r for r in source.records() if options.only is None or fnmatchcase(r.name, options.only))


# ---------------------------------------------------------------- the work


Quarantine = list[dict[str, str]]


def _write_shards(
    dst: Path, work: Preparation, source: Source, options: PrepareOptions, max_bad: float, say: Say
) -> Quarantine:
    """Write the missing shards, noting each in the progress file; returns what was quarantined after the last one."""
    size, channels, _ = work.plan
    limit = options.shard_images or max(1, SHARD_BYTES // (channels * size * size))
    classes = len(source.classes) if source.classes else MAX_CLASSES
    decode = partial(decode_one, work.plan, options.size is not None, options.crop == "random-box", classes)
    total = source.count if options.only is None else None
    with (
        closing(decoded(islice(_selected(source, options), work.records, None), decode)) as results,
        ProgressBar("preparing", total, "images", say, work.records) as progress,
    ):
        remaining = _counted(results, progress)
        while True:
            shard, bad = _write_shard(dst, work, remaining, limit, max_bad)
            if shard is None:
                return bad
            work.shards.append(shard)
            jsonfile.write(dst / store.PROGRESS, asdict(work))


def _counted(results: Results, progress: ProgressBar) -> Results:
    for result in results:
        yield result
        progress.advance(1)


def _write_shard(
    dst: Path, work: Preparation, results: Results, limit: int, max_bad: float
) -> tuple[dict[str, Any] | None, Quarantine]:
    """Write the next `limit` good images; returns the shard's entry (None without any) and what was quarantined."""
    size, channels, labelled = work.plan
    seen, top, bad = work.records, -1, Quarantine()
    with store.ShardWriter(dst, len(work.shards), (channels, size, size), labelled) as writer:
        for record, result in results:
            seen += 1
            if isinstance(result, BadImage):
                bad.append({"name": record.name, "reason": result.reason})
                everything = len(bad) + sum(len(shard["quarantined"]) for shard in work.shards)
                if everything > HOPELESS and everything > max(0.5, max_bad) * seen:
                    raise _too_bad(_quarantined(work) + bad, seen, max_bad)
                continue
            writer.add(result, record.label, record.name)
            top = max(top, -1 if record.label is None else record.label)
            if writer.count == limit:
                break
        if not writer.count:
            return None, bad
        return {**writer.close(), "records": seen, "top_label": top, "quarantined": bad}, bad


def _quarantined(work: Preparation) -> Quarantine:
    return [entry for shard in work.shards for entry in shard["quarantined"]]


def _too_bad(bad: Quarantine, seen: int, max_bad: float) -> UserError:
    few = "; ".join(f"{entry['name']!r}: {entry['reason']}" for entry in bad[:3])
    return UserError(
        f"{len(bad)} of {seen} images are bad, over --max-bad {max_bad:g}: {few}{'; ...' * (len(bad) > 3)}"
    )


def _finish(dst: Path, work: Preparation, source: Source, trailing: Quarantine, max_bad: float) -> dict[str, Any]:
    """Judge the quarantine and write the manifest, which alone makes `dst` a data set."""
    bad = _quarantined(work) + trailing
    count = sum(shard["count"] for shard in work.shards)
    if count == 0 or len(bad) > max_bad * (count + len(bad)):
        raise _too_bad(bad, count + len(bad), max_bad)
    size, channels, labelled = work.plan
    classes = list(source.classes) if source.classes else max(shard["top_label"] for shard in work.shards) + 1
    manifest: dict[str, Any] = {
        "format": store.FORMAT,
        "version": store.VERSION,
        "count": count,
        "height": size,
        "width": size,
        "channels": channels,
        "classes": classes if labelled else 0,
        "shards": [{key: shard[key] for key in ("file", "count", "bytes", "sha256")} for shard in work.shards],
        "quarantined": bad,
        "source": work.identity,
        "complete": True,
    }
    manifest["checksum"] = store.checksum(manifest)
    jsonfile.write(dst / store.MANIFEST, manifest)
    for leftover in (dst / store.PROGRESS, dst / ".lock"):
        leftover.unlink(missing_ok=True)
    return manifest
