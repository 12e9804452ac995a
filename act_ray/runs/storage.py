"""Where runs are kept: folders of this machine, or URIs of an object store."""

import os
import shutil
from pathlib import Path

import pyarrow.fs as pafs

from act_ray.files import open_uri


def storage_is_local(location: str) -> bool:
    """Whether a storage location is a folder of this machine (or one that all nodes mount under the same name)."""
    return "://" not in location or location.startswith("file://")


def join(location: str, *parts: str) -> str:
    """Extend a local path or URI."""
    return "/".join([location.rstrip("/"), *parts]) if "://" in location else os.path.join(location, *parts)


class ObjectStore:
    """A folder of an object store (s3://, gs://, file://); names are relative to it. Raises OSError, as files do."""

    def __init__(self, uri: str) -> None:
        self.filesystem, self.base = open_uri(uri)

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        with self.filesystem.open_input_stream(f"{self.base}/{name}") as stream:
            content: bytes = stream.read()
        return content

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self.filesystem.get_file_info(f"{self.base}/{name}".rstrip("/")).type != pafs.FileType.NotFound)

    def write(self, name: str, content: bytes = b"") -> None:
        """A whole file."""
        self._make_parent(name)
        with self.filesystem.open_output_stream(f"{self.base}/{name}") as stream:
            stream.write(content)

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
        into.mkdir(parents=True, exist_ok=True)
        for name in self.listing(folder, recursive=False)[0]:
            target = str(into / name.rpartition("/")[2])
            pafs.copy_files(f"{self.base}/{name}", target, source_filesystem=self.filesystem)

    def download_folder(self, folder: str, into: Path) -> None:
        """Copy a folder and all below it."""
        pafs.copy_files(f"{self.base}/{folder}".rstrip("/"), str(into), source_filesystem=self.filesystem)

    def listing(self, folder: str = "", recursive: bool = True) -> tuple[set[str], set[str]]:
        """Names of the files and of the folders in a folder; none where it does not exist."""
        selector = pafs.FileSelector(f"{self.base}/{folder}".rstrip("/"), recursive=recursive, allow_not_found=True)
        found: dict[pafs.FileType, set[str]] = {pafs.FileType.File: set(), pafs.FileType.Directory: set()}
        for info in self.filesystem.get_file_info(selector):
            found.get(info.type, set()).add(info.path.removeprefix(self.base).lstrip("/"))
        return found[pafs.FileType.File], found[pafs.FileType.Directory]

    def delete_file(self, name: str) -> None:
        """Remove a file."""
        self.filesystem.delete_file(f"{self.base}/{name}")

    def delete_folder(self, name: str) -> None:
        """Remove a folder and all below it."""
        self.filesystem.delete_dir(f"{self.base}/{name}")
