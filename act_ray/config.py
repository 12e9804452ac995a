"""Every default and every bound of act_ray, in one place; dotted names such as `loss.w` are its one vocabulary.

Defaults are the paper's CIFAR-10 settings (Table 6). Presets (act_ray/presets/*.yaml) hold differences only.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TextIO

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from act_ray.collapse.config import CollapseConfig
from act_ray.errors import UserError


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    path: str = Field(
        "digits", description="'digits' (built in), a folder written by act_ray.prepare, or its s3:// URI"
    )


class ScheduleConfig(Section):
    """Noise levels and how many of them: paper section 2 and Table 6; CM section 5."""

    t_min: float = Field(0.002, gt=0, description="eps, the smallest noise level")
    t_max: float = Field(80.0, gt=0, description="T, the largest noise level")
    rho: float = Field(7.0, gt=0)
    sigma_data: float = Field(0.5, gt=0)
    s0: int = Field(2, ge=2, description="levels at the start")
    s1: int = Field(150, ge=2, description="levels at the end")
    levels: Literal["paper", "authors"] = Field("paper", description="N(k): the paper's ceil form, or the code's round")
    mu0: float = Field(0.9, ge=0, lt=1, description="the teacher's EMA rate at N = s0 + 1")
    teacher_decay: Literal["authors", "paper"] = Field(
        "authors", description="mu(k) = exp(s0 ln mu0 / (N-1)) as in the authors' code and CM, or .../N as printed"
    )
    time_input: Literal["log", "linear"] = Field("log", description="what the networks see: 250 ln t, or t")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.t_min >= self.t_max:
            raise ValueError(f"schedule.t_min = {self.t_min}: must be below schedule.t_max = {self.t_max}")
        if self.s0 > self.s1:
            raise ValueError(f"schedule.s0 = {self.s0}: must not exceed schedule.s1 = {self.s1}")
        return self


class LossConfig(Section):
    """L_f = (1 - lambda) L_CT + lambda L_G and lambda (L_D + L_gp): paper section 3."""

    w: float = Field(0.3, ge=0, le=1, description="lambda_N(j) at the largest noise level, j = N-1")
    w_mid: float = Field(0.3, ge=0, le=1, description="lambda_N(j) half-way, j = (N-1)/2; at most w")
    distance: Literal["lpips", "l2", "l1", "pseudo_huber"] = "lpips"
    lpips_size: int | None = Field(224, ge=16, description="resize images to this side for LPIPS; null = native size")
    lpips_weights: str | None = Field(None, description="folder with LPIPS and VGG16 weights; null = torch hub's cache")
    adversarial: Literal["non_saturating", "saturating"] = "non_saturating"
    gp_weight: float = Field(5.0, ge=0, description="w_gp in L_gp = w_gp ||grad_x D||^2")
    gp_interval: int = Field(16, ge=1, description="I_gp: steps between gradient penalties")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.w_mid > self.w:
            raise ValueError(f"loss.w_mid = {self.w_mid}: must not exceed loss.w = {self.w}")
        return self


class AugmentConfig(Section):
    """ACT-Aug, Algorithm 2: the probability p_aug follows L_gp."""

    enabled: bool = False
    tau: float = Field(0.55, gt=0, description="threshold for the EMA of L_gp (w_gp included)")
    p_step: float = Field(0.05, gt=0, le=1, description="p_r: change of p_aug every gp_interval steps")
    gp_decay: float = Field(0.93, ge=0, lt=1, description="mu_p: EMA rate of L_gp")


class ModelConfig(Section):
    """The generator: diffusers' UNet2DModel."""

    block_out_channels: tuple[Annotated[int, Field(ge=1)], ...] = (128, 128, 256, 256)
    down: str = Field("DADD", pattern=r"^[DA]+$", description="down path; D plain, A with attention")
    up: str = Field("UUAU", pattern=r"^[UA]+$", description="up path; U plain, A with attention")
    layers_per_block: int = Field(2, ge=1)
    attention_head_dim: int = Field(8, ge=1)
    norm_num_groups: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    num_classes: int | None = Field(None, ge=1, description="classes to condition on; null = unconditional")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        n = len(self.block_out_channels)
        if len(self.down) != n or len(self.up) != n:
            raise ValueError(
                f"model.down = '{self.down}', model.up = '{self.up}': need {n} letters, one per block_out_channels"
            )
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(
                    f"model.block_out_channels: {width} is not a multiple of norm_num_groups = {self.norm_num_groups}"
                )
        return self


class DiscriminatorConfig(Section):
    """The generator's down path with a pooled linear head; Table 4's variants."""

    layers_per_block: int = Field(3, ge=1)
    time_embedding: bool = Field(True, description="feed t to the discriminator")
    activation: Literal["silu", "leaky_relu"] = "silu"
    residual: bool = Field(False, description="DDPM-res: residual connections around the down blocks")
    pool: int = Field(1, ge=1, description="side of the pooled grid before the linear head (ImageNet-64: 2)")


class OptimConfig(Section):
    name: Literal["radam", "adam"] = Field("radam", description="radam as in the paper; adam has a fused kernel")
    lr_g: float = Field(1e-4, gt=0, description="generator's learning rate")
    lr_d: float | None = Field(None, gt=0, description="discriminator's learning rate; null = lr_g")
    beta1: float = Field(0.0, ge=0, lt=1)
    beta2_g: float = Field(0.99, ge=0, lt=1)
    beta2_d: float = Field(0.99, ge=0, lt=1, description="the authors' code has .9318 here")


class TrainConfig(Section):
    seed: int = Field(0, ge=0)
    total_steps: int = Field(300_000, ge=1, description="K")
    global_batch: int = Field(80, ge=2, multiple_of=2, description="B images per generator update over all workers")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="fp32 (TF32 on GPUs), or bf16 autocast: levels, losses and R1 stay fp32"
    )
    channels_last: bool = False
    compile: bool = Field(False, description="torch.compile the networks where that works")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="EMA of the generator that is sampled and scored")
    log_every: int = Field(50, ge=1, description="steps between two transfers of metrics to the host")
    threads: int | None = Field(None, ge=1, description="CPU threads per worker; null = its share of the cores")


class EvalConfig(Section):
    every: int = Field(5_000, ge=1, description="steps between scores and sample grids")
    samples: int = Field(5_000, ge=16, description="one-step samples per score, from fixed noise")
    batch: int = Field(250, ge=1, description="samples per forward pass")
    features: Literal["classifier", "inception"] = Field(
        "inception", description="network behind the Frechet distance: a small classifier trained on the data, or FID's"
    )
    inception_weights: str | None = Field(None, description="file with torch-fidelity's InceptionV3 weights")
    grid: int = Field(64, ge=1, description="images in the sample grid")


class CheckpointConfig(Section):
    every: int = Field(5_000, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=2, description="newest checkpoints kept besides the best")


class Config(Section):
    preset: str | None = Field(None, description="the preset it started from")
    data: DataConfig = DataConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    collapse: CollapseConfig = CollapseConfig()

    @model_validator(mode="after")
    def _augmentable(self) -> Self:
        for name, value in (("w", self.loss.w), ("gp_weight", self.loss.gp_weight)):
            if self.augment.enabled and value == 0:
                raise ValueError(
                    f"augment.enabled = true: needs loss.{name} > 0, not loss.{name} = {value:g}: p_aug follows L_gp"
                )
        return self


# ---------------------------------------------------------------------------------------------- reading


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 5e-5 as a number (PyYAML wants 5.0e-5) and refuses a key given twice."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:float"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"),
    list("-+0123456789."),
)
# Integers must win over the wider float pattern: move it behind the int resolver.
for _pairs in _Loader.yaml_implicit_resolvers.values():
    _pairs.sort(key=lambda pair: pair[0] == "tag:yaml.org,2002:float")


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what _Loader would take for a number: a folder may be called 1e5."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.MarkedYAMLError(problem=f"'{key}' is given twice", problem_mark=node.start_mark)
    return dict(zip(keys, (loader.construct_object(value, deep=True) for _, value in node.value), strict=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(text: str | TextIO, where: str) -> Any:
    """Parse one YAML document safely. Raises UserError with the line of a mistake."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, TypeError, ValueError) as error:  # the latter two: {[1]: 2}, 2024-13-45
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the list of valid names when none is near."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "valid: " + ", ".join(names)


def preset_names() -> list[str]:
    return sorted(p.name.removesuffix(".yaml") for p in (files("act_ray") / "presets").iterdir() if p.suffix == ".yaml")  # type: ignore[attr-defined]


@functools.cache
def preset(name: str) -> Mapping[str, Any]:
    """A preset's differences from the defaults, nested. `extends:` in a preset names the one that it starts from."""
    if name not in preset_names():
        raise UserError(f"--preset {name}: no such preset; {nearest(name, preset_names())}")
    values = read_yaml((files("act_ray") / "presets" / f"{name}.yaml").read_text(), f"preset {name}")
    base = values.pop("extends", None)
    return {**merge(preset(base) if base else {}, values), "preset": name}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """{"loss.w": 1} -> {"loss": {"w": 1}}. Raises UserError for a name that the config does not have."""
    values: dict[str, Any] = {}
    for name, value in dotted.items():
        if name not in field_names():
            raise UserError(f"{name}: no such setting; {nearest(name, field_names())}")
        section, _, key = name.rpartition(".")
        values = merge(values, {section: {key: value}} if section else {key: value})
    return values


def field_names() -> list[str]:
    """All dotted names, e.g. `loss.w`."""
    names: list[str] = []
    for section, field in Config.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += [f"{section}.{key}" for key in inner.model_fields]
    return names


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """["loss.w=0.3", ...] as given to --set -> {"loss.w": 0.3}."""
    dotted: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair}: write it as section.name=value, e.g. --set loss.w=0.3")
        dotted[name.strip()] = read_yaml(text, f"--set {pair}")
    return dotted


def build(values: Mapping[str, Any], where: str = "config") -> Config:
    """Validate nested values. Raises UserError naming each setting, its value and its bound in one line."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: " + "; ".join(_explain(e) for e in error.errors())) from None


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{name}: no such setting; {nearest(name, [*field_names(), *Config.model_fields])}"
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if error["type"] == "value_error":  # our own validators name the setting themselves
        return message
    return f"{name} = {error['input']!r}: {message}"


def load(preset_name: str | None = None, dotted: Mapping[str, Any] | None = None, where: str = "config") -> Config:
    """The config of a preset with dotted overrides on top."""
    base = preset(preset_name) if preset_name else {}
    return build(merge(base, nested(dotted or {})), where)


def absolute_data(cfg: Config) -> Config:
    """The config with a relative data.path made absolute: workers have another working folder."""
    path = cfg.data.path
    if path == "digits" or "://" in path:
        return cfg
    data = cfg.data.model_copy(update={"path": str(Path(path).expanduser().absolute())})
    return cfg.model_copy(update={"data": data})


def dump(config: Config) -> str:
    """The whole resolved config as YAML."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)
