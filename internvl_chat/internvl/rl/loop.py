"""The loop of stage 7, read aloud: draw, judge, weigh, update, sync."""

from __future__ import annotations

import argparse
import hashlib
import math
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from internvl.rl.batch import Batch, Exhausted, Stream, means_in, summary, weigh, weigh_tokens
from internvl.rl.draw import Group
from internvl.rl.outside import Outside
from internvl.rl.page import samples_page
from internvl.rl.processes import Processes
from internvl.rl.rewards import Weights
from internvl.rl.rows import Row, RowMaker, in_rows, split_into
from internvl.rl.update import Learner
from internvl.train.trainer import newest_checkpoint, peak_flops, peak_memory
from mm_prm.cli import Fault, Unfinished
from mm_prm.files import read_json, write_atomic, write_json
from mm_prm.journal import Journal
from mm_prm.prm import Prm
from mm_prm.records import Problem
from mm_prm.servers import Unreachable

FINAL_SHARE = 0.1  # of the learning rate, at the end of the cosine (CPGD)
SHOWN_STEPS, SHOWN_GROUPS = 3, 4  # of samples.html


def learning_rate(args: argparse.Namespace, update: int) -> float:
    """Of an optimizer step: constant, or half a cosine from --learning_rate down to a tenth of it."""
    if args.lr_scheduler_type == "constant":
        return args.learning_rate
    done = update / (args.steps * args.updates_per_rollout)
    return args.learning_rate * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * done)) / 2)


class Clock:
    """Seconds spent in each part of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


class Run:
    """One training run: its position in the data, its learner, and what the outside is asked for.

    outside: None on all processes but the first. done: finished steps; position: of the stream of problems.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        learner: Learner,
        processes: Processes,
        outside: Outside | None,
        rows: RowMaker,
        prm: Prm | None,
    ):
        self.args, self.learner, self.processes, self.outside = args, learner, processes, outside
        self.rows, self.prm = rows, prm
        self.output, self.weights = Path(args.output_dir), Path(args.weights_dir)
        self.done = self.saved = self.position = 0  # saved: the step of the newest checkpoint
        self.first_pass_at_1: float | None = None
        self.shown: deque[tuple[int, Sequence[Group]]] = deque(maxlen=SHOWN_STEPS)

    def ask(self, work: Callable[[Outside], Any]) -> Any:
        """Have the first process ask the outside; the answer on every process."""
        return self.processes.first_does(lambda: work(self.outside))  # type: ignore[arg-type]

    # ------------------------------------------------------------ one step

    def step(self, stream: Stream) -> dict[str, float]:
        """draw, judge, weigh, update. Returns the line of the log."""
        clock = Clock()
        with clock.part("draw"):
            batch: Batch = self.ask(lambda outside: outside.draw(stream, self.position))
        with clock.part("weigh"):
            self.weigh(batch.groups)
        with clock.part("old"):
            rows = self.rows_of(batch.groups)
            seen = self.old(rows)
        with clock.part("update"):
            updates = self.update(batch.groups, rows)
        self.done, self.position = self.done + 1, batch.position
        self.shown.append((self.done, batch.groups[:SHOWN_GROUPS]))
        counts = {name: getattr(batch, name) for name in ("drawn", "refused", "filtered", "surplus")}
        speed = self.speed(clock.seconds, batch, updates.pop("flops"))
        return {"step": self.done, **summary(batch.groups), **counts, **seen, **updates, **speed}

    def weigh(self, groups: Sequence[Group]) -> None:
        """The PRM's scores, each process a share of the groups; then rewards and advantages."""
        args = self.args
        if self.prm:
            scores = [score_group(self.prm, group) for group in groups[self.processes.rank :: self.processes.count]]
            for rank, part in enumerate(self.processes.gather(scores)):
                for group, of_group in zip(groups[rank :: self.processes.count], part, strict=True):
                    for answer, steps in zip(group.answers, of_group, strict=True):
                        answer.scores = steps
        weights = Weights(args.accuracy_weight, args.format_weight, args.prm_weight)
        weigh(groups, args.step_format, args.prm_mode, weights, args.advantage)
        weigh_tokens(groups, args.algorithm)

    def per_update(self, groups: Sequence[Group]) -> list[Sequence[Group]]:
        """The groups of each optimizer step."""
        size = self.args.prompts // self.args.updates_per_rollout
        return [groups[start : start + size] for start in range(0, len(groups), size)]

    def mine(self, groups: Sequence[Group]) -> list[Sequence[Group]]:
        """This process's share of each optimizer step."""
        return [part[self.processes.rank :: self.processes.count] for part in self.per_update(groups)]

    def rows_of(self, groups: Sequence[Group]) -> list[list[Row]]:
        """This process's rows of each optimizer step: as many on every process."""
        args = self.args
        plans = [in_rows(mine, args.row_tokens, args.row_prompts) for mine in self.mine(groups)]
        counts = zip(*self.processes.gather([len(plan) for plan in plans]), strict=True)
        plans = [split_into(plan, max(count)) for plan, count in zip(plans, counts, strict=True)]
        return [[self.rows(*row) for row in plan] for plan in plans]

    def old(self, rows: Sequence[Sequence[Row]]) -> dict[str, float]:
        """The trainer's view of the drawn tokens before the first update. Raises Fault when it is not the server's."""
        parts = self.processes.gather(self.learner.old([row for part in rows for row in part]))
        tokens = sum(part["tokens"] for part in parts)
        mismatch = max(part["mismatch"] for part in parts)
        if not mismatch <= self.args.max_mismatch:
            raise Fault(
                f"step {self.done + 1}: a log-probability of the policy's server is {mismatch:.3g} from the trainer's, "
                f"over --max_mismatch {self.args.max_mismatch:g}: it does not serve the weights that are trained"
            )
        return {
            "mismatch": mismatch,
            "mismatch_mean": sum(part["mismatch_sum"] for part in parts) / tokens,
            "entropy": sum(part["entropy_sum"] for part in parts) / tokens,
        }

    def update(self, groups: Sequence[Group], rows: Sequence[Sequence[Row]]) -> dict[str, float]:
        """The optimizer steps of one rollout."""
        args, seen = self.args, []
        for number, (part, mine) in enumerate(zip(self.per_update(groups), rows, strict=True)):
            rate = learning_rate(args, self.done * args.updates_per_rollout + number)
            seen += self.processes.gather(self.learner.step(mine, means_in(part), rate))
        totals = {name: sum(part[name] for part in seen) for name in ("loss", "clipped", "trained", "flops")}
        if not all(math.isfinite(part["gradient_norm"]) for part in seen):  # before a checkpoint of it is kept
            raise Fault(f"step {self.done + 1}: the gradient is not finite; the last checkpoint is from before")
        return {
            "loss": totals["loss"] / len(rows),
            "ratio_max": max(part["ratio_max"] for part in seen),
            "clip_share": totals["clipped"] / max(totals["trained"], 1),
            "gradient_norm": max(part["gradient_norm"] for part in seen),
            "learning_rate": rate,
            "flops": totals["flops"],
        }

    def sync(self) -> None:
        """The weights to all servers, by a folder that they see."""
        folder = Path(self.ask(lambda _: self.new_folder()))
        try:
            self.learner.export(str(folder))
            self.ask(lambda outside: outside.sync(folder))
        finally:
            if self.processes.rank == 0:
                shutil.rmtree(folder, ignore_errors=True)

    def new_folder(self) -> str:
        """For this step's weights; what a killed run left there, gigabytes of memory in /dev/shm, is removed."""
        start = f"mm_prm_rl_{hashlib.md5(str(self.output.absolute()).encode()).hexdigest()[:12]}_"
        for left in self.weights.glob(f"{start}*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = self.weights / f"{start}{self.done}"
        folder.mkdir()
        return str(folder)

    def speed(self, seconds: dict[str, float], batch: Batch, flops: float) -> dict[str, float]:
        tokens = sum(len(answer.ids) for group in batch.groups for answer in group.answers)
        peak = peak_flops()
        return {
            **{f"seconds_{name}": round(value, 3) for name, value in seconds.items()},
            # Of the kept groups: what is thrown away is no progress
            "draw_tokens_per_second": round(tokens / seconds["draw"], 1),
            "update_tokens_per_second": round(tokens / seconds["update"], 1),
            **({"mfu": round(flops / seconds["update"] / peak / self.processes.count, 4)} if peak else {}),
            "peak_memory_gib": round(peak_memory(), 2),
        }

    # ------------------------------------------------------------ the whole run

    def train(self, problems: Sequence[Problem], held_out: Sequence[Problem]) -> None:
        """All steps that are left, from the last checkpoint. Raises Unfinished when a server stayed out of reach,
        Exhausted when the bounds leave nothing to train on; both after a checkpoint."""
        self.resume()
        with self.journal() as log:
            try:
                self.sync()
                stream = Stream(self.kept(problems), self.args.seed)
                self.set_steps(len(stream.problems))
                self.make_up(log, held_out)
                with self.bar() as bar:
                    while self.done < self.args.steps:
                        line = self.step(stream)
                        self.after(line, log, held_out)
                        shown = f"reward {line['reward']:.3f}, accuracy {line['accuracy']:.1%}"
                        bar.set_postfix_str(shown, refresh=False)
                        bar.update()
            except Exhausted:
                self.save()
                raise
            except Unreachable as error:
                self.save()
                of = f" of {self.args.steps}" if self.args.steps else ""
                raise Unfinished(f"{self.done}{of} steps done, run again to go on: {error}") from None

    def set_steps(self, problems: int) -> None:
        """Where --steps does not say it: as many as --passes over the problems that are trained on take."""
        args = self.args
        args.steps = args.steps or max(1, int(args.passes * problems // args.prompts))
        self.say(f"{problems} problems, {args.steps} steps of {args.prompts} prompts x {args.rollouts} answers")

    def is_due(self, held_out: Sequence[Problem]) -> bool:
        """Is it the turn of the held-out problems?"""
        return bool(held_out) and (self.done == self.args.steps or self.done % self.args.eval_every == 0)

    def make_up(self, log: Journal | None, held_out: Sequence[Problem]) -> None:
        """The first policy's evaluation, or one that the end of the run before has cut off."""
        rows = self.processes.first_does(lambda: log.rows if log else [])
        if not self.is_due(held_out) or (rows and "pass_at_1" in rows[-1]):
            return
        line = {**(rows[-1] if rows else {"step": 0}), **self.evaluate(held_out)}
        if log:
            log.keep(len(rows) - 1)
        self.log(log, line)

    def after(self, line: dict[str, float], log: Journal | None, held_out: Sequence[Problem]) -> None:
        """sync; then, where it is their turn, the held-out problems and a checkpoint. The line is logged anyhow."""
        try:
            started = time.monotonic()
            self.sync()
            line["seconds_sync"] = round(time.monotonic() - started, 3)
            if self.is_due(held_out):
                line |= self.evaluate(held_out)
        finally:
            self.log(log, line)
        if self.done == self.args.steps or self.done % self.args.save_every == 0:
            self.save()

    def bar(self) -> tqdm:
        interval = 0.5 if sys.stderr.isatty() else 30  # where nobody watches, the bar is a line in a log
        hidden = self.processes.rank > 0
        return tqdm(total=self.args.steps, initial=self.done, desc="rl", mininterval=interval, disable=hidden)

    def kept(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """The problems that are trained on: all, or those --drop_solved leaves."""
        if not self.args.drop_solved:
            return problems
        path = self.output / "drop_solved.jsonl"
        keys = self.ask(lambda outside: {problem.key for problem in outside.unsolved(problems, path)})
        left = [problem for problem in problems if problem.key in keys]
        self.say(f"--drop_solved: {len(left)} of {len(problems)} problems left, the others have none or all of 8 right")
        if not left:
            raise Fault("--drop_solved leaves no problem")
        return left

    def evaluate(self, held_out: Sequence[Problem]) -> dict[str, float]:
        found = self.ask(lambda outside: outside.evaluate(held_out))
        if not self.done:
            self.first_pass_at_1 = found["pass_at_1"]
        self.say(f"step {self.done}: pass@1 on {len(held_out)} held-out problems {found['pass_at_1']:.1%}")
        return found

    def say(self, text: str) -> None:
        if self.processes.rank == 0:
            tqdm.write(text)

    # ------------------------------------------------------------ what is written

    @contextmanager
    def journal(self) -> Iterator[Journal | None]:
        """steps.jsonl on the first process, without the lines behind the checkpoint that is gone on from."""
        if self.processes.rank > 0:
            yield None
            return
        with Journal(self.output / "steps.jsonl") as log:
            log.keep(sum(row["step"] <= self.done for row in log.rows) if self.done else 0)
            self.board = SummaryWriter(str(self.output / "runs"), purge_step=self.done + 1)
            try:
                yield log
            finally:
                self.board.close()

    def log(self, log: Journal | None, line: dict[str, float]) -> None:
        if log is None:
            return
        log.append({name: None if value != value else value for name, value in line.items()})  # JSON knows no NaN
        for name, value in line.items():
            if name != "step":
                self.board.add_scalar(name, value, line["step"])
        write_atomic(self.output / "samples.html", samples_page(self.shown))

    def save(self) -> None:
        """A checkpoint of everything the next step depends on; the one before it is removed when this one is whole."""
        folder = self.output / f"checkpoint-{self.done}"
        if self.done == self.saved:
            return
        self.learner.accelerator.save_state(str(folder))
        self.learner.accelerator.wait_for_everyone()
        if self.processes.rank == 0:
            state = {"step": self.done, "position": self.position, "first_pass_at_1": self.first_pass_at_1}
            write_json(folder / "run.json", state)
            for other in self.output.glob("checkpoint-*"):
                if other != folder:
                    shutil.rmtree(other)
        self.saved = self.done

    def resume(self) -> None:
        folder = self.processes.first_does(lambda: newest_checkpoint(self.output, "run.json"))
        if folder is None:
            return
        self.learner.accelerator.load_state(str(folder))
        state = read_json(folder / "run.json")
        self.done, self.position, self.first_pass_at_1 = (
            state[name] for name in ("step", "position", "first_pass_at_1")
        )
        self.saved = self.done
        self.say(f"goes on from {folder}")


def score_group(prm: Prm, group: Group) -> list[list[float]]:
    """The PRM's score of every step of every answer."""
    return prm.score(group.problem.question, group.problem.images, [answer.steps for answer in group.answers])
