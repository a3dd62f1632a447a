"""``ntp doctor``, where peaks and spreads need no process."""

from ntp.errors import WorkerFailed
from ntp.judge.disturbance import Spreads


def test_doctor_says_what_the_machine_is(call, make_peaks, monkeypatch):
    monkeypatch.setattr("ntp.runners.roofline.measure_peaks", lambda *_, **__: make_peaks(fp32=123))
    monkeypatch.setattr("ntp.runners.disturbance.spreads", lambda *_, **__: Spreads(quiet=0.021, plain=0.02))
    result = call("doctor")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("Step times vary by about 2.1% here.")
    assert "Machine fingerprint" in result.out
    assert "torch" in result.out
    assert "123 GFLOP/s" in result.out


def test_doctor_says_that_ntp_is_not_tested_with_this_torch(call, make_peaks, monkeypatch):
    monkeypatch.setattr("ntp.runners.roofline.measure_peaks", lambda *_, **__: make_peaks(fp32=123))
    monkeypatch.setattr("ntp.runners.disturbance.spreads", lambda *_, **__: Spreads(quiet=0.021, plain=0.02))
    monkeypatch.setattr("ntp.machine.software.tested_with", lambda package: f"1.0.0 of {package}")
    result = call("doctor")
    assert result.status == 0
    assert "untested-torch: this is torch" in result.out
    assert "1.0.0 of torch" in " ".join(result.out.split())


def test_doctor_without_peaks_says_so_and_tells_the_rest(call, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise WorkerFailed("the probe was killed")

    monkeypatch.setattr("ntp.runners.roofline.measure_peaks", fail)
    monkeypatch.setattr("ntp.runners.disturbance.spreads", fail)
    result = call("doctor")
    lost = ("no step could be timed", "the peaks could not be measured")
    assert (result.status, result.err.splitlines()) == (0, [f"ntp: {what}: the probe was killed" for what in lost])
    assert "Machine fingerprint" in result.out
