"""A run's folder: what training writes there, and its copy on an object store. docs/files.md lists the files.

config.yaml      every setting, resolved          samples/step-*.png  samples from fixed noise
metrics.jsonl    one row per training step        checkpoints/        the last ones and the best
scores.jsonl     one row per evaluation           prune.json          why the run was stopped, with its evidence
events.jsonl     started, resumed, stopped, ...   progress.json       where it is now
STOP             create it, and the run saves, ends and deletes it
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from act_ray import jsonfile, settings
from act_ray.config import Config
from act_ray.errors import UserError
from act_ray.files import cache_dir, locked, replace_atomically
from act_ray.runs.lock import LOCK, exclusive
from act_ray.runs.retries import StoreError
from act_ray.runs.rows import Row, append_rows, read_rows, rows_text
from act_ray.runs.storage import ObjectStore
from act_ray.runs.uploads import MANIFEST as MANIFEST
from act_ray.runs.uploads import NOTES as NOTES
from act_ray.runs.uploads import Uploads
from act_ray.yamlfile import read_yaml

STOP = "STOP"
GO_ON = "GO-"  # and an index: create it in a search's folder, and that waiting trial goes on
LINEAGE = "lineage.json"  # of a fork (train/fork.py)
RESCUES = "rescues.json"  # of a run that went back after a collapse (train/rescue.py)

T = TypeVar("T")


class Folder:
    """A folder of this machine, or with a remote location (s3://, gs://) its scratch here.

    `scratch`: whose; a process that only looks at a remote run takes "views", to stay out of the run's own.
    """

    def __init__(self, location: str, scratch: str = "runs") -> None:
        self.location = location
        self.bad: dict[str, int] = {}  # lines that `rows` left out, by the file's name
        self.remote = ObjectStore(location) if "://" in location else None
        self.path = (
            Path(location).resolve()
            if self.remote is None
            else cache_dir(scratch) / location.replace("://", "_").replace("/", "_")
        )

    @property
    def name(self) -> str:
        """The last part of its location."""
        return self.path.name if self.remote is None else self.location.rstrip("/").rpartition("/")[2]

    def open_root(self) -> None:
        """Create the folder; for a remote one fetch its own files, not those of its sub-folders. Raises UserError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.location}: cannot be made: {error.strerror}") from error
        self.fetch_root()

    def fetch_root(self, *folders: str) -> None:
        """Fetch a remote folder's own files, and those of some of its sub-folders; for a local one nothing."""
        if self.remote is not None:
            for folder in ("", *folders):
                self.remote.download_files(folder, self.path / folder)

    def push_root(self) -> None:
        """Copy the folder's own files to the object store, not those in its sub-folders; nothing for a local one."""
        if self.remote is not None:
            for path in self.path.iterdir():
                if path.is_file() and not path.name.startswith((".", GO_ON)) and path.name != NOTES:
                    self.remote.upload(path.name, path)

    def push_file(self, name: str) -> None:
        """Copy one of the folder's own files to the object store; nothing for a local one."""
        if self.remote is not None:
            self.remote.upload(name, self.path / name)

    def folders(self, name: str) -> list[str]:
        """The names of the folders in one of its sub-folders; for a remote one, on the object store."""
        if self.remote is None:
            return [path.name for path in (self.path / name).glob("*") if path.is_dir()]
        return [found.rpartition("/")[2] for found in self.remote.listing(name, recursive=False)[1]]

    # ------------------------------------------------------------------------------------------ files

    def read(self, name: str) -> str | None:
        """A file as it is now, from the object store for a remote folder; None when there is none."""
        try:
            if self.remote is None:
                return (self.path / name).read_text()
            return self.remote.read(name).decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except StoreError:
            raise
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.location}/{name}: cannot be read: {error}") from error

    def read_json(self, name: str, kind: type[T]) -> T | None:
        """A file of JSON as a `kind` (jsonfile.checked); None when there is none. Raises UserError."""
        text = self.read(name)
        try:
            return None if text is None else jsonfile.checked(jsonfile.parse(text), kind)
        except ValueError as error:
            raise UserError(f"{self.location}/{name}: damaged: {error}") from None

    def write(self, name: str, text: str) -> None:
        """A whole file, atomically."""
        replace_atomically(self.path / name, lambda temporary: temporary.write_text(text))

    def json(self, name: str, value: Any) -> None:
        """A whole file of strict JSON, atomically."""
        jsonfile.write(self.path / name, value)

    def append(self, name: str, rows: Iterable[Row]) -> None:
        """Add rows to a .jsonl file."""
        append_rows(self.path / name, rows)

    def rows(self, name: str) -> list[Row]:
        """All whole rows of a .jsonl file; `left_out` says afterwards how many lines were none."""
        found, self.bad[name] = read_rows(self.path / name)
        return found

    def left_out(self) -> Iterator[str]:
        """A line for each file of which `rows` has left something out."""
        for name, count in self.bad.items():
            if count:
                yield f"{name}: {count} line(s) cannot be read, and are left out"

    def event(self, what: str, **details: Any) -> None:
        """One line in events.jsonl."""
        self.append("events.jsonl", [{"time": round(time.time(), 3), "event": what, **details}])


class RunFolder(Folder):
    """A run's folder; a remote one is pushed at every checkpoint, in the background (runs/uploads.py).

    `lock_wait_s`: how long `open` waits for another process, such as a killed driver's last worker, to be gone.
    """

    def __init__(self, location: str, scratch: str = "runs", lock_wait_s: float = 30.0) -> None:
        super().__init__(location, scratch)
        self.lock_wait_s, self._held = lock_wait_s, contextlib.ExitStack()
        self.uploads = None if self.remote is None else Uploads(self.path, self.remote)
        self._last_look, self._stop = 0.0, False
        self.asking: threading.Thread | None = None  # for the stop flag of a remote run

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are on this machine."""
        return self.path / "checkpoints"

    def held(self) -> contextlib.AbstractContextManager[None]:
        """The folder's lock. Raises UserError when another process keeps it for over `lock_wait_s`."""
        self.path.mkdir(parents=True, exist_ok=True)
        busy = f"{self.location}: is being trained by another process; wait for it or stop it first"
        return exclusive(self.path, busy, self.lock_wait_s)

    def forget_stop(self) -> None:
        """Before a run goes on: drop a request that came too late for a process that was killed. Raises as `held`."""
        with self._usable(), self.held():  # or else it may be meant for a process that is at work
            self.clear_stop()

    def open(self) -> None:
        """Create the folder and hold it until `close`; for a remote run replace the scratch by what was pushed last.

        Raises UserError, also when another process holds it: two writers would truncate each other's rows.
        """
        with self._usable():
            self._held.enter_context(self.held())
            if self.remote is not None:
                for old in self.path.iterdir():
                    if old.is_dir():
                        shutil.rmtree(old, ignore_errors=True)
                    elif old.name != LOCK:
                        old.unlink()
                if self.remote.exists(""):
                    self.remote.download_folder("", self.path)
            for name in ("samples", "checkpoints"):
                (self.path / name).mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            raise UserError(f"{self.location}: cannot be used as a run's folder: {error}") from error

    def close(self) -> None:
        """Wait until all is pushed, and let another process have the folder. Raises what the push raised."""
        try:
            if self.asking is not None:
                self.asking.join()
            self.pushed()
        finally:
            self._held.close()

    def truncate(self, name: str, step: int) -> int:
        """Drop the rows from `step` on: a resumed run writes them again, so none is missing or twice. How many stay."""
        kept = [row for row in self.rows(name) if row["step"] < step]
        self.write(name, rows_text(kept))
        return len(kept)

    def move(self, name: str, folder: Path) -> None:
        """Move a file, if it is there, to a folder in this one, here and on the object store."""
        if (self.path / name).exists():
            moved = folder / Path(name).name
            shutil.move(self.path / name, moved)
            if self.remote is not None:
                self.remote.upload(str(moved.relative_to(self.path)), moved)
                if self.remote.exists(name):
                    self.remote.delete_file(name)

    # ------------------------------------------------------------------------------------------ stop flag

    def request_stop(self) -> None:
        """Ask the run to save and end."""
        if self.remote is not None:
            self.remote.write(STOP)
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / STOP).touch()

    def stop_requested(self, every: float = 5.0) -> bool:
        """Whether somebody asked for a stop.

        A remote store is asked in the background, at most once in `every` seconds: it is what it said last.
        """
        if self.remote is None:
            return (self.path / STOP).exists()
        waits = self.asking is not None and self.asking.is_alive()
        if not waits and time.monotonic() - self._last_look > every:
            self._last_look = time.monotonic()
            self.asking = threading.Thread(target=self._ask, args=(self.remote.asked_once(),), daemon=True)
            self.asking.start()
        return self._stop

    def _ask(self, remote: ObjectStore) -> None:
        with contextlib.suppress(OSError):  # a store that is away is asked again; the next push tells of it
            self._stop = remote.exists(STOP)

    def clear_stop(self) -> None:
        """Forget that somebody asked."""
        (self.path / STOP).unlink(missing_ok=True)
        if self.asking is not None:
            self.asking.join()
        if self.remote is not None and self.remote.exists(STOP):
            self.remote.delete_file(STOP)
        self._stop = False

    # ------------------------------------------------------------------------------------------ object store

    def checkpoint_steps(self) -> list[int]:
        """Steps of the checkpoints on the object store; none for a local run, where they need no fetching."""
        if self.remote is None:
            return []
        _, folders = self.remote.listing("checkpoints", recursive=False)
        steps = [name.rpartition("/")[2].removeprefix("step-") for name in folders]
        return sorted(int(step) for step in steps if step.isdigit())

    def fetch(self, marker: Path) -> None:
        """Have the sub-folder that ends with the file `marker`; on a node that did not `open`, fetch it once."""
        if self.remote is None:
            return
        folder, source = marker.parent, str(marker.parent.relative_to(self.path))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / LOCK):
            if self.remote.read(f"{source}/{marker.name}") == (marker.read_bytes() if marker.exists() else None):
                return
            aside = folder.parent / ".fetching"
            for old in (aside, folder):
                shutil.rmtree(old, ignore_errors=True)
            aside.mkdir()
            self.remote.download_folder(source, aside)
            aside.rename(folder)

    def send_and_drop(self, folder: Path) -> None:
        """Copy one of its folders to the object store, and remove it there; nothing for a local one."""
        if self.remote is not None:
            name = str(folder.relative_to(self.path))
            try:
                for file in folder.iterdir():
                    self.remote.upload(f"{name}/{file.name}", file)
            except OSError:
                with contextlib.suppress(OSError):  # it has just failed for as long as it is waited for
                    self.remote.asked_once().delete_folder(name)
                raise
            self.remote.delete_folder(name)

    def push_later(self, new: Path | None = None) -> None:
        """Copy what is new to the object store in the background, as it is now; nothing for a local run.

        new: a folder that was just written, to be copied even where the store has files of these names. Raises what
        the push before raised.
        """
        if self.uploads is not None:
            self.uploads.request(new)

    def pushed(self) -> None:
        """Wait for the push that is under way. Raises what it raised."""
        if self.uploads is not None:
            self.uploads.wait()

    def push(self, new: Path | None = None) -> None:
        """push_later, and wait for it."""
        self.push_later(new)
        self.pushed()


def read_config(run: Folder) -> Config | None:
    """The run's config.yaml, from the object store for a remote run; None when there is none."""
    text = run.read("config.yaml")
    where = f"{run.location}/config.yaml"
    values = {} if text is None else read_yaml(text, where) or {}
    if not isinstance(values, dict):
        raise UserError(f"{where}: must be a mapping of sections")
    return None if text is None else settings.build(settings.upgrade(values), where)


def grid_name(step: int) -> str:
    """Name of the sample grid after `step` steps, in samples/."""
    return f"step-{step:08d}.png"
