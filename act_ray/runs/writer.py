"""Checkpoints that are written in the background: training waits only while the state is copied."""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from act_ray.runs import checkpoint
from act_ray.runs.checkpoint import Snapshot
from act_ray.runs.failing_storage import told
from act_ray.runs.folder import RunFolder


class Writer:
    """At most one checkpoint at a time; the next one waits for it. All calls come from one thread."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.thread = folder, ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[Path] | None = None

    def write(self, snapshot: Snapshot, then: Callable[[], object]) -> None:
        """Write it, and call `then`, in the thread."""
        self.settle()
        self.pending = self.thread.submit(self._write, snapshot, then)

    def settle(self, wait: bool = True) -> None:
        """Wait for the checkpoint that is being written, and have it copied to the object store.

        wait: False looks only whether it is done. Raises what writing it raised, a StorageError for a full disk.
        """
        if self.pending is not None and (wait or self.pending.done()):
            pending, self.pending = self.pending, None
            saved = pending.result()
            with told(f"the upload of {saved.name}", self.folder.path):
                self.folder.push_later(saved)

    def close(self) -> None:
        """`settle`, where an error ended the run before it could; that one is told, and none of this."""
        with contextlib.suppress(Exception):
            self.settle()
        self.thread.shutdown()

    def _write(self, snapshot: Snapshot, then: Callable[[], object]) -> Path:
        with told(f"checkpoint {snapshot.step}", self.folder.path, lambda: snapshot.nbytes):
            saved = checkpoint.save(self.folder.checkpoints, snapshot)
            then()
        return saved
