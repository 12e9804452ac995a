"""The training loop: a generator of reports, so that a terminal, Ray Train and Ray Tune can all drive it."""

import math
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from act_ray import settings
from act_ray.collapse.detector import Detector
from act_ray.collapse.record import PruneRecord
from act_ray.config import Config
from act_ray.core.diffusion import diffusion_step
from act_ray.core.noise import Noise
from act_ray.core.step import Metrics, train_step, unwrap
from act_ray.data.sampler import batch_indices
from act_ray.data.shards import ImageData, label_counts, open_data
from act_ray.device import best_device, prepare_process
from act_ray.errors import UserError
from act_ray.metrics.scores import WORST, finite, metric_name
from act_ray.pictures import from_uint8, save_grid
from act_ray.runs import checkpoint
from act_ray.runs.folder import RunFolder, grid_name
from act_ray.train.preflight import check_fit
from act_ray.train.ranks import Ranks
from act_ray.train.scoring import Scorer
from act_ray.train.setup import build_state
from act_ray.train.warm_start import warm_start

Report = dict[str, Any]

COMPLETED, STOPPED, PRUNED = "completed", "stopped", "pruned"


def train(cfg: Config, run: RunFolder, ranks: Ranks) -> Iterator[Report]:
    """Train to `train.total_steps`, from the newest whole checkpoint in `run` where there is one.

    Yields a report after every evaluation and one at the end, the same on every worker; the last has `outcome`
    completed, stopped (asked to: run.request_stop) or pruned (a signature of collapse; pruned_by, prune_reason).
    """
    with closing(run):
        yield from steps(TrainingRun(cfg, run, ranks))


def steps(job: "TrainingRun") -> Iterator[Report]:
    """Train from where the job stands to its end."""
    cfg, ranks = job.cfg, job.ranks
    while True:
        step, report = job.state.step, None
        ending = job.ending()
        if step % cfg.eval.every == 0 or step % cfg.checkpoint.every == 0 or ending:
            job.flush()
            job.check_weights()
            ending = job.ending()
        if step > job.resumed_at and not job.broken and (step % cfg.eval.every == 0 or ending == COMPLETED):
            report = job.evaluate()
            ending = job.ending()
        if step > job.resumed_at and not job.broken and (step % cfg.checkpoint.every == 0 or ending or job.improved):
            job.save()
        if ending:
            yield job.finish(ending)
            return
        if report is not None:
            try:
                yield report
            except GeneratorExit:  # whoever drives the loop wants no more of it
                job.leave()
                raise

        x, labels = fetch(job.data, cfg, step, ranks)
        noise = Noise(cfg.train.seed, step, ranks.device, ranks.rank, ranks.world)
        if cfg.model.dropout:  # its masks come from torch's global generator, so they do depend on the workers
            torch.manual_seed(noise.generator.initial_seed() + ranks.rank)
        if cfg.train.method == "diffusion":
            job.record(diffusion_step(job.state, x, labels, noise, cfg.step))
        else:
            job.record(train_step(job.state, x, labels, noise, cfg.step, ranks.mean))
        if job.state.step % cfg.train.log_every == 0:
            job.flush()


def fetch(data: ImageData, cfg: Config, step: int, ranks: Ranks) -> tuple[Tensor, Tensor | None]:
    """This worker's share of the batch of a step: x [B/W,C,H,W] in [-1, 1], labels [B/W] where they are used."""
    index = batch_indices(len(data.images), cfg.train.global_batch, cfg.train.seed, step)
    share = len(index) // ranks.world
    index = index[ranks.rank * share : (ranks.rank + 1) * share]
    x = from_uint8(to_device(data.images[index], ranks.device))
    if cfg.model.num_classes is None:
        return x, None
    assert data.labels is not None
    return x, to_device(data.labels[index], ranks.device)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device; to a GPU from pinned memory, for only that copy does not wait for what is queued."""
    host = torch.from_numpy(array)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


class TrainingRun:
    """One run on one worker: its state, its detector, and what it has to write down."""

    def __init__(self, cfg: Config, run: RunFolder, ranks: Ranks) -> None:
        self.cfg, self.run, self.ranks = cfg, run, ranks
        self.data = ranks.together(lambda: open_data(cfg.data.path))
        ranks.together(lambda: check_fit(cfg, self.data, ranks.world))
        self.scorer = Scorer(cfg, self.data, ranks, self.note)
        ranks.on_first(run.open)
        self.state = build_state(cfg, self.data, ranks, self.note)
        gp_interval = cfg.loss.gp_interval if cfg.loss.gp_weight else None
        watch = cfg.collapse.beside_penalty(cfg.loss.gp_weight)
        self.detector = Detector(watch, cfg.train.total_steps, gp_interval)
        self.pending: list[tuple[int, Metrics]] = []
        self.last_score: float | None = None
        self.diversity: float | None = None
        self.best: tuple[float, int] | None = None
        self.improved = False  # a best score that no checkpoint holds yet
        self.stop = False
        self.broken: str | None = None  # what is not finite, and since when
        self.broken_at = 0
        self.seconds = 0.0
        self.resumed_at = self.saved_at = self._resume()
        self.clock, self.clock_step = time.monotonic(), self.resumed_at

    # ------------------------------------------------------------------------------------------ resume and save

    def _resume(self) -> int:
        """Load the newest checkpoint that verifies; rank 0 chooses. Returns the step to go on from."""
        step, problems = self.ranks.on_first(lambda: checkpoint.newest_whole(self.run.checkpoints))
        for problem in problems:
            self.note(f"checkpoint damaged: {problem}; going on from step {step or 0:,}")
        if step is not None:
            self.ranks.together(lambda: self._load(checkpoint.step_folder(self.run.checkpoints, step)))
        else:
            self.ranks.together(lambda: warm_start(self.state, self.cfg))
        if self.ranks.first:
            self.run.write("config.yaml", settings.dump(self.cfg))
            self.run.truncate("metrics.jsonl", step or 0)
            self.run.truncate("scores.jsonl", (step or 0) + 1)
            self.run.event("resumed" if step else "started", step=step or 0, workers=self.ranks.world)
        return step or 0

    def _load(self, folder: Path) -> None:
        self.run.fetch(folder / checkpoint.MANIFEST)
        saved = checkpoint.load(folder, self.state)
        if saved["data_checksum"] != self.data.checksum:
            raise UserError(f"{self.run.location}: was trained on other images than {self.cfg.data.path} holds now")
        self.detector.load_state_dict(saved["detector"])
        self.last_score, self.diversity = saved["score"], saved["diversity"]
        self.best = tuple(saved["best"]) if saved["best"] else None
        self.seconds = saved["seconds"]

    def note(self, line: str) -> None:
        """A line for whoever watches the run."""
        if self.ranks.first:
            self.run.path.mkdir(parents=True, exist_ok=True)  # it may come before the run is opened
            self.run.event("note", text=line)

    def save(self) -> None:
        """Checkpoint (rank 0; every worker holds the same state)."""
        self.improved, self.saved_at = False, self.state.step
        if not self.ranks.first:
            return
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
        folder = checkpoint.save(self.run.checkpoints, self.state, extra)
        best = self.best[1] if self.best else None
        checkpoint.prune(self.run.checkpoints, self.state.step, self.cfg.checkpoint.keep, best)
        self.run.push(folder)

    # ------------------------------------------------------------------------------------------ metrics

    def record(self, metrics: Metrics) -> None:
        """Keep a step's metrics on the device until the next flush."""
        if self.cfg.augment.enabled:
            metrics["p_aug"] = self.state.p_aug
        self.pending.append((self.state.step - 1, metrics))

    def flush(self) -> None:
        """One transfer for all pending steps: mean over workers, rows, the detector, and the stop flag."""
        if not self.pending:
            return
        names = sorted({name for _, metrics in self.pending for name in metrics})
        absent = torch.tensor(0.0, device=self.ranks.device)
        table = torch.stack([torch.stack([m.get(name, absent) for name in names]) for _, m in self.pending])
        flag = torch.full((1, len(names)), float(self.ranks.first and self.run.stop_requested()), device=absent.device)
        *values, stop = self.ranks.mean(torch.cat([table, flag])).tolist()
        self.stop = self.stop or stop[0] > 0
        rows = []
        for (step, metrics), line in zip(self.pending, values, strict=True):
            row = {"step": step} | {n: v for n, v in zip(names, line, strict=True) if n in metrics}
            rows.append(row)
            self._watch(row)
        self.pending.clear()
        if self.ranks.first:
            self.run.append("metrics.jsonl", rows)
            self._progress(rows[-1])

    def _watch(self, row: dict[str, float]) -> None:
        """Show a step's values to the detector; a loss that is not finite is a finding whatever its settings."""
        step = int(row["step"])
        self.detector.observe(step, row.get("loss_ct"), row.get("gp"))
        bad = [name for name, value in row.items() if not math.isfinite(value)]
        if bad and not self.broken:
            self.broken = f"{', '.join(bad)} not finite at step {step}"
            self.broken_at = step
            self.detector.observe_other(step, bad[0], row[bad[0]])

    @torch.no_grad()
    def check_weights(self) -> None:
        """A gradient can overflow under a loss that is finite: such weights are neither scored nor saved."""
        networks = [unwrap(getattr(self.state, name)) for name in checkpoint.MODULES]
        norms = torch._foreach_norm([weight for network in networks for weight in network.parameters()])
        if not self.broken and not torch.stack(norms).isfinite().all():
            self.broken_at = self.state.step - 1
            self.broken = f"weights not finite after step {self.broken_at}"
            self.detector.observe_other(self.state.step, "weights", math.nan)

    def _progress(self, row: dict[str, float]) -> None:
        now, cfg = time.monotonic(), self.cfg.train
        rate = (self.state.step - self.clock_step) / max(now - self.clock, 1e-9)
        self.seconds += now - self.clock
        self.clock, self.clock_step = now, self.state.step
        progress: dict[str, Any] = {
            "step": self.state.step,
            "total_steps": cfg.total_steps,
            "steps_per_second": rate,
            "images_per_second": rate * cfg.global_batch,
            "score": self.last_score,
            **{name: row[name] for name in ("loss_ct", "loss_g", "loss_d", "loss_dsm") if name in row},
        }
        self.run.json("progress.json", progress)

    # ------------------------------------------------------------------------------------------ evaluate and end

    def evaluate(self) -> Report:
        """Score the EMA's samples, write the grid, and let the detector see the result."""
        started = time.monotonic()
        result, images = self.scorer(self.state.ema)
        step, score = self.state.step, result["score"]
        self.last_score, self.diversity = score, result["diversity"]
        self.improved = self.best is None or score < self.best[0]
        if self.improved:
            self.best = (score, step)
        self.detector.observe_eval(step, self.diversity, score)
        if self.ranks.first:
            save_grid(images, self.run.path / "samples" / grid_name(step))
            self.run.append("scores.jsonl", [{"step": step, **result, "metric": metric_name(self.cfg.eval)}])
        self.clock += time.monotonic() - started  # the rate that is shown is that of training
        return self.report()

    def report(self) -> Report:
        """What a search is told; always the same keys, always finite."""
        score = finite(self.last_score)
        return {
            "step": self.state.step,
            "images": self.state.step * self.cfg.train.global_batch,
            "score": score,
            "best_score": self.best[0] if self.best else WORST,
            "diversity": -1.0 if self.diversity is None or self.diversity != self.diversity else self.diversity,
            "seconds": round(self.seconds, 3),
            "outcome": "",
            "pruned_by": "",
            "prune_reason": "",
        }

    @property
    def found(self) -> PruneRecord | None:
        return self.detector.record

    def ending(self) -> str | None:
        """Why the loop is over, if it is."""
        if self.broken or (self.found is not None and self.cfg.collapse.action == "stop"):
            return PRUNED
        if self.state.step >= self.cfg.train.total_steps:
            return COMPLETED
        return STOPPED if self.stop else None

    def leave(self) -> None:
        """The loop is closed between two steps: save, so that the run can go on from here."""
        if self.state.step != self.saved_at:
            self.save()
        if self.ranks.first:
            self.run.event(STOPPED, step=self.state.step, pruned_by="")
            self.run.push()

    def finish(self, outcome: str) -> Report:
        """Write why the run ended; the last report."""
        report = {**self.report(), "outcome": outcome}
        if self.found is not None:  # the reason, or what was only recorded
            report |= {"pruned_by": self.found.signature, "prune_reason": self.found.message}
        if self.broken:
            report |= {"pruned_by": "divergence", "prune_reason": self.broken, "score": WORST}
        if self.ranks.first:
            if self.found is not None:
                self.run.json("prune.json", self.found.to_dict())
            if self.broken:
                self.run.json("evidence.json", self._evidence())
            self.run.json("result.json", report)
            self.run.event(outcome, step=self.state.step, pruned_by=report["pruned_by"])
            self.run.clear_stop()
            self.run.push()
        return report

    def _evidence(self) -> dict[str, Any]:
        """What led to a value that is not finite: the step, its batch (seed and step give it again), the last rows."""
        seed, batch = self.cfg.train.seed, self.cfg.train.global_batch
        return {
            "what": self.broken,
            "step": self.broken_at,
            "seed": seed,
            "images": batch_indices(len(self.data.images), batch, seed, self.broken_at).tolist(),
            "last_rows": self.run.rows("metrics.jsonl")[-50:],
            "checkpoint_before": max(checkpoint.saved_steps(self.run.checkpoints), default=None),
        }


def train_here(cfg: Config, location: str, gpu: bool | None = None) -> Report:
    """The same loop without Ray, in this process; gpu: None takes one where there is one."""
    device = best_device(gpu)
    prepare_process(cfg, 1)
    *_, last = train(cfg, RunFolder(location), Ranks(device))
    return last
