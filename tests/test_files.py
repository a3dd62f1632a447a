"""Files are replaced atomically, and paths are checked first."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from ntp.files import replacing, try_to_write


def put(path, text="new"):
    with replacing(path) as file:
        file.write(text.encode())


def put_half(path):
    with replacing(path) as file:
        file.write(b"half")
        file.flush()
        raise KeyboardInterrupt


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """Set the umask for one test."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o000])
def test_a_new_file_has_what_the_umask_leaves(tmp_path, umask, mask):
    umask(mask)
    put(tmp_path / "deep" / "file")
    assert mode(tmp_path / "deep" / "file") == 0o666 & ~mask
    assert names(tmp_path / "deep") == ["file"]


@pytest.mark.parametrize("kept", [0o600, 0o644, 0o664, 0o400])
def test_a_file_that_is_there_keeps_its_mode(tmp_path, umask, kept):
    umask(0o022)
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(kept)
    put(tmp_path / "file")
    assert (mode(tmp_path / "file"), (tmp_path / "file").read_text()) == (kept, "new")


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "file"
    target.write_text("old")
    (tmp_path / "link").symlink_to("elsewhere/file")
    put(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert not target.is_symlink()
    assert target.read_text() == "new"
    assert (names(tmp_path), names(tmp_path / "elsewhere")) == (["elsewhere", "link"], ["file"])


def test_a_link_to_nothing_makes_what_it_leads_to(tmp_path):
    (tmp_path / "link").symlink_to("nowhere/file")
    put(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "nowhere" / "file").read_text() == "new"


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    try_to_write(pipe)  # which must not wait for a reader
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    put(pipe)
    reader.join()
    assert read == ["new"]
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]


def test_a_device_is_written_and_stays_a_device(tmp_path):
    null = tmp_path / "null"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        null.write_text("")
    except PermissionError:
        pytest.skip("only root makes devices, and not everywhere")
    try_to_write(null)
    put(null)
    assert null.is_char_device()
    assert names(tmp_path) == ["null"]


@pytest.mark.parametrize("before", [None, "old"])
def test_what_fails_leaves_what_was_there_and_nothing_else(tmp_path, before):
    path = tmp_path / "file"
    if before:
        path.write_text(before)
    with pytest.raises(KeyboardInterrupt):
        put_half(path)
    assert names(tmp_path) == (["file"] if before else [])
    assert not before or path.read_text() == before


def test_a_file_that_is_too_large_leaves_nothing(tmp_path):
    script = (
        "import resource, sys; from pathlib import Path; from ntp.files import replacing\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    with replacing(Path(sys.argv[1])) as file: file.write(bytes(9000))\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "file")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "File too large\n"
    assert names(tmp_path) == []


WRONG = [
    ("folder", "Is a directory"),
    ("file/in/it", "Not a directory"),
    ("link/in/it", "Not a directory"),
    ("x" * 300, "File name too long"),
    (f"new/{'x' * 300}/file", "File name too long"),
    ("circle", "Too many levels of symbolic links"),
    ("/proc/nowhere/file", "No such file or directory"),
]


@pytest.mark.parametrize(("name", "why"), WRONG, ids=[name[:20] for name, _ in WRONG])
def test_where_no_file_can_be_is_found_and_nothing_is_left(tmp_path, name, why):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "circle").symlink_to("circle")
    before = names(tmp_path)
    for attempt in (try_to_write, put):
        with pytest.raises(OSError, match=why):
            attempt(tmp_path / name)
        if attempt is try_to_write:
            assert names(tmp_path) == before
    assert (tmp_path / "file").read_text() == "old"


def test_trying_leaves_everything_as_it_was(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("gone/file")
    for path in (tmp_path / "file", tmp_path / "link", tmp_path / "new", tmp_path / "a" / "b" / "c"):
        try_to_write(path)
    assert names(tmp_path) == ["file", "link"]
    assert (tmp_path / "file").read_text() == "old"
