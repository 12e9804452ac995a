"""train_step against Algorithms 1 and 2: what runs, what changes, by how much; and on two workers."""

import copy
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from act_ray.config import Config
from act_ray.core import losses
from act_ray.core.noise import Noise
from act_ray.core.schedule import adversarial_weight, noise_level, num_levels, teacher_decay
from act_ray.core.step import TrainState, discriminator_half, generator_half, train_step
from tests.helpers import golden

CPU = torch.device("cpu")
HERE = Path(__file__).parent
MakeConfig = Callable[..., Config]
MakeState = Callable[..., TrainState]


def batch(B: int = 8, C: int = 1) -> Tensor:
    return torch.rand(B, C, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


def noise(step: int = 0) -> Noise:
    return Noise(0, step, CPU)


def copies(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(module: nn.Module, before: list[Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))


def go(state: TrainState, cfg: Config, steps: int, labels: Tensor | None = None) -> list[dict[str, float]]:
    rows = []
    for _ in range(steps):
        metrics = train_step(state, batch(), labels, noise(state.step), cfg.step)
        assert not any(value.requires_grad for value in metrics.values())
        assert all(value.shape == () for value in metrics.values())
        rows.append({name: value.item() for name, value in metrics.items()})
    return rows


def count_forwards(state: TrainState) -> Counter[str]:
    counts: Counter[str] = Counter()

    def counter(name: str) -> Callable[..., None]:
        return lambda *_: counts.update([name])

    for name in ("model", "teacher", "ema", "discriminator"):
        getattr(state, name).register_forward_hook(counter(name))
    return counts


# ---------------------------------------------------------------------------------------------- what runs


@pytest.mark.parametrize("augmented", [False, True])
def test_forward_passes_of_a_step(make_config: MakeConfig, make_state: MakeState, augmented: bool) -> None:
    """G: the update and D's fakes. Teacher: one. D: once for G, once for both kinds, or with the penalty for each."""
    cfg = make_config(loss__w=0.6, loss__w_mid=0.2, loss__gp_interval=2, augment__enabled=augmented)
    state = make_state(cfg)
    counts, penalised = count_forwards(state), []
    for _ in range(4):
        counts.clear()
        penalised.append("loss_gp" in go(state, cfg, 1)[0])
        assert counts == {"model": 2, "teacher": 1, "discriminator": 3 if penalised[-1] else 2}
    assert penalised == [True, False, True, False]


def test_w_0_is_consistency_training_without_d(make_config: MakeConfig, make_state: MakeState) -> None:
    cfg = make_config(loss__w=0.0, loss__w_mid=0.0)
    state = make_state(cfg)
    counts, before = count_forwards(state), copies(state.discriminator)
    rows = go(state, cfg, 2)
    assert counts == {"model": 2, "teacher": 2}
    assert same(state.discriminator, before)
    assert not state.optimizer_d.state
    assert all(p.requires_grad and p.grad is None for p in state.discriminator.parameters())
    assert [set(row) for row in rows] == [{"loss_f", "loss_ct"}] * 2
    assert all(row["loss_f"] == row["loss_ct"] for row in rows)
    assert (state.controller.p_aug, state.step) == (0, 2)


def test_w_mid_1_is_a_gan_without_teacher(make_config: MakeConfig, make_state: MakeState) -> None:
    cfg = make_config(loss__w=1.0, loss__w_mid=1.0)
    state = make_state(cfg)
    counts, before = count_forwards(state), copies(state.teacher)
    rows = go(state, cfg, 2)
    assert counts == {"model": 4, "discriminator": 5}
    assert not same(state.teacher, before)  # it follows: the authors sample from it
    assert all("loss_ct" not in row and row["loss_f"] == row["loss_g"] for row in rows)


def test_r1_every_interval_only(make_config: MakeConfig, make_state: MakeState) -> None:
    cfg = make_config(loss__gp_interval=3, collapse__monitor_interval=1000)
    rows = go(make_state(cfg), cfg, 7)
    assert [k for k, row in enumerate(rows) if "loss_gp" in row] == [0, 3, 6]
    assert [k for k, row in enumerate(rows) if "gp" in row] == [0, 3, 6]
    for row in (rows[0], rows[3], rows[6]):
        assert row["loss_gp"] == pytest.approx(cfg.loss.gp_weight * row["gp"], rel=1e-6)


def test_gp_is_measured_without_the_penalty(make_config: MakeConfig, make_state: MakeState) -> None:
    cfg = make_config(loss__gp_weight=0.0, collapse__monitor_interval=2)
    rows = go(make_state(cfg), cfg, 5)
    assert [k for k, row in enumerate(rows) if "gp" in row] == [0, 2, 4]
    assert not any("loss_gp" in row for row in rows)
    quiet = make_config(loss__gp_weight=0.0, collapse__monitor_interval=1000)
    other = go(make_state(quiet), quiet, 5)
    assert [r["loss_d"] for r in rows] == [r["loss_d"] for r in other]  # measuring changes nothing
    assert all(row["gp"] > 0 for row in rows[::2])


def test_monitor_between_penalties_changes_nothing(make_config: MakeConfig, make_state: MakeState) -> None:
    dense = make_config(loss__gp_interval=4, collapse__monitor_interval=1)
    sparse = make_config(loss__gp_interval=4, collapse__monitor_interval=1000)
    a, b = make_state(dense), make_state(sparse)
    rows = go(a, dense, 5)
    go(b, sparse, 5)
    assert all("gp" in row for row in rows)
    assert same(a.discriminator, copies(b.discriminator))
    assert same(a.model, copies(b.model))


# ---------------------------------------------------------------------------------------------- generator's half


def test_frozen_d_gets_no_gradients_in_the_generators_half(make_config: MakeConfig, make_state: MakeState) -> None:
    cfg = make_config()
    state = make_state(cfg)
    frozen = []
    state.discriminator.register_forward_hook(
        lambda *_: frozen.append(not any(p.requires_grad for p in state.discriminator.parameters()))
    )
    before = copies(state.discriminator)
    generator_half(state, batch(), None, noise(), 5, cfg.step)
    assert frozen == [True]
    assert all(p.grad is None for p in state.discriminator.parameters())
    assert same(state.discriminator, before)
    train_step(state, batch(), None, noise(), cfg.step)
    left = [p.grad.clone() for p in state.discriminator.parameters() if p.grad is not None]
    generator_half(state, batch(), None, noise(1), 5, cfg.step)  # also where an earlier step left gradients behind
    assert all(torch.equal(p.grad, g) for p, g in zip(state.discriminator.parameters(), left, strict=True))  # type: ignore[arg-type]


def test_generator_descends_the_papers_loss(make_config: MakeConfig, make_state: MakeState) -> None:
    """theta <- theta - eta grad mean((1 - lambda) d(f, f^-) + lambda softplus(-D)), lambda by sample."""
    cfg, N, x = make_config(loss__w=0.6, loss__w_mid=0.2), 7, batch()
    state = make_state(cfg, lr=0.05)
    with torch.no_grad():
        for p in state.teacher.parameters():
            p.mul_(0.9)
    net = copy.deepcopy(state.model)
    draws = noise()
    j, z = draws.integers(1, N, 8), draws.normal(*x.shape)
    s, s_prev = noise_level(j, N, cfg.schedule), noise_level(j - 1, N, cfg.schedule)
    lam = adversarial_weight(j, N, cfg.loss)
    assert lam.unique().numel() > 2
    fake = net(x + s.view(-1, 1, 1, 1) * z, s)
    target = state.teacher(x + s_prev.view(-1, 1, 1, 1) * z, s_prev).detach()
    ct, g = losses.pseudo_huber(fake, target), F.softplus(-state.discriminator(fake, 250 * s.log()))
    loss = ((1 - lam) * ct + lam * g).mean()
    loss.backward()
    expected = [p.detach() - 0.05 * p.grad for p in net.parameters() if p.grad is not None]

    metrics = generator_half(state, x, None, noise(), N, cfg.step)
    assert metrics["loss_f"].item() == pytest.approx(loss.item(), rel=1e-6)
    assert metrics["loss_ct"].item() == pytest.approx(ct.mean().item(), rel=1e-6)
    assert metrics["loss_g"].item() == pytest.approx(g.mean().item(), rel=1e-6)
    for p, q in zip(state.model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-5, atol=1e-6)


def test_the_teacher_follows(make_config: MakeConfig, make_state: MakeState) -> None:
    cfg = make_config(loss__w=0.0, loss__w_mid=0.0, train__total_steps=10)
    state = make_state(cfg)
    for k in range(3):
        teacher, ema = copies(state.teacher), copies(state.ema)
        go(state, cfg, 1)
        mu = teacher_decay(num_levels(k, 10, cfg.schedule), cfg.schedule)
        for p, old, new in zip(state.teacher.parameters(), teacher, state.model.parameters(), strict=True):
            torch.testing.assert_close(p, mu * old + (1 - mu) * new.detach(), rtol=1e-5, atol=1e-6)
        for p, old, new in zip(state.ema.parameters(), ema, state.model.parameters(), strict=True):
            decay = min(cfg.train.ema_decay, (1 + k) / (10 + k))
            torch.testing.assert_close(p, decay * old + (1 - decay) * new.detach(), rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in (*state.teacher.parameters(), *state.ema.parameters()))


# ---------------------------------------------------------------------------------------------- discriminator's half


@pytest.mark.parametrize("k", [0, 1])
def test_discriminator_descends_the_papers_loss(make_config: MakeConfig, make_state: MakeState, k: int) -> None:
    """theta_D <- theta_D - eta grad (E_fake lambda softplus(D) + E_real lambda (softplus(-D) + w_gp ||grad D||^2))."""
    cfg, N, x = make_config(loss__w=0.6, loss__w_mid=0.2, loss__gp_interval=2, loss__gp_weight=5.0), 7, batch()
    state = make_state(cfg, lr=0.05)
    state.step = k
    D, model = copy.deepcopy(state.discriminator), copies(state.model)
    draws = noise()
    j_f, j_r, z = draws.integers(1, N, 4), draws.integers(1, N, 4), draws.normal(4, 1, 8, 8)
    assert not torch.equal(j_f, j_r)
    t_f, t_r = noise_level(j_f, N, cfg.schedule), noise_level(j_r, N, cfg.schedule)
    lam_f, lam_r = adversarial_weight(j_f, N, cfg.loss), adversarial_weight(j_r, N, cfg.loss)
    fake = state.model(x[0::2] + t_f.view(-1, 1, 1, 1) * z, t_f).detach()
    real = x[1::2].clone().requires_grad_()
    logit_f, logit_r = D(fake, 250 * t_f.log()), D(real, 250 * t_r.log())
    (grad,) = torch.autograd.grad(logit_r.sum(), real, create_graph=True)
    gp = grad.square().sum((1, 2, 3))
    loss = (lam_f * F.softplus(logit_f)).mean() + (lam_r * (F.softplus(-logit_r) + 5 * gp * (k == 0))).mean()
    loss.backward()
    expected = [p.detach() - 0.05 * p.grad for p in D.parameters() if p.grad is not None]

    metrics = discriminator_half(state, x, None, noise(), N, cfg.step)
    plain = F.softplus(logit_f).mean() + F.softplus(-logit_r).mean()
    assert metrics["loss_d"].item() == pytest.approx(plain.item(), rel=1e-6)
    assert metrics["logit_gap"].item() == pytest.approx((logit_r.mean() - logit_f.mean()).item(), rel=1e-4, abs=1e-6)
    if k == 0:
        assert metrics["gp"].item() == pytest.approx(gp.mean().item(), rel=1e-5)
    for p, q in zip(state.discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-5, atol=1e-6)
    assert same(state.model, model)
    assert all(p.grad is None for p in state.model.parameters())
    assert not x.requires_grad


def test_augmented_step_with_the_penalty(make_config: MakeConfig, make_state: MakeState) -> None:
    cfg = make_config(augment__enabled=True, augment__tau=1e-9, augment__p_step=0.4, loss__gp_interval=2)
    state = make_state(cfg)
    before, p = copies(state.discriminator), []
    for _ in range(6):
        go(state, cfg, 1)
        p.append(state.controller.p_aug.item())
    assert p == pytest.approx([0.4, 0.4, 0.8, 0.8, 1.0, 1.0])  # every I_gp steps, clipped
    assert not same(state.discriminator, before)
    assert all(q.isfinite().all() for q in (*state.model.parameters(), *state.discriminator.parameters()))


def test_the_penalty_is_at_the_augmented_image(make_config: MakeConfig, make_state: MakeState) -> None:
    """For D(x) = <a, x> it is ||a||^2 whatever A does; with respect to x itself A's Jacobian would enter."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(1, 8, 8))

        def forward(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
            return (self.a * x).sum((1, 2, 3))

    cfg = make_config(augment__enabled=True)
    state = make_state(cfg)
    state.discriminator, state.controller.p_aug = Linear(), torch.tensor(1.0)
    state.optimizer_d = torch.optim.SGD(state.discriminator.parameters(), 0.1)
    norm2 = state.discriminator.a.square().sum().item()
    metrics = discriminator_half(state, batch(), None, noise(), 5, cfg.step)
    assert metrics["gp"].item() == pytest.approx(norm2, rel=1e-5)


def test_p_aug_uses_the_mean_over_workers(make_config: MakeConfig, make_state: MakeState) -> None:
    cfg = make_config(augment__enabled=True, augment__gp_decay=0.5)
    state, asked = make_state(cfg), []

    def mean(value: Tensor) -> Tensor:
        asked.append(value)
        return torch.tensor(2.0)

    metrics = train_step(state, batch(), None, noise(), cfg.step, mean)
    assert [value.item() for value in asked] == [metrics["loss_gp"].item()]
    assert state.controller.gp_ema.item() == pytest.approx(0.5 * cfg.augment.tau + 0.5 * 2.0)


# ---------------------------------------------------------------------------------------------- variants


def test_class_conditional_step(make_config: MakeConfig, make_state: MakeState) -> None:
    """Each network is given the labels that belong to its images."""
    cfg = make_config(model__num_classes=10)
    state, labels, seen = make_state(cfg), torch.arange(8), []
    for name in ("model", "teacher", "discriminator"):
        net = getattr(state, name)
        net.register_forward_hook(lambda _, args, __, name=name: seen.append((name, args[2].tolist())))
    go(state, cfg, 1, labels)
    everyone = list(range(8))
    assert seen == [
        ("model", everyone),
        ("teacher", everyone),
        ("discriminator", everyone),
        ("model", [0, 2, 4, 6]),
        ("discriminator", [0, 2, 4, 6]),  # a step with the penalty
        ("discriminator", [1, 3, 5, 7]),
    ]
    first = go(make_state(cfg), cfg, 1, labels)
    assert go(make_state(cfg), cfg, 1, labels.flip(0)) != first


@pytest.mark.parametrize(("kind", "near"), [("bf16", 0.03), ("fp16", 0.01)])
def test_half_precision_is_close_to_fp32(
    make_config: MakeConfig, make_state: MakeState, kind: str, near: float
) -> None:
    rows = []
    for precision in ("fp32", kind):
        cfg = make_config(train__precision=precision, loss__gp_interval=2, loss__w=0.7)
        state = make_state(cfg)
        if kind == precision == "fp16":  # a scale that these gradients never overflow
            state.scaler_g, state.scaler_d = (GradScaler("cpu", init_scale=4.0) for _ in range(2))
        rows.append(go(state, cfg, 3))
        assert {p.dtype for p in (*state.model.parameters(), *state.discriminator.parameters())} == {torch.float32}
    for full, half in zip(*rows, strict=True):
        for name in full:
            assert half[name] == pytest.approx(full[name], rel=near, abs=near), name
    assert rows[0] != rows[1]


def test_fp16_skips_a_step_whose_gradients_overflow(make_config: MakeConfig, make_state: MakeState) -> None:
    """And halves the scale of the loss, which cancels from the update otherwise."""
    cfg = make_config(train__precision="fp16", loss__gp_interval=2)
    state = make_state(cfg)
    assert state.scaler_g is not None
    assert state.scaler_d is not None
    state.scaler_g = GradScaler("cpu", init_scale=2.0**127)
    before, D = copies(state.model), copies(state.discriminator)
    go(state, cfg, 1)
    assert state.scaler_g.get_scale() == 2.0**126
    assert same(state.model, before)
    assert not same(state.discriminator, D)
    state.scaler_g = GradScaler("cpu", init_scale=2.0**4)
    other = copy.deepcopy(state)
    other.scaler_g = None
    go(state, cfg, 1)
    go(other, cfg, 1)
    for p, q in zip(state.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_penalty_steps_do_not_run_in_half_precision(
    make_config: MakeConfig, make_state: MakeState, precision: str
) -> None:
    cfg = make_config(train__precision=precision, loss__gp_interval=2, collapse__monitor_interval=1000)
    state, autocast = make_state(cfg), []
    state.discriminator.register_forward_hook(lambda *_: autocast.append(torch.is_autocast_enabled("cpu")))
    go(state, cfg, 2)
    assert autocast == [True, False, False, True, True]  # for G, fakes, reals; for G, both


@pytest.mark.parametrize("kind", ["saturating", "non_saturating"])
def test_step_draws_from_its_noise_alone(make_config: MakeConfig, make_state: MakeState, kind: str) -> None:
    cfg = make_config(augment__enabled=True, loss__adversarial=kind)
    a, b = make_state(cfg), make_state(cfg)
    torch.manual_seed(5)
    first = go(a, cfg, 3)
    torch.manual_seed(6)
    assert go(b, cfg, 3) == first
    assert same(a.model, copies(b.model))


# ---------------------------------------------------------------------------------------------- real networks


def test_golden_losses() -> None:
    """Ten steps of ACT-Aug on the digits; `python -m tests.helpers.golden` records them anew."""
    expected: list[dict[str, float]] = json.loads(golden.FILE.read_text())
    got = golden.run()
    assert len(got) == len(expected) == 10
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5), f"step {k}"
    assert golden.run(train__seed=1)[0] != pytest.approx(expected[0], rel=1e-4)


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_are_the_batch(make_config: MakeConfig, make_state: MakeState, parts: int) -> None:
    """The networks see a part at a time, and the weights and metrics are those of the whole batch."""
    dotted = {
        "loss__w": 0.6,
        "loss__w_mid": 0.2,
        "loss__gp_interval": 2,
        "augment__enabled": True,
        "augment__tau": 1e-9,
    }
    whole, rows = make_state(make_config(**dotted)), []
    rows.append(go(whole, make_config(**dotted), 4))
    cfg = make_config(**dotted, train__global_batch=8, train__micro_batch=8 // parts)
    state, seen = make_state(cfg), set[int]()
    state.model.register_forward_hook(lambda _, args, __: seen.add(len(args[0])))
    rows.append(go(state, cfg, 4))
    assert seen == {8 // parts, 4 // parts}
    for a, b in zip(*rows, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
    for one, other in ((whole.model, state.model), (whole.discriminator, state.discriminator)):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    meet = tmp_path_factory.mktemp("ranks") / "meet"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(HERE.parent / "helpers" / "two_ranks.py")]
    workers = [
        subprocess.Popen(
            [*command, str(r), str(meet)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        for r in (0, 1)
    ]
    try:
        answers = [worker.communicate(timeout=600) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], answers[0][1] + answers[1][1]
    return json.loads(answers[0][0])


@pytest.mark.parametrize("scenario", ["act", "augmented"])
def test_two_workers_equal_one_in_float32(two_ranks: Any, scenario: str) -> None:
    found = two_ranks["float32"][scenario]
    first = {name: value for name, value in found["metrics"][0].items() if name != "gp"}
    assert max(first.values()) < 1e-6, first
    assert found["parameters"] < 1e-6


@pytest.mark.parametrize(
    "scenario",
    [
        "act",
        "augmented",
        "class-conditional",
        "monitor only",
        "residual",
        "consistency training",
        "pure GAN",
        "shared images",
        "flipped",
        "own threshold",
        "micro-batches",
        "micro-batches, augmented",
        "stylegan2",
        "stylegan2, micro-batches",
    ],
)
def test_two_workers_equal_one_but_for_round_off(two_ranks: Any, scenario: str) -> None:
    """In float64, where round-off is too small for training to blow it up: penalty, monitor, p_aug and all.

    With train.micro_batch, too: the one worker always takes its batch as a whole.
    """
    found = two_ranks["float64"][scenario]
    assert len(found["metrics"]) == 4
    assert max(max(row.values()) for row in found["metrics"]) < 1e-11
    assert found["parameters"] < 1e-11
