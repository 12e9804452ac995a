"""The file system of an object store for Ray, which keeps files of its own beside a run: calls are made again.

Ray makes none twice, and pyarrow gives up after seconds.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pyarrow import fs

from act_ray.files import open_uri
from act_ray.runs.retries import PATIENCE_S, retried
from act_ray.runs.storage import join


def ray_storage(location: str) -> dict[str, Any]:
    """Where Ray Train or Tune keeps its own files of a run or search: the fields of its RunConfig. Raises UserError."""
    at = join(location, "ray")
    if "://" not in at:
        return {"storage_path": at}
    files, base = open_uri(at)
    return {"storage_path": base, "storage_filesystem": fs.PyFileSystem(_Handler(_in_place(files), at))}


def _in_place(files: fs.FileSystem) -> fs.FileSystem:
    """The same, writing in the thread that asks: pyarrow copies with few threads, which would wait for themselves."""
    if not isinstance(files, fs.S3FileSystem):
        return files
    rebuild, (options,) = files.__reduce__()
    return rebuild({**options, "background_writes": False})


class _Handler(fs.FileSystemHandler):  # type: ignore[misc]
    """Files are read and written as a whole: that is what can be done again. Ray's are small.

    A file is written when it is closed, and pyarrow's copying does not hear what that raises: the next call raises it.
    """

    def __init__(self, files: fs.FileSystem, uri: str) -> None:
        self.files, self.uri, self.patience_s = files, uri, PATIENCE_S
        self.failed: OSError | None = None

    def send(self, path: str, content: bytes) -> None:
        try:
            self.write(path, content)
        except OSError as error:
            self.failed = error
            raise

    def check(self) -> None:
        """Raises what a file before could not be written for."""
        error, self.failed = self.failed, None
        if error is not None:
            raise error

    @retried
    def read(self, path: str) -> bytes:
        with self.files.open_input_stream(path, compression=None) as stream:
            content: bytes = stream.read()
        return content

    @retried
    def write(self, path: str, content: bytes) -> None:
        with self.files.open_output_stream(path, compression=None) as stream:
            stream.write(content)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(self.read(path))

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(self.read(path))

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        self.check()
        return pa.PythonFile(_Upload(lambda content: self.send(path, content)), "w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise NotImplementedError("object stores append nothing")

    @retried
    def normalize_path(self, path: str) -> str:
        normal: str = self.files.normalize_path(path)
        return normal

    @retried
    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        self.check()
        found: list[fs.FileInfo] = self.files.get_file_info(paths)
        return found

    @retried
    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        self.check()
        found: list[fs.FileInfo] = self.files.get_file_info(selector)
        return found

    @retried
    def create_dir(self, path: str, recursive: bool) -> None:
        self.check()
        self.files.create_dir(path, recursive=recursive)

    @retried
    def delete_dir(self, path: str) -> None:
        self.files.delete_dir(path)

    @retried
    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.files.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("of no use to anybody")

    @retried
    def delete_file(self, path: str) -> None:
        self.files.delete_file(path)

    @retried
    def move(self, source: str, target: str) -> None:
        self.files.move(source, target)

    @retried
    def copy_file(self, source: str, target: str) -> None:
        self.files.copy_file(source, target)

    def get_type_name(self) -> str:
        return f"patient+{self.files.type_name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Handler) and self.files == other.files

    def __hash__(self) -> int:
        return hash(self.uri)


class _Upload:
    """A file that is sent when it is closed; one that is given up, as Python's own would not be, is not."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self.send, self.content, self.closed = send, bytearray(), False

    def write(self, data: bytes) -> int:
        self.content += data
        return len(data)

    def flush(self) -> None:
        """Nothing is sent before the end."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.send(bytes(self.content))
