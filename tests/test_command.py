"""`python -m fprune inspect` and `diff`: what they print, and their exit codes."""

from pathlib import Path

import pytest

from fprune import __main__ as command
from tests.unit.store.running import run_in


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run_in(folder / "a", rounds=2)
    run_in(folder / "b", rounds=2, sparsity=0.75)
    run_in(folder / "torn", rounds=2)
    run_in(folder / "lost", rounds=2)
    (folder / "torn" / "it-000002" / "state.safetensors").write_bytes(b"")
    (folder / "lost" / "run.json").write_bytes(b"{}")
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "printed"),
    [
        (["inspect", "a"], 0, "3 of 3 rounds kept"),
        (["inspect", "torn"], 1, "0 bytes, expected"),
        (["inspect", "lost"], 1, "run.json"),
        (["inspect", "."], 2, "so this is no run"),
        (["inspect", "nowhere"], 2, "so this is no run"),
        (["diff", "a", "a"], 0, "a and a are equal"),
        (["diff", "a", "b"], 1, "Config(0.75)"),
        (["diff", "a", "torn"], 1, "2: damaged"),
        (["diff", "a", "lost"], 2, "run.json"),
        (["diff", "a", "nowhere"], 2, "so this is no run"),
    ],
)
def test_exit_codes(
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    printed: str,
) -> None:
    monkeypatch.chdir(runs)
    assert command.main(arguments) == code
    out, err = capsys.readouterr()
    assert printed in (err if code == 2 or arguments[-1] == "lost" else out)
