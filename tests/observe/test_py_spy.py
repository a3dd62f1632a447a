import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ntp.observe import py_spy
from ntp.observe.py_spy import allow_tracing, explain, find_py_spy, record_flame
from ntp.records.flame import Flame

DENIED = "Permission Denied: Try running again with elevated permissions by going 'sudo env \"PATH=$PATH\" !!'"
GONE = (
    "Error: Failed to get process executable name. Check that the process is running.\n\nCaused by:\n"
    "    0: No such file or directory (os error 2)\n\nStack backtrace:\n   0: py_spy::main\n   1: permission denied"
)
FULL = "py-spy> Sampling process\n\nError: No space left on device (os error 28)\n\nStack backtrace:\n   0: main"


class FakePySpy:
    """An executable whose Python body sees ``form``, ``native``, ``out`` (a path) and ``write(samples, errors)``."""

    def __init__(self, folder: Path, body: str) -> None:
        self._log = folder / "log"
        self._script = folder / "py_spy.py"
        head = f"""
            import json, sys, time
            open({str(self._log)!r}, "a").write(json.dumps(sys.argv[1:]) + chr(10))
            options = dict(a[2:].partition("=")[::2] for a in sys.argv[2:])
            form, native, out = options["format"], "native" in options, options["output"]
            def write(samples=9, errors=1):
                open(out, "w").write("{{}}" if form == "speedscope" else "<svg></svg>")
                print(f"py-spy> Wrote it to '{{out}}'. Samples: {{samples}} Errors: {{errors}}", file=sys.stderr)
            def fail(text):
                print(text, file=sys.stderr)
                sys.exit(1)
        """
        self._script.write_text(textwrap.dedent(head) + textwrap.dedent(body))
        self.out_dir = folder / "out"

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def record(self, **options) -> Flame:
        command = (sys.executable, "-I", "-S", str(self._script))
        return record_flame(4711, 2.0, self.out_dir, command=command, **options)

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.out_dir.iterdir()}


@pytest.mark.parametrize(("form", "half"), [("flamegraph", "<svg><g>"), ("speedscope", '{"shared": {"fra')])
def test_half_a_file_that_py_spy_takes_for_a_whole_one_does_not_stay(tmp_path, form, half):
    spy = FakePySpy(tmp_path, f"write()\nif form == {form!r}: open(out, 'w').write({half!r})")
    recorded = spy.record()
    name = {"flamegraph": "flame.svg", "speedscope": "flame.speedscope.json"}[form]
    assert name not in spy.files
    (warning,) = recorded.warnings
    assert warning.message.startswith(f"{name} could not be written: ")
    assert warning.kind == "no-space"


def test_two_recordings_of_the_same_process(tmp_path):
    spy = FakePySpy(tmp_path, "write()")
    recorded = spy.record()
    assert recorded == Flame(
        speedscope="flame.speedscope.json",
        svg="flame.svg",
        native=True,
        samples=18,
        errors=2,
        rate_hz=100,
    )
    assert spy.files == {"flame.speedscope.json", "flame.svg"}
    common = ["record", "--pid=4711", "--duration=2", "--rate=100"]
    assert spy.calls == [
        [*common, "--format=speedscope", "--output=flame.speedscope.json", "--native"],
        [*common, "--format=flamegraph", "--output=flame.svg", "--native"],
    ]
    assert Flame.model_validate_json(recorded.model_dump_json()) == recorded


def test_python_only_where_native_does_not_work_and_it_says_so(tmp_path):
    spy = FakePySpy(tmp_path, "fail('error: unexpected argument --native found') if native else write()")
    recorded = spy.record()
    assert recorded.svg
    assert recorded.speedscope
    assert not recorded.native
    (warning,) = recorded.warnings
    assert warning.kind == "python-only"
    assert "unexpected argument --native" in warning.message
    assert ["--native" in call for call in spy.calls] == [True, False, False]


def test_native_frames_without_a_single_stack_do_not_count(tmp_path):
    recorded = FakePySpy(tmp_path, "write(0, 200) if native else write()").record()
    assert (recorded.native, recorded.samples) == (False, 18)
    assert [warning.kind for warning in recorded.warnings] == ["python-only"]


def test_python_only_on_request_is_no_warning(tmp_path):
    spy = FakePySpy(tmp_path, "write()")
    recorded = spy.record(native=False)
    assert (recorded.native, recorded.warnings) == (False, ())
    assert not any("--native" in call for call in spy.calls)


def test_native_on_request_is_native_or_nothing(tmp_path):
    spy = FakePySpy(tmp_path, "fail('cannot unwind') if native else write()")
    recorded = spy.record(native=True)
    assert (recorded.speedscope, recorded.svg, recorded.native) == (None, None, False)
    assert [warning.kind for warning in recorded.warnings] == ["failed"]
    assert len(spy.calls) == 1


@pytest.mark.parametrize(
    ("text", "kind", "remedy"),
    [
        (DENIED, "not-permitted", "ptrace_scope"),
        ("Error: Operation not permitted (os error 1)", "not-permitted", "SYS_PTRACE"),
        (GONE, "process-gone", "more steps"),
    ],
)
def test_what_cannot_get_better_is_tried_once(tmp_path, text, kind, remedy):
    spy = FakePySpy(tmp_path, f"fail({text!r})")
    recorded = spy.record()
    (warning,) = recorded.warnings
    assert (warning.kind, remedy in warning.advice) == (kind, True)
    assert "backtrace" not in warning.message
    assert "\n" not in warning.message
    assert len(spy.calls) == 1
    assert spy.files == set()
    assert (recorded.speedscope, recorded.svg, recorded.native, recorded.samples) == (None, None, False, 0)


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path):
    spy = FakePySpy(tmp_path, f"write() if form == 'flamegraph' else (open(out, 'w').write('['), fail({FULL!r}))")
    recorded = spy.record()
    assert spy.files == {"flame.svg"}
    assert recorded.speedscope is None
    assert recorded.native
    (warning,) = recorded.warnings
    assert warning.kind == "no-space"
    assert warning.message == "py-spy: No space left on device (os error 28)"


def test_a_process_that_ends_between_the_recordings(tmp_path):
    recorded = FakePySpy(tmp_path, f"write() if form == 'speedscope' else fail({GONE!r})").record()
    assert recorded.speedscope
    assert recorded.svg is None
    assert [warning.kind for warning in recorded.warnings] == ["process-gone"]


def test_an_idle_process_gives_no_samples(tmp_path):
    spy = FakePySpy(tmp_path, "write(0, 0)")
    recorded = spy.record()
    assert [warning.kind for warning in recorded.warnings] == ["no-samples"]
    assert spy.files == set()


def test_success_without_a_file_is_a_failure(tmp_path):
    recorded = FakePySpy(tmp_path, "pass").record()
    assert [(warning.kind, warning.message) for warning in recorded.warnings] == [("failed", "py-spy: exit status 0")]


def test_a_py_spy_that_hangs_is_ended(tmp_path):
    spy = FakePySpy(tmp_path, "time.sleep(60)")
    recorded = spy.record(native=False, grace_s=-1.5)
    assert [warning.kind for warning in recorded.warnings] == ["timed-out"]


def test_files_of_an_earlier_recording_do_not_pass_for_this_one(tmp_path):
    FakePySpy(tmp_path, "write()").record()
    spy = FakePySpy(tmp_path, "fail('no')")
    spy.record(native=False)
    assert spy.files == set()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "out").write_text("")
    recorded = FakePySpy(tmp_path, "write()").record()
    assert [warning.kind for warning in recorded.warnings] == ["failed"]
    assert "cannot be written" in recorded.warnings[0].message


def test_a_py_spy_that_cannot_be_started(tmp_path):
    recorded = record_flame(1, 1.0, tmp_path, native=False, command=(str(tmp_path / "missing"),))
    assert [warning.kind for warning in recorded.warnings] == ["no-py-spy"]


def test_no_py_spy_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(py_spy, "find_py_spy", lambda: None)
    recorded = record_flame(1, 1.0, tmp_path)
    (warning,) = recorded.warnings
    assert (warning.kind, warning.advice) == ("no-py-spy", "pip install py-spy")


def test_words_that_nobody_knows_are_passed_on():
    warning = explain("Error: Failed to find python version from target process\n\nStack backtrace:\n 0: x", 1)
    assert (warning.kind, warning.message) == ("failed", "py-spy: Failed to find python version from target process")
    assert explain("", 7).message == "py-spy: exit status 7"


BUSY = """
import sys
from ntp.observe.py_spy import allow_tracing

def busy_loop():
    while True:
        sum(range(1000))

allow_tracing()
print("ready", flush=True)
busy_loop()
"""


def test_a_real_recording(tmp_path):
    if find_py_spy() is None:
        pytest.skip("py-spy is not installed")
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout is not None
            assert busy.stdout.readline() == b"ready\n"
            recorded = record_flame(busy.pid, 1.0, tmp_path)
        finally:
            busy.kill()
    for warning in recorded.warnings:
        if warning.kind == "not-permitted":
            pytest.skip(warning.message)
    assert recorded.speedscope
    assert recorded.svg
    assert recorded.samples > 0
    names = {frame["name"] for frame in json.loads((tmp_path / recorded.speedscope).read_text())["shared"]["frames"]}
    assert "busy_loop" in names
    assert "busy_loop" in (tmp_path / recorded.svg).read_text()


def test_the_recording_names_no_folder_of_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = ["/home/me/lib/python3/site-packages/torch/nn.py", f"{tmp_path}/mine/model.py", "/usr/lib/libc.so.6", "<x>"]
    recording = tmp_path / "flame.speedscope.json"
    recording.write_text(json.dumps({"name": "py-spy", "shared": {"frames": [{"file": f} for f in files] + [{}]}}))
    py_spy._shorten_paths(recording)
    frames = json.loads(recording.read_text())["shared"]["frames"]
    assert frames == [{"file": "torch/nn.py"}, {"file": "mine/model.py"}, {"file": "libc.so.6"}, {"file": "<x>"}, {}]


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux' own")
def test_the_picture_names_no_path(tmp_path):
    picture = tmp_path / "flame.svg"
    picture.write_text('<svg><text id="title" x="5">/home/me/py-spy record</text><text id="details">kept</text></svg>')
    py_spy._retitle(picture, "7 samples")
    assert picture.read_text() == '<svg><text id="title" x="5">7 samples</text><text id="details">kept</text></svg>'


def test_allow_tracing_asks_for_any_tracer_of_this_process(monkeypatch):
    asked = []

    class Library:
        def prctl(self, *arguments):
            asked.append([getattr(argument, "value", argument) for argument in arguments])

    monkeypatch.setattr(py_spy.ctypes, "CDLL", lambda _name: Library())
    allow_tracing()
    assert asked == [[int.from_bytes(b"Yama", "big"), -1, 0, 0, 0]]
