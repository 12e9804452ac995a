"""The detector on real runs, across resumes, and in odd circumstances."""

import json
import math
import os
import random
import subprocess
import sys

import pydantic
import pytest

from act_ray.collapse.detector import _KEPT, Detector
from act_ray.collapse.record import PruneRecord, replay
from act_ray.collapse.rules import CollapseConfig
from tests.helpers.traces import RUNS, Run, feed

CFG = CollapseConfig()
FAILING = sorted(n for n, r in RUNS.items() if r["kind"] != "healthy")
LATE = ["h11"]  # it ends at 1.6 times its best, which comes half-way
MUST_SURVIVE = sorted(n for n in RUNS if n.startswith("h") and n not in LATE)


def interval(run: Run) -> int | None:
    return int(run["i_gp"]) if run["w_gp"] > 0 else None


def decide(name: str, cfg: CollapseConfig = CFG, **how: object) -> PruneRecord | None:
    return feed(RUNS[name], cfg, gp_interval=interval(RUNS[name]), **how)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- the stored runs


@pytest.mark.parametrize("name", MUST_SURVIVE)
def test_healthy_run_goes_on(name: str) -> None:
    assert decide(name) is None


@pytest.mark.parametrize("name", LATE)
def test_a_run_whose_score_turns_is_stopped_after_its_best(name: str) -> None:
    record = decide(name)
    assert record is not None
    assert record.confirmed is not None
    scores = [(step, fd) for step, fd, _ in RUNS[name]["evals"]]
    best = min(scores, key=lambda pair: pair[1])
    assert best[0] < record.confirmed
    assert RUNS[name]["last"] > 1.5 * best[1]


@pytest.mark.parametrize("name", FAILING)
def test_failing_run_is_flagged_for_a_reason_that_replays(name: str) -> None:
    record = decide(name)
    assert record is not None
    assert record.value > record.threshold or record.signature == "mode-collapse"
    assert record.confirmed is not None
    back = PruneRecord.from_json(record.to_json())
    assert back == record
    assert replay(back) == record


def test_failing_runs_are_flagged_early_and_leave_much_of_their_budget() -> None:
    records = [record for n in FAILING if (record := decide(n)) is not None]
    assert sum(1 - r.step / r.planned_steps for r in records) / len(FAILING) >= 0.6
    assert sum(1 - (r.confirmed or r.planned_steps) / r.planned_steps for r in records) / len(FAILING) >= 0.4


def test_no_run_that_would_have_had_a_score_near_the_best_is_stopped_before_it() -> None:
    best = min(fd for run in RUNS.values() for _, fd, _ in run["evals"])
    records = {name: record for name in RUNS if (record := decide(name)) is not None}
    assert [n for n in records if n not in FAILING] == ["c02", "c05", "c11", "c13", "c14", "h11"]
    for name, record in records.items():
        later = [fd for step, fd, _ in RUNS[name]["evals"] if record.confirmed is not None and step > record.confirmed]
        assert not [fd for fd in later if fd <= 1.5 * best], name


@pytest.mark.parametrize("name", [*MUST_SURVIVE, *FAILING])
def test_length_of_the_run_changes_nothing(name: str) -> None:
    once, longer = decide(name), feed(RUNS[name], gp_interval=(interval(RUNS[name]) or 1) * 3, scale=3)
    assert (once is None) == (longer is None)
    if once is not None and longer is not None:
        assert (longer.signature, longer.step) == (once.signature, 3 * once.step)


@pytest.mark.parametrize("offset", [0, 16])
def test_half_the_measurements_lead_to_the_same_runs(offset: int) -> None:
    for name in [*MUST_SURVIVE, *FAILING]:
        found = decide(name, keep=lambda step: step % 32 == offset)
        assert (found is not None and found.confirmed is not None) == (name in FAILING), name


def test_start_without_the_first_tenth_leads_to_the_same_runs() -> None:
    for name in [*MUST_SURVIVE, *FAILING]:
        assert (decide(name, first=120) is not None) == (name in FAILING), name


def test_measurements_far_apart_stop_nothing_wrongly() -> None:
    for name in MUST_SURVIVE:
        assert decide(name, keep=lambda step: step % 400 == 0) is None


@pytest.mark.parametrize("field", ["drift_lambda", "drift_ratio", "drift_noise", "confirmed_ratio", "spike_ratio"])
@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_thresholds_are_not_delicate(field: str, factor: float) -> None:
    cfg = CollapseConfig.model_validate({**CFG.model_dump(), field: getattr(CFG, field) * factor})
    for name in [*MUST_SURVIVE, *FAILING]:
        assert (decide(name, cfg) is not None) == (name in FAILING), name


# ------------------------------------------------------------------------------------------------------------ resumes


def events(run: Run) -> list[tuple[str, int, float | None, float | None]]:
    gp, evals = dict(run["gp"]), {s: (div, fd) for s, fd, div in run["evals"]}
    out: list[tuple[str, int, float | None, float | None]] = []
    for step, loss in enumerate(run["loss_ct"]):
        out.append(("step", step, loss, gp.get(step)))
        if step + 1 in evals:
            out.append(("eval", step + 1, *evals[step + 1]))
    return out


def tell(detector: Detector, event: tuple[str, int, float | None, float | None]) -> PruneRecord | None:
    kind, step, a, b = event
    return detector.observe(step, a, b) if kind == "step" else detector.observe_eval(step, a, b)


@pytest.mark.parametrize("name", ["c06", "c10", "m01"])
def test_resume_at_any_step_decides_the_same(name: str) -> None:
    whole = Detector(CFG, 1200)
    stream = events(RUNS[name])
    saved = []
    for event in stream:
        saved.append(json.dumps(whole.state_dict(), allow_nan=False))
        tell(whole, event)
    assert whole.record is not None
    for at in random.Random(0).sample(range(len(stream)), 25):
        resumed = Detector(CFG, 1200)
        resumed.load_state_dict(json.loads(saved[at]))
        for event in stream[at:]:
            tell(resumed, event)
        assert resumed.state_dict() == whole.state_dict()
        assert resumed.record == whole.record


def test_state_of_another_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Detector(CFG, 2000).load_state_dict(Detector(CFG, 4000).state_dict())


# ------------------------------------------------------------------------------------------------------ circumstances


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gp", "diversity", "score"])
def test_not_finite_stops_at_once_and_survives_json(bad: float, where: str) -> None:
    detector = Detector(CFG, 1000)
    detector.observe(0, 1.0, 1.0)
    if where in ("loss", "gp"):
        record = detector.observe(1, bad if where == "loss" else 1.0, bad if where == "gp" else None)
    else:
        record = detector.observe_eval(1, bad if where == "diversity" else 0.9, bad if where == "score" else None)
    assert record is not None
    assert (record.signature, record.step) == ("divergence", 1)
    text = record.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))
    again = PruneRecord.from_json(text)
    assert again.to_json() == text == replay(again).to_json()
    resumed = Detector(CFG, 1000)
    resumed.load_state_dict(json.loads(json.dumps(detector.state_dict(), allow_nan=False)))
    assert resumed.state_dict() == detector.state_dict()


def test_first_finding_is_latched_and_reported_once() -> None:
    detector = Detector(CFG, 100)
    first = detector.observe(0, math.nan, None)
    assert detector.observe(1, math.nan, None) is None
    assert detector.observe_eval(2, math.nan, None) is None
    assert detector.record is first


def test_a_run_that_is_to_be_stopped_is_stopped_for_what_came_first() -> None:
    """Both may come in one flush, before the loop looks at the record."""
    detector = Detector(CFG, 1200)
    for event in events(RUNS["c04"]):
        tell(detector, event)
    first = detector.record
    assert first is not None
    assert detector.observe(1200, math.nan, None) is None
    assert detector.diverged
    assert detector.record is first
    assert replay(first) == first


@pytest.mark.parametrize("settings", [{"enabled": False}, {"action": "record"}])
def test_not_finite_ends_a_run_whatever_was_recorded_before(settings: dict[str, object]) -> None:
    """Where a signature is only recorded the run goes on, and may still break: the record then says why it ended."""
    detector = Detector(CollapseConfig.model_validate(settings), 1200)
    for event in events(RUNS["c04"]):
        tell(detector, event)
    assert (detector.record is not None) == ("action" in settings)
    assert not detector.diverged
    record = detector.observe(1200, 1.0, None, {"L_G": math.inf})
    assert detector.diverged
    assert record is detector.record is not None
    assert (record.signature, record.step, record.message) == (
        "divergence",
        1200,
        "L_G is inf at step 1200: the run has diverged",
    )
    assert replay(PruneRecord.from_json(record.to_json())) == record


def test_disabled_detector_says_nothing() -> None:
    assert feed(RUNS["m01"], CollapseConfig(enabled=False)) is None


@pytest.mark.parametrize("total", [1, 3, 20, 100])
def test_tiny_budget_behaves(total: int) -> None:
    detector = Detector(CFG, total)
    for step in range(3 * total):  # also beyond the plan
        assert detector.observe(step, 2.0, 1.0 if step % 16 == 0 else None) is None
        assert detector.observe_eval(step + 1, 0.5, 30.0) is None


def test_nothing_observed_is_nothing_found() -> None:
    detector = Detector(CFG, 400)
    for step in range(400):
        assert detector.observe(step, None, None) is None
    assert detector.observe_eval(400, None, None) is None
    assert detector.trace.blocks == []


def test_memory_and_state_do_not_grow_with_the_run() -> None:
    detector = Detector(CFG, 150_000)
    for step in range(150_000):
        detector.observe(step, 2.0, 1.0 if step % 16 == 0 else None)
    assert len(detector.trace.blocks) < 75
    assert len(detector.state_dict()["loss"]["values"]) <= _KEPT
    assert len(json.dumps(detector.state_dict())) < 10_000


def test_steps_that_go_back_do_no_harm() -> None:
    detector = Detector(CFG, 1600)
    for step in (100, 50, 120, 0, 400, 390):
        assert detector.observe(step, 2.0, 1.0) is None
    steps = [b.step for b in detector.trace.blocks]
    assert steps == sorted(steps)


def test_altered_record_does_not_replay() -> None:
    record = decide("c04")
    assert record is not None
    blocks = [[step, 0.0, loss] for step, _, loss in record.trace["blocks"]]
    data = record.to_dict() | {"trace": record.trace | {"blocks": blocks, "evals": []}}
    with pytest.raises(ValueError, match="do not lead to"):
        replay(PruneRecord.from_dict(data))
    with pytest.raises(ValueError, match="not a prune record"):
        PruneRecord.from_dict({"signature": "drift"})


@pytest.mark.parametrize("wrong", [{"total_steps": 0}, {"total_steps": 10, "gp_interval": 0}])
def test_impossible_lengths_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Detector(CFG, **wrong)


@pytest.mark.parametrize("wrong", [{"blocks": 2}, {"diversity_floor": 1.5}, {"drift_ratio": 0.5}, {"unknown": 1}])
def test_config_out_of_bounds_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(pydantic.ValidationError):
        CollapseConfig.model_validate(wrong)


def test_package_needs_neither_torch_nor_ray() -> None:
    code = "import sys, act_ray.collapse.detector; assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
