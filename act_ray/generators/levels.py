"""How a model is sampled: the noise levels of the evaluations after the first, as the user asks for them."""

import itertools

from act_ray.core.consistency import multistep_levels
from act_ray.errors import UserError
from act_ray.generators.generator import Generator, Kind


def plan_levels(generator: Generator, nfe: int | None, levels: str | None) -> tuple[int, list[float]]:
    """(network evaluations per image, noise levels after T), for --nfe N, --levels T,T,.. or neither.

    One evaluation by default; a denoiser has its ODE's evaluations and takes neither option. Raises UserError.
    """
    if generator.kind is Kind.DENOISER:
        own = 2 * generator.cfg.eval.ode_steps - 1
        if nfe is not None or levels is not None:
            option = f"--nfe {nfe}" if levels is None else f"--levels {levels}"
            raise UserError(
                f"{option}: {generator.origin} is a denoiser, whose ODE takes {own} evaluations "
                f"(eval.ode_steps = {generator.cfg.eval.ode_steps}); leave it out"
            )
        return own, []
    if levels is None:
        taus = multistep_levels(nfe or 1, generator.schedule)
    else:
        taus = parse_levels(levels, generator.schedule.t_min, generator.schedule.t_max)
        if nfe not in (None, len(taus) + 1):
            raise UserError(f"--levels {levels}: makes {len(taus) + 1} evaluations, not --nfe {nfe}; leave one out")
    return len(taus) + 1, taus


def parse_levels(text: str, low: float, high: float) -> list[float]:
    """'5,0.3' -> [5.0, 0.3]. Raises UserError for what does not descend from below `high` to `low` or above."""
    try:
        taus = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--levels {text}: must be numbers with commas between, as 5,0.3") from None
    if not all(low <= tau < high for tau in taus) or any(a <= b for a, b in itertools.pairwise(taus)):
        raise UserError(f"--levels {text}: must descend, from below T = {high:g} to no less than eps = {low:g}")
    return taus
