import resource

import pytest

from app.auth.kept import keep


def test_a_file_that_cannot_be_written_whole_is_named_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "priohook-clients.toml"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # as a disk that is full after ten bytes
    try:
        with pytest.raises(OSError, match=r"priohook-clients\.toml"):
            keep(path, "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    assert keep(path, "x" * 100)
