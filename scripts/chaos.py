"""Kill a small real run at random moments and start it again until it ends; compare with a run that nobody disturbed.

`python scripts/chaos.py` kills 50 times, by SIGKILL, SIGTERM and SIGINT, in start-up, training, evaluation and writing,
and exits with 1 if any result, exit code or file left behind differs. Overrides of the run may follow.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from epsball.collect.runs import status_of
from epsball.collect.storage import is_locked
from epsball.runtime.records import read_record

RUN = Path(__file__).parents[1] / "run.py"
SMALL = (
    *("scale=smoke", "device=cpu", "threads=1", "arch=madry_mnist", "arch.width=0.25", "arch.hidden=64"),
    *("trainer=fgsm_adv", "models.copy=null", "models.holdout=null", "dataset.train_size=256", "dataset.test_size=128"),
    *("trainer.epochs=4", "trainer.batch_size=16", "models.natural.trainer.epochs=4", "suite=fgsm", "attack=pgd"),
    *("attack.steps=20", "checkpoint_seconds=0.05"),
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PHASES = ("start-up", "training", "evaluation", "writing")
END = "exit"
"""after the last file, while Python takes itself apart"""
EXPECTED = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
"""exit codes by signal; 0 is right, too, where a run has nothing left to stop, which in training it has"""
BARE = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15), signal.SIGINT: (130, -2, 1)}
"""and where it came before run.py had its handlers, or when Python had put its own back"""
LONGEST = 300.0  # seconds that a run, or its answer to a signal, may take
MOST = 6  # kills of one run, before it is left to end
POLL = 0.005  # seconds


@dataclass(frozen=True)
class Kill:
    """A signal that was sent, and what came of it."""

    signal: signal.Signals
    phase: str
    code: int
    seconds: float
    """until the process had ended"""
    traced: bool
    """whether it ended in a traceback"""
    told: bool
    """whether its record says, or the system tells, that it runs no more"""

    @property
    def is_right(self) -> bool:
        finished = self.code == 0 and self.phase != "training" and self.signal is not signal.SIGKILL
        return (self.code == EXPECTED[self.signal] or finished) and not self.traced and self.told

    @property
    def is_bare(self) -> bool:
        """Whether it came before the handlers or after them, and the process ended as any Python does then."""
        outside = self.phase in ("start-up", END)
        return not self.is_right and outside and self.told and self.code in BARE[self.signal]


@dataclass
class Launch:
    """One process of the run, and how far it is."""

    folder: Path
    """where everything of the run lies"""
    overrides: list[str]
    began: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.log = self.folder / "outputs" / "run" / "run.log"
        self.skipped = self.log.stat().st_size if self.log.exists() else 0  # what earlier processes wrote
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        self.errors = (self.folder / "stderr").open("w+")
        outputs = self.folder / "outputs"
        command = [sys.executable, RUN, *SMALL, *self.overrides, f"outputs={outputs}", f"hydra.run.dir={outputs}/run"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.errors, env=self.environment())

    def environment(self) -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder / "tmp")}

    def phase(self) -> str:
        """Say how far it is, by what it has logged and written."""
        text = self.log.read_bytes()[self.skipped :].decode() if self.log.exists() else ""
        results, record = (self.log.with_name(name) for name in ("results.csv", "run.json"))
        if record.exists() and record.stat().st_mtime > self.began and read_record(record)[0].get("status") == "done":
            return END
        if results.exists() and results.stat().st_mtime > self.began:
            return "writing"
        begun, ended = text.count(" INFO training "), text.count(": clean error ")
        if begun > sum("trained in" in line and "reused" not in line for line in text.splitlines()):
            return "training"
        return "evaluation" if ended > 1 or "error of " in text else "training" if ended else "start-up"

    def reach(self, phase: str, seconds: float) -> bool:
        """Wait until some time after the beginning of a phase; whether the process still runs."""
        while self.process.poll() is None and (*PHASES, END).index(self.phase()) < PHASES.index(phase):
            time.sleep(POLL)
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            time.sleep(POLL)
        return self.process.poll() is None

    def kill(self, signum: signal.Signals) -> Kill:
        """Send a signal and wait for the end."""
        sent = time.monotonic()
        phase = self.phase()
        self.process.send_signal(signum)
        code = self.process.wait(LONGEST)
        record, _ = read_record(self.log.with_name("run.json"))
        told = not status_of(record).startswith("running")
        return Kill(signum, phase, code, time.monotonic() - sent, "Traceback" in self.stderr(), told)

    def stderr(self) -> str:
        self.errors.seek(0)
        return self.errors.read()


def main() -> int:
    """Kill, compare, print; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
    parser.add_argument("overrides", nargs="*", help="of the run, behind its own")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and so would its children
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        began, root = time.monotonic(), Path(name)
        lengths = undisturbed(root / "straight", options.overrides)
        print("undisturbed: " + ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in lengths.items()), flush=True)
        kills, wrong = disturb(root, lengths, options.kills, random.Random(options.seed), options.overrides)
        print(told(kills))
        print(f"{time.monotonic() - began:.0f} s in all")
    wrong += [f"{kill.signal.name} in {kill.phase}: {kill}" for kill in kills if not (kill.is_right or kill.is_bare)]
    print("\n".join([f"{len(wrong)} wrong", *(f"  {line}" for line in wrong)]))
    return 1 if wrong else 0


def undisturbed(folder: Path, overrides: list[str]) -> dict[str, float]:
    """Run once to the end; the seconds of each phase."""
    launch, seen = Launch(folder, overrides), dict[str, float]()
    while launch.process.poll() is None:
        seen.setdefault(launch.phase(), time.time())
        time.sleep(POLL)
    if launch.process.returncode:
        raise SystemExit(f"error: the undisturbed run failed: {launch.stderr()[-2000:]}")
    ends = [*list(seen.values())[1:], time.time()]
    return {phase: end - begin for (phase, begin), end in zip(seen.items(), ends, strict=True)}


def disturb(
    root: Path, lengths: dict[str, float], count: int, chance: random.Random, overrides: list[str]
) -> tuple[list[Kill], list[str]]:
    """Kill runs until there are so many kills, each run a few times, then let it end; the kills, and what differs."""
    kills: list[Kill] = []
    wrong: list[str] = []
    runs = 0
    while len(kills) < count:
        folder, phases = root / f"run{runs}", drawn(chance, min(chance.randint(1, MOST), count - len(kills)))
        runs += 1
        ended = False
        while not ended:
            launch = Launch(folder, overrides)
            phase, signum = phases.pop(0) if phases else "", chance.choice(SIGNALS)
            if phase and launch.reach(phase, chance.uniform(0, lengths[phase])):
                kills.append(launch.kill(signum))
                ended = kills[-1].code == 0
            else:
                launch.process.wait(LONGEST)
                ended = True
            if ended and launch.process.returncode:
                wrong.append(f"run {runs} ended with {launch.process.returncode}: {launch.stderr()[-500:]}")
        found = *differences(root / "straight", folder), *leftovers(folder, root / "straight")
        wrong += [f"run {runs}: {line}" for line in found]
        print(f"run {runs} ended, {len(kills)} kills, {len(wrong)} differences and leftovers", flush=True)
        shutil.rmtree(folder)
    return kills, wrong


def drawn(chance: random.Random, count: int) -> list[str]:
    """Return the phases to kill one run in: later ones later, for a run that goes on does not go back; start-ups
    anywhere."""
    phases = sorted(chance.choices(PHASES, k=count), key=PHASES.index)
    late = [phase for phase in phases if phase != PHASES[0]]
    for _ in range(count - len(late)):
        late.insert(chance.randint(0, len(late)), PHASES[0])
    return late


def differences(straight: Path, folder: Path) -> Iterator[str]:
    """Name the results and models that are not, byte for byte, those of the undisturbed run."""
    for pattern in ("run/results.csv", "run/mistakes.csv", "models/*/model.safetensors", "models/*/training.csv"):
        files = {file.relative_to(at) for at in (straight, folder) for file in at.glob(f"outputs/{pattern}")}
        for file in sorted(files):
            ours, theirs = folder / file, straight / file
            if not (ours.exists() and theirs.exists() and ours.read_bytes() == theirs.read_bytes()):
                yield f"{file} differs"


def leftovers(folder: Path, straight: Path) -> Iterator[str]:
    """Name what should be gone when a run has ended: what killed processes left, what the undisturbed run has not."""
    for pattern in ("outputs/**/*.part", "outputs/**/last.pt", "outputs/**/*.damaged*", "tmp/*", "outputs/run/*"):
        files = (file.relative_to(folder) for file in folder.glob(pattern))
        yield from (f"{file} is left" for file in files if not (straight / file).exists())
    if (trace := folder / "outputs" / "run" / "traceback.txt").exists():
        yield f"traceback.txt: {trace.read_text().splitlines()[-1]}"
    for lock in folder.glob("outputs/models/.*.lock"):
        if is_locked(lock):
            yield f"{lock.relative_to(folder)} is held"


def told(kills: list[Kill]) -> str:
    """Write kills by signal and phase, exit codes, and the slowest answer."""
    lines = ["kills, and the exit codes of each:", f"{'':8}" + "".join(f"{phase:>20}" for phase in (*PHASES, END))]
    for signum in SIGNALS:
        codes = [Counter(k.code for k in kills if (k.signal, k.phase) == (signum, phase)) for phase in (*PHASES, END)]
        cells = [", ".join(f"{number} x {code}" for code, number in sorted(one.items())) or "-" for one in codes]
        lines.append(f"{signum.name:8}" + "".join(f"{cell:>20}" for cell in cells))
    bare = Counter((kill.phase, kill.signal.name, kill.code, kill.traced) for kill in kills if kill.is_bare)
    lines += [
        f"without run.py's handlers, in {phase}: {name}, exit code {code}{', a traceback' if traced else ''}: {number}"
        for (phase, name, code, traced), number in bare.items()
    ] or ["without run.py's handlers: 0"]
    stops = [kill for kill in kills if kill.signal is not signal.SIGKILL]
    for phase in (*PHASES, END):
        if own := [kill.seconds for kill in stops if kill.phase == phase]:
            lines.append(f"slowest answer to SIGTERM or SIGINT in {phase}: {max(own):.1f} s")
    return "\n".join([f"{len(kills)} kills", *lines])


if __name__ == "__main__":
    sys.exit(main())
