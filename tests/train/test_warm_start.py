"""Runs that begin with the weights of another network, and distillation from one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline

from act_ray import settings
from act_ray.config import Config
from act_ray.core.step import unwrap
from act_ray.errors import UserError
from act_ray.generators.reading import read_generator
from act_ray.models.discriminators.ddpm import DdpmDiscriminator
from act_ray.runs.folder import RunFolder
from act_ray.train.ranks import Ranks
from act_ray.train.run import TrainingRun
from act_ray.train.warm_start import adopt_architecture
from act_ray.yamlfile import read_yaml
from tests.helpers.imported_models import OTHERS, others_unet
from tests.helpers.tiny_runs import assert_same_run, go, killed_at, newest, same, saved, tiny

SHORT = {"train.total_steps": 5, "train.global_batch": 4, "checkpoint.every": 2, "eval.every": 5}


def another_run(path: Path) -> str:
    go(tiny({"train.total_steps": 2, "model.block_out_channels": [16], "train.seed": 5}), path)
    return str(path)


def another_pipeline(path: Path) -> str:
    ConsistencyModelPipeline(others_unet(), CMStochasticIterativeScheduler()).save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("make", [another_run, another_pipeline])
def test_a_run_begins_with_just_the_weights_of_model_init(make: Callable[[Path], str], tmp_path: Path) -> None:
    init = make(tmp_path / "init")
    cfg = adopt_architecture(tiny({"model.init": init, "model.dropout": 0.1}))
    assert (cfg.model.init, cfg.model.dropout) == (init, 0.1)
    job = TrainingRun(cfg, RunFolder(str(tmp_path / "run")), Ranks())
    job.folder.close()
    weights = read_generator(init).tensors
    for net in (job.state.model, job.state.teacher, job.state.ema):
        assert same(unwrap(net).network.unet.state_dict(), weights)  # type: ignore[union-attr]
        assert {m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)} == {0.1, 0.0}  # none in attention
    assert not same(unwrap(job.state.discriminator).state_dict(), weights)


def test_a_run_from_an_imported_network_needs_its_folder_at_the_start_only(tmp_path: Path) -> None:
    """The config that it saves stands alone."""
    others_unet().save_pretrained(tmp_path / "init")
    cfg = adopt_architecture(tiny({**SHORT, "model.init": str(tmp_path / "init")}))
    go(cfg, tmp_path / "whole")
    killed_at(cfg, tmp_path / "killed", 3)
    shutil.rmtree(tmp_path / "init")
    go(settings.build(read_yaml((tmp_path / "killed" / "config.yaml").read_text(), "")), tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(
    ("network", "more"),
    [
        ({}, {"discriminator.residual": True}),
        ({}, {"discriminator.time_embedding": False}),
        ({"mid_block_type": None}, {}),
        ({"mid_block_type": None, "num_class_embeds": 10}, {"discriminator.time_embedding": False}),
    ],
)
def test_the_discriminator_like_an_imported_network_trains_every_weight(
    network: dict[str, Any], more: dict[str, Any], tmp_path: Path
) -> None:
    others_unet(network).save_pretrained(tmp_path)
    cfg = adopt_architecture(tiny({"model.init": str(tmp_path), "discriminator.layers_per_block": 2, **more}))
    D = DdpmDiscriminator(cfg, 1, 8)
    labels = torch.arange(6) if cfg.model.num_classes else None
    D(torch.randn(6, 1, 8, 8), torch.linspace(-1000, 1000, 6), labels).square().sum().backward()
    unused = [name for name, w in D.named_parameters() if w.grad is None or not w.grad.any()]
    assert unused == []
    assert [type(block).__name__ for block in D.down_blocks] == list(OTHERS["down_block_types"])
    assert [len(block.resnets) for block in D.down_blocks] == [2, 2]


def test_what_does_not_fit_is_one_line(whole: Path, tmp_path: Path) -> None:
    init = {"model.init": str(whole)}
    with pytest.raises(UserError, match=r"= 10: the network of model.init = .*/whole\d knows no classes"):
        adopt_architecture(tiny({**init, "model.num_classes": 10}))
    others_unet({"in_channels": 3, "out_channels": 3}).save_pretrained(tmp_path / "rgb")
    for cfg, message in [  # without adopt_architecture: what a hand-written config says
        (tiny({**init, "model.layers_per_block": 2}), r"whole\d: has no weight down_blocks.0.resnets.1.conv1.bias"),
        (tiny({**init, "model.block_out_channels": [16]}), r"whole\d: conv_in.weight is \[8, 1, 3, 3\], and \[16, 1"),
        (adopt_architecture(tiny({"model.init": str(tmp_path / "rgb")})), r"conv_in.weight is \[8, 3, 3, 3\], and"),
        (tiny({"model.unet": {"norm_epss": 1.0}}), r"model.unet.norm_epss: .* did you mean 'norm_eps'\?"),
    ]:
        with pytest.raises(UserError, match=message):
            begin(cfg, tmp_path / "run")


def begin(cfg: Config, folder: Path) -> None:
    run = RunFolder(str(folder))
    try:
        TrainingRun(cfg, run, Ranks())
    finally:
        run.close()


def test_distillation_from_a_diffusion_run_resumes_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    go(tiny({**SHORT, "train.method": "diffusion", "eval.ode_steps": 2}), teacher)
    distil = {**SHORT, "distill.teacher": str(teacher), "loss.w": 0.0, "loss.w_mid": 0.0}
    go(tiny(distil), tmp_path / "whole")
    killed_at(tiny(distil), tmp_path / "killed", 3)
    go(tiny(distil), tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    go(tiny({**distil, "distill.teacher": None}), tmp_path / "alone")
    assert not same(saved(newest(tmp_path / "alone")), saved(newest(tmp_path / "whole")))
    with pytest.raises(UserError, match="is no diffusion model"):
        begin(tiny({**distil, "distill.teacher": str(whole)}), tmp_path / "wrong")
