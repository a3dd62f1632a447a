"""A process that has torch loaded and forks itself into workers: they start in a tenth of the time.

Run as a script, ``python fork_server.py PARENT_PID SOCKET_FD SOURCE MODULE...``, in the environment of the workers'
runtime. It imports the named modules, none of ``ntp``: that comes from the source of the worker that is asked for
(:mod:`ntp.worker.bootstrap`, which is loaded from beside this file). Where all workers have the same source, ``SOURCE``
is that source as JSON, and not ``null``: then ntp is imported here, too, which takes as long as the rest of a worker's
start. It starts no thread, since a thread does not survive a fork.

Requests come over the socket, one JSON object a message, and are answered in order:

    {"fork": SOURCE, "mark": MARK}, with three file descriptors for standard input, output and error -> {"pid": PID}
    {"ready": true} -> {}, once the modules are imported
    {"poll": PID} -> {"status": EXIT STATUS, minus the number of the signal it died of, or null while it runs}
"""

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

MESSAGE_BYTES = 1 << 20

WORKER = "ntp.worker.worker"
"""The module that a worker runs."""

MARK = "NTP_WORKER"
"""The environment variable that says which worker a process is, or was started by."""


def _load(modules: list[str], source: dict[str, Any] | None, bootstrap: ModuleType) -> None:
    for module in modules:
        importlib.import_module(module)
    if "torch" in modules:
        import torch

        # The first optimizer loads the compiler, as long a wait as torch itself.
        torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    if source is not None:
        _arrange(source, bootstrap)
        importlib.import_module(WORKER).load_modules()
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page of what is here


def _take_mark(mark: str) -> None:
    """Give this child a mark of its own, both where the kernel shows it and for the processes that it starts."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    # To the kernel, a fork's environment is the memory that the server was started with, where a mark has this length.
    ctypes.memmove(getenv(MARK.encode()), mark.encode(), len(mark))
    os.environ[MARK] = mark


def _bootstrap() -> ModuleType:
    """Load the file beside this one, which is not a module of an ntp here."""
    spec = importlib.util.spec_from_file_location("_ntp_bootstrap", Path(__file__).with_name("bootstrap.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _arrange(source: dict[str, Any], bootstrap: ModuleType) -> None:
    sys.dont_write_bytecode = True  # the folder may be the user's own: nothing is to be left there
    bootstrap.arrange(source)


def _become_worker(request: dict[str, Any], descriptors: list[int], server_pid: int, bootstrap: ModuleType) -> None:
    """Run the worker's module in its folder, as a child. This does not return."""
    status = 1
    try:
        os.setpgid(0, 0)  # in the server's session: see ntp.worker.launch.new_process
        _take_mark(request["mark"])
        for standard, descriptor in enumerate(descriptors):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        source = request["fork"]
        os.chdir(source["folder"])
        sys.argv = ["worker", str(server_pid)]
        if WORKER in sys.modules:
            sys.modules[WORKER].main()
        else:
            _arrange(source, bootstrap)
            runpy.run_module(WORKER, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:  # noqa: BLE001  (as the interpreter would at the end of a script)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _answer(
    request: dict[str, Any], descriptors: list[int], requests: socket.socket, bootstrap: ModuleType
) -> dict[str, object]:
    if "fork" in request:
        server_pid = os.getpid()
        pid = os.fork()
        if not pid:
            requests.close()
            _become_worker(request, descriptors, server_pid, bootstrap)
        # Here as well as in the child, whichever is first: once answered, the parent may end the whole group.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        for descriptor in descriptors:
            os.close(descriptor)
        return {"pid": pid}
    if "ready" in request:
        return {}
    pid, status = os.waitpid(request["poll"], os.WNOHANG)
    return {"status": os.waitstatus_to_exitcode(status) if pid else None}


def main() -> None:
    """Serve until the socket is closed."""
    parent_pid, socket_fd, source, *modules = sys.argv[1:]
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != int(parent_pid):  # it died before we asked
        return
    bootstrap = _bootstrap()
    _load(modules, json.loads(source), bootstrap)
    with socket.socket(fileno=int(socket_fd)) as requests:
        while True:
            message, descriptors, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 3)
            if not message:
                return
            requests.send(json.dumps(_answer(json.loads(message), descriptors, requests, bootstrap)).encode())


if __name__ == "__main__":
    main()
