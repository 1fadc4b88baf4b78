"""Programs of steps, crashes, resumptions, damage and forks: what a folder holds is a round of the undisturbed run."""

import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from fprune import agp, evaluate, finetune, level
from fprune.checkpoint import layout
from fprune.errors import CheckpointError, RoundDamaged
from fprune.store import folder
from tests.durability.layer import Calls, installed
from tests.durability.runs import ROWS, Run, on_rows, perceptron, state, stepped
from tests.durability.writers import WRITERS


def carrying(module: Any, carried: Any) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    if carried is not None:
        optimizer.load_state_dict(carried)
    return {"loss": stepped(module, ROWS, optimizer)}, optimizer.state_dict()


ROUNDS = 6
RUN = Run(
    agp(ROUNDS - 1) | level() | finetune(carrying, carries=True) | evaluate(on_rows), perceptron, {"sparsity": 0.75}
)


@cache
def expected() -> list[str]:
    return [state(result) for result in RUN.stream(None)]


class Crash(BaseException):
    """Ends a program where it stands, without a chance to tidy up."""


class Folders(RuleBasedStateMachine):
    """One run in one folder, and a model of it: the newest round that must be there."""

    keep = "last"

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp())
        self.folder, self.forks = self.scratch / "run", 0
        self.newest = -1
        self.stream: Any = None
        self.whole = True

    def teardown(self) -> None:
        self.close()
        shutil.rmtree(self.scratch)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.stream = None

    def opened(self) -> Any:
        if self.stream is None:
            self.stream = RUN.stream(self.folder, self.keep)
        return self.stream

    def advance(self) -> None:
        result = next(self.opened(), None)
        if result is None:
            assert self.newest == ROUNDS - 1
            self.close()
            return
        assert result.index == self.newest + 1
        assert state(result) == expected()[result.index]
        self.newest = result.index

    @precondition(lambda self: self.whole)
    @rule()
    def step(self) -> None:
        """Make one round."""
        self.advance()

    @precondition(lambda self: self.whole)
    @rule()
    def stop(self) -> None:
        """End the process in good order; the next step goes on in another."""
        self.close()

    @precondition(lambda self: self.whole and self.newest < ROUNDS - 1)
    @rule(k=st.integers(0, 24), tidy=st.booleans())
    def crash_within_a_commit(self, k: int, tidy: bool) -> None:
        """Die at some call; tidy is an exception that passes through, untidy a process that is simply gone."""
        stream = self.opened()
        copy = self.scratch / "as it was at the crash"

        def die(name: str, args: tuple[Any, ...]) -> Any:
            if not tidy and self.folder.exists():  # the first call makes it
                shutil.copytree(self.folder, copy, dirs_exist_ok=True)
            raise Crash

        try:
            with installed(Calls(k, die, start="mkdir" if self.newest >= 0 else "")):
                self.newest = next(stream).index
        except Crash:
            self.close()
            if copy.exists():
                shutil.rmtree(self.folder)
                copy.rename(self.folder)
            self.newest = max([self.newest, *self.there()])

    @precondition(lambda self: self.whole and len(self.there()) >= 2)
    @rule(
        how=st.sampled_from(["flip", "cut", "remove", "swap", "empty"]),
        file=st.sampled_from(["state.safetensors", "manifest.json"]),
        at=st.integers(0, 10**6),
    )
    def damage_the_newest(self, how: str, file: str, at: int) -> None:
        """Spoil a file of the newest round; what counts is the one before from then on."""
        self.close()
        indices = self.there()
        path = self.folder / f"it-{indices[-1]:06d}" / file
        data = path.read_bytes()
        if how == "remove":
            path.unlink()
        elif how == "swap":
            path.write_bytes((self.folder / f"it-{indices[-2]:06d}" / file).read_bytes())
        elif how == "flip":
            path.write_bytes(data[: at % len(data)] + bytes([data[at % len(data)] ^ 1]) + data[at % len(data) + 1 :])
        else:
            path.write_bytes(data[: at % len(data)] if how == "cut" else b"")
        self.newest, self.whole = indices[-2], False

    @precondition(lambda self: not self.whole)
    @rule()
    def go_on_after_damage(self) -> None:
        """The next process says which file is damaged, and makes the round again."""
        with pytest.warns(RoundDamaged, match=f"it-{self.newest + 1:06d}"):
            self.advance()
        self.whole = True

    @precondition(lambda self: self.whole and self.newest >= 0)
    @rule()
    def fork(self) -> None:
        """Go on with a copy of the folder, and leave the first."""
        self.close()
        self.forks += 1
        copy = self.scratch / f"run-{self.forks}"
        shutil.copytree(self.folder, copy)
        self.folder = copy

    def there(self) -> list[int]:
        return sorted(int(path.name[3:]) for path in self.folder.glob("it-*")) if self.folder.exists() else []

    @invariant()
    def what_is_kept_is_a_round_of_the_undisturbed_run(self) -> None:
        if self.newest < 0:
            assert self.there() == []
            return
        if not self.whole:
            with pytest.warns(RoundDamaged):
                assert state(RUN.load(self.folder)) == expected()[self.newest]
            return
        with warnings.catch_warnings(action="error"):
            found = {index: state(RUN.load(self.folder, index)) for index in self.there()}
        assert max(found, default=-1) == self.newest
        assert all(expected()[index] == digest for index, digest in found.items())
        if self.keep == "all":
            assert sorted(found) == list(range(self.newest + 1))


class AllKept(Folders):
    keep = "all"


def programs(machine: type[Folders], amount: int, phases: Any = tuple(Phase)) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            settings.get_profile("default"),
            max_examples=amount,
            stateful_step_count=10,
            phases=phases,
            derandomize=True,
        ),
    )


@pytest.mark.parametrize(
    ("machine", "amount"),
    [
        (Folders, 10),
        (AllKept, 5),
        pytest.param(Folders, 150, marks=pytest.mark.slow),
        pytest.param(AllKept, 100, marks=pytest.mark.slow),
    ],
)
def test_programs_end_where_an_undisturbed_run_ends(machine, amount):
    programs(machine, amount)


@pytest.mark.parametrize("writer", [pytest.param("old goes first", marks=pytest.mark.slow), "early name", "forgetful"])
def test_a_writer_that_is_wrong_is_caught(writer, monkeypatch):
    for module, name in ((layout, "staged"), (folder, "keep")):
        monkeypatch.setattr(module, name, getattr(module, name))  # to be put back afterwards
    expected()
    WRITERS[writer]()
    with pytest.raises((AssertionError, CheckpointError, RoundDamaged)):
        programs(Folders, 60, phases=(Phase.generate,))
