"""Ray's own files on an object store: whole or absent, sent again, and told of when they cannot be."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs

from act_ray.runs import retries
from act_ray.runs.patient import ray_storage


def test_a_folder_of_more_files_than_pyarrow_has_threads_is_copied(s3: str, tmp_path: Path) -> None:
    """As Ray Tune sends what its driver has written; through a pickle, as Ray's workers get it."""
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text(f"{number}" * 1000)
    given = pickle.loads(pickle.dumps(ray_storage(f"{s3}/search")))
    store, base = given["storage_filesystem"], given["storage_path"]
    fs.copy_files(str(tmp_path), f"{base}/driver", destination_filesystem=store)
    found = store.get_file_info(fs.FileSelector(f"{base}/driver"))
    assert sorted(info.base_name for info in found) == sorted(path.name for path in tmp_path.iterdir())
    with store.open_input_stream(f"{base}/driver/7.txt") as stream:
        assert stream.read() == b"7" * 1000


@pytest.mark.parametrize("name", ["create_dir", "get_file_info", "open_output_stream"])
def test_what_could_not_be_sent_is_raised_by_the_next_call(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyarrow's copying ignores what closing a file raises."""
    monkeypatch.setattr(retries, "pause", lambda seconds: None)
    monkeypatch.setattr("act_ray.runs.patient.PATIENCE_S", 0.0)
    monkeypatch.setattr("act_ray.runs.patient.open_uri", _lost)
    given = ray_storage((tmp_path / "store").as_uri())
    store, base = given["storage_filesystem"], given["storage_path"]
    (tmp_path / "a").write_text("a")
    fs.copy_files(str(tmp_path / "a"), f"{base}/a", destination_filesystem=store)
    with pytest.raises(OSError, match="the answer was lost"):
        getattr(store, name)(f"{base}/b")


def test_a_file_that_is_given_up_is_not_written(tmp_path: Path) -> None:
    given = ray_storage((tmp_path / "store").as_uri())
    store, base = given["storage_filesystem"], given["storage_path"]
    store.create_dir(base)
    stream: pa.NativeFile = store.open_output_stream(f"{base}/half")
    stream.write(b"half")
    del stream
    assert not (tmp_path / "store" / "ray" / "half").exists()


def _lost(uri: str) -> tuple[fs.FileSystem, str]:
    """A store that takes no file."""
    files, base = fs.FileSystem.from_uri(uri)

    class Lost:
        def __getattr__(self, name: str) -> object:
            if name == "open_output_stream":
                raise OSError("AWS Error NETWORK_CONNECTION: the answer was lost")
            return getattr(files, name)

    files.create_dir(base)
    return Lost(), base
