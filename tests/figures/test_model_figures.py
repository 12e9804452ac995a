"""Figures of a model: trajectories, holes, and models that are no subject for them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Annotation
from torch import Tensor

from act_ray.data.shards import open_data
from act_ray.edit.request import MASK_COLOUR
from act_ray.figures import model_figures
from act_ray.figures.model_figures import Subject
from act_ray.figures.mosaic import Mosaic
from act_ray.figures.style import Missing, styled
from act_ray.generators.generator import Kind
from act_ray.generators.reading import read_generator


@pytest.fixture(scope="module")
def subject(drawable: Path) -> Subject:
    source = read_generator(str(drawable))
    return Subject(source, source.build(torch.device("cpu")), open_data("digits"), torch.device("cpu"))


def test_a_trajectory_is_one_image_with_more_and_more_of_one_noise(subject: Subject) -> None:
    x, told = subject.real(5)
    assert told is not None
    assert told.tolist() == [
        int(subject.data.labels[i])  # type: ignore[index]
        for i in (np.flatnonzero((subject.data.images == np.asarray((image + 1) * 127.5).round()).all((1, 2, 3)))[0]
                  for image in x)
    ]  # fmt: skip
    eps = subject.generator.cfg.schedule.t_min
    (x0, f0), (x1, _), (x2, _) = subject.along(torch.tensor([eps, 1.0, 3.0]), 5)
    assert torch.equal(f0, x0)
    torch.testing.assert_close(x2 - x, 3 * (x1 - x))
    assert 0.8 < float((x1 - x).std()) < 1.2
    assert subject.levels(10).tolist() == pytest.approx(
        [0.0174, 0.0846, 0.315, 0.968, 2.56, 5.99, 12.7, 24.9, 45.7, 80], rel=0.1
    )


class Collapsed(torch.nn.Module):
    """A generator that has lost all modes but one."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        return torch.zeros_like(x)


def test_a_collapsed_model_has_no_diversity_and_no_distances(subject: Subject) -> None:
    collapsed = replace(subject, model=Collapsed())
    with styled():
        levels, trajectory = model_figures.draw_noise_levels(collapsed), model_figures.draw_trajectory(collapsed)
    said = [text.get_text() for axis in levels.axes for text in axis.texts if isinstance(text, Annotation)]
    assert said == ["1.00"] + ["0.00"] * 10
    ticks = [text.get_text() for text in trajectory.axes[0].get_xticklabels()]
    assert ticks == ["0.000"] * 9


def test_only_the_hole_is_painted_and_filled(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(model_figures, "Mosaic", lambda images: seen.append(images) or Mosaic(images))
    model_figures.draw_inpainting(subject)
    original, masked, *fills = seen[0].unbind(1)
    hole = torch.zeros(8, 8, dtype=torch.bool)
    hole[2:6, 2:6] = True
    assert (masked[..., hole] == torch.tensor(MASK_COLOUR, dtype=torch.uint8).view(3, 1)).all()
    assert len(fills) == 4
    for image in (masked, *fills):
        assert torch.equal(image[..., ~hole], original[..., ~hole])
    assert len({fill.numpy().tobytes() for fill in fills}) == 4


def test_a_denoiser_is_no_subject_for_them(subject: Subject) -> None:
    denoiser = replace(subject, generator=replace(subject.generator, kind=Kind.DENOISER))
    with pytest.raises(Missing, match="no consistency function"):
        model_figures.draw_trajectory(denoiser)
