"""What a command does where its surroundings fail it: paths that are not UTF-8, streams that are closed or full."""

import json
import os
from pathlib import Path

import pytest

from ntp import cli
from ntp.case import Case, Workload
from ntp.report.text import FORMATS

SMALL = ["--vocab-size", "300", "--embed-dim", "4", "--hidden-dim", "8", "--batch-size", "2", "--seq-len", "12"]
NAME = os.fsdecode(b"\xff")
"""A name that is not UTF-8, as Python has it in a path or an argument."""

MODEL = """
from torch import nn
def make(vocab_size):
    return nn.Embedding(vocab_size, vocab_size)
"""


class TestPathsThatAreNotUtf8:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch, capsys):
        """A command in a folder with a text and a model of such names."""
        monkeypatch.chdir(tmp_path)
        Path(f"{NAME}.txt").write_text("abcdefgh" * 100)
        Path(f"{NAME}.py").write_text(MODEL)

        def run(*arguments: str) -> tuple[int, str, str]:
            status = cli.main(arguments)
            return (status, *capsys.readouterr())

        return run

    @pytest.mark.parametrize("options", [("--data", f"file:{NAME}.txt"), ("--model", f"{NAME}.py:make")])
    def test_training_is_saved_goes_on_and_predicts(self, run, options):
        train = ["train", *SMALL, *options, "--checkpoint", f"saved{NAME}", "--json"]
        assert run(*train, "--steps", "2")[0] == 0
        status, out, err = run(*train, "--steps", "4")
        assert (status, err) == (0, "ntp: going on from step 2\n")
        assert json.loads(out.splitlines()[-1])["summary"]["steps"] == 4
        trusted = options if "--model" in options else ()
        status, out, err = run("predict", "--checkpoint", f"saved{NAME}", "--prompt-ids", "1,2", *trusted)
        assert (status, len(out.split(",")), err) == (0, 16, "")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("report", f"{NAME}.json"),
            ("compare", f"{NAME}.json", f"other{NAME}.json"),
            ("predict", "--checkpoint", NAME, "--prompt-ids", "1"),
            ("train", f"--{NAME}"),
            ("train", "--data", NAME),
            ("train", "--optimizer", NAME),
            ("tune", "--out", "/dev/null/" + NAME),
        ],
    )
    def test_what_is_refused_is_one_line_that_shows_the_byte(self, run, arguments):
        status, out, err = run(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert r"\udcff" in err

    def test_a_model_may_say_anything(self, run):
        Path("model.py").write_text(f"def make(): raise ValueError({NAME + chr(0xD800)!r})")
        status, _, err = run("train", *SMALL, "--model", "model.py:make")
        assert (status, err.count("\n")) == (2, 1)
        assert r"ValueError: \udcff\ud800 " in err

    def test_a_run_of_such_a_case_is_reported_compared_and_kept(self, run, make_measurement, make_run):
        from ntp.measure.runfile import document_of, text_of

        case = Case(workload=Workload(model=f"{NAME}.py:make", data=f"file:{NAME}.txt"))
        path = Path(f"run{NAME}.json")
        path.write_text(text_of(document_of(make_run(make_measurement(case), command=("ntp", NAME)))))
        for format_ in (*FORMATS, "html"):
            status, out, err = run("report", str(path), "--format", format_)
            assert (status, err) == (0, "")
            assert out.encode()
            assert r"\udcff" in out
            assert "%FF.py:make" in out
        assert run("compare", str(path), str(path))[0] == 0
        assert run("compare", str(path), str(path), "--format", "html")[0] == 0
        status, out, _ = run("baseline", str(path), "--out", NAME)
        assert status == 0
        assert r"Written: \udcff/" in out
