"""Cases drawn from a seed, and the judge of how each ended.

Every case changes a copy of a tiny finished project, runs one command on it, and is sound when

- nothing of Python's own reached the user, and it ended in time with a status of the contract;
- nothing was executed, and no control sequence reached the terminal;
- success means what it would have meant undisturbed. To the byte, where the damaged file is ours,
  or has checksums, or only says where things are. Where it is the user's own (a pixel, a label),
  every image is accounted for: packed, listed as skipped, named as unreadable;
- after a signal or a limit the same command, undisturbed, ends with the same bytes, and leaves no
  half-written file.
"""

import collections
import contextlib
import dataclasses
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from reliability import damage, hostile, requests
from reliability.commands import COMMANDS, outcome
from reliability.process import Ended, Process, call
from reliability.workspace import build

from facetrain.core.errors import TERMINATED

_STATUSES = (0, 2, 3, 4)
_EXACT = (".idx", ".npz", ".safetensors")  # points into a shard; has checksums; has a digest


@dataclasses.dataclass
class Tally:
    """How the cases of one kind ended."""

    cases: int = 0
    statuses: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    stories: list[str] = dataclasses.field(default_factory=list)
    tell: Callable[[str], None] = lambda story: None
    """Is given each story at once."""

    def add(self, what: str, ended: Ended, faults: Sequence[str]) -> None:
        """Take in one case."""
        self.cases += 1
        self.statuses[ended.status] += 1
        for fault in faults:
            self.faults[fault] += 1
            story = f"{fault}: {what}: status {ended.status}\n{ended.said[-1500:]}"
            self.stories.append(story)
            self.tell(story)

    def __str__(self) -> str:
        statuses = dict(sorted(self.statuses.items()))
        return f"{self.cases} cases, faults {dict(self.faults)}, exit statuses {statuses}"


class Campaign:
    """Cases on copies of one workspace. Case n of a kind is the same in every campaign of a seed.

    Args:
        seed: of all cases.
        folder: receives the workspace; on the disk or, faster, in memory.
        names: of the commands; all of them unless told.
    """

    def __init__(self, seed: int, folder: Path, names: Sequence[str] = tuple(COMMANDS)) -> None:
        self.seed, self.names = seed, list(names)
        self.base, self.copy = folder / "base", folder / "copy"
        build(self.base, self.names)
        self.expected = {name: outcome(self.base, COMMANDS[name]) for name in self.names}
        self._measured: dict[str, float] = {}
        self.kinds: dict[str, Callable[[Tally, random.Random, int], None]] = {
            "mutations": self._mutation,
            "hostile": self._hostile,
            "signals": self._signal,
            "limits": self._limit,
        }

    def run(
        self, kind: str, number: int, first: int = 0, tell: Callable[[str], None] | None = None
    ) -> Tally:
        """So many cases of a kind from number `first` on; of requests, so many to one review."""
        tally = Tally(tell=tell) if tell else Tally()
        if kind == "requests":
            self._requests(tally, random.Random(f"{self.seed} {kind}"), number)
            return tally
        case = first
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C: what there is so far
            while tally.cases < number:  # some draw nothing, or come too late
                self.kinds[kind](tally, random.Random(f"{self.seed} {kind} {case}"), case)
                case += 1
        return tally

    def fresh(self, name: str, *, unfinished: bool, emptied: bool = False) -> Path:
        """A copy of the workspace, with the command to be finished, or done from nothing."""
        command = COMMANDS[name]
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.base, self.copy, symlinks=True)
        globs = command.unfinished if unfinished else ()
        for glob in globs + (command.leaves if emptied else ()):
            for path in self.copy.glob(glob):
                path.unlink()
        return self.copy

    def judge(self, tally: Tally, what: str, name: str, *, exact: bool) -> None:
        """Run the command on the copy as it is, and take in how it ends."""
        ended = call(COMMANDS[name].argv, self.copy)
        tally.add(f"{name}: {what}", ended, self._faults(name, ended, exact=exact))

    def _faults(self, name: str, ended: Ended, *, exact: bool) -> list[str]:
        command = COMMANDS[name]
        faults = _faults_of_any(ended)
        if ended.status not in _STATUSES and not ended.hangs:
            faults.append("status")
        if (self.copy / "executed").exists():
            faults.append("executed")
        if ended.status == 0:
            same = outcome(self.copy, command) == self.expected[name]
            if (exact and not same) or not command.adds_up(self.copy):
                faults.append("wrong result")
        return faults

    def _draw(self, chance: random.Random, *, leaving: bool = False) -> str:
        names = [name for name in self.names if COMMANDS[name].leaves or not leaving]
        return chance.choices(names, [COMMANDS[name].often for name in names])[0]

    def _pick(self, chance: random.Random, globs: Sequence[str]) -> Path | None:
        # Kinds of file alike, rather than files: some kinds are many.
        found = [sorted(p for p in self.copy.glob(glob) if p.is_file()) for glob in globs]
        found = [paths for paths in found if paths]
        return chance.choice(chance.choice(found)) if found else None

    def _mutation(self, tally: Tally, chance: random.Random, case: int) -> None:
        """Damage to one file, of ours or of the user's."""
        name = self._draw(chance)
        command = COMMANDS[name]
        self.fresh(name, unfinished=chance.random() < 0.5)
        own = bool(command.state) and (chance.random() < 0.6 or not command.reads)
        path = self._pick(chance, command.state if own else command.reads)
        if path is None:
            return
        how = damage.mutate(path, chance)
        exact = own or path.suffix in _EXACT
        where = path.relative_to(self.copy)
        self.judge(tally, f"{where} {how} (case {case})", name, exact=exact)

    def _hostile(self, tally: Tally, chance: random.Random, case: int) -> None:
        """A file made to do harm, something that is no file, or a hostile name."""
        name = self._draw(chance)
        command = COMMANDS[name]
        self.fresh(name, unfinished=True)
        if command.argv[:2] == ("pack", "images") and chance.random() < 0.4:
            what = hostile.rename(self.copy / "images", chance)
        else:
            path = self._pick(chance, command.reads + command.state)
            assert path is not None
            what = f"{path.relative_to(self.copy)} {hostile.replace(path, chance)}"
        self.judge(tally, f"{what} (case {case})", name, exact=False)

    def _again(self, name: str) -> list[str]:
        """What is wrong when the same command runs again, undisturbed."""
        command = COMMANDS[name]
        ended = call(command.argv, self.copy)
        faults = [f"again: {fault}" for fault in self._faults(name, ended, exact=True)]
        if ended.status != 0:
            faults.append(f"again: {ended.said[-300:]}")
        if any(self.copy.rglob(".*.tmp")):
            faults.append("left half-written")
        return faults

    def _signal(self, tally: Tally, chance: random.Random, case: int) -> None:
        """A signal at a random instant of a command; one that comes too late is none."""
        name = self._draw(chance, leaving=True)
        seconds = self._seconds(name)
        self.fresh(name, unfinished=True, emptied=True)
        number = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        group = number == signal.SIGINT and chance.random() < 0.5
        share = chance.random()
        started = time.monotonic()
        process = Process(COMMANDS[name].argv, self.copy)
        while process.running and time.monotonic() < started + share * seconds:
            time.sleep(0.001)
        if not process.running:
            process.wait()
            return
        process.signal(number, group=group)
        ended = process.wait()
        if ended.status == 0:  # it had ended already, and only its memory was not given back yet
            return
        faults = _faults_of_any(ended)
        # SIGTERM's own, or what a training says that has saved its step first.
        sound = {signal.SIGINT: (130,), signal.SIGTERM: (-number, TERMINATED)}
        if ended.status not in sound.get(number, (-number,)):
            faults.append("status")
        what = f"{name}: {number.name} at {share:.3f} (case {case})"
        tally.add(what, ended, faults + self._again(name))

    def _limit(self, tally: Tally, chance: random.Random, case: int) -> None:
        """A full disk (as a bound on the length of files), few descriptors, or little memory."""
        name = self._draw(chance, leaving=True)
        self.fresh(name, unfinished=True, emptied=True)
        kind, bound = chance.choice((
            (resource.RLIMIT_FSIZE, chance.choice((0, 100, 1000, 5000))),
            (resource.RLIMIT_NOFILE, chance.randint(4, 20)),
            (resource.RLIMIT_AS, chance.randint(0, 300) << 20),
        ))  # fmt: skip
        if kind == resource.RLIMIT_AS:  # beyond what it starts with
            bound += _address_space()
        command = COMMANDS[name]
        ended = call(command.argv, self.copy, lambda: resource.setrlimit(kind, (bound, bound)))
        faults = _faults_of_any(ended)
        if ended.status not in ((0, 4) if kind == resource.RLIMIT_FSIZE else _STATUSES):
            faults.append("status")
        what = f"{name}: limit {kind} of {bound} (case {case})"
        tally.add(what, ended, faults + self._again(name))

    def _seconds(self, name: str) -> float:
        """How long the command takes, undisturbed; measured once."""
        if name not in self._measured:
            self.fresh(name, unfinished=True, emptied=True)
            started = time.monotonic()
            call(COMMANDS[name].argv, self.copy)
            self._measured[name] = time.monotonic() - started
        return self._measured[name]

    def _requests(self, tally: Tally, chance: random.Random, number: int) -> None:
        """Hostile requests to one review, which ends with the files that it began with."""
        self.fresh("review", unfinished=False)
        before = _content(self.copy / "run")
        for what, ended, faults in requests.send_all(self.copy, chance, number):
            tally.add(what, ended, [*_faults_of_any(ended), *faults])
        if _content(self.copy / "run") != before:
            tally.faults["changed by a request"] += 1


def _faults_of_any(ended: Ended) -> list[str]:
    found = {
        "traceback": ended.traceback,
        "hang": ended.hangs,
        "escape sequence": "\x1b" in ended.said,
    }
    return [fault for fault, is_so in found.items() if is_so]


def _content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
