"""One run on one worker: its state, its detector, and what it has to write down."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from act_ray import settings
from act_ray.collapse.record import PruneRecord, first_flag
from act_ray.config import Config
from act_ray.core.augment import Controller
from act_ray.core.step import Metrics, unwrap
from act_ray.data.shards import label_counts, open_data
from act_ray.errors import UserError
from act_ray.metrics.scores import WORST, finite_or_worst, metric_name
from act_ray.outcomes import Report, RunOutcome
from act_ray.pictures import save_grid
from act_ray.runs import checkpoint
from act_ray.runs.checkpoint import Snapshot
from act_ray.runs.failing_storage import told
from act_ray.runs.folder import RunFolder, grid_name
from act_ray.runs.progress import Progress
from act_ray.runs.writer import Writer
from act_ray.train.batches import step_indices
from act_ray.train.detect import make_detector
from act_ray.train.fork import read_lineage, scored_in
from act_ray.train.preflight import check_fit
from act_ray.train.ranks import Ranks
from act_ray.train.rescue import changed, go_back, next_change, read_rescues
from act_ray.train.scoring import Scorer
from act_ray.train.setup import build_state
from act_ray.train.warm_start import warm_start
from act_ray.train.witnesses import measure_witnesses

# What torch, safetensors and our own code raise for a checkpoint that is whole and is of another network.
LOADING = (SafetensorError, RuntimeError, LookupError, ValueError, TypeError, AttributeError)
LOSSES = ("loss_ct", "loss_g", "loss_d", "loss_dsm")  # shown in progress.json


class TrainingRun:
    """A run between two steps. `loop.loop` says in which order its methods are called."""

    def __init__(self, cfg: Config, folder: RunFolder, ranks: Ranks) -> None:
        self.asked, self.folder, self.ranks = cfg, folder, ranks
        self.data = ranks.together(lambda: open_data(cfg.data.path, cfg.data.decode, self.note))
        ranks.together(lambda: check_fit(cfg, self.data, ranks.world))
        self.scorer, self.writer = Scorer(cfg, self.data, ranks, self.note), Writer(folder)
        ranks.on_first(folder.open)
        self.rescues = ranks.on_first(lambda: read_rescues(folder))
        self.cfg = cfg = changed(cfg, self.rescues)
        self.state = build_state(cfg, self.data, ranks, self.note)
        self.detector = make_detector(cfg)
        self.pending: list[tuple[int, Metrics]] = []  # of the steps since the last flush, on the device
        self.last_score: float | None = None
        self.diversity: float | None = None
        self.best: tuple[float, int] | None = None  # score, step
        self.improved = False  # a best score that no checkpoint holds yet
        self.stop = False  # somebody asked for a stop
        self.seconds = max((rescue.seconds for rescue in self.rescues), default=0.0)  # of training, over all parts
        self.resumed_at = self.saved_at = self._resume()
        self.clock, self.clock_step = time.monotonic(), self.resumed_at

    # ------------------------------------------------------------------------------------------ resume and save

    def _resume(self) -> int:
        """Load the newest checkpoint that verifies; rank 0 chooses. Returns the step to continue from."""
        step, problems = self.ranks.on_first(lambda: checkpoint.newest_whole(self.folder.checkpoints))
        for problem in problems:
            self.note(f"checkpoint damaged: {problem}; going on from step {step or 0:,}")
        if step is not None:
            scored = self.ranks.on_first(lambda: scored_in(self.folder, step))
            self.ranks.together(lambda: self._load(checkpoint.step_folder(self.folder.checkpoints, step), scored))
        else:
            self.ranks.together(lambda: warm_start(self.state, self.cfg))
        self._write("the run's files", lambda: self._begin(step or 0))
        return step or 0

    def _begin(self, step: int) -> None:
        self.folder.write("config.yaml", settings.dump(self.asked))
        (self.folder.path / "result.json").unlink(missing_ok=True)  # it says how a run ended, and this one goes on
        missing = step - self.folder.truncate("metrics.jsonl", step)
        self.folder.truncate("scores.jsonl", step + 1)
        for line in self.folder.left_out():
            self.note(line)
        if missing > 0:
            self.note(f"metrics.jsonl: the rows of {missing:,} of {step:,} steps are missing")
        self.folder.event("resumed" if step else "started", step=step, workers=self.ranks.world)
        self.folder.push_file("events.jsonl")  # from now on there is something to save: follow.count_starts

    def _load(self, at: Path, scored: str | None) -> None:
        self.folder.fetch(at / checkpoint.MANIFEST)
        try:
            saved = checkpoint.load(at, self.state)
            self._restore(saved, scored)
        except LOADING as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            said = " ".join(str(error).split())[:200]
            raise UserError(f"{at}: does not fit this run's settings: {type(error).__name__} {said}") from error

    def _restore(self, saved: dict[str, Any], scored: str | None) -> None:
        if saved["data_checksum"] != self.data.checksum:
            raise UserError(f"{self.folder.location}: was trained on other images than {self.cfg.data.path} holds now")
        lineage = read_lineage(self.folder)
        changes = [(lineage.step, lineage.changes)] if lineage is not None and lineage.changes else []
        changes += [(rescue.back_to, rescue.changes) for rescue in self.rescues]
        since, what = max(changes, key=lambda change: change[0], default=(-1, {}))
        if saved["step"] > since:  # what was changed is watched from there on
            self.detector.load_state_dict(saved["detector"])
        elif "augment.tau" in what or "augment.enabled" in what:  # Algorithm 2 begins
            start = Controller.start(self.cfg.step.augment, self.ranks.device)
            self.state.controller = replace(start, p_aug=self.state.controller.p_aug)
        self.diversity = saved["diversity"]
        if scored in (None, metric_name(self.cfg.eval)):  # a fork's may be another than its parent's
            self.last_score, self.best = saved["score"], tuple(saved["best"]) if saved["best"] else None
        self.seconds = max(self.seconds, saved["seconds"])

    def note(self, line: str) -> None:
        """Write a line for the user into events.jsonl."""
        if self.ranks.first:
            with told("events.jsonl", self.folder.path):
                self.folder.path.mkdir(parents=True, exist_ok=True)  # it may come before the folder is opened
                self.folder.event("note", text=line)

    def _write(self, what: str, write: Callable[[], object]) -> None:
        """On rank 0; a disk that is full ends every worker, for the others would wait for this one."""

        def attempt() -> None:
            with told(what, self.folder.path):
                write()

        self.ranks.on_first(attempt)

    def save(self) -> None:
        """Checkpoint, in the background (rank 0; every worker holds the same state); `pushed` waits for it."""
        self.improved, self.saved_at = False, self.state.step
        self._write("the checkpoint before", self._save)

    def _save(self) -> None:
        self.writer.settle()  # first: else two copies of the state are in memory
        extra = {
            "detector": self.detector.state_dict(),
            "score": self.last_score,
            "diversity": self.diversity,
            "best": self.best,
            "seconds": self.seconds,
            "data_checksum": self.data.checksum,
            "image_shape": list(self.data.images.shape[1:]),
            "label_counts": label_counts(self.data),
        }
        best = self.best[1] if self.best else None
        flagged, kept = self.detector.record, self.cfg.checkpoint
        good = (kept.good, flagged.before) if flagged is not None else None
        prune = partial(checkpoint.prune, self.folder.checkpoints, self.state.step, kept.keep, best, good)
        self.writer.write(Snapshot.take(self.state, extra), prune)

    def pushed(self) -> None:
        """Wait until what was saved is written, and on the object store."""
        self._write("the last checkpoint", self._pushed)

    def _pushed(self) -> None:
        self.writer.settle()
        self.folder.pushed()

    # ------------------------------------------------------------------------------------------ metrics

    def record(self, metrics: Metrics) -> None:
        """Keep a step's metrics on the device until the next flush."""
        if self.cfg.augment.enabled:
            metrics["p_aug"] = self.state.controller.p_aug.clone()
            if self.cfg.augment.tau == "auto":
                metrics["tau"] = self.state.controller.tau
        if self.state.steering is not None:
            metrics["w_gp"] = self.state.steering.w_gp.clone()
        self.pending.append((self.state.step - 1, metrics))

    def flush(self) -> None:
        """One transfer for all pending steps: mean over workers, rows, the detector, and the stop flag."""
        if not self.pending:
            return
        names = sorted({name for _, metrics in self.pending for name in metrics})
        absent = torch.tensor(0.0, device=self.ranks.device)
        table = torch.stack([torch.stack([m.get(name, absent) for name in names]) for _, m in self.pending])
        asked = float(self.ranks.first and self.folder.stop_requested())
        flag = torch.full((1, len(names)), asked, device=absent.device)
        *values, stop = self.ranks.mean(torch.cat([table, flag])).tolist()
        self.stop = self.stop or stop[0] > 0
        rows = []
        for (step, metrics), line in zip(self.pending, values, strict=True):
            measured = {n: v for n, v in zip(names, line, strict=True) if n in metrics}
            rows.append({"step": step, **measured})
            self._watch(self.detector.observe(step, measured.get("loss_ct"), measured.get("gp"), measured))
        self.pending.clear()
        self._write("metrics.jsonl", lambda: self._log(rows))

    def _watch(self, found: PruneRecord | None) -> None:
        """Log a signature when it is found, and when it is confirmed; every worker finds the same."""
        if found is not None:
            kind = "signature" if found.confirmed is None else "confirmed"
            self._write("events.jsonl", lambda: self.folder.event(kind, **found.summary()))

    @torch.no_grad()
    def check_weights(self) -> None:
        """A gradient can overflow under a loss that is finite: such weights are neither scored nor saved."""
        networks = [unwrap(network) for network in checkpoint.modules(self.state).values()]
        norms = torch._foreach_norm([weight for network in networks for weight in network.parameters()])
        if not torch.stack(norms).isfinite().all():
            self._watch(self.detector.observe(self.state.step - 1, None, None, {"a weight": math.nan}))

    def _log(self, rows: list[dict[str, float]]) -> None:
        self.writer.settle(wait=False)
        self.folder.append("metrics.jsonl", rows)
        now, cfg, row = time.monotonic(), self.cfg.train, rows[-1]
        rate = (self.state.step - self.clock_step) / max(now - self.clock, 1e-9)
        self.seconds += now - self.clock
        self.clock, self.clock_step = now, self.state.step
        losses = {name: row[name] for name in LOSSES if name in row}
        progress = Progress(self.state.step, cfg.total_steps, rate, rate * cfg.global_batch, self.last_score, losses)
        progress.write(self.folder.path)

    # ------------------------------------------------------------------------------------------ evaluate and end

    def evaluate(self) -> Report:
        """Score the samples of each of eval.weights; the first gives the grid and what detector and search see."""
        started = time.monotonic()
        networks = checkpoint.modules(self.state)
        result, images = self.scorer({name: networks[name] for name in self.cfg.scored_weights})
        if self.cfg.train.method == "act":
            device = self.ranks.device
            result |= self.ranks.from_first(
                measure_witnesses(self.state, self.data, self.cfg, device) if self.ranks.first else {}
            )
        step, score = self.state.step, result["score"]
        self.last_score, self.diversity = score, result["diversity"]
        self.improved = score is not None and (self.best is None or score < self.best[0])
        if self.improved:
            self.best = (score, step)
        self._watch(self.detector.observe_eval(step, self.diversity, score))
        about = {"weights": self.cfg.scored_weights[0], "metric": metric_name(self.cfg.eval)}
        grid = self.folder.path / "samples" / grid_name(step)
        self._write(f"samples/{grid.name}", lambda: save_grid(images, grid))
        self._write("scores.jsonl", lambda: self.folder.append("scores.jsonl", [{"step": step, **result, **about}]))
        self.clock += time.monotonic() - started  # the rate that is shown is that of training
        return self.report()

    def report(self) -> Report:
        """What a search is told; always the same keys. The scores are finite: nothing else would pass schedulers."""
        return {
            "step": self.state.step,
            "images": self.state.step * self.cfg.train.global_batch,
            "score": finite_or_worst(self.last_score),
            "best_score": self.best[0] if self.best else WORST,
            "best_step": self.best[1] if self.best else None,
            "diversity": None if self.diversity is None or math.isnan(self.diversity) else self.diversity,
            "seconds": round(self.seconds, 3),
            "outcome": None,
            "rescues": len(self.rescues),
            "given_up": sum(rescue.confirmed - rescue.back_to for rescue in self.rescues),
            "prune": None if self.detector.record is None else self.detector.record.summary(),
        }

    def ending(self) -> RunOutcome | None:
        """Why the loop is over, if it is."""
        if (self.detector.confirmed and self.cfg.collapse.ends) or self.detector.diverged:
            return RunOutcome.PRUNED
        if self.state.step >= self.cfg.train.total_steps:
            return RunOutcome.COMPLETED
        return RunOutcome.STOPPED if self.stop else None

    def rescue(self) -> bool:
        """Instead of an end by collapse: go back, and have the next TrainingRun go on with one thing changed."""
        found, best = self.detector.record, self.best[1] if self.best else None
        if self.cfg.collapse.action != "rescue" or found is None or len(self.rescues) >= self.cfg.collapse.rescues:
            return False
        changes = next_change(self.cfg, self.detector, len(self.rescues))
        if changes is None:
            return False
        first = first_flag(replace(self.detector.trace, not_finite=None), self.cfg.collapse) or found
        self.pushed()
        self._write("rescues.json", lambda: go_back(self.folder, found, first, best, changes, self.seconds))
        return True

    def leave(self) -> None:
        """The loop is closed between two steps: save, so that the run can be resumed from this step."""
        if self.state.step != self.saved_at:
            self.save()
        if self.ranks.first:
            with told("events.jsonl", self.folder.path):
                self.writer.settle()
                self.folder.event(RunOutcome.STOPPED, step=self.state.step, prune=None)
                self.folder.push()

    def finish(self, outcome: RunOutcome) -> Report:
        """Write why the run ended; the last report."""
        found = self.detector.record  # the reason, or what was only flagged
        report = {**self.report(), "outcome": outcome.value}
        if self.detector.diverged:
            report["score"] = WORST
        self._write("result.json", lambda: self._conclude(outcome, report, found))
        return report

    def _conclude(self, outcome: RunOutcome, report: Report, found: PruneRecord | None) -> None:
        self.writer.settle()
        if found is not None:
            broken = self.detector.trace.not_finite
            record = found if broken is None else found.with_evidence(self._evidence(broken.step))
            self.folder.json("prune.json", record.to_dict())
        self.folder.json("result.json", report)
        self.folder.event(outcome, step=self.state.step, prune=report["prune"])
        self.folder.clear_stop()
        self.folder.push()

    def _evidence(self, step: int) -> dict[str, Any]:
        """What led to a value that is not finite: its batch (seed and step give it again), the last rows."""
        return {
            "seed": self.cfg.train.seed,
            "images": step_indices(self.cfg, len(self.data.images), step).tolist(),
            "last_rows": self.folder.rows("metrics.jsonl")[-50:],
            "checkpoint_before": max(checkpoint.saved_steps(self.folder.checkpoints), default=None),
        }
