"""Locations: folders and URIs."""

import pytest

from act_ray.errors import UserError
from act_ray.runs.folder import RunFolder
from act_ray.runs.storage import join, storage_is_local


def test_locations() -> None:
    assert [storage_is_local(x) for x in ("runs", "/a", "file:///a", "s3://a", "gs://a/b")] == [True] * 3 + [False] * 2
    assert (join("s3://a/", "b", "c"), join("runs", "b")) == ("s3://a/b/c", "runs/b")
    with pytest.raises(UserError, match=r"gopher://x/y: not a usable URI") as error:
        RunFolder("gopher://x/y")
    assert "\n" not in str(error.value)
