"""Files of others as generators: what they do not say is asked for, and nothing is guessed."""

from pathlib import Path

import pytest
import torch

from act_ray.core.consistency import Consistency
from act_ray.core.diffusion import Denoiser
from act_ray.errors import UserError
from act_ray.generators import openai
from act_ray.generators.reading import read_generator
from act_ray.train.warm_start import adopt_architecture
from tests.helpers.imported_models import authors_file, openai_file, others_unet
from tests.helpers.tiny_runs import tiny


def test_the_authors_file_is_the_network_that_diffusers_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = authors_file(tmp_path / "a.ckpt", monkeypatch)
    generator = read_generator(str(tmp_path / "a.ckpt"))
    assert (generator.cfg.schedule.time_input, generator.shape, generator.clip) == ("linear", (3, 8, 8), False)
    f = generator.build(torch.device("cpu"))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 40.0])
    s, sd, eps = t.view(-1, 1, 1, 1), 0.5, 0.002
    with torch.no_grad():
        F = theirs(x / (s**2 + sd**2).sqrt(), t, return_dict=False)[0]
    expected = sd**2 / ((s - eps) ** 2 + sd**2) * x + sd * (s - eps) / (s**2 + sd**2).sqrt() * F
    torch.testing.assert_close(f(x, t), expected)
    with pytest.raises(UserError, match=r"was told of t as 'linear'; use --set schedule.time_input=linear"):
        adopt_architecture(tiny({"model.init": str(tmp_path / "a.ckpt")}))


def test_what_openais_file_does_not_say_is_asked_for(tmp_path: Path) -> None:
    path = openai_file(tmp_path / "cd_x.pt")
    with pytest.raises(UserError, match=r"cd_x.pt: does not say how large its images are; give --image-size"):
        read_generator(path)
    with pytest.raises(UserError, match=r"cd_x.pt: does not say how wide an attention head is, .* give --head-width"):
        read_generator(path, image_size=8)
    with pytest.raises(UserError, match=r"cd_x.pt: --head-width 24: must divide 64"):
        read_generator(path, image_size=8, head_width=24)
    wide, narrow = (read_generator(path, image_size=8, head_width=width) for width in (64, 16))
    assert (wide.shape, wide.cfg.model.num_classes, wide.cfg.schedule.time_input) == ((3, 8, 8), 7, "log")
    x, t, labels = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 40.0]), torch.tensor([0, 6])
    both = [generator.build(torch.device("cpu"))(x, t, labels) for generator in (wide, narrow)]
    assert not torch.allclose(*both)  # why it must not be guessed
    others_unet().save_pretrained(tmp_path / "u")
    with pytest.raises(UserError, match=r"--head-width 64: only for OpenAI's .pt; .* says it itself"):
        read_generator(str(tmp_path / "u"), head_width=64)


def test_the_released_networks_are_known_by_their_widths() -> None:
    assert openai._head_width((192, 384, 576, 768), 3, None) == 64
    with pytest.raises(UserError, match="give --head-width"):
        openai._head_width((192, 384, 576, 768), 2, None)


def test_a_renamed_denoiser_is_no_consistency_model(tmp_path: Path) -> None:
    openai_file(tmp_path / "edm_x.pt")
    (tmp_path / "best.pt").write_bytes((tmp_path / "edm_x.pt").read_bytes())
    on, known = torch.device("cpu"), {"image_size": 8, "head_width": 64}
    unknown = read_generator(str(tmp_path / "best.pt"), **known)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"best.pt: .* name \(cd_, ct_, edm_\) does not say which; give --kind"):
        unknown.build(on)
    assert type(unknown.build(on, denoiser=True)) is Denoiser  # the teacher of a distillation, which is never clamped
    found = {}
    for name, kind in (("edm_x.pt", None), ("best.pt", "denoiser"), ("best.pt", "consistency")):
        generator = read_generator(str(tmp_path / name), kind=kind, **known)  # type: ignore[arg-type]
        found[name, kind] = type(generator.build(on))
        assert generator.can_denoise is (kind != "consistency")
        assert generator.clip
    denoiser, same_denoiser, consistency = found.values()
    assert issubclass(denoiser, Denoiser)
    assert denoiser is same_denoiser
    assert issubclass(consistency, Consistency)
    with pytest.raises(UserError, match=r"a denoiser .* is needed here, and this is none: consistency"):
        read_generator(str(tmp_path / "best.pt"), kind="consistency", **known).build(on, denoiser=True)  # type: ignore[arg-type]


def test_guided_diffusion_only_starts_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = openai_file(tmp_path / "guided.pt", (1,))
    with pytest.raises(UserError, match=r"guided.pt: \(64,\) with 1 blocks each is none of guided-diffusion's"):
        read_generator(path, image_size=8)
    monkeypatch.setitem(openai.RELEASED, ((64,), 1), False)
    with pytest.raises(UserError, match=r"guided\.pt: is a network of guided-diffusion, which counts steps; such"):
        read_generator(path, image_size=8).build(torch.device("cpu"))
