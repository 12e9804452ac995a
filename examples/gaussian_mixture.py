"""Theorem 3.1 of the ACT paper in two dimensions, where everything is known: `python examples/gaussian_mixture.py`.

The data is a 3 x 3 grid of Gaussians, the product of two one-dimensional mixtures. Its score is closed form, and so is
its consistency map: an ODE in one dimension keeps the order of its points, so it carries quantiles to quantiles. A
small network is trained with act_ray's own step, once by consistency training (CT) and once by ACT, and both sides of
the theorem are measured at every noise level:

    W[f_t, p_0]  <=  L W[q_t, p_t] + sum of L_CT up to t + eps E||z||

For the noisy images of training q_t = p_t, and the first term is zero; one-step samples start from N(0, T^2 I) instead.
This is the theorem without its O(dt): (x + t_j z, x + t_{j-1} z), whose distance under f is L_CT, is a coupling of
p_{t_j} and p_{t_{j-1}}, so a level adds at most its L_CT; and f(x, eps) = x leaves W[p_eps, p_0] <= eps E||z||.
"""

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

import click
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from tqdm import tqdm

from act_ray import config, settings
from act_ray.cli import run
from act_ray.core import losses
from act_ray.core.augment import Controller
from act_ray.core.consistency import Consistency
from act_ray.core.noise import Noise
from act_ray.core.schedule import noise_level, num_levels
from act_ray.core.step import TrainState, train_step
from act_ray.figures.style import COLOURS, GREY, WIDTH, save, styled

MEANS = torch.tensor([-0.6, 0.0, 0.6], dtype=torch.float64)  # per coordinate, equally likely
STD = 0.1  # of each Gaussian; the data's variance per coordinate is 0.24 + 0.01 = sigma_data^2

SETTINGS = {"schedule.s1": 20, "loss.distance": "pseudo_huber", "loss.gp_weight": 0.1, "loss.gp_interval": 4,
            "optim.lr_g": 2e-3, "train.ema_decay": 0.999}  # fmt: skip
METHODS = {"CT": {"loss.w": 0.0, "loss.w_mid": 0.0}, "ACT": {"loss.w": 0.7, "loss.w_mid": 0.7}}

Map = Callable[[Tensor, Tensor], Tensor]  # x [n, 2] at one noise level t [] -> [n, 2]

# ---------------------------------------------------------------------------------------------- what is known exactly


def sample(n: int, generator: torch.Generator) -> Tensor:
    """n points of p_0; [n, 2]."""
    modes = torch.randint(0, len(MEANS), (n, 2), generator=generator)
    return MEANS[modes] + STD * torch.randn(n, 2, generator=generator, dtype=torch.float64)


def log_density(x: Tensor, t: Tensor) -> Tensor:
    """log p_t per coordinate, p_t = p_0 * N(0, t^2 I); the sum over coordinates is the mixture's. Any shape -> same."""
    variance = STD**2 + t**2
    exponents = -((x[..., None] - MEANS) ** 2) / (2 * variance)
    return exponents.logsumexp(-1) - math.log(len(MEANS)) - (2 * math.pi * variance).log() / 2


def denoise(x: Tensor, t: Tensor) -> Tensor:
    """E[x_0 | x_t = x] = x + t^2 grad log p_t(x) (Tweedie): the score, and the ODE dx/dt = (x - E[x_0 | x]) / t."""
    variance = STD**2 + t**2
    share = (-((x[..., None] - MEANS) ** 2) / (2 * variance)).softmax(-1)  # p(mode | x)
    return (share * (MEANS * t**2 + x[..., None] * STD**2)).sum(-1) / variance


def cdf(x: Tensor, t: Tensor) -> Tensor:
    """F_t(x) per coordinate; accurate in the lower tail."""
    return torch.special.ndtr((x[..., None] - MEANS) / (STD**2 + t**2).sqrt()).mean(-1)


def exact_map(x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """f*(x, t) = F_eps^{-1}(F_t(x)) per coordinate: bisection, then a Newton step that also carries the derivative."""
    lower = -x.abs()  # the mixture is symmetric, and the lower tail is the accurate one
    goal = cdf(lower, t)
    with torch.no_grad():
        low, high = torch.full_like(x, -3.0), torch.zeros_like(x)
        for _ in range(50):
            middle = (low + high) / 2
            below = cdf(middle, eps) < goal
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    y = low - (cdf(low, eps) - goal) / log_density(low, eps).exp()
    return -x.sign() * y


# ---------------------------------------------------------------------------------------------- networks


class Perceptron(nn.Module):
    """F(x, t') with two outputs, or the logit of D(x, t') with one, for points given as images [B, 2, 1, 1]."""

    def __init__(self, outputs: int, width: int = 128) -> None:
        super().__init__()
        self.frequencies = (
            math.pi / 2 * torch.arange(1, 5)
        )  # the Gaussians are too narrow for a small net without waves
        sizes = [3 * (1 + 2 * len(self.frequencies)), width, width, width]
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        inputs = torch.cat([x.flatten(1), t[:, None] / 1000], 1)
        angles = (inputs[..., None] * self.frequencies).flatten(1)
        out: Tensor = self.layers(torch.cat([inputs, angles.sin(), angles.cos()], 1))
        return out.squeeze(1) if out.shape[1] == 1 else out[:, :, None, None]


def train(cfg: config.Config, title: str) -> Map:
    """act_ray's train_step on ever fresh points, and the averaged network at the end."""
    torch.manual_seed(cfg.train.seed)
    model, discriminator = Consistency(Perceptron(2), cfg.schedule), Perceptron(1)
    teacher, ema = (copy.deepcopy(model).requires_grad_(False) for _ in range(2))
    betas = (cfg.optim.beta1, cfg.optim.beta2_g)
    opt_g, opt_d = (torch.optim.RAdam(net.parameters(), cfg.optim.lr_g, betas) for net in (model, discriminator))
    controller = Controller.start(cfg.step.augment, torch.device("cpu"))  # of an augmentation that is off
    state = TrainState(model, teacher, ema, discriminator, opt_g, opt_d, losses.pseudo_huber, controller)

    data = torch.Generator().manual_seed(cfg.train.seed)
    for k in tqdm(range(cfg.train.total_steps), title, unit="step", disable=not sys.stderr.isatty()):
        x = sample(cfg.train.global_batch, data).float()[:, :, None, None]
        train_step(state, x, None, Noise(cfg.train.seed, k, torch.device("cpu")), cfg.step)

    return lambda x, t: ema(x.float()[:, :, None, None], t.float().expand(len(x)))[:, :, 0, 0].double()


# ---------------------------------------------------------------------------------------------- the theorem's terms


def wasserstein(a: Tensor, b: Tensor) -> float:
    """W_1 between two samples of equal size: the cheapest assignment under the Euclidean distance."""
    cost = torch.cdist(a, b).numpy()
    return float(cost[linear_sum_assignment(cost)].mean())


@torch.enable_grad()
def lipschitz(f: Map, x: Tensor, t: Tensor) -> float:
    """The largest ||df/dx|| at the points x: the Lipschitz constant as far as they show it."""
    x = x.clone().requires_grad_()
    rows = [torch.autograd.grad(f(x, t)[:, i].sum(), x)[0] for i in range(2)]
    return torch.linalg.matrix_norm(torch.stack(rows, 1), 2).max().item()


def start_gap(T: Tensor, z: Tensor, slices: int = 16) -> float:
    """W[N(0, T^2 I), p_T] <= int_0^1 E||E[x_0 | s x_0 + T z]|| ds: the path that s x_0 + T z takes from s = 0 to 1."""
    total = 0.0
    for i, x in enumerate(sample(len(z) * slices, torch.Generator().manual_seed(0)).chunk(slices)):
        s = (i + 0.5) / slices
        total += denoise(x + T / s * z, T / s).norm(dim=1).mean().item() / slices
    return total


@dataclass(frozen=True)
class Measured:
    """The two sides of the theorem for one map, over the levels t_j and for one-step samples."""

    error: list[float]  # W[f_t, p_0], inputs x + t z
    bound: list[float]  # sum of L_CT up to t, + eps E||z||
    samples: Tensor  # f(T z, T)
    start_error: float  # W of these
    start_term: float  # L W[N(0, T^2 I), p_T]
    lipschitz: float  # L at T
    off: float  # E||f(x, T) - f*(x, T)||


@torch.no_grad()
def measure(f: Map, levels: Tensor, points: int, seed: int, title: str) -> Measured:
    """Measure f on fresh points. Both sides share them: then the coupling above bounds W draw by draw."""
    generator = torch.Generator().manual_seed(seed)
    target, x = (sample(points, generator) for _ in range(2))
    z = torch.randn(points, 2, generator=generator, dtype=torch.float64)
    outputs = [f(x + t * z, t) for t in levels]  # f is its own teacher
    loss_ct = [(now - before).norm(dim=1).mean().item() for before, now in pairwise(outputs)]
    bound = list(accumulate(loss_ct, initial=levels[0].item() * math.sqrt(math.pi / 2)))  # eps E||z||
    bar = tqdm(outputs, f"measure {title}", unit="level", disable=not sys.stderr.isatty())
    error = [wasserstein(output, target) for output in bar]
    T = levels[-1]
    samples, L = f(T * z, T), lipschitz(f, T * z, T)
    off = (samples - exact_map(T * z, T, levels[0])).norm(dim=1).mean().item()
    return Measured(error, bound, samples, wasserstein(samples, target), L * start_gap(T, z), L, off)


def sampling_floor(points: int, seed: int, pairs: int = 20) -> tuple[float, float]:
    """Mean and standard deviation of W between two samples of p_0 itself: no measured W can be expected below."""
    generator = torch.Generator().manual_seed(seed)
    values = [wasserstein(sample(points, generator), sample(points, generator)) for _ in range(pairs)]
    return torch.tensor(values).mean().item(), torch.tensor(values).std().item()


def sides(m: Measured, levels: Tensor) -> list[tuple[str, float, float]]:
    """(where, W, bound) for each level and, last, for one-step samples."""
    rows = [(f"{t:.3g}", w, b) for t, w, b in zip(levels.tolist(), m.error, m.bound, strict=True)]
    return [*rows, ("one step", m.start_error, m.bound[-1] + m.start_term)]


def violations(results: dict[str, Measured], levels: Tensor, floor: tuple[float, float]) -> list[str]:
    """Where W exceeds its bound by more than sampling explains (floor + 3 sd); f* is held to eps E||z|| alone."""
    exact = results["exact map"]
    held = {**results, "exact map": replace(exact, bound=exact.bound[:1] * len(levels))}
    rows = [(name, *row) for name, m in held.items() for row in sides(m, levels)]
    limit = floor[0] + 3 * floor[1]
    return [f"{name}, t = {where}: W = {w:.4f} > {b + limit:.4f}" for name, where, w, b in rows if w > b + limit]


# ---------------------------------------------------------------------------------------------- telling


def tell(results: dict[str, Measured], levels: Tensor, floor: tuple[float, float]) -> None:
    """The figures, on standard output: about ten levels, then one-step samples."""
    print(f"W between two samples of p_0 (floor): {floor[0]:.4f}, standard deviation {floor[1]:.4f}")
    table = Table("t", *(f"{name}\n{what}" for name in results for what in ("W", "bound")))
    rows = list(zip(*(sides(m, levels) for m in results.values()), strict=True))
    for j in sorted({round(i * (len(levels) - 1) / 10) for i in range(11)} | {len(levels)}):
        table.add_row(rows[j][0][0], *(f"{side:.3f}" for _, w, b in rows[j] for side in (w, b + floor[0])))
    Console(width=100).print(table)
    print("bound: L W[q_t, p_t] + sum of L_CT up to t + eps E||z|| + floor; one step: from N(0, T^2 I)")
    for name, m in results.items():
        print(
            f"{name}: L at T {m.lipschitz:.3f}, L W[N(0, T^2 I), p_T] {m.start_term:.1e}, E||f - f*|| at T {m.off:.3f}"
        )
    ct, act, exact = (m.start_error for m in results.values())
    print(f"one step, above the exact map's W: CT {ct - exact:.3f}, ACT {act - exact:.3f}")


def scatter(axes: Axes, points: Tensor, exact: Tensor, title: str) -> None:
    """Points in the colours of the Gaussians that are nearest to `exact`."""
    column, row = (exact[..., None] - MEANS).abs().argmin(-1).T
    colours = [(*COLOURS, "#999933", "#882255")[mode] for mode in (3 * column + row).tolist()]
    axes.scatter(points[:, 0], points[:, 1], s=1.5, c=colours, linewidths=0, rasterized=True)
    axes.set(title=title, xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.grid(False)


def draw(results: dict[str, Measured], levels: Tensor, floor: tuple[float, float], seed: int) -> Figure:
    """Data and one-step samples above; below, W over t, and W beside its bound."""
    figure = Figure(figsize=(WIDTH, 4.7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.35))
    panels = above.subplots(1, 4)
    data = sample(len(results["CT"].samples), torch.Generator().manual_seed(seed))
    scatter(panels[0], data, data, f"data, {len(data):,} points")
    for axes, (name, m) in zip(panels[1:], results.items(), strict=True):
        scatter(axes, m.samples, results["exact map"].samples, f"{name}: $W$ = {m.start_error:.3f}")
    above.supxlabel("one-step samples from the same noise, coloured by where the exact map sends it", fontsize=7.5)

    left, right = below.subplots(1, 2)
    for i, ((name, m), colour) in enumerate(zip(results.items(), (COLOURS[1], COLOURS[0], "black"), strict=True)):
        left.semilogx(levels, m.error, ".-", color=colour, lw=1.2, label=name)
        right.loglog(levels, m.error, ".-", color=colour, lw=1.2)
        dashes = (3 * i, (3, 6))  # the three bounds all but coincide: their dashes take turns
        right.loglog(levels, torch.tensor(m.bound) + floor[0], linestyle=dashes, color=colour, lw=1.6)
    low, high = floor[0] - 3 * floor[1], floor[0] + 3 * floor[1]
    for axes in (left, right):
        axes.axhspan(low, high, color=GREY, alpha=0.2, linewidth=0, label="data vs data, ±3 sd")
    left.set(title="CT's error builds up with $t$", ylabel="$W[f_t, p_0]$", ylim=(0, None))
    left.legend(loc="upper left")
    right.set(title="both sides of Theorem 3.1", ylabel="$W$ and its bound (dashed)", ylim=(0.02, 1.5))
    right.text(1.3, 0.5, "the three bounds,\ncolours as on the left", fontsize=7.5)
    below.supxlabel("noise level $t$", fontsize=8)
    return figure


@click.command("gaussian_mixture", context_settings={"show_default": True})
@click.option("--out", default="runs/gaussian_mixture", type=click.Path(path_type=Path), help="Folder for the figure.")
@click.option("--steps", default=3000, type=click.IntRange(1), help="Training steps of CT and of ACT.")
@click.option("--batch", default=64, type=click.IntRange(2), help="Points per step; even.")
@click.option("--points", default=1000, type=click.IntRange(16), help="Points per Wasserstein distance.")
@click.option("--seed", default=0, type=click.IntRange(0))
def command(out: Path, steps: int, batch: int, points: int, seed: int) -> int:
    """Check Theorem 3.1 on a mixture of Gaussians; exit code 1 if a measured distance exceeds its bound."""
    torch.set_num_threads(1)
    base = {**SETTINGS, "train.total_steps": steps, "train.global_batch": batch, "train.seed": seed}
    configs = {name: settings.load(None, {**base, **change}) for name, change in METHODS.items()}
    N = num_levels(steps, steps, configs["CT"].schedule)
    levels = noise_level(torch.arange(N), N, configs["CT"].schedule).double()

    floor = sampling_floor(points, seed + 2)
    maps: dict[str, Map] = {name: train(cfg, f"train {name}") for name, cfg in configs.items()}
    maps["exact map"] = lambda x, t: exact_map(x, t, levels[0])
    results = {name: measure(f, levels, points, seed + 1, name) for name, f in maps.items()}

    tell(results, levels, floor)
    out.mkdir(parents=True, exist_ok=True)
    with styled():
        save(draw(results, levels, floor, seed), out, "gaussian_mixture")
    broken = violations(results, levels, floor)
    print(
        "\n".join(["violated:", *broken]) if broken else f"holds at all {N} levels; the exact map's W is at the floor"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    run(command)
