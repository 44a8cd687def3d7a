"""Carry out the runs of an ablation: each once, some at a time, going on where an earlier call was stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from research.ablation.plan import PRETRAINING_MODULE, Ablation, Run, content_hash


@dataclass(frozen=True)
class Task:
    """A process to run, in a folder of its own.

    Attributes:
        name: for messages and for `needs`.
        about: for messages.
        folder: holds `log.txt`, what the process printed.
        command: makes the command line, when the task's turn comes.
        finish: called when the process has ended well; returns what to say about it.
        needs: names of tasks that must have ended well before.
    """

    name: str
    about: str
    folder: Path
    command: Callable[[], list[str]]
    finish: Callable[[], str]
    needs: tuple[str, ...] = ()


class Results:
    """The JSON Lines file of finished runs, each line a run with its `key`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self) -> dict[str, dict[str, Any]]:
        """All runs by key.

        Raises:
            ValueError: a line is broken. Only a last line that was not finished is no error: its run is missing.
        """
        if not self.path.exists():
            return {}
        runs = {}
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
            if not line.endswith("\n"):
                continue
            try:
                run = json.loads(line)
                runs[run["key"]] = run
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path}, line {number} is no result of a run: {error}") from error
        return runs

    def append(self, run: dict[str, Any]) -> None:
        """Add a run, as one line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # the last line was cut off while it was written
                    content = self.path.read_bytes()
                    file.truncate(content.rfind(b"\n") + 1)
            file.write(json.dumps(run, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def carry_out(
    ablation: Ablation,
    studies: Sequence[str] | None = None,
    jobs: int = 1,
    threads: int = 1,
    keep_models: bool = False,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Do the runs that are not in the results yet, and add each when it has ended.

    Args:
        ablation: the plan.
        studies: names of those whose runs to do; all by default.
        jobs: runs at a time.
        threads: of each run.
        keep_models: leave the trained models in the runs' folders.
        say: is told of every run.

    Returns:
        Names of the runs that failed, or could not start because what they need did.

    Raises:
        ValueError: another process works in the same folder.
    """
    results = Results(ablation.results)
    finished = results.read()
    runs = ablation.runs(tuple(studies) if studies else None)
    missing = {run: arms for run, arms in runs.items() if run.key not in finished}
    say(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before.")
    with locked(Path(ablation.folder)):
        tasks: dict[str, Task] = {}
        for run, arms in missing.items():
            backbone = backbone_task(ablation, run)
            if backbone is not None:
                tasks.setdefault(backbone.name, backbone)
            needs = () if backbone is None else (backbone.name,)
            tasks[run.key] = run_task(ablation, run, arms, results, keep_models, needs)
        # A copy of the repository runs its own code, not that of the one which is installed.
        path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
        threading_options = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        environment = {**os.environ, **threading_options, "PYTHONPATH": path}
        return Scheduler(list(tasks.values()), jobs, environment, say).run()


def run_task(
    ablation: Ablation, run: Run, arms: Sequence[str], results: Results, keep_models: bool, needs: tuple[str, ...]
) -> Task:
    """Training and evaluation of a run."""
    folder = Path(ablation.folder) / "runs" / run.key
    started: dict[str, str | None] = {}

    def command() -> list[str]:
        settings = dict(run.settings)
        if "backbone" in settings:
            settings["backbone_folder"] = str(backbone_folder(ablation, run) / "model")
        (folder / "run.json").write_text(json.dumps(settings, indent=1, sort_keys=True))
        started["commit"] = commit()  # the code that is imported now, whatever is checked out meanwhile
        return [sys.executable, "-m", "research.ablation.worker", str(folder)]

    def finish() -> str:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        line = {"key": run.key, "arms": list(arms), "seed": run.seed, "settings": run.settings, **result}
        results.append({**line, **started})
        if not keep_models:
            shutil.rmtree(folder / "model")
        return f"accuracy {100 * result['metrics']['accuracy']:.1f} %"

    return Task(run.key, f"{arms[0]} seed {run.seed}", folder, command, finish, needs)


def backbone_folder(ablation: Ablation, run: Run) -> Path:
    return Path(ablation.folder) / "backbones" / content_hash(run.settings["backbone"])


def backbone_task(ablation: Ablation, run: Run) -> Task | None:
    """Pre-training of the backbone that a run starts from, None if it needs none that isn't there."""
    if "backbone" not in run.settings:
        return None
    folder = backbone_folder(ablation, run)
    if (folder / "model" / "config.json").exists():
        return None

    def command() -> list[str]:
        import yaml

        resumes = (folder / "run" / "state" / "state.pt").exists()
        places = {"output_dir": str(folder / "model"), "run_dir": str(folder / "run"), "resume": resumes}
        (folder / "pretrain.yaml").write_text(yaml.safe_dump({**run.settings["backbone"], **places}))
        return [sys.executable, "-m", PRETRAINING_MODULE, "--config", str(folder / "pretrain.yaml")]

    return Task(f"backbone {folder.name}", "pre-training", folder, command, lambda: "ready")


class Scheduler:
    """Runs tasks in order, some at a time; a task waits for those that it needs.

    Args:
        tasks: in the order of their turns.
        jobs: processes at a time.
        environment: of the processes.
        say: is told of every task.
    """

    def __init__(self, tasks: list[Task], jobs: int, environment: dict[str, str], say: Callable[[str], None]) -> None:
        self.tasks, self.jobs, self.environment, self.say = tasks, jobs, environment, say
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.guard = threading.Lock()
        self.stopped = False

    def run(self) -> list[str]:
        """Do all tasks. Returns the names of those that failed or could not start."""
        names = {task.name for task in self.tasks}
        pending = list(self.tasks)
        done: set[str] = set()
        failed: list[str] = []
        running: dict[Future[tuple[int, float]], Task] = {}
        with terminating(self.stop), ThreadPoolExecutor(self.jobs) as pool:
            try:
                while pending or running:
                    for task in list(pending):
                        needs = set(task.needs) & names
                        if needs & set(failed):
                            pending.remove(task)
                            failed.append(task.name)
                            self.say(f"{task.name}: not started, since {', '.join(needs)} failed")
                        elif needs <= done and len(running) < self.jobs:
                            pending.remove(task)
                            running[pool.submit(self._do, task)] = task
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        task = running.pop(future)
                        status, seconds = future.result()
                        if status == 0:
                            done.add(task.name)
                            outcome = task.finish()
                        else:
                            failed.append(task.name)
                            outcome = f"failed, see {task.folder / 'log.txt'}: {last_line(task.folder)}"
                        place = f"{len(done) + len(failed)}/{len(self.tasks)}"
                        self.say(f"[{place}] {task.name}, {task.about}: {outcome} ({seconds:.0f} s)")
            except BaseException:
                self.stop()
                raise
        return failed

    def _do(self, task: Task) -> tuple[int, float]:
        """Run one task's process. Returns its exit status and the seconds it took."""
        start = time.monotonic()
        task.folder.mkdir(parents=True, exist_ok=True)
        with (task.folder / "log.txt").open("a") as log:
            with self.guard:
                if self.stopped:
                    return -signal.SIGTERM, 0.0
                process = subprocess.Popen(
                    task.command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                )
                self.processes[task.name] = process
            status = process.wait()
            del self.processes[task.name]
        return status, time.monotonic() - start

    def stop(self) -> None:
        """End all processes; a later call goes on from their checkpoints."""
        with self.guard:
            self.stopped = True
            for process in list(self.processes.values()):
                process.terminate()


@contextmanager
def terminating(stop: Callable[[], None]) -> Iterator[None]:
    """Make SIGTERM an exception in the main thread, as Ctrl-C is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signal_number: int, frame: Any) -> None:
        stop()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder: the runner that of the ablation's, and each run that of its own.

    Raises:
        ValueError: another process holds it. A run outlives a runner that was killed at once (SIGKILL).
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(
            f"Another process of `research.ablation` is at work in {folder}. Wait for it or end it."
        ) from None


def last_line(folder: Path) -> str:
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def commit() -> str | None:
    """The commit of the working directory, with a + if code differs from it; None without git."""
    try:
        head = subprocess.check_output(
            ["git", "rev-parse", "--short=10", "HEAD"], text=True, stderr=subprocess.DEVNULL
        )
        changed = subprocess.check_output(["git", "status", "--porcelain", "-uno", "--", "*.py"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changed.strip() else "")
