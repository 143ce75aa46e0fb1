"""Cases drawn from a seed, and the judge of how each ended.

Every case changes a copy of a tiny finished project, runs one command on it, and is sound when

- nothing of Python's own reached the user, and it ended in time with a status of the contract;
- nothing was executed, and no control sequence reached the terminal;
- success means what it would have meant undisturbed. To the byte, where the damaged file is ours,
  or has checksums, or only says where things are. Where it is the user's own (a pixel, a label),
  every image is accounted for: packed, listed as skipped, named as unreadable;
- after signals, a limit or a second writer the same command, undisturbed, ends with the same bytes,
  and leaves no half-written file.
"""

import collections
import contextlib
import dataclasses
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from reliability import damage, hostile, limits, requests
from reliability.command import outcome
from reliability.commands import COMMANDS
from reliability.process import Ended, Process, Receiver, call
from reliability.workspace import build

from facetrain.core.errors import BAD_INPUT, TERMINATED

_STATUSES = (0, 2, 3, 4)
_PATTERNS = (
    (signal.SIGKILL,), (signal.SIGKILL,), (signal.SIGTERM,), (signal.SIGINT,), (signal.SIGHUP,),
    (signal.SIGQUIT,), (signal.SIGXCPU,), (signal.SIGUSR1,), (signal.SIGALRM,),
    (signal.SIGPIPE, signal.SIGKILL),
    (signal.SIGTERM, signal.SIGKILL), (signal.SIGINT, signal.SIGINT),
    (signal.SIGINT, signal.SIGKILL), (signal.SIGINT, signal.SIGTERM),
    (signal.SIGTERM, signal.SIGINT), (signal.SIGSTOP, signal.SIGCONT),
    (signal.SIGTSTP, signal.SIGCONT),
)  # fmt: skip
_STATUS_OF = {signal.SIGINT: 130, signal.SIGCONT: 0}
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
        self.base, self.copy, self.other = folder / "base", folder / "copy", folder / "other"
        build(self.copy, self.names, self.other)  # there: some files hold the paths of others
        self.copy.rename(self.base)
        for name in self.names:  # a name that is nothing's would be a case that nobody looks at
            for glob in COMMANDS[name].reads + COMMANDS[name].leaves:
                assert any(self.base.glob(glob)), (name, glob)
        self.expected = {name: outcome(self.base, COMMANDS[name]) for name in self.names}
        self._measured: dict[str, float] = {}
        self.kinds: dict[str, Callable[[Tally, random.Random, int], None]] = {
            "mutations": self._mutation,
            "hostile": self._hostile,
            "signals": self._signal,
            "limits": self._limit,
            "writers": self._writers,
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
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        return self.copy

    def judge(
        self, tally: Tally, what: str, name: str, *, exact: bool, counted: bool = True
    ) -> None:
        """Run the command on the copy as it is, and take in how it ends."""
        ended = call(COMMANDS[name].argv, self.copy)
        faults = self._faults(name, ended, exact=exact, counted=counted)
        tally.add(f"{name}: {what}", ended, faults)

    def _faults(self, name: str, ended: Ended, *, exact: bool, counted: bool = True) -> list[str]:
        command = COMMANDS[name]
        faults = _faults_of_any(ended)
        if ended.status not in _STATUSES and not ended.hangs:
            faults.append("status")
        if (self.copy / "executed").exists():
            faults.append("executed")
        if ended.status == 0:
            same = outcome(self.copy, command) == self.expected[name]
            if (exact and not same) or (counted and not command.adds_up(self.copy)):
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
        """Damage to one file, of ours or of the user's, or times that are wrong."""
        name = self._draw(chance)
        command = COMMANDS[name]
        self.fresh(name, unfinished=chance.random() < 0.5)
        if chance.random() < 0.02:
            when = chance.choice((0, 1 << 61))
            for path in self.copy.rglob("*"):
                os.utime(path, ns=(when, when))
            self.judge(tally, f"all dated {when} (case {case})", name, exact=True)
            return
        own = bool(command.state) and (chance.random() < 0.6 or not command.reads)
        killed = own and bool(command.leaves) and chance.random() < 0.2
        if killed:  # what it finished so far is damaged before it goes on
            seconds = self._seconds(name)
            self.fresh(name, unfinished=True, emptied=True)
            self._signalled(name, (signal.SIGKILL,), chance.random() * seconds, 0)
        path = self._pick(chance, command.state if own else command.reads)
        if path is None:
            return
        how = damage.mutate(path, chance, self._others(path) if own else [])
        exact = own or path.suffix in _EXACT
        where = path.relative_to(self.copy)
        when = "after SIGKILL " if killed else ""
        self.judge(tally, f"{when}{where} {how} (case {case})", name, exact=exact)

    def _others(self, path: Path) -> list[Path]:
        """What could be taken for this file of a run: another run's, or an older one beside it."""
        stage = path.relative_to(self.copy).parts[1:]
        found = [self.other.joinpath(*stage), *path.parent.parent.glob(f"*/{path.name}")]
        return [other for other in found if other.is_file() and other != path]

    def _hostile(self, tally: Tally, chance: random.Random, case: int) -> None:
        """A file made to do harm, something that is no file, or a hostile name."""
        name = self._draw(chance)
        command = COMMANDS[name]
        self.fresh(name, unfinished=True)
        if chance.random() < 0.1:
            folders = {path.parent for glob in command.reads + command.state
                       for path in self.copy.glob(glob)} - {self.copy}  # fmt: skip
        else:
            folders = set()
        if folders:
            path = chance.choice(sorted(folders))
            what = f"{path.relative_to(self.copy)} {hostile.replace_folder(path, chance)}"
        elif command.argv[:2] == ("pack", "images") and chance.random() < 0.5:
            what = hostile.rename(self.copy / "images", chance)
        else:
            path = self._pick(chance, command.reads + command.state)
            if path is None:
                return
            what = f"{path.relative_to(self.copy)} {hostile.replace(path, chance)}"
        forged = what.endswith(hostile.FORGED)  # by whom, it may say anything that can be meant
        self.judge(tally, f"{what} (case {case})", name, exact=False, counted=not forged)

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
        """Signals at random instants of a command; what comes too late is none."""
        name = self._draw(chance, leaving=True)
        seconds = self._seconds(name)
        self.fresh(name, unfinished=True, emptied=True)
        told: list[str] = []
        faults: list[str] = []
        ended = None
        for _ in range(chance.choice((1, 1, 2))):  # ended, it is started again, and ended again
            pattern, share = chance.choice(_PATTERNS), chance.random()
            whom: Receiver = "command"
            if _has_workers(name) and chance.random() < 0.4:
                pattern, whom = (signal.SIGKILL,), "worker"
            elif pattern[0] in (signal.SIGINT, signal.SIGTERM) and chance.random() < 0.5:
                whom = "group"
            found = self._signalled(name, pattern, share * seconds, chance.random(), whom)
            if found is None:
                break
            ended = found
            told.append(f"{'+'.join(n.name for n in pattern)} to the {whom} at {share:.3f}")
            faults += _faults_of_any(ended)
            # SIGTERM's own status, or what a training says that has saved its step first.
            sound = {_STATUS_OF.get(n, -n) for n in pattern}
            if signal.SIGTERM in pattern:
                sound.add(TERMINATED)
            if whom == "worker":  # whose work may have been done
                sound = {BAD_INPUT, 0}
            if ended.status not in sound:
                faults.append("status")
        if ended is not None:
            what = f"{name}: {', '.join(told)} (case {case})"
            tally.add(what, ended, faults + self._again(name))

    def _signalled(
        self,
        name: str,
        pattern: Sequence[signal.Signals],
        after: float,
        pause: float,
        whom: Receiver = "command",
    ) -> Ended | None:
        """How the command ended by signals so many seconds after its start; None if by itself."""
        started = time.monotonic()
        process = Process(COMMANDS[name].argv, self.copy)
        while process.running and time.monotonic() < started + after:
            time.sleep(0.001)
        if not process.running:
            process.wait()
            return None
        for place, number in enumerate(pattern):
            time.sleep(place * pause * 0.2)
            if process.running:
                process.signal(number, whom)
        ended = process.wait()
        if ended.status == 0 and pattern[-1] != signal.SIGCONT:
            return None  # ended already, and only its memory was not given back yet
        return ended

    def _limit(self, tally: Tally, chance: random.Random, case: int) -> None:
        """A full disk, few descriptors, processes or memory, or no permission."""
        name = self._draw(chance, leaving=True)
        command = COMMANDS[name]
        self.fresh(name, unfinished=True, emptied=True)
        places = {path for glob in command.state for path in self.copy.glob(glob)}
        places |= {path.parent for glob in command.leaves for path in [self.copy / glob]}
        found = sorted(path for path in places - {self.copy} if path.exists())
        with limits.drawn(self.copy, chance, found) as limit:
            ended = call(command.argv, self.copy, limit.take)
            faults = _faults_of_any(ended)
            if ended.status not in limit.statuses:
                faults.append("status")
            if ended.status == 0 and outcome(self.copy, command) != self.expected[name]:
                faults.append("wrong result")
            limit.lift()
            tally.add(f"{name}: {limit.what} (case {case})", ended, faults + self._again(name))

    def _writers(self, tally: Tally, chance: random.Random, case: int) -> None:
        """The same command twice at once: one works, the other is refused or finds it done."""
        name = self._draw(chance, leaving=True)
        seconds = self._seconds(name)
        self.fresh(name, unfinished=True, emptied=True)
        first = Process(COMMANDS[name].argv, self.copy)
        share = chance.random()
        time.sleep(share * seconds)
        second = Process(COMMANDS[name].argv, self.copy)
        both = [second.wait(), first.wait()]
        faults = [fault for ended in both for fault in self._faults(name, ended, exact=True)]
        if sorted(ended.status for ended in both) not in ([0, 0], [0, 2]):
            faults.append(f"statuses {[ended.status for ended in both]}")
        what = f"{name}: another at {share:.3f} (case {case})"
        tally.add(what, both[0], faults + self._again(name))

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


def _has_workers(name: str) -> bool:
    return any(word.endswith(("workers=1", "workers=2")) for word in COMMANDS[name].argv)


def _faults_of_any(ended: Ended) -> list[str]:
    found = {
        "traceback": ended.traceback,
        "hang": ended.hangs,
        "escape sequence": "\x1b" in ended.said,
    }
    return [fault for fault, is_so in found.items() if is_so]


def _content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
