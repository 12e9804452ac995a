"""The training loop: a generator of reports, so that a terminal, Ray Train and Ray Tune can all drive it."""

from collections.abc import Generator, Iterator
from contextlib import closing

import torch

from act_ray.config import Config
from act_ray.core.diffusion import diffusion_step
from act_ray.core.noise import Noise
from act_ray.core.step import train_step
from act_ray.device import best_device, prepare_process
from act_ray.outcomes import Report, RunOutcome
from act_ray.runs.folder import RunFolder
from act_ray.runs.pulse import Pulse
from act_ray.train import memory
from act_ray.train.batches import Batches
from act_ray.train.notice import Ask, Notice, nobody, rehearse
from act_ray.train.ranks import Ranks
from act_ray.train.run import TrainingRun


def train(
    cfg: Config, folder: RunFolder, ranks: Ranks, pulse: Pulse | None = None, ask: Ask = nobody
) -> Iterator[Report]:
    """Train to `train.total_steps`, from the newest whole checkpoint in `folder` where there is one.

    Yields a report after every evaluation and one at the end, the same on every worker; only the last has an `outcome`:
    completed, stopped (asked to: folder.request_stop) or pruned (a signature of collapse, in `prune`).
    pulse: is told of every step. ask: whether the machine will be taken away (train/notice.py).
    """
    with closing(folder), memory.needing_memory(*memory.training(cfg, ranks.world)):
        pulse, rehearsed = pulse or Pulse(), False
        while (yield from loop(TrainingRun(cfg, folder, ranks), pulse, ask, rehearsed)):
            folder.close()  # it was rescued: from its last good state, with one thing changed
            rehearsed = True


def loop(run: TrainingRun, pulse: Pulse, ask: Ask, rehearsed: bool) -> Generator[Report, None, bool]:
    """Train from the run's current step to its end; in each round: evaluate, save, report, step.

    rehearsed: this process knows already how long a checkpoint takes. Returns whether the run is to go on from an
    earlier state, instead of its end.
    """
    if not rehearsed:
        rehearse(run)
    with Batches(run.data, run.cfg, run.ranks) as batches:
        try:
            return (yield from rounds(run, batches, pulse, Notice(ask, run, pulse)))
        finally:
            pulse.pause()
            run.writer.close()


def rounds(run: TrainingRun, batches: Batches, pulse: Pulse, notice: Notice) -> Generator[Report, None, bool]:
    """The rounds of `loop`."""
    cfg, ranks = run.cfg, run.ranks
    while True:
        step, report = run.state.step, None
        ending = run.ending()
        if step % cfg.eval.every == 0 or step % cfg.checkpoint.every == 0 or ending:
            pulse.pause()
            run.flush()
            run.check_weights()
            ending = run.ending()
        sound = step > run.resumed_at and not run.detector.diverged
        if sound and (step % cfg.eval.every == 0 or ending == RunOutcome.COMPLETED):
            with memory.needing_memory(*memory.scoring(cfg)):
                report = run.evaluate()
            ending = run.ending()
        if sound and not run.detector.diverged and (step % cfg.checkpoint.every == 0 or ending or run.improved):
            run.save()
        if ending == RunOutcome.PRUNED and run.rescue():
            return True
        if ending:
            yield run.finish(ending)
            return False
        if report is not None:
            try:
                yield report
            except GeneratorExit:  # the caller closed the loop
                run.leave()
                raise

        (x, labels), own = batches.fetch(step)
        noise = Noise(cfg.train.seed, step, ranks.device, ranks.rank, ranks.world)
        if cfg.model.dropout:  # its masks come from torch's global generator, so they do depend on the workers
            torch.manual_seed(noise.generator.initial_seed() + ranks.rank)
        if cfg.train.method == "diffusion":
            run.record(diffusion_step(run.state, x, labels, noise, cfg.step))
        else:
            run.record(train_step(run.state, x, labels, noise, cfg.step, ranks.mean, own))
        if run.state.step % cfg.train.log_every == 0:
            run.flush()
            notice.look()
        notice.heed()
        pulse.step()


def train_here(cfg: Config, location: str, gpu: bool | None = None) -> Report:
    """Train in this process, without Ray; returns the last report. gpu: None takes one where there is one."""
    device = best_device(gpu)
    prepare_process(cfg, 1)
    *_, last = train(cfg, RunFolder(location), Ranks(device))
    return last
