"""The kernel's view of memory."""

import mmap
import resource

from ntp.measure.memory import page_faults, peak_rss_bytes


def test_peak_is_read_from_vmhwm(tmp_path):
    status = tmp_path / "proc/self/status"
    status.parent.mkdir(parents=True)
    status.write_text("Name:\tpython\nVmPeak:\t  999999 kB\nVmHWM:\t   12345 kB\nVmRSS:\t     400 kB\n")
    assert peak_rss_bytes(tmp_path) == 12345 * 1024


def test_without_proc_the_peak_is_that_of_getrusage(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert peak_rss_bytes(tmp_path) >= before


def test_touching_new_pages_counts_as_minor_faults():
    pages = 256
    with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        before = page_faults()
        for page in range(pages):
            memory[page * mmap.PAGESIZE] = 1
        after = page_faults()
    assert after.minor - before.minor >= pages
    assert after.major >= before.major
