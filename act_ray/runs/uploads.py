"""A run's copies on its object store, made in a thread, so that no training step waits for one."""

import itertools
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from act_ray.files import EVALUATIONS
from act_ray.runs.storage import ObjectStore

MANIFEST = "MANIFEST.json"  # what is written last in a checkpoint's folder: without it the rest is no checkpoint
NOTES = "notes.jsonl"  # what people mark and write on the dashboard, which alone writes it
UPLOAD = "upload"  # the thread's name
OTHERS = (EVALUATIONS, NOTES)  # what others write beside the training


@dataclass
class Snapshot:
    """A run's folder as it was when it was asked for."""

    root: Path
    new: set[str]  # folders that were just written: copied even where the store has files of these names


class Uploads:
    """At most one upload at a time; a newer request takes the place of one that waits.

    What an upload raised is raised by the next `request` or `wait`; nothing more is uploaded until then.
    """

    def __init__(self, folder: Path, remote: ObjectStore) -> None:
        self.folder, self.remote = folder, remote
        self._lock, self._numbers = threading.Lock(), itertools.count()
        self._waiting: Snapshot | None = None
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def request(self, new: Path | None = None) -> None:
        """Have the folder as it is now uploaded. new: of Snapshot."""
        self._raise_error()
        snapshot = self._take(set() if new is None else {str(new.relative_to(self.folder))})
        with self._lock:
            replaced, self._waiting = self._waiting, snapshot
            if replaced is not None:
                snapshot.new |= replaced.new
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=UPLOAD, daemon=True)
                self._thread.start()
        if replaced is not None:
            shutil.rmtree(replaced.root, ignore_errors=True)

    def wait(self) -> None:
        """Until all that was asked for is there."""
        while (thread := self._thread) is not None:
            thread.join()
        self._raise_error()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _take(self, new: set[str]) -> Snapshot:
        """Hard links: a checkpoint that is deleted meanwhile stays until it is uploaded. What changes is copied."""
        into = self.folder / f".pushing-{next(self._numbers)}"
        try:
            for at, folders, names in os.walk(self.folder):
                folders[:] = [name for name in folders if name[0] != "."]
                target = into / Path(at).relative_to(self.folder)
                target.mkdir(parents=True, exist_ok=True)
                copy = shutil.copyfile if Path(at) == self.folder else _link
                for name in names:
                    if name[0] != "." and name not in OTHERS:
                        copy(os.path.join(at, name), target / name)
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise
        return Snapshot(into, new)

    def _work(self) -> None:
        while True:
            with self._lock:
                snapshot, self._waiting = self._waiting, None
                if snapshot is None:
                    self._thread = None
                    return
            try:
                if self._error is None:
                    self._send(snapshot)
            except Exception as error:
                self._error = error
            finally:
                shutil.rmtree(snapshot.root, ignore_errors=True)

    def _send(self, snapshot: Snapshot) -> None:
        """What is new, checkpoints last, each with its manifest last; then what is gone is deleted, manifests first."""
        local = {str(path.relative_to(snapshot.root)) for path in snapshot.root.rglob("*") if path.is_file()}
        there, folders = self.remote.listing()
        # All but samples and checkpoints change in place.
        changed = {name for name in local if "/" not in name or _parent(name) in snapshot.new}
        for name in sorted((local - there) | changed, key=_order):
            self.remote.upload(name, snapshot.root / name)
        kept = {_parent(name) for name in local}
        for name in sorted(there):
            if name.endswith(MANIFEST) and _parent(name) not in kept:
                self.remote.delete_file(name)  # first: without it the rest is no checkpoint
        for name in folders:
            if _parent(name) == "checkpoints" and name not in kept:
                self.remote.delete_folder(name)


def _order(name: str) -> tuple[bool, str, bool, str]:
    return name.startswith("checkpoints/"), _parent(name), name.endswith(MANIFEST), name


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _link(source: str, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system that has none
        shutil.copyfile(source, target)
