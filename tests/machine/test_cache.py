"""Records of a machine are kept and loaded again."""

from pathlib import Path

import pytest

from ntp.case import Case
from ntp.errors import RecordError
from ntp.machine.cache import cache_dir, load_kept, save_kept
from ntp.records.calibration import Calibration, RememberedCase, RememberedRun
from ntp.records.peaks import MachinePeaks

RUN = RememberedRun(started="2025-01-02", code="c1", medians_ns=(1, 2), kernel_ns=(1, None))
CALIBRATION = Calibration(machine="m1", software="s1", cases=(RememberedCase(case=Case(), runs=(RUN,)),))
PEAKS = MachinePeaks(machine="m1", software="s1", warnings=("the disk was full",))

each_kind = pytest.mark.parametrize("record", [CALIBRATION, PEAKS])


@each_kind
def test_what_is_kept_comes_back_for_its_machine_and_software(tmp_path, record):
    kind, folder = type(record), tmp_path / "deep"
    assert load_kept(kind, "m1", "s1", folder) == kind(machine="m1", software="s1")
    save_kept(record, folder)
    assert load_kept(kind, "m1", "s1", folder) == record
    assert load_kept(kind, "m1", "s2", folder) == kind(machine="m1", software="s2")


def test_each_kind_has_a_file_of_its_own(tmp_path):
    save_kept(CALIBRATION, tmp_path)
    save_kept(PEAKS, tmp_path)
    assert load_kept(Calibration, "m1", "s1", tmp_path) == CALIBRATION
    assert load_kept(MachinePeaks, "m1", "s1", tmp_path) == PEAKS


@each_kind
@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda _: "", lambda _: "[]", lambda _: "\0"])
def test_a_damaged_file_counts_as_empty(tmp_path, record, damage):
    save_kept(record, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(damage(file.read_text()))
    assert load_kept(type(record), "m1", "s1", tmp_path) == type(record)(machine="m1", software="s1")


@each_kind
def test_a_file_of_another_schema_counts_as_empty(tmp_path, record):
    save_kept(record.model_copy(update={"schema_version": 99}), tmp_path)
    assert load_kept(type(record), "m1", "s1", tmp_path) == type(record)(machine="m1", software="s1")


@each_kind
def test_a_file_of_another_machine_under_this_name_is_not_believed(tmp_path, record):
    save_kept(record.model_copy(update={"machine": "m2"}), tmp_path)
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / file.name.replace("m2", "m1"))
    assert load_kept(type(record), "m1", "s1", tmp_path) == type(record)(machine="m1", software="s1")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be written"):
        save_kept(CALIBRATION, tmp_path / "file")


def test_where_it_is(tmp_path):
    assert cache_dir({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "ntp"
    home = Path("~/.cache/ntp").expanduser()
    assert cache_dir({}) == cache_dir({"XDG_CACHE_HOME": "relative"}) == home


def test_a_user_without_a_home_has_nothing_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    assert load_kept(MachinePeaks, "m1", "s1") == MachinePeaks(machine="m1", software="s1")
