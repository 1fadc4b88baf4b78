"""Kill real runs, look at what is left, go on, and compare with a run that nothing disturbs.

`python -m tests.durability.killing` reads orders, JSON on a line each, and prints a report for each. It pays for its
imports and for tracing once, and forks for every trial. All that a child tells is a line for each round, forced to the
disk after the round was committed; whatever it has told must be there, whenever it dies.
"""

import json
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from attrs import define, field

from tests.durability.layer import Event, install
from tests.durability.runs import RUNS, reference, state
from tests.durability.writers import WRITERS


@define
class Trial:
    """One run in a folder of its own, from its first process to its end."""

    name: str
    folder: Path
    expected: list[str]
    keep: str
    writer: str | None
    problems: list[str] = field(factory=list)
    kills: int = 0

    @property
    def told(self) -> list[tuple[int, str]]:
        path = self.folder.parent / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(index), digest) for index, digest in map(str.split, lines)]

    def child(self, event: Event | None) -> None:
        """Run to the end, and tell of every round after it was committed."""
        if self.writer is not None:
            WRITERS[self.writer]()
        if event is not None:
            install(event)
        descriptor = os.open(self.folder.parent / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for result in RUNS[self.name].stream(self.folder, self.keep):
            os.write(descriptor, f"{result.index} {state(result)}\n".encode())
            os.fsync(descriptor)

    def process(self, act: Callable[[int], None], event: Event | None = None) -> int:
        """Start a process that runs, do something to it, and wait for it; returns how it ended."""
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                self.child(event)
                os._exit(0)
            except BaseException:
                (self.folder.parent / "failed").write_text(traceback.format_exc())
                os._exit(3)
        act(pid)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            self.kills += 1
            return -os.WTERMSIG(status)
        if os.waitstatus_to_exitcode(status):
            text = (self.folder.parent / "failed").read_text()
            self.problems.append(f"the run cannot go on: {' '.join(text.splitlines()[-2:])}")
        return os.waitstatus_to_exitcode(status)

    def look(self, alive: bool = False) -> None:
        """Read what can be seen: it must be whole, as it should be, and hold all that was told of."""
        told = self.told
        if not (self.folder / "run.json").exists():
            if told:
                self.problems.append("lost: the whole run")
            return
        try:
            with warnings.catch_warnings(action="error"):
                newest = RUNS[self.name].load(self.folder) if told else None
                visible = [] if alive else sorted(self.folder.glob("it-*"))
                rounds = [RUNS[self.name].load(self.folder, int(path.name[3:])) for path in visible]
        except Exception as error:
            self.problems.append(f"torn: {type(error).__name__}: {error}")
            return
        if newest is not None and newest.index < max(index for index, _ in told):
            self.problems.append(f"lost: round {told[-1][0]}, the newest is {newest.index}")
        for result in rounds if newest is None else [*rounds, newest]:
            if state(result) != self.expected[result.index]:
                self.problems.append(f"wrong: round {result.index} in the folder")
        if self.keep == "all" and not alive and [r.index for r in rounds] != list(range(len(rounds))):
            self.problems.append(f"lost: of all rounds only {[r.index for r in rounds]} are kept")

    def judge(self) -> None:
        """At the end: every round that was told of was the right one, and the last is there.

        A round may have been committed and not told of, when the process died between the two.
        """
        self.look()
        if not self.problems:
            wrong = [i for i, digest in self.told if digest != self.expected[i]]
            last = RUNS[self.name].load(self.folder)
            if wrong or state(last) != self.expected[-1]:
                self.problems.append(f"wrong: rounds {wrong} on the way, or the last, {last.index}")
        if not self.problems and (rest := [p.name for p in self.folder.iterdir() if p.name.startswith(".")]):
            self.problems.append(f"left over: {rest}")


def killed_at_times(trial: Trial, random: Random, duration: float) -> None:
    """Kill the run again and again, each time after a while, until it gets through."""

    def act(pid: int) -> None:
        end = time.monotonic() + random.uniform(0, duration)
        while (rest := end - time.monotonic()) > 0:
            if trial.keep == "all" and rest > 0.02:
                trial.look(alive=True)
            else:
                time.sleep(min(rest, 0.02))
        os.kill(pid, signal.SIGKILL)

    while not trial.problems and trial.process(act) != 0:
        trial.look()


def killed_at_call(trial: Trial, k: int, half: bool) -> None:
    """Let the run kill itself at its k-th call of the operating system, before or in the middle of it."""
    made = 0

    def event(name: str, args: tuple[Any, ...]) -> Any:
        nonlocal made
        made += 1
        if made == k + 1:
            if half and name == "write":
                os.write(args[0], bytes(args[1])[: len(args[1]) // 2])
            if half and name == "rmtree":
                next(path for path in Path(args[0]).iterdir()).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    if trial.process(lambda pid: None, event) != 0:
        trial.look()
        if not trial.problems:
            trial.process(lambda pid: None)
            trial.look()


known = cache(reference)


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """Make trials as ordered: by times until there were so many kills, or at the calls that are named."""
    random, writer, keeps = Random(order["seed"]), order.get("writer"), order.get("keep", ["last", "all"])
    expected = {name: known(name) for name in order["runs"]}
    problems, kills, trials, calls = list[str](), 0, 0, list(order.get("calls", []))
    durations = dict[str, float]()
    while calls or kills < order.get("kills", 0):
        name = order["runs"][trials % len(order["runs"])]
        with tempfile.TemporaryDirectory() as scratch:
            trial = Trial(name, Path(scratch) / "run", expected[name], keeps[trials % len(keeps)], writer)
            if name not in durations:
                begin = time.monotonic()
                trial.process(lambda pid: None)
                durations[name] = time.monotonic() - begin
            elif calls:
                killed_at_call(trial, calls.pop(0), half=bool(trials % 3))
            else:
                killed_at_times(trial, random, durations[name])
            trial.judge()
        kills, trials = kills + trial.kills, trials + 1
        problems += [f"{name}, keep {trial.keep}: {problem}" for problem in trial.problems]
        if problems and writer is not None:
            break
    return {"kills": kills, "trials": trials, "problems": problems}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(obey(json.loads(line))), flush=True)
