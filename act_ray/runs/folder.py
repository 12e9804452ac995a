"""A run's folder: what training writes there, and its copy on an object store.

    config.yaml      every setting, resolved          samples/step-*.png  samples from fixed noise
    metrics.jsonl    one row per training step        checkpoints/        the last ones and the best
    scores.jsonl     one row per evaluation           prune.json          why the run was stopped, with its evidence
    events.jsonl     started, resumed, stopped, ...   progress.json       where it is now
    STOP             create it, and the run saves, ends and deletes it

Rows that are not finite are kept as strings, so that every line is strict JSON.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.fs as pafs

from act_ray import config, settings
from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.files import EVALUATIONS, cache_dir, locked, open_uri, replace_atomically, write_json
from act_ray.yamlfile import read_yaml

Row = dict[str, Any]

LOCK = ".lock"  # held by whoever trains in the folder


class RunFolder:
    """Local folder of a run. With a remote location (s3://, gs://) it is scratch, pushed at every checkpoint.

    `scratch`: whose; a process that only looks at a remote run takes "views", to stay out of the run's own.
    `lock_wait_s`: how long `open` waits for another process, such as a killed driver's last worker, to be gone.
    """

    def __init__(self, location: str, scratch: str = "runs", lock_wait_s: float = 30.0) -> None:
        self.location, self.lock_wait_s, self._held = location, lock_wait_s, ExitStack()
        self.remote: tuple[pafs.FileSystem, str] | None = None
        if "://" in location:
            self.remote = open_uri(location)
            self.path = cache_dir(scratch) / location.replace("://", "_").replace("/", "_")
        else:
            self.path = Path(location).resolve()
        self._last_look, self._stop = 0.0, False

    def open(self) -> None:
        """Create the folder and hold it until `close`; for a remote run replace the scratch by what was pushed last.

        Raises UserError, also when another process holds it: two writers would truncate each other's rows.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            if self.remote is not None:
                for old in self.path.iterdir():
                    if old.is_dir():
                        shutil.rmtree(old, ignore_errors=True)
                    elif old.name != LOCK:
                        old.unlink()
                filesystem, base = self.remote
                if filesystem.get_file_info(base).type != pafs.FileType.NotFound:
                    pafs.copy_files(base, str(self.path), source_filesystem=filesystem)
            for name in ("samples", "checkpoints"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.location}: cannot be used as a run's folder: {error}") from error

    def close(self) -> None:
        """Let another process have the folder."""
        self._held.close()

    def _lock(self) -> None:
        deadline = time.monotonic() + self.lock_wait_s
        while True:
            try:
                return self._held.enter_context(locked(self.path / LOCK, wait=False))
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{self.location}: is being trained by another process; wait for it or stop it first"
                    ) from None
                time.sleep(0.25)
            except OSError as error:
                if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                    return None  # a mounted storage without locks
                raise

    def fetch(self, marker: Path) -> None:
        """Have the sub-folder that ends with the file `marker`; on a node that did not `open`, fetch it once."""
        if self.remote is None:
            return
        filesystem, base = self.remote
        folder, source = marker.parent, f"{base}/{marker.parent.relative_to(self.path)}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / ".lock"), filesystem.open_input_stream(f"{source}/{marker.name}") as stream:
            if marker.exists() and marker.read_bytes() == stream.read():
                return
            aside = folder.parent / ".fetching"
            for old in (aside, folder):
                shutil.rmtree(old, ignore_errors=True)
            aside.mkdir()
            pafs.copy_files(source, str(aside), source_filesystem=filesystem)
            aside.rename(folder)

    def open_root(self) -> None:
        """Create the folder of a search; for a remote one fetch its own files, not its trials'."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.fetch_root()

    def fetch_root(self, *folders: str) -> None:
        """Fetch a remote run's own files, and those of some of its sub-folders; for a local run nothing."""
        if self.remote is not None:
            filesystem, base = self.remote
            for folder in ("", *folders):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
                selector = pafs.FileSelector(f"{base}/{folder}".rstrip("/"), allow_not_found=True)
                for info in filesystem.get_file_info(selector):
                    if info.type == pafs.FileType.File:
                        target = str(self.path / folder / info.base_name)
                        pafs.copy_files(info.path, target, source_filesystem=filesystem)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint_steps(self) -> list[int]:
        """Steps of the checkpoints on the object store; none for a local run, where they need no fetching."""
        if self.remote is None:
            return []
        filesystem, base = self.remote
        listing = filesystem.get_file_info(pafs.FileSelector(f"{base}/checkpoints", allow_not_found=True))
        steps = [info.base_name.removeprefix("step-") for info in listing if info.type == pafs.FileType.Directory]
        return sorted(int(step) for step in steps if step.isdigit())

    # ------------------------------------------------------------------------------------------ rows

    def append(self, name: str, rows: Iterable[Row]) -> None:
        """Add rows to a .jsonl file; a value that is not finite is written as a string ("nan")."""
        with (self.path / name).open("ab+") as file:
            _drop_torn_line(file)
            file.write("".join(json.dumps(_strict(row)) + "\n" for row in rows).encode())

    def rows(self, name: str) -> list[Row]:
        """All whole rows of a .jsonl file; the torn last line of a killed writer is left out."""
        path = self.path / name
        if not path.exists():
            return []
        rows = []
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def truncate(self, name: str, step: int) -> None:
        """Drop the rows from `step` on: a resumed run writes them again, so none is missing or twice."""
        kept = "".join(json.dumps(row) + "\n" for row in self.rows(name) if row["step"] < step)
        self.write(name, kept)

    def write(self, name: str, text: str) -> None:
        """A whole file, atomically."""
        replace_atomically(self.path / name, lambda temporary: temporary.write_text(text))

    def read(self, name: str) -> str | None:
        """A file as it is now, from the object store for a remote run; None when there is none."""
        try:
            if self.remote is None:
                return (self.path / name).read_text()
            filesystem, base = self.remote
            with filesystem.open_input_stream(f"{base}/{name}") as stream:
                return str(stream.read(), "utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{self.location}/{name}: cannot be read: {error}") from error

    def event(self, what: str, **details: Any) -> None:
        """One line in events.jsonl."""
        self.append("events.jsonl", [{"time": round(time.time(), 3), "event": what, **details}])

    def json(self, name: str, value: Any) -> None:
        write_json(self.path / name, _strict(value))

    # ------------------------------------------------------------------------------------------ stop flag

    def request_stop(self) -> None:
        """Ask the run to save and end."""
        if self.remote is not None:
            with self._remote_file("STOP") as stream:
                stream.write(b"")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "STOP").touch()

    def stop_requested(self, every: float = 5.0) -> bool:
        """Whether somebody asked for a stop; a remote store is asked at most once in `every` seconds."""
        if self.remote is None:
            return (self.path / "STOP").exists()
        if time.monotonic() - self._last_look > every:
            filesystem, base = self.remote
            self._last_look = time.monotonic()
            self._stop = filesystem.get_file_info(f"{base}/STOP").type != pafs.FileType.NotFound
        return self._stop

    def clear_stop(self) -> None:
        (self.path / "STOP").unlink(missing_ok=True)
        if self.remote is not None and self.stop_requested(every=0):
            filesystem, base = self.remote
            filesystem.delete_file(f"{base}/STOP")
            self._stop = False

    # ------------------------------------------------------------------------------------------ object store

    def push(self, new: Path | None = None) -> None:
        """Copy what is new to the object store, manifests last; nothing for a local run.

        new: a folder that was just written, to be copied even where the store has files of these names.
        """
        if self.remote is None:
            return
        filesystem, base = self.remote
        files = [p for p in self.path.rglob("*") if p.is_file() and p.name[0] != "." and p.name != EVALUATIONS]
        local = {str(p.relative_to(self.path)): p for p in files}
        listing = filesystem.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
        there = {info.path.removeprefix(base).lstrip("/") for info in listing if info.type == pafs.FileType.File}
        # All but samples and checkpoints change in place.
        changed = {name for name, path in local.items() if "/" not in name or path.parent == new}
        for name in sorted((set(local) - there) | changed, key=lambda n: n.endswith("MANIFEST.json")):
            self._push_file(name)
        kept = {path.parent for path in files}
        for name in sorted(there):
            if name.endswith("MANIFEST.json") and (self.path / name).parent not in kept:
                filesystem.delete_file(f"{base}/{name}")  # first: without it the rest is no checkpoint
        for info in listing:
            folder = self.path / info.path.removeprefix(base).lstrip("/")
            if info.type == pafs.FileType.Directory and folder.parent == self.checkpoints and folder not in kept:
                filesystem.delete_dir(info.path)

    def push_root(self) -> None:
        """Copy the folder's own files to the object store, not those in its sub-folders; nothing for a local run."""
        if self.remote is not None:
            for path in self.path.iterdir():
                if path.is_file() and not path.name.startswith("."):
                    self._push_file(path.name)

    def _push_file(self, name: str) -> None:
        with self._remote_file(name) as stream, (self.path / name).open("rb") as source:
            shutil.copyfileobj(source, stream, 1 << 22)

    def _remote_file(self, name: str) -> Any:
        """A file of the object store, opened for writing."""
        assert self.remote is not None
        filesystem, base = self.remote
        if isinstance(filesystem, pafs.LocalFileSystem):  # the only one whose folders must be made
            filesystem.create_dir(f"{base}/{name}".rpartition("/")[0])
        return filesystem.open_output_stream(f"{base}/{name}")


def _drop_torn_line(file: BinaryIO) -> None:
    """Cut off what a killed writer left of its last line; `file` is open for appending."""
    if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _strict(value: Any) -> Any:
    """JSON without NaN: "nan", "inf" and "-inf" as strings."""
    if isinstance(value, float) and value - value != 0:
        return repr(value)
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return value


def read_config(run: RunFolder) -> Config | None:
    """The run's config.yaml, from the object store for a remote run; None when there is none."""
    text = run.read("config.yaml")
    where = f"{run.location}/config.yaml"
    return None if text is None else settings.build(read_yaml(text, where) or {}, where)






def grid_name(step: int) -> str:
    return f"step-{step:08d}.png"
