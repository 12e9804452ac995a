"""Networks from elsewhere: which checkpoint of a run is read, what is refused, and runs that start from them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from act_ray import settings
from act_ray.config import Config
from act_ray.core.consistency import Consistency
from act_ray.core.diffusion import Denoiser
from act_ray.core.step import unwrap
from act_ray.errors import UserError
from act_ray.generators import authors, openai
from act_ray.generators.reading import read_generator
from act_ray.models.discriminators.ddpm import DdpmDiscriminator
from act_ray.runs import checkpoint
from act_ray.runs.folder import RunFolder
from act_ray.train.ranks import Ranks
from act_ray.train.run import TrainingRun
from act_ray.train.warm_start import adopt_architecture
from act_ray.yamlfile import read_yaml
from tests.helpers.tiny_runs import assert_same_run, go, killed_at, newest, tiny

CPU = torch.device("cpu")
SHORT = {"train.total_steps": 5, "train.global_batch": 4, "checkpoint.every": 2, "eval.every": 5}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def saved(folder: Path, weights: str = "ema") -> dict[str, Tensor]:
    """A checkpoint's weights, under UNet2DModel's names."""
    return {k.removeprefix("network.unet."): v for k, v in load_file(folder / f"{weights}.safetensors").items()}


# ---------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with checkpoints of steps 2, 4 (the best) and 6, whose weights all differ."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    job = TrainingRun(tiny(), RunFolder(str(folder)), Ranks())
    for step in (2, 4, 6):
        job.state.step, job.last_score, job.best = step, 10.0 * step, (5.0, min(step, 4))
        for name in ("model", "ema"):
            unwrap(getattr(job.state, name)).network.unet.conv_in.bias.data += 1 + (name == "ema")
        checkpoint.save(job.folder.checkpoints, job.state, extra(job))
    job.folder.append(
        "scores.jsonl", [{"step": n, "score": float(n), "diversity": 1.0, "metric": "FD"} for n in (4, 6)]
    )
    job.folder.append(
        "evaluations.jsonl", [{"step": 6, "weights": w, "metrics": {"fd": 1.0}} for w in ("ema", "model")]
    )
    job.folder.close()
    return folder


def extra(job: TrainingRun) -> dict[str, Any]:
    known = {"detector": {}, "score": job.last_score, "diversity": 1.0, "best": job.best, "seconds": 1.0}
    return known | {"data_checksum": job.data.checksum, "image_shape": [1, 8, 8], "label_counts": [1, 2]}


def at(run: Path, step: int) -> Path:
    return checkpoint.step_folder(run / "checkpoints", step)


def damage(run: Path, step: int) -> None:
    (at(run, step) / "model.safetensors").write_bytes(b"")


@pytest.mark.parametrize(("which", "step"), [("best", 4), ("last", 6)])
@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("weights", ["ema", "model"])
def test_the_best_and_the_last_checkpoint_of_a_run(
    run: Path, which: Any, step: int, remote: bool, weights: Any
) -> None:
    source = read_generator((run.as_uri() if remote else str(run)) + "/", which=which, weights=weights)
    assert (source.step, source.score, source.shape, source.name) == (step, 10.0 * step, (1, 8, 8), "a")
    assert source.label_counts == [1, 2]
    assert source.cfg == tiny()
    assert same(source.tensors, saved(at(run, step), weights))
    assert [sorted(row) for row in source.measured] == {
        (4, "ema"): [["diversity", "metric", "score", "step"]],
        (4, "model"): [],
        (6, "ema"): [["diversity", "metric", "score", "step"], ["metrics", "step", "weights"]],
        (6, "model"): [["metrics", "step", "weights"]],
    }[step, weights]
    f = source.build(CPU)
    assert same(f.network.unet.state_dict(), source.tensors)
    assert not f.training
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.002, 80.0])
    assert torch.equal(f(x, t)[0], x[0])  # f(x, eps) = x
    with pytest.raises(
        UserError, match=r", step \d: a denoiser \(train.method = diffusion\) is needed .* consistency$"
    ):
        source.build(CPU, denoiser=True)


def test_a_checkpoint_s_folder_is_read_in_its_run(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(run / "checkpoints")
    assert read_generator("step-00000002").step == 2
    shutil.copytree(at(run, 2), tmp_path / "x" / "y")
    with pytest.raises(UserError, match=f"a checkpoint outside of its run: no config.yaml in {tmp_path}"):
        read_generator(str(tmp_path / "x" / "y"))


def test_damage_is_named_or_stepped_over(run: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(run, tmp_path / "a"))
    damage(here, 4)
    with pytest.raises(UserError, match=r"best checkpoint damaged: .*step-00000004/model.safetensors is not what was"):
        read_generator(str(here))
    with pytest.raises(UserError, match="checkpoint damaged: "):
        read_generator(str(at(here, 4)))
    damage(here, 6)
    assert read_generator(str(here), which="last").step == 2
    damage(here, 2)
    with pytest.raises(UserError, match=r"no whole checkpoint yet \(.*step-00000006"):
        read_generator(str(here), which="last")


def test_a_remote_run_is_read_as_it_is_now(run: Path, tmp_path: Path) -> None:
    """Not as it was when it was read before, and without the checkpoint that is still being pushed."""
    store = Path(shutil.copytree(run, tmp_path / "a"))
    assert read_generator(store.as_uri(), which="last").step == 6
    shutil.rmtree(at(store, 6))
    (at(store, 8)).mkdir()
    (at(store, 8) / "ema.safetensors").write_bytes(b"half")
    assert read_generator(store.as_uri(), which="last").step == 4


def test_what_is_no_model_is_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "experiment.yaml").write_text("preset: digits\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("preset: digits\n")
    torch.save({"a": Path("x")}, tmp_path / "pickled.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "torn.ckpt").write_bytes((tmp_path / "other.pt").read_bytes()[:-99])
    for name, message in {
        "nowhere": "no such file or folder",
        "search": "a search: give one of its trials' folders",
        "empty": "no whole checkpoint yet",
        "empty/config.yaml": "not a run's folder",
        ".": "not a run's folder",
        "pickled.pt": "holds more than tensors; where you trust it",
        "torn.ckpt": "not a file of weights",
        "other.pt": "neither the ACT authors' checkpoint nor",
    }.items():
        with pytest.raises(UserError, match=message):
            read_generator(str(tmp_path / name))
    with pytest.raises(UserError, match="not a run's folder"):
        read_generator(tmp_path.as_uri())


# ---------------------------------------------------------------------------------------------- others' files

OTHERS: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "time_embedding_dim": 24,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "dropout": 0.3,
}


def others_unet(more: dict[str, Any] | None = None) -> UNet2DModel:
    torch.manual_seed(1)
    return UNet2DModel(**OTHERS | (more or {}))


def test_a_network_alone_starts_a_run_and_makes_no_images(tmp_path: Path) -> None:
    others_unet().half().save_pretrained(tmp_path / "u")
    source = read_generator(str(tmp_path / "u"))
    assert {tensor.dtype for tensor in source.tensors.values()} == {torch.float32}
    with pytest.raises(UserError, match=r"u: has no scheduler, where .* is needed; .* only start a run \(model.init\)"):
        source.build(CPU)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 30.0])
    theirs = others_unet().half().float().eval()(x, t, return_dict=False)[0]
    torch.testing.assert_close(source.build(CPU, denoiser=True).network(x, t), theirs)


def test_a_pipeline_s_schedule_is_taken_over(tmp_path: Path) -> None:
    scheduler = CMStochasticIterativeScheduler(sigma_min=0.01, sigma_max=50.0, sigma_data=0.7, rho=5.0)
    ConsistencyModelPipeline(others_unet(), scheduler).save_pretrained(tmp_path / "p")
    schedule = read_generator(str(tmp_path / "p")).cfg.schedule
    assert (schedule.t_min, schedule.t_max, schedule.sigma_data, schedule.rho) == (0.01, 50.0, 0.7, 5.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "_class_name = 'UNet2DConditionModel'; needs 'UNet2DModel'"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier'; needs 'positional'"),
        ({"class_embed_type": "identity"}, "class_embed_type = 'identity'; needs None"),
        ({"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]}, "SkipDownBlock2D: a block that"),
        ({"sample_size": None}, "needs square images"),
        ({"num_class_embeds": 3}, "the weights lack class_embedding.weight"),
        ({"mid_block_type": None}, "the weights have an unknown mid_block"),
        ({"block_out_channels": [8, 8]}, "not a UNet2DModel with safetensors weights"),
        ({"norm_groups": 4}, r"norm_groups: no argument of UNet2DModel; did you mean 'norm_num_groups'\?"),
    ],
)
def test_a_folder_that_is_not_what_it_must_be_is_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    others_unet().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        read_generator(str(tmp_path))


def test_pickled_weights_and_torn_files_are_refused(tmp_path: Path) -> None:
    others_unet().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(UserError, match="not a UNet2DModel with safetensors weights"):
        read_generator(str(tmp_path))
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({"a": torch.zeros(100)}, weights)
    weights.write_bytes(weights.read_bytes()[:90])
    with pytest.raises(UserError, match="not a UNet2DModel with safetensors weights"):
        read_generator(str(tmp_path))


# ---------------------------------------------------------------------------------------------- warm start


def openai_file(path: Path, kernel: tuple[int, ...] = (1, 1)) -> str:
    """A state dict of OpenAI's UNetModel at one resolution; attention's kernels are 1x1 in consistency_models."""
    shapes: dict[str, tuple[int, ...]] = {"time_embed.0": (256, 64), "time_embed.2": (256, 256)}
    shapes |= {"input_blocks.0.0": (64, 3, 3, 3), "out.0": (64,), "out.2": (3, 64, 3, 3), "label_emb": (7, 256)}
    for block, width in {
        "input_blocks.1.0": 64,
        "middle_block.0": 64,
        "middle_block.2": 64,
        "output_blocks.0.0": 128,
        "output_blocks.1.0": 128,
    }.items():
        shapes |= {f"{block}.in_layers.0": (width,), f"{block}.in_layers.2": (64, width, 3, 3)}
        shapes |= {f"{block}.emb_layers.1": (128, 256), f"{block}.out_layers.0": (64,)}
        shapes |= {f"{block}.out_layers.3": (64, 64, 3, 3)}
        shapes |= {f"{block}.skip_connection": (64, 128, 1, 1)} if width == 128 else {}
    attention = {"norm": (64,), "qkv": (192, 64, *kernel), "proj_out": (64, 64, *kernel)}
    shapes |= {f"middle_block.1.{layer}": shape for layer, shape in attention.items()}
    state = {f"{name}.weight": 0.2 * torch.randn(shape) for name, shape in shapes.items()}
    state |= {f"{name}.bias": 0.2 * torch.randn(shape[:1]) for name, shape in shapes.items() if name != "label_emb"}
    torch.save(state, path)
    return str(path)


def authors_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> UNet2DModel:
    """Write what the ACT authors' Lightning writes of a small network; returns it, built by diffusers alone."""
    monkeypatch.setitem(authors.RELEASED, (64,), {"sample_size": 8, "attention_head_dim": 16, "blocks": "A"})
    torch.manual_seed(3)
    unet = UNet2DModel(
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(64,),
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",),
        attention_head_dim=16,
    ).eval()
    state = {f"model_ema.unet.{name}": value for name, value in unet.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 1e-4}}, path)
    return unet


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


# ---------------------------------------------------------------------------------------------- OpenAI's files


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


@pytest.mark.parametrize(("said", "asked", "clamped"), [(True, None, True), (False, None, False), (True, False, False),
                                                        (False, True, True)])  # fmt: skip
def test_f_is_clamped_where_the_scheduler_or_the_caller_says_so(
    said: bool, asked: bool | None, clamped: bool, tmp_path: Path
) -> None:
    unet = others_unet()
    with torch.no_grad():
        unet.conv_out.weight *= 100
    ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler(clip_denoised=said)).save_pretrained(tmp_path)
    f = read_generator(str(tmp_path), clip=asked).build(torch.device("cpu"))
    out = f(torch.randn(2, 1, 8, 8), torch.tensor([5.0, 80.0]))
    assert (float(out.abs().max()) <= 1) is clamped


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


def test_what_does_not_fit_is_one_line(run: Path, tmp_path: Path) -> None:
    init = {"model.init": str(run)}
    with pytest.raises(UserError, match=r"model.num_classes = 10: the network of model.init = .*/a knows no classes"):
        adopt_architecture(tiny({**init, "model.num_classes": 10}))
    others_unet({"in_channels": 3, "out_channels": 3}).save_pretrained(tmp_path / "rgb")
    for cfg, message in [  # without adopt_architecture: what a hand-written config says
        (tiny({**init, "model.layers_per_block": 2}), r"a: has no weight down_blocks.0.resnets.1.conv1.bias"),
        (tiny({**init, "model.block_out_channels": [16]}), r"a: conv_in.weight is \[8, 1, 3, 3\], and \[16, 1"),
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


# ---------------------------------------------------------------------------------------------- distillation


def test_distillation_from_a_diffusion_run_resumes_bit_for_bit(run: Path, tmp_path: Path) -> None:
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
        begin(tiny({**distil, "distill.teacher": str(run)}), tmp_path / "wrong")
