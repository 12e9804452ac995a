"""Every setting with its default, its bounds and what it is for; docs/settings.md is made from this file.

The defaults are the paper's CIFAR-10 settings (Table 6); those of the algorithm itself come from core/options.py.
Presets (act_ray/presets/*.yaml) hold differences only. How settings are read and written is in act_ray/settings.py.
"""

from dataclasses import fields
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from act_ray.collapse.rules import CollapseConfig
from act_ray.core.options import Augment, Diffusion, Loss, Schedule, Steer, Step, settling

T = TypeVar("T")


def path_field(default: str | None, description: str, name: str | None = None) -> Any:
    """A setting that is a path or URI; `name`: a value that is a name instead."""
    return Field(default, description=description, json_schema_extra={"path": True, "name": name})


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def pick(self, kind: type[T]) -> T:
        """The dataclass of the fields that this section has in common with it."""
        return kind(**{field.name: getattr(self, field.name) for field in fields(kind)})  # type: ignore[arg-type]


class DataConfig(Section):
    """The images."""

    path: str = path_field(
        "digits", "'digits' (built in), a folder written by act_ray.prepare, or its s3:// URI", name="digits"
    )
    decode: Literal["ahead", "on_the_fly"] = Field(
        "ahead",
        description="ahead: once on each machine, to a memory map of all images in $ACT_RAY_CACHE; on_the_fly: each "
        "batch out of the shards, the same bit for bit, which takes processor time instead of that disk",
    )
    subset: int | None = Field(
        None,
        ge=2,
        le=10**10,
        description="train on so many of the images, the same in every run; scores compare with all of them",
    )
    held_out: float = Field(
        0.0, ge=0, le=0.5, description="share of these kept back, to see how much better D knows those it trains on"
    )
    flip: bool = Field(False, description="mirror each training image left and right with probability 1/2")


class ScheduleConfig(Section):
    """Noise levels and how many of them: paper section 2 and Table 6; CM section 5."""

    t_min: float = Field(Schedule.t_min, gt=0, le=1_000, description="eps, the smallest noise level")
    t_max: float = Field(Schedule.t_max, gt=0, le=10_000, description="T, the largest noise level")
    rho: float = Field(Schedule.rho, gt=0, le=100, description="how the levels between are spaced: evenly in t^(1/rho)")
    sigma_data: float = Field(Schedule.sigma_data, gt=0, le=100, description="standard deviation of the images' pixels")
    s0: int = Field(Schedule.s0, ge=2, le=100_000, description="levels at the start")
    s1: int = Field(Schedule.s1, ge=2, le=100_000, description="levels at the end")
    levels: Literal["paper", "authors"] = Field(
        Schedule.levels, description="N(k): the paper's ceil form, or the authors' round"
    )
    mu0: float = Field(Schedule.mu0, ge=0, lt=1, description="the teacher's EMA rate at N = s0 + 1")
    teacher_decay: Literal["authors", "paper", "constant"] = Field(
        Schedule.teacher_decay,
        description="mu(k) = exp(s0 ln mu0 / (N-1)) as in the authors' code and CM, .../N as printed, or mu0 always",
    )
    time_input: Literal["log", "linear"] = Field(
        Schedule.time_input, description="what the networks are told of t: 250 ln t, or t"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.t_min >= self.t_max:
            raise ValueError(f"schedule.t_min = {self.t_min}: must be below schedule.t_max = {self.t_max}")
        if self.s0 > self.s1:
            raise ValueError(f"schedule.s0 = {self.s0}: must not exceed schedule.s1 = {self.s1}")
        return self


class LossConfig(Section):
    """L_f = (1 - lambda) L_CT + lambda L_G and lambda (L_D + L_gp): paper section 3."""

    w: float = Field(Loss.w, ge=0, le=1, description="lambda_N(j) at the largest noise level, j = N-1")
    w_mid: float = Field(Loss.w_mid, ge=0, le=1, description="lambda_N(j) half-way, j = (N-1)/2; at most w")
    distance: Literal["lpips", "l2", "l1", "pseudo_huber"] = Field("lpips", description="d of L_CT")
    lpips_size: int | None = Field(
        224, ge=16, le=4096, description="resize images to this side for LPIPS; null = native size"
    )
    lpips_resize: Literal["bilinear", "area"] = Field(
        "bilinear", description="how: as the authors and CM, or torch-fidelity's, which averages where it shrinks"
    )
    lpips_clip_target: bool = Field(
        True, description="clip the teacher's image to [-1, 1] before LPIPS, as the authors"
    )
    lpips_weights: str | None = path_field(None, "folder with LPIPS and VGG16 weights; null = torch hub's cache")
    adversarial: Literal["non_saturating", "saturating"] = Field(
        Loss.adversarial, description="L_G: softplus(-logit) as in the authors' code, or log(1 - D) as printed"
    )
    gp_weight: float = Field(Loss.gp_weight, ge=0, le=10_000, description="w_gp in L_gp = w_gp ||grad_x D||^2")
    gp_interval: int = Field(Loss.gp_interval, ge=1, le=10**6, description="I_gp: steps between gradient penalties")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.w_mid > self.w:
            raise ValueError(f"loss.w_mid = {self.w_mid}: must not exceed loss.w = {self.w}")
        return self


class DistillConfig(Section):
    """Consistency distillation (CM Algorithm 2): x_{t_{j-1}} by an ODE step of a pretrained denoiser."""

    teacher: str | None = path_field(
        None, "a diffusion run, its checkpoint, or a diffusers folder; null = consistency training"
    )
    solver: Literal["heun", "euler"] = Field(
        "heun", description="the step from t_j to t_{j-1}: two evaluations, or one"
    )


class DiffusionConfig(Section):
    """The plain diffusion trainer (train.method = diffusion): EDM's denoiser, Table 1 of its paper."""

    p_mean: float = Field(Diffusion.p_mean, ge=-20, le=20, description="ln sigma ~ N(p_mean, p_std^2)")
    p_std: float = Field(Diffusion.p_std, gt=0, le=20, description="its standard deviation")


class AugmentConfig(Section):
    """ACT-Aug, Algorithm 2: the probability p_aug follows L_gp."""

    enabled: bool = Field(Augment.enabled, description="show the discriminator augmented images")
    tau: Annotated[float, Field(gt=0, le=10_000)] | Literal["auto"] = Field(
        Augment.tau, description="threshold for the EMA of L_gp (w_gp included); auto: tau_ratio x what L_gp settles at"
    )
    tau_ratio: float = Field(
        Augment.tau_ratio,
        gt=0,
        le=100,
        description="of augment.tau = auto, which watches L_gp for a quarter of the budget",
    )
    p_step: float = Field(Augment.p_step, gt=0, le=1, description="p_r: change of p_aug every gp_interval steps")
    gp_decay: float = Field(Augment.gp_decay, ge=0, lt=1, description="mu_p: EMA rate of L_gp")
    controller: Literal["paper", "authors"] = Field(
        Augment.controller,
        description="compare (>=) and then average, as printed, or average and then compare (>), as the authors' code",
    )


class SteerConfig(Section):
    """collapse.action = steer: w_gp moves, so that ||grad D||^2 stays in a corridor."""

    low: float = Field(
        Steer.low, gt=0, le=10**6, description="average of ||grad D||^2 below which w_gp falls, to what is set"
    )
    high: float = Field(Steer.high, gt=0, le=10**6, description="and above which it grows")
    factor: float = Field(Steer.factor, gt=1, le=100, description="by how much at one gradient penalty")
    most: float = Field(Steer.most, gt=0, le=10**6, description="w_gp grows no further")
    decay: float = Field(Steer.decay, ge=0, lt=1, description="EMA rate of log ||grad D||^2, from penalty to penalty")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"steer.low = {self.low}: must be below steer.high = {self.high}")
        return self


class ModelConfig(Section):
    """The generator: diffusers' UNet2DModel."""

    block_out_channels: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        (128, 128, 256, 256), description="channels of each level, the finest first"
    )
    down: str = Field("DADD", pattern=r"^[DA]+$", description="down path; D plain, A with attention")
    up: str = Field("UUAU", pattern=r"^[UA]+$", description="up path; U plain, A with attention")
    layers_per_block: int = Field(2, ge=1, le=64, description="residual blocks per level")
    attention_head_dim: int | None = Field(
        8, ge=1, le=65_536, description="width of an attention head; null = one head"
    )
    norm_num_groups: int = Field(32, ge=1, le=65_536, description="groups of each GroupNorm")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the residual blocks, in training")
    num_classes: int | None = Field(None, ge=1, le=10**6, description="classes to condition on; null = unconditional")
    init: str | None = path_field(
        None, "start from these weights: a run, a checkpoint, a diffusers folder, or the authors' .ckpt"
    )
    unet: dict[str, Any] | None = Field(
        None,
        description="UNet2DModel arguments over those above; taken from model.init where that is a diffusers model",
    )

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
    """Table 4's: the generator's down path with a pooled linear head (ddpm), StyleGAN2's, Projected GAN's."""

    kind: Literal["ddpm", "stylegan2", "projected"] = Field("ddpm", description="the family of networks")
    time_embedding: bool = Field(True, description="feed t to the discriminator")
    conditional: bool = Field(Step.conditional, description="D(x_0, x_t, t), which also sees the noisy image (app. H)")
    block_out_channels: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] | None = Field(
        None,
        description="ddpm: channels of each level; null = the generator's. The authors' CIFAR-10: 128, 256, 256, 256",
    )
    layers_per_block: int = Field(3, ge=1, le=64, description="ddpm: residual blocks per level")
    activation: Literal["silu", "leaky_relu"] = Field("silu", description="ddpm: Table 4 has both")
    residual: bool = Field(False, description="ddpm: residual connections around the down blocks (DDPM-res)")
    head: Literal["norm_act", "act", "plain"] = Field(
        "norm_act",
        description="ddpm: before pooling: GroupNorm and activation (authors, CIFAR-10), the latter, nothing",
    )
    pool: int = Field(2, ge=1, le=64, description="ddpm: side of the pooled grid before the linear layer")
    channel_base: int = Field(32768, ge=1, le=2**24, description="stylegan2: width at resolution r is channel_base / r")
    channel_max: int = Field(512, ge=1, le=65_536, description="stylegan2: widest layer")
    feature_network: str = Field("tf_efficientnet_lite0", description="projected: a network of timm")
    feature_weights: str | None = path_field(
        None, "projected: file with its weights; 'random' = untrained (for tests)", name="random"
    )
    feature_size: int = Field(
        224, ge=64, le=4096, multiple_of=32, description="projected: images are resized to this side"
    )


class OptimConfig(Section):
    """The two optimizers."""

    name: Literal["radam", "adam"] = Field("radam", description="radam as in the paper; adam has a fused kernel")
    lr_g: float = Field(1e-4, gt=0, le=1_000, description="generator's learning rate")
    lr_d: float | None = Field(None, gt=0, le=1_000, description="discriminator's learning rate; null = lr_g")
    beta1: float = Field(0.0, ge=0, lt=1, description="of both")
    beta2_g: float = Field(0.99, ge=0, lt=1, description="the generator's")
    beta2_d: float = Field(0.99, ge=0, lt=1, description="the discriminator's; the authors' code has .9318 here")


class TrainConfig(Section):
    """The training loop."""

    method: Literal["act", "diffusion"] = Field(
        "act",
        description="act: Algorithms 1 and 2, consistency training (loss.w = 0), distillation; or EDM's diffusion",
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of the weights, the order of the images and all noise")
    total_steps: int = Field(Step.total_steps, ge=1, le=10**9, description="K")
    global_batch: int = Field(
        80, ge=2, le=10**6, multiple_of=2, description="B images per generator update over all workers"
    )
    micro_batch: int | None = Field(
        None,
        ge=2,
        le=10**6,
        multiple_of=2,
        description="images that a worker has in memory at a time: gradients add up over its share of the batch, and "
        "are those of the whole; null = all of them",
    )
    discriminator_images: Literal["own", "shared"] = Field(
        "own", description="D sees images of its own, or those that the generator has just seen"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        Step.precision,
        description="fp32 (TF32 on GPUs), or autocast to bf16, or fp16 with loss scaling: levels, losses, R1 stay fp32",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="the generator keeps no activations inside its blocks and computes them again: less memory, a "
        "slower step, the same numbers",
    )
    channels_last: bool = Field(False, description="the memory format that GPUs' convolutions like")
    compile: bool = Field(False, description="torch.compile the networks where that works")
    cuda_graphs: bool = Field(
        True,
        description="on GPUs, what a step launches is recorded once and replayed: the same numbers, much faster; not "
        "yet with augment.enabled or micro_batch",
    )
    ema_decay: float = Field(
        Step.ema_decay, ge=0, lt=1, description="of the slow average of the generator (eval.weights: ema)"
    )
    log_every: int = Field(50, ge=1, le=10**6, description="steps between two transfers of metrics to the host")
    hang_timeout: float | None = Field(
        None,
        ge=5,
        le=10**6,
        description="on Ray: seconds without a sign of life, or for one step, after which a worker is killed, to go on "
        "from its checkpoint; null = 60, and for a step 20 times the slowest of late, if that is more",
    )
    threads: int | None = Field(
        None, ge=1, le=4096, description="CPU threads per worker; null = its share of the cores"
    )

    @model_validator(mode="after")
    def _whole_parts(self) -> Self:
        if self.micro_batch is not None and self.global_batch % self.micro_batch:
            near = nearest_divisor(self.global_batch, self.micro_batch)
            raise ValueError(
                f"train.micro_batch = {self.micro_batch}: must divide train.global_batch = {self.global_batch}; "
                f"nearest: {near}"
            )
        return self


def nearest_divisor(batch: int, micro: int, step: int = 2) -> int:
    """The divisor of `batch` nearest to `micro` that is a multiple of `step`, as `batch` is; the smaller of two."""
    return min((n for n in range(step, batch + 1, step) if batch % n == 0), key=lambda n: abs(n - micro))


class EvalConfig(Section):
    """The score during training."""

    every: int = Field(5_000, ge=1, le=10**9, description="steps between scores and sample grids")
    weights: tuple[Literal["ema", "teacher", "model"], ...] = Field(
        ("ema", "teacher"),
        min_length=1,
        description="what is scored: the first gives the score and the grids, the others are measured beside it; ema "
        "averages slowly, teacher is theta^-, which the authors sample from, model is theta",
    )
    samples: int = Field(5_000, ge=16, le=10**7, description="one-step samples per score, from fixed noise")
    ode_steps: int = Field(18, ge=1, le=10_000, description="train.method = diffusion: steps of EDM's Heun sampler")
    batch: int = Field(250, ge=1, le=10**6, description="samples per forward pass")
    features: Literal["auto", "inception", "self_supervised", "classifier", "none"] = Field(
        "auto",
        description="behind the Frechet distance: FID's network; one that learns from the images alone, in seconds; a "
        "small classifier of their labels; none: no score. auto: inception where its weights are, else self_supervised",
    )
    inception_weights: str | None = path_field(
        None, "file with torch-fidelity's InceptionV3 weights; null = torch hub's cache"
    )
    grid: int = Field(64, ge=1, le=10_000, description="images in the sample grid")


class CheckpointConfig(Section):
    """What is kept of the training state."""

    every: int = Field(5_000, ge=1, le=10**9, description="steps between checkpoints")
    keep: int = Field(2, ge=2, le=10**6, description="newest checkpoints kept besides the best")
    notice: float | None = Field(
        None,
        ge=1,
        le=10**6,
        description="seconds between the signal that a machine goes and its end (Kubernetes 30, AWS spot 120): where a "
        "checkpoint takes longer, no run begins",
    )
    good: int = Field(
        2, ge=0, le=10**6, description="and newest ones from before a signature of collapse was found, to fork from"
    )


class Config(Section):
    """A run's settings. Raises pydantic's ValidationError; `settings.load` and `settings.build` raise UserError."""

    preset: str | None = Field(None, description="the preset it started from")
    recipe: Literal["paper", "authors"] | None = Field(None, description="whose choices it started from")
    data: DataConfig = DataConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    distill: DistillConfig = DistillConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    collapse: CollapseConfig = CollapseConfig()
    steer: SteerConfig = SteerConfig()

    @property
    def adversarial(self) -> bool:
        """Whether there is an L_G, and so a use for D."""
        return self.train.method == "act" and self.loss.w > 0

    @property
    def consistent(self) -> bool:
        """Whether there is an L_CT, and so a use for its distance and its teacher."""
        return self.train.method == "act" and self.loss.w_mid < 1

    @property
    def scored_weights(self) -> tuple[str, ...]:
        """eval.weights without those that the run does not have: a diffusion run has no theta^-."""
        teacher = self.train.method == "act"
        return tuple(name for name in self.eval.weights if teacher or name != "teacher") or ("ema",)

    @property
    def step(self) -> Step:
        """What the training step is told."""
        return Step(
            total_steps=self.train.total_steps,
            schedule=self.schedule.pick(Schedule),
            loss=self.loss.pick(Loss),
            augment=self.augment.pick(Augment),
            diffusion=self.diffusion.pick(Diffusion),
            steer=self.steer.pick(Steer) if self.collapse.action == "steer" else None,
            conditional=self.discriminator.conditional,
            precision=self.train.precision,
            micro_batch=self.train.micro_batch,
            ema_decay=self.train.ema_decay,
            monitor_interval=self.collapse.monitor_interval,
        )

    @model_validator(mode="after")
    def _compatible(self) -> Self:
        if self.augment.enabled and self.train.method == "diffusion":
            raise ValueError(
                "augment.enabled = true: only for train.method = act; a diffusion run has no discriminator"
            )
        if self.augment.enabled and self.discriminator.conditional:
            raise ValueError("discriminator.conditional = true: not with augment.enabled: D would see x_t unaugmented")
        if self.discriminator.conditional and self.discriminator.kind == "projected":
            raise ValueError(
                "discriminator.conditional = true: not with discriminator.kind = 'projected', whose features are of "
                "one image; use ddpm or stylegan2"
            )
        window, every = settling(self.train.total_steps), self.loss.gp_interval
        if self.augment.enabled and self.augment.tau == "auto" and not any(k % every == 0 for k in window):
            raise ValueError(
                f"augment.tau = 'auto': no gradient penalty (every loss.gp_interval = {every} steps) falls into steps "
                f"{window.start:,} to {window.stop:,}, where L_gp is measured; give a number"
            )
        if self.distill.teacher and self.train.method == "diffusion":
            raise ValueError("distill.teacher: only for train.method = act; a diffusion run has no teacher")
        for on, setting, why in (
            (self.augment.enabled, "augment.enabled = true", "p_aug follows L_gp"),
            (self.collapse.action == "steer", "collapse.action = steer", "it moves w_gp"),
        ):
            for name, value in (("w", self.loss.w), ("gp_weight", self.loss.gp_weight)):
                if on and value == 0:
                    raise ValueError(f"{setting}: needs loss.{name} > 0, not loss.{name} = {value:g}: {why}")
        return self
