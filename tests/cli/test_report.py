"""The report command: the file it writes, what it prints, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from report_runs import a_run, train

from weighted_stream.cli import main


def test_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, shards = a_run(tmp_path, 100)
    train(tmp_path / "other", np.arange(20))
    out = tmp_path / "deep" / "report.html"
    assert main(["report", str(store), str(tmp_path / "other"), "--data", str(shards), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert re.search(r"Did the weights vary enough to matter\? +Yes", printed)
    assert printed.index("other: ") < printed.index("The two runs:") < printed.index(str(out))
    assert "! Do they compare? No sample in common" in printed.partition("The two runs:")[2]
    html = out.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    assert "default-src 'none'" in html
    assert "@@" not in html
    assert list(out.parent.iterdir()) == [out]


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "store", np.arange(20))
    (tmp_path / "file").touch()
    for arguments, says in (
        ([str(tmp_path / "missing")], "missing"),
        ([str(tmp_path / "store"), "--data", str(tmp_path / "missing")], "missing"),
        ([str(tmp_path / "store"), "--out", str(tmp_path / "file" / "report.html")], "--out"),
    ):
        assert main(["report", *arguments]) == 1
        error = capsys.readouterr().err
        assert says in error
        assert "to do:" in error
        assert "Traceback" not in error
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "store"), "--samples", "0"])
