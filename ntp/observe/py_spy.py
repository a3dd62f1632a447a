"""Flame graphs of a running worker, by py-spy.

py-spy reads the stacks of a process from outside and stops it for each look, so that a step is slower meanwhile:
nothing is timed during a recording. It attaches to a worker that is warmed up already, which keeps import and warm-up
out of the picture. The stacks are right because it is stopped (``--nonblocking`` may tear them, and forbids native
frames).
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from ntp.case import Frozen
from ntp.files import replacing
from ntp.records.flame import Flame, FlameWarning, Kind

RATE_HZ = 100
_GRACE_S = 60.0
"""Time for py-spy beside the recording itself: native symbols of a library of a gigabyte take seconds to load."""

_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = -1

_FILES = {"speedscope": "flame.speedscope.json", "flamegraph": "flame.svg"}
FLAME_FILES = tuple(_FILES.values())

_CAUSES: tuple[tuple[Kind, str, str], ...] = (
    (
        "not-permitted",
        r"permission denied|operation not permitted|EPERM",
        "allow one process to look into another: sudo sysctl kernel.yama.ptrace_scope=0, or in a container "
        "--cap-add=SYS_PTRACE; elsewhere, as on macOS, run as root",
    ),
    (
        "process-gone",
        r"no such process|check that the process is running|process exited|ESRCH",
        "the worker ended too early: give it more steps to run than the recordings need",
    ),
    ("no-space", r"no space left|disk quota exceeded", "free the disk or choose another folder"),
)


def allow_tracing() -> None:
    """Let any process of this user look into this one, where Linux' Yama would let only its ancestors (prctl(2)).

    Called by a worker, it makes a recording possible under ptrace_scope 1, the default of many distributions, without
    root. It has no effect where Yama is not in force.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_long(_PR_SET_PTRACER_ANY), 0, 0, 0)


def find_py_spy() -> str | None:
    """The py-spy of this Python environment, else the one on the PATH."""
    return shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")


def record_flame(
    pid: int,
    duration_s: float,
    out_dir: Path,
    native: bool | None = None,
    *,
    rate_hz: int = RATE_HZ,
    command: Sequence[str] | None = None,
    grace_s: float = _GRACE_S,
) -> Flame:
    """Record a running process twice, for ``duration_s`` seconds: ``flame.speedscope.json``, then ``flame.svg``.

    Nothing is raised: what goes wrong becomes a warning of the result. Files of an earlier recording are removed.

    Args:
        pid: the process, warmed up and busy for twice the duration and some seconds more.
        duration_s: seconds of one recording; py-spy takes whole seconds, at least one.
        out_dir: where the files go; created if need be.
        native: whether frames of C and C++ are recorded; None: where that works.
        rate_hz: samples a second.
        command: py-spy's command line; None: the py-spy that is found.
        grace_s: how much longer than the recording py-spy may take.
    """
    if command is None:
        py_spy = find_py_spy()
        if py_spy is None:
            return Flame(rate_hz=rate_hz, warnings=(_NO_PY_SPY,))
        command = (py_spy,)
    recorder = _Recorder(command, pid, max(1, round(duration_s)), rate_hz, grace_s)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for name in _FILES.values():
            (out_dir / name).unlink(missing_ok=True)
    except OSError as error:
        warning = _warning(f"{out_dir} cannot be written: {error.strerror}", "failed", "choose another folder")
        return Flame(rate_hz=rate_hz, warnings=(warning,))
    warnings: list[FlameWarning] = []
    first = recorder.record("speedscope", out_dir, native is not False)
    if native is None and first.warning and first.warning.kind in {"failed", "no-samples", "timed-out"}:
        why = f"native frames could not be recorded: {first.warning.message}"
        first = recorder.record("speedscope", out_dir, False)
        if first.file:
            warnings.append(_warning(why, "python-only", "read the operators' own times for what lies below Python"))
    recordings = [first]
    # What spoils one recording spoils the next as well, but for a disk that is too full for the larger of the files.
    if first.warning is None or first.warning.kind == "no-space":
        recordings.append(recorder.record("flamegraph", out_dir, first.native))
    return Flame(
        speedscope=first.file,
        svg=recordings[1].file if len(recordings) > 1 else None,
        native=first.native and any(recording.file for recording in recordings),
        samples=sum(recording.samples for recording in recordings),
        errors=sum(recording.errors for recording in recordings),
        rate_hz=rate_hz,
        warnings=(*warnings, *(recording.warning for recording in recordings if recording.warning)),
    )


class _Recording(Frozen):
    """One run of py-spy."""

    native: bool
    file: str | None = None
    samples: int = 0
    errors: int = 0
    warning: FlameWarning | None = None


class _Recorder:
    """Runs py-spy on one process."""

    def __init__(self, command: Sequence[str], pid: int, duration_s: int, rate_hz: int, grace_s: float) -> None:
        self._command = command
        self._pid = pid
        self._duration_s = duration_s
        self._rate_hz = rate_hz
        self._grace_s = grace_s

    def record(self, form: str, out_dir: Path, native: bool) -> _Recording:
        path = out_dir / _FILES[form]
        arguments = {"pid": self._pid, "duration": self._duration_s, "rate": self._rate_hz, "format": form}
        options = [f"--{name}={value}" for name, value in arguments.items()]
        line = [*self._command, "record", *options, f"--output={path.name}", *(["--native"] if native else [])]
        try:
            done = subprocess.run(
                line,
                cwd=out_dir,  # py-spy takes no path that is not UTF-8
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=self._duration_s + self._grace_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return self._missing(path, native, _timed_out(self._duration_s + self._grace_s))
        except OSError as error:
            gone = _NO_PY_SPY.model_copy(update={"message": f"py-spy cannot be started: {error.strerror}"})
            return self._missing(path, native, gone)
        output = done.stdout.decode(errors="backslashreplace")
        counts = re.search(r"Samples: (\d+) Errors: (\d+)", output)
        samples, errors = (int(counts[1]), int(counts[2])) if counts else (0, 0)
        if done.returncode or not path.is_file():
            return self._missing(path, native, explain(output, done.returncode))
        if counts and not samples:
            return self._missing(path, native, _no_samples(errors))
        try:
            if form == "flamegraph":
                _retitle(path, f"{samples} samples of a running worker at {self._rate_hz} Hz")
            else:
                _shorten_paths(path)
        except (OSError, ValueError) as error:  # a full disk; half a file, which py-spy takes for a whole one
            message = f"{path.name} could not be written: {error}"
            return self._missing(path, native, _warning(message, "no-space", "free the disk or choose another folder"))
        return _Recording(native=native, file=path.name, samples=samples, errors=errors)

    def _missing(self, path: Path, native: bool, warning: FlameWarning) -> _Recording:
        """Return no recording, and remove whatever part of a file there is: it would pass for a whole one."""
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return _Recording(native=native, warning=warning)


def _retitle(path: Path, title: str) -> None:
    """Name the picture: py-spy's title is its command line, with paths that name a user and a machine."""
    text = path.read_text(encoding="utf-8")
    if not text.rstrip().endswith("</svg>"):
        raise ValueError("it ends too early")
    _rewrite(path, re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\g<1>{title}", text))


def _rewrite(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def _shorten_paths(path: Path) -> None:
    """Cut each frame's file down to its path in a package or below this folder, else to its name."""
    document = json.loads(path.read_text(encoding="utf-8"))
    here = f"{Path.cwd()}{os.sep}"
    for frame in document.get("shared", {}).get("frames", []):
        file = frame.get("file") or ""
        _, installed, within = file.rpartition("site-packages/")
        if installed:
            frame["file"] = within
        elif file.startswith(here):
            frame["file"] = file.removeprefix(here)
        elif os.path.isabs(file):
            frame["file"] = os.path.basename(file)
    document["name"] = path.stem
    _rewrite(path, json.dumps(document))


def explain(output: str, status: int) -> FlameWarning:
    """Turn py-spy's own words into a warning. Its backtrace is left out, its causes are kept."""
    lines = [line.strip() for line in output.partition("Stack backtrace:")[0].splitlines()]
    lines = [line for line in lines if line and not line.startswith("py-spy>") and line != "Caused by:"]
    words = "; ".join(dict.fromkeys(re.sub(r"^(Error|\d+): ", "", line) for line in lines)) or f"exit status {status}"
    for kind, pattern, advice in _CAUSES:
        if re.search(pattern, words, re.IGNORECASE):
            return _warning(f"py-spy: {words}", kind, advice)
    return _warning(f"py-spy: {words}", "failed", "is the process a Python that this py-spy knows? upgrade py-spy")


def _warning(message: str, kind: Kind, advice: str) -> FlameWarning:
    return FlameWarning(kind=kind, message=message, advice=advice)


def _timed_out(seconds: float) -> FlameWarning:
    return _warning(f"py-spy was not done after {seconds:g} s", "timed-out", "the machine is too busy: try again later")


def _no_samples(errors: int) -> FlameWarning:
    return _warning(
        f"py-spy took no sample, with {errors} errors",
        "no-samples",
        "the process was idle, or its stacks could not be read: record while it runs steps",
    )


_NO_PY_SPY = _warning("py-spy is not installed", "no-py-spy", "pip install py-spy")
