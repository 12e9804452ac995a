"""Locations: folders and URIs."""

from pathlib import Path

import pytest

from act_ray.errors import UserError
from act_ray.runs.folder import RunFolder
from act_ray.runs.storage import ObjectStore, join, storage_is_local


def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store, unlike a folder, may hold a name of any form."""
    store = ObjectStore(f"file://{tmp_path}/there")
    monkeypatch.setattr(store, "listing", lambda *_: ({"a/../../evil"}, set()))
    with pytest.raises(UserError, match=r"holds a/\.\./\.\./evil, which leads out of its folder"):
        store.download_folder("", tmp_path / "here" / "run")


def test_locations() -> None:
    assert [storage_is_local(x) for x in ("runs", "/a", "file:///a", "s3://a", "gs://a/b")] == [True] * 3 + [False] * 2
    assert (join("s3://a/", "b", "c"), join("runs", "b")) == ("s3://a/b/c", "runs/b")
    with pytest.raises(UserError, match=r"gopher://x/y: not a usable URI") as error:
        RunFolder("gopher://x/y")
    assert "\n" not in str(error.value)
