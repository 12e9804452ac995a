"""Where runs are kept: folders of this machine, or URIs of an object store."""

import contextlib
import copy
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.fs as pafs

from act_ray.errors import UserError
from act_ray.files import open_uri
from act_ray.runs.retries import PATIENCE_S, retried

AT_ONCE = 8  # files that are downloaded at the same time


def storage_is_local(location: str) -> bool:
    """Whether a storage location is a folder of this machine (or one that all nodes mount under the same name)."""
    return "://" not in location or location.startswith("file://")


def join(location: str, *parts: str) -> str:
    """Extend a local path or URI."""
    return "/".join([location.rstrip("/"), *parts]) if "://" in location else os.path.join(location, *parts)


class ObjectStore:
    """A folder of an object store (s3://, gs://, file://); names are relative to it.

    Raises OSError, as files do; a call that fails is made again for `patience_s`, then it is a StoreError (retries.py).
    """

    def __init__(self, uri: str, patience_s: float = PATIENCE_S) -> None:
        self.uri, self.patience_s = uri, patience_s
        self.filesystem, self.base = open_uri(uri)

    def asked_once(self) -> "ObjectStore":
        """The same for a caller that comes again anyway: no call is made twice."""
        other = copy.copy(self)
        other.patience_s = 0.0
        return other

    @retried
    def read(self, name: str) -> bytes:
        """A file's bytes."""
        with self.filesystem.open_input_stream(f"{self.base}/{name}") as stream:
            content: bytes = stream.read()
        return content

    @retried
    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self.filesystem.get_file_info(f"{self.base}/{name}".rstrip("/")).type != pafs.FileType.NotFound)

    @retried
    def write(self, name: str, content: bytes = b"") -> None:
        """A whole file."""
        self._make_parent(name)
        with self.filesystem.open_output_stream(f"{self.base}/{name}") as stream:
            stream.write(content)

    @retried
    def upload(self, name: str, path: Path) -> None:
        """Copy a file of this machine there."""
        self._make_parent(name)
        with self.filesystem.open_output_stream(f"{self.base}/{name}") as stream, path.open("rb") as source:
            shutil.copyfileobj(source, stream, 1 << 22)

    def _make_parent(self, name: str) -> None:
        if isinstance(self.filesystem, pafs.LocalFileSystem):  # the only one whose folders must be made
            self.filesystem.create_dir(f"{self.base}/{name}".rpartition("/")[0])

    def download_files(self, folder: str, into: Path) -> None:
        """Copy the files of a folder, not those of its sub-folders, to a folder of this machine."""
        self._download(folder, into, recursive=False)

    def download_folder(self, folder: str, into: Path) -> None:
        """Copy a folder and all below it."""
        self._download(folder, into, recursive=True)

    def _download(self, folder: str, into: Path, recursive: bool) -> None:
        into.mkdir(parents=True, exist_ok=True)
        found = sorted(self.listing(folder, recursive)[0])
        targets = [into / name.removeprefix(folder).lstrip("/") for name in found]
        if bad := next((name for name in found if ".." in name.split("/")), None):
            raise UserError(f"{self.uri}: holds {bad}, which leads out of its folder; remove it there")
        for parent in {target.parent for target in targets}:
            parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self.download, found, targets))  # which raises what they raise

    @retried
    def download(self, name: str, target: Path) -> None:
        """Copy a file to this machine."""
        with self.filesystem.open_input_stream(f"{self.base}/{name}") as stream, target.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 22)

    @retried
    def listing(self, folder: str = "", recursive: bool = True) -> tuple[set[str], set[str]]:
        """Names of the files and of the folders in a folder; none where it does not exist."""
        selector = pafs.FileSelector(f"{self.base}/{folder}".rstrip("/"), recursive=recursive, allow_not_found=True)
        found: dict[pafs.FileType, set[str]] = {pafs.FileType.File: set(), pafs.FileType.Directory: set()}
        for info in self.filesystem.get_file_info(selector):
            found.get(info.type, set()).add(info.path.removeprefix(self.base).lstrip("/"))
        return found[pafs.FileType.File], found[pafs.FileType.Directory]

    @retried
    def delete_file(self, name: str) -> None:
        """Remove a file; one that is not there is removed: a call that failed may have been obeyed."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.base}/{name}")

    @retried
    def delete_folder(self, name: str) -> None:
        """Remove a folder and all below it, as delete_file."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_dir(f"{self.base}/{name}")
