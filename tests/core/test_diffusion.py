"""The denoiser, its loss, the ODE solvers, distillation, and D(x_0, x_t, t)."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from act_ray.config import Config
from act_ray.core.diffusion import Denoiser, denoising_loss, diffusion_step, ode_step, sample_ode
from act_ray.core.noise import Noise
from act_ray.core.options import Schedule
from act_ray.core.step import TrainState, add_noise, train_step

MakeConfig = Callable[..., Config]
MakeState = Callable[..., TrainState]
CFG = Schedule()


class Zero(nn.Module):
    """F = 0, with which the denoiser is the best one for data ~ N(0, sd^2 I): D = sd^2 x / (t^2 + sd^2)."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x)


def gaussian_path(x: Tensor, t: float, t_next: float) -> Tensor:
    """The ODE's solution for that data: x scales with the standard deviation of p_t."""
    sd = CFG.sigma_data
    return x * math.sqrt((t_next**2 + sd**2) / (t**2 + sd**2))


def images(B: int = 8) -> Tensor:
    return torch.rand(B, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize(("solver", "order"), [("euler", 2), ("heun", 3)])
def test_a_solver_step_has_its_order(solver: str, order: int) -> None:
    """Halving the step divides its error by 2^order."""
    x, t = torch.ones(1, 1, 1, 1, dtype=torch.float64), 1.0

    def error(h: float) -> float:
        times = [torch.tensor([value], dtype=torch.float64) for value in (t, t - h)]
        got = ode_step(Denoiser(Zero(), CFG).double(), x, *times, None, solver)
        return abs(got.item() - gaussian_path(x, t, t - h).item())

    assert math.log2(error(0.1) / error(0.05)) == pytest.approx(order, abs=0.2)


def test_the_sampler_follows_the_ode_to_the_data() -> None:
    z = torch.randn(2000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = gaussian_path(CFG.t_max * z, CFG.t_max, 0)
    calls = []
    denoiser = Denoiser(Zero(), CFG)
    denoiser.register_forward_hook(lambda *_: calls.append(1))
    got = sample_ode(denoiser, z, 18, CFG)
    assert len(calls) == 35
    assert (got - expected).abs().max() < 0.06 * expected.abs().max()
    fine = sample_ode(denoiser, z, 72, CFG)
    assert (fine - expected).abs().max() < 0.006 * expected.abs().max()
    assert torch.equal(sample_ode(denoiser, z, 1, CFG), denoiser(CFG.t_max * z, torch.full((len(z),), CFG.t_max)))


def test_the_loss_weighs_every_level_alike() -> None:
    """EDM's choice: weight c_out^2 = 1, so the network's own target has an error of unit scale at every t."""
    t = torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0])
    _, c_out = Denoiser(Zero(), CFG).scalings(t)
    x, off = torch.zeros(5, 1, 4, 4), c_out.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    assert denoising_loss(off, x, t, CFG) == pytest.approx(torch.ones(5), rel=1e-5)


def test_diffusion_trains_the_model_and_its_average_only(make_config: MakeConfig, make_state: MakeState) -> None:
    cfg = make_config(train__method="diffusion")
    state = make_state(cfg, lr=0.1)
    state.model = denoiser = Denoiser(state.model.network, cfg.schedule)  # type: ignore[arg-type]
    others = [p.clone() for net in (state.teacher, state.discriminator) for p in net.parameters()]
    first = [p.detach().clone() for p in denoiser.parameters()]
    losses = [diffusion_step(state, images(), None, Noise(0, 0, torch.device("cpu")), cfg.step) for _ in range(60)]
    assert state.step == 60
    assert losses[-1]["loss_dsm"] < 0.92 * losses[0]["loss_dsm"]
    assert not any(torch.equal(p, q) for p, q in zip(denoiser.parameters(), first, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(state.ema.parameters(), first, strict=True))
    assert all(
        torch.equal(p, q)
        for p, q in zip(
            [p for net in (state.teacher, state.discriminator) for p in net.parameters()], others, strict=True
        )
    )


def test_fp16_scales_the_denoisers_loss(make_config: MakeConfig, make_state: MakeState) -> None:
    cfg = make_config(train__method="diffusion", train__precision="fp16")
    state, plain = make_state(cfg), make_state(cfg)
    state.scaler_g, plain.scaler_g = GradScaler("cpu", init_scale=2.0**127), None
    before = [p.detach().clone() for p in state.model.parameters()]
    diffusion_step(state, images(), None, Noise(0, 0, torch.device("cpu")), cfg.step)
    assert state.scaler_g.get_scale() == 2.0**126  # its gradients overflowed, and nothing was changed
    assert all(torch.equal(p, q) for p, q in zip(state.model.parameters(), before, strict=True))
    diffusion_step(plain, images(), None, Noise(0, 0, torch.device("cpu")), cfg.step)
    assert not all(torch.equal(p, q) for p, q in zip(plain.model.parameters(), before, strict=True))


def test_distilling_the_oracle_is_consistency_training(make_config: MakeConfig, make_state: MakeState) -> None:
    """A denoiser that knows x gives an Euler step to x + t_prev z: the pair that consistency training takes."""
    cfg = make_config(loss__w=0.0, loss__w_mid=0.0, schedule__s0=10)  # from 80 to 0.002 at once float32 loses Heun's
    trained, distilled = make_state(cfg), make_state(cfg)
    x, solver = images(), "euler"
    distilled.previous = lambda x_t, t, t_prev, labels: ode_step(lambda *_: x, x_t, t, t_prev, labels, solver)  # type: ignore[arg-type,return-value]
    rows = [train_step(state, x, None, Noise(0, 0, torch.device("cpu")), cfg.step) for state in (trained, distilled)]
    assert rows[1]["loss_ct"].item() == pytest.approx(rows[0]["loss_ct"].item(), rel=1e-4)
    solver = "heun"
    heun = make_state(cfg)
    heun.previous = distilled.previous
    row = train_step(heun, x, None, Noise(0, 0, torch.device("cpu")), cfg.step)
    assert row["loss_ct"].item() == pytest.approx(rows[0]["loss_ct"].item(), rel=1e-4)  # straight lines: no difference
    heun.previous = lambda x_t, t, t_prev, labels: x_t
    other = train_step(heun, x, None, Noise(0, 0, torch.device("cpu")), cfg.step)
    assert other["loss_ct"].item() != pytest.approx(rows[0]["loss_ct"].item(), rel=1e-2)


class Spy(nn.Module):
    """D(x_0, x_t, t) = <a, x_0> + <b, x_t>, which keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.full((64,), 0.5)), nn.Parameter(torch.full((64,), 0.25))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen.append((x.detach(), t))
        clean, noisy = x.flatten(2).unbind(1)
        return clean @ self.a + noisy @ self.b


def test_the_conditional_discriminator_sees_both_images(make_config: MakeConfig, make_state: MakeState) -> None:
    """Reals are (x, x + t z) and fakes (f(x_t), x_t), x_t at unit variance; L_gp is over x_0 alone (appendix H)."""
    cfg = make_config(discriminator__conditional=True, loss__gp_weight=1.0)
    state = make_state(cfg)
    state.discriminator = spy = Spy()
    state.optimizer_d = torch.optim.SGD(spy.parameters(), 0.0)
    x = images()
    generated: list[tuple[Tensor, Tensor]] = []
    state.model.register_forward_hook(lambda _, args, out: generated.append((args[0], out.detach())))
    metrics = train_step(state, x, None, Noise(0, 0, torch.device("cpu")), cfg.step)
    assert metrics["gp"].item() == pytest.approx(64 * 0.5**2)
    (for_g, t_g), *for_d_apart = spy.seen  # the fakes, and then the reals
    for_d, t_d = (torch.cat(both) for both in zip(*for_d_apart, strict=True))
    noisy, fake = generated[0]
    assert torch.equal(for_g[:, :1], fake)
    assert torch.allclose(for_g[:, 1:], noisy / (80**2 + 0.25) ** 0.5 if t_g[0] > 1000 else for_g[:, 1:])
    noisy, fake = generated[1]
    assert torch.equal(for_d[:4, :1], fake)
    assert torch.equal(for_d[4:, :1], x[1::2])
    t = torch.exp(t_d / 250).view(-1, 1, 1, 1)
    assert torch.allclose(for_d[:4, 1:], noisy / (t[:4] ** 2 + 0.25).sqrt(), rtol=1e-4)
    z = (for_d[4:, 1:] * (t[4:] ** 2 + 0.25).sqrt() - x[1::2]) / t[4:]  # what the reals were noised with
    assert z.std().item() == pytest.approx(1, abs=0.1)
    assert not torch.allclose(add_noise(x[1::2], t[4:].flatten(), z), noisy)


def test_conditioning_is_refused_where_it_means_nothing(make_config: MakeConfig) -> None:
    for more in ({"augment__enabled": True}, {"discriminator__kind": "projected"}):
        with pytest.raises(Exception, match=r"discriminator\.conditional = true: not with"):
            make_config(discriminator__conditional=True, **more)
