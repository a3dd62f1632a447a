"""The kernel's view of memory."""

import mmap
import resource

import pytest

from ntp.machine.memory import anonymous_bytes, peak_rss_bytes, reset_peak_rss, usage_so_far


def test_peak_is_read_from_vmhwm(tmp_path):
    status = tmp_path / "proc/self/status"
    status.parent.mkdir(parents=True)
    status.write_text("Name:\tpython\nVmPeak:\t  999999 kB\nVmHWM:\t   12345 kB\nVmRSS:\t     400 kB\n")
    assert peak_rss_bytes(tmp_path) == 12345 * 1024


def test_what_no_file_backs_is_read_from_rssanon(tmp_path):
    assert anonymous_bytes(tmp_path) is None
    status = tmp_path / "proc/self/status"
    status.parent.mkdir(parents=True)
    status.write_text("VmHWM:\t   12345 kB\nVmRSS:\t     700 kB\nRssAnon:\t     400 kB\nRssFile:\t     300 kB\n")
    assert anonymous_bytes(tmp_path) == 400 * 1024


def test_without_proc_the_peak_is_that_of_getrusage(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert peak_rss_bytes(tmp_path) >= before


def test_touching_new_pages_counts_as_minor_faults():
    pages = 256
    with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        before = usage_so_far()
        for page in range(pages):
            memory[page * mmap.PAGESIZE] = 1
        after = usage_so_far()
    assert after.since(before).minor_page_faults >= pages
    assert after.major_page_faults >= before.major_page_faults


def test_the_peak_is_reset_where_the_kernel_allows_it(tmp_path):
    clear_refs = tmp_path / "proc/self/clear_refs"
    clear_refs.parent.mkdir(parents=True)
    clear_refs.touch()
    assert reset_peak_rss(tmp_path)
    assert clear_refs.read_text() == "5"


def test_without_proc_the_peak_stays(tmp_path):
    assert not reset_peak_rss(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_after_a_reset_what_was_freed_does_not_count():
    size_bytes = 64 * 2**20
    with mmap.mmap(-1, size_bytes) as memory:
        for offset in range(0, size_bytes, mmap.PAGESIZE):
            memory[offset] = 1
        before = peak_rss_bytes()
    if not reset_peak_rss():
        pytest.skip("this kernel does not let a process reset its peak")
    assert peak_rss_bytes() < before - size_bytes // 2
