"""StyleGAN2's and Projected GANs' discriminators: sizes, gradients of gradients, what is frozen, what is refused."""

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from act_ray import settings
from act_ray.config import Config, DiscriminatorConfig
from act_ray.errors import UserError
from act_ray.models.discriminators import build_discriminator, check_discriminator, require_discriminator_files
from act_ray.models.discriminators.projected import FrozenFeatures, ProjectedDiscriminator, feature_network
from act_ray.models.discriminators.stylegan2 import (
    Blur,
    Conditioning,
    EqualConv2d,
    EqualLinear,
    StyleGan2Discriminator,
    group_size,
    leaky,
    project,
    with_deviation,
)

NETWORK = "tf_efficientnet_lite0"
T = torch.tensor([-1500.0, -700.0, 900.0])


def stylegan2(channels: int = 1, size: int = 8, t: bool = False, classes: int | None = None) -> StyleGan2Discriminator:
    return StyleGan2Discriminator(channels, size, 64, 16, t, classes)


def projected(channels: int = 1, size: int = 64, t: bool = False, classes: int | None = None) -> ProjectedDiscriminator:
    return ProjectedDiscriminator(channels, NETWORK, "random", size, t, classes)


KINDS: dict[str, Callable[..., Any]] = {"stylegan2": stylegan2, "projected": projected}
both = pytest.mark.parametrize("build", KINDS.values(), ids=KINDS)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def images(batch: int, channels: int = 1, size: int = 8) -> Tensor:
    return torch.rand(batch, channels, size, size) * 2 - 1


# ---------------------------------------------------------------------------------------------- both


@both
@pytest.mark.parametrize(("t", "classes"), [(False, None), (True, 3)])
def test_every_trained_parameter_gets_a_gradient_also_of_the_penalty(
    build: Callable[..., Any], t: bool, classes: int | None
) -> None:
    D = build(channels=3, t=t, classes=classes)
    x = images(3, 3).requires_grad_()
    logit = D(x, T[:3], torch.arange(3) if classes else None)
    assert logit.shape == (3,)
    assert logit.dtype == torch.float32
    (grad,) = torch.autograd.grad(logit.sum(), x, create_graph=True)
    (logit.square().sum() + grad.square().sum()).backward()
    trained = {name: p for name, p in D.named_parameters() if p.requires_grad}
    starved = [n for n, p in trained.items() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert not starved


@pytest.mark.parametrize(("build", "batch"), [(stylegan2, 3), (projected, 1)])  # 3: one group, whose deviation counts
def test_gradient_penalty_against_finite_differences(build: Callable[..., Any], batch: int) -> None:
    """R1 = ||grad_x D||^2, its derivative along a direction in the weights, and grad_x D itself, in float64."""
    D = build(t=True).double().eval()  # .eval(): spectral norm's iteration stands still
    x, t = images(batch).double().requires_grad_(), T[:batch].double()
    trained = [p for p in D.parameters() if p.requires_grad]

    def penalty() -> Tensor:
        (grad,) = torch.autograd.grad(D(x, t).sum(), x, create_graph=True)
        return grad.square().sum()

    def shifted(tensors: list[Tensor], by: list[Tensor], h: float, value: Callable[[], Tensor]) -> float:
        with torch.no_grad():
            torch._foreach_add_(tensors, by, alpha=h)
        result = float(value().detach())
        with torch.no_grad():
            torch._foreach_sub_(tensors, by, alpha=h)
        return result

    def slope(tensors: list[Tensor], by: list[Tensor], value: Callable[[], Tensor]) -> float:
        h = 1e-8  # few kinks of (Leaky)ReLU are that near
        return (shifted(tensors, by, h, value) - shifted(tensors, by, -h, value)) / (2 * h)

    along_x = torch.randn_like(x)
    (grad_x,) = torch.autograd.grad(D(x, t).sum(), x)
    assert float((grad_x * along_x).sum()) == pytest.approx(slope([x], [along_x], lambda: D(x, t).sum()), rel=1e-5)

    along = [torch.randn_like(p) for p in trained]
    grads = torch.autograd.grad(penalty(), trained, allow_unused=True)  # the last bias moves D, not its slope
    exact = sum(float((g * v).sum()) for g, v in zip(grads, along, strict=True) if g is not None)
    assert exact == pytest.approx(slope(trained, along, penalty), rel=1e-4)


@both
def test_bf16_autocast_stays_near_fp32_and_trains(build: Callable[..., Any]) -> None:
    D = build(t=True, classes=4).eval()
    x, labels = images(2), torch.arange(2)
    exact = D(x, T[:2], labels)
    with torch.autocast("cpu", torch.bfloat16):
        logit = D(x, T[:2], labels)
    assert logit.dtype == torch.float32
    assert not torch.equal(logit, exact)
    torch.testing.assert_close(logit, exact, rtol=0.05, atol=0.05)
    logit.sum().backward()
    assert all(p.grad.isfinite().all() for p in D.parameters() if p.requires_grad)


@both
def test_time_and_class_are_seen_when_asked_for(build: Callable[..., Any]) -> None:
    x, t, other = images(2), torch.full((2,), -500.0), torch.full((2,), 900.0)
    labels, others = torch.tensor([0, 1]), torch.tensor([2, 3])
    with_both, with_class, plain = (build(t=a, classes=b).eval() for a, b in ((True, 4), (False, 4), (False, None)))
    assert not torch.isclose(with_both(x, t, labels), with_both(x, other, labels)).any()
    assert not torch.isclose(with_both(x, t, labels), with_both(x, t, others)).any()
    assert torch.equal(with_class(x, t, labels), with_class(x, other, labels))
    assert not torch.isclose(with_class(x, t, labels), with_class(x, t, others)).any()
    assert torch.equal(plain(x, t), plain(x, other))


@both
def test_state_dict_is_self_contained(build: Callable[..., Any]) -> None:
    first, second = build(t=True).eval(), build(t=True).eval()
    x = images(2)
    assert not torch.isclose(first(x, T[:2]), second(x, T[:2])).any()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x, T[:2]), second(x, T[:2]))


# ---------------------------------------------------------------------------------------------- StyleGAN2


@pytest.mark.parametrize(("size", "parameters"), [(256, 28_864_129), (32, 21_507_073)])
def test_stylegan2_has_the_size_of_the_original(size: int, parameters: int) -> None:
    """The layers of StyleGAN2-ADA's own log for its default widths, 32768 / side and at most 512, added up."""
    with torch.device("meta"):
        assert count(StyleGan2Discriminator(3, size, 32768, 512, False, None)) == parameters


@pytest.mark.parametrize(("size", "nearest"), [(4, 8), (48, 32), (28, 32), (512, 256)])
def test_stylegan2_refuses_other_sizes(size: int, nearest: int) -> None:
    with pytest.raises(UserError, match=f"{size}x{size} images.*power of two from 8 to 256; nearest: {nearest}$"):
        stylegan2(size=size)


def test_equalised_learning_rate() -> None:
    """Stored weights are N(0, 1); what they do has the variance of its input, also through LeakyReLU."""
    conv, dense = EqualConv2d(64, 64, 3, 1.0), EqualLinear(512, 512)
    for layer, x in ((conv, torch.randn(8, 64, 10, 10)), (dense, torch.randn(64, 512))):
        assert layer.weight.std().item() == pytest.approx(1, rel=0.02)
        assert not layer.bias.any()  # type: ignore[union-attr]
        assert layer(x).std().item() == pytest.approx(1, rel=0.05)
    gained = EqualConv2d(64, 64, 3, math.sqrt(2))
    nn.init.normal_(gained.bias)  # type: ignore[arg-type]
    x = torch.randn(8, 64, 10, 10)
    plain = nn.functional.conv2d(x, gained.weight / math.sqrt(64 * 9), gained.bias)
    torch.testing.assert_close(leaky(gained(x)), math.sqrt(2) * nn.functional.leaky_relu(plain, 0.2))


def test_embeddings_and_their_projection_have_unit_scale() -> None:
    rows = Conditioning(64, True, 5)(T, torch.arange(3))
    assert torch.allclose(rows.square().mean(1), torch.ones(3), atol=0.5)  # t and the class, almost orthogonal
    assert torch.allclose(Conditioning(64, True, None)(T, None).square().mean(1), torch.ones(3), atol=1e-4)
    assert project(torch.ones(2, 16), torch.ones(2, 16)).tolist() == [4, 4]


def test_blur_keeps_a_constant_and_removes_a_checkerboard() -> None:
    blur = Blur()
    flat = torch.full((1, 3, 8, 8), 0.7)
    out = blur(flat, padding=1, stride=2)
    assert out.shape == (1, 3, 4, 4)
    torch.testing.assert_close(out[..., 1:-1, 1:-1], flat[..., :2, :2])  # zeros come in from the border
    checkers = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert blur(checkers[None, None], padding=0).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("batch", "size"), [(1, 1), (2, 1), (3, 3), (4, 2), (5, 1), (6, 3), (8, 4), (10, 1), (12, 3), (16, 4), (20, 2)]
)
def test_deviation_is_of_neighbours(batch: int, size: int) -> None:
    assert group_size(batch) == size
    x = torch.randn(batch, 5, 4, 4)
    out = with_deviation(x)
    assert torch.equal(out[:, :5], x)
    for i in range(0, batch, size):
        expected = x[i : i + size].std(0, correction=0).mean()
        torch.testing.assert_close(out[i : i + size, 5], expected.expand(size, 4, 4), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("half", [1, 3, 4, 5, 8])
def test_fakes_and_reals_share_no_group(half: int) -> None:
    """cat([fakes, reals]) gives the fakes the logits that they have beside other reals."""
    D, fakes, t = stylegan2().double(), images(half).double(), torch.zeros(2 * half).double()
    one, other = (D(torch.cat([fakes, images(half)]), t)[:half] for _ in range(2))
    torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
    if group_size(2 * half) > 1:  # whereas a fake in the same group matters
        changed = torch.cat([fakes[:1], images(2 * half - 1)])
        assert abs(D(changed, t)[0] - one[0]) > 1e-9


# ---------------------------------------------------------------------------------------------- Projected GANs


def test_projected_heads_at_224_are_the_official_ones() -> None:
    """4, 3, 2 and 1 halvings, and their convolutions' parameters with those of the norms, by hand."""
    with torch.device("meta"):
        D = projected(3, 224)
    assert [sum(isinstance(m, nn.GroupNorm) for m in head.modules()) for head in D.heads] == [4, 3, 2, 1]
    assert [count(head) for head in D.heads] == [2_829_120, 2_763_392, 2_631_936, 2_106_880]
    assert count(D) == 10_331_328


def test_frozen_weights_stay_frozen() -> None:
    D = projected(t=True)
    D.requires_grad_(False)
    assert count(D) == 0
    D.requires_grad_(True).train()
    assert not [p for p in D.features.parameters() if p.requires_grad]
    assert all(p.requires_grad for p in [*D.heads.parameters(), *D.embedding.parameters()])  # type: ignore[union-attr]
    assert not any(m.training for m in D.features.network.modules())
    assert all(head.training for head in D.heads)

    before = {name: value.clone() for name, value in D.state_dict().items()}
    optimizer = torch.optim.AdamW(D.parameters(), 0.1, weight_decay=0.5)
    D(images(2), T[:2]).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in D.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if name.startswith("features.")]
    assert {name for name, _ in D.named_parameters() if not name.startswith("features.")} <= changed
    assert [name for name in before if name.startswith("features.network.")]  # a checkpoint has them


def test_heads_are_spectrally_normalised() -> None:
    D = projected()
    for head in D.heads:
        nn.init.normal_(head.out.parametrizations.weight.original)  # type: ignore[union-attr, arg-type]
    convs = [m for m in D.heads.modules() if isinstance(m, nn.Conv2d)]
    for _ in range(20):  # each use is an iteration
        assert all(conv.weight.isfinite().all() for conv in convs)
    assert len(convs) == 4 + 2 + 1  # 32x32, 16x16 and 8x8, 4x4 of a 64x64 image: 2, 1, 0 and 0 halvings
    for conv in convs:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


def test_projected_samples_do_not_see_each_other() -> None:
    D, x = projected(t=True).eval(), images(3)
    parts = torch.cat([D(x[:1], T[:1]), D(x[1:], T[1:3])])
    torch.testing.assert_close(parts, D(x, T[:3]), rtol=1e-4, atol=1e-5)


def test_coarse_levels_reach_every_finer_one() -> None:
    features, x = FrozenFeatures(NETWORK, "random", 64), images(1, 3)
    before = features(x)
    assert [tuple(m.shape[1:]) for m in before] == [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4)]
    for level, mix in enumerate(features.across_channels):
        assert isinstance(mix, nn.Conv2d)
        weight = mix.weight.clone()
        nn.init.zeros_(mix.weight)
        changed = [not torch.equal(a, b) for a, b in zip(before, features(x), strict=True)]
        assert changed == [i <= level for i in range(4)]
        mix.weight.copy_(weight)


def test_grey_images_become_colour_and_all_are_normalised() -> None:
    torch.manual_seed(1)
    grey = projected(channels=1).eval()
    torch.manual_seed(1)
    colour = projected(channels=3).eval()
    x = images(2)
    torch.testing.assert_close(grey(x, T[:2]), colour(x.expand(-1, 3, -1, -1), T[:2]))
    features = FrozenFeatures("resnet18", "random", 64)  # ImageNet's mean and deviation, not one half
    assert (-1 * features.scale + features.shift).flatten().tolist() == pytest.approx(
        [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    )
    with pytest.raises(UserError, match="2 channels"):
        projected(channels=2)


@pytest.mark.parametrize(("size", "nearest"), [(32, 64), (100, 96), (230, 224)])
def test_projected_refuses_other_sizes(size: int, nearest: int) -> None:
    with pytest.raises(UserError, match=f"feature_size = {size}: .*nearest: {nearest}$"):
        projected(size=size)


# ---------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("name", [NETWORK, "resnet18"])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_the_whole_network_are_loaded(name: str, suffix: str, tmp_path: Path) -> None:
    """The features equal those inside the network whose file it is; the classifier in it is left out."""
    whole, path = timm.create_model(name, pretrained=False).eval(), tmp_path / f"model.{suffix}"
    if suffix == "pth":
        torch.save(whole.state_dict(), path)
    else:
        save_file(whole.state_dict(), path)
    x = torch.randn(1, 3, 64, 64)
    expected = whole.forward_intermediates(x, intermediates_only=True)
    features = feature_network(name, str(path))(x)
    assert len(features) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(features, expected, strict=True))


def test_missing_weights_say_which_file_goes_where(tmp_path: Path) -> None:
    for weights in (None, str(tmp_path / "model.safetensors")):
        with pytest.raises(UserError) as error:
            ProjectedDiscriminator(3, NETWORK, weights, 64, True, None)
        message = str(error.value)
        assert ("is not set" if weights is None else f"discriminator.feature_weights = {weights}: no such") in message
        assert f"model.safetensors of huggingface.co/timm/{NETWORK}" in message
        assert "feature_weights=random" in message
        assert "\n" not in message


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    with pytest.raises(UserError, match=f"{path}: not the weights of {NETWORK}: no 'conv_stem.weight' of shape"):
        feature_network(NETWORK, str(path))
    narrow = timm.create_model(NETWORK, pretrained=False).state_dict()
    save_file({**narrow, "conv_stem.weight": torch.zeros(16, 3, 3, 3)}, path)
    with pytest.raises(UserError, match=r"no 'conv_stem.weight' of shape \(32, 3, 3, 3\)"):
        feature_network(NETWORK, str(path))
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match=f"{path}: not a safetensors file"):
        feature_network(NETWORK, str(path))
    lists = tmp_path / "lists.pth"
    torch.save([torch.zeros(1)], lists)
    with pytest.raises(UserError, match=f"{lists}: not the weights"):
        feature_network(NETWORK, str(lists))


class Canary:
    def __init__(self, nest: Path) -> None:
        self.nest = nest

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.nest),)


def test_a_pickle_in_place_of_weights_never_runs(tmp_path: Path) -> None:
    path, nest = tmp_path / "model.pth", tmp_path / "canary"
    torch.save({"conv_stem.weight": Canary(nest)}, path)
    with pytest.raises(UserError, match="not a plain file of weights"):
        feature_network(NETWORK, str(path))
    assert not nest.exists()


@pytest.mark.parametrize("name", ["tf_efficientnet_lite_0", "hf-hub:timm/tf_efficientnet_lite0"])
def test_an_unknown_network_is_named_with_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match=f"feature_network = '{name}': no such network.*'{NETWORK}'"):
        feature_network(name, "random")


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        ("vit_tiny_patch16_224", 64, "AssertionError for 64x64 images"),
        ("vit_tiny_patch16_224", 224, r"its feature maps are \(192, 14, 14\), "),
        (f"{NETWORK}.no_such_tag", 64, "Invalid pretrained tag"),
    ],
)
def test_a_network_without_the_four_maps_is_refused(name: str, size: int, why: str) -> None:
    with pytest.raises(UserError, match=f"feature_network = '{name}': .*{why}.*strides 4, 8, 16 and 32"):
        FrozenFeatures(name, "random", size)


# ---------------------------------------------------------------------------------------------- by discriminator.kind


def of_kind(kind: str, **dotted: Any) -> Config:
    return settings.load("digits", {"discriminator.kind": kind, **dotted})


def test_a_kind_is_a_module_of_its_name_which_is_imported_when_asked_for() -> None:
    code = (
        "import sys; from act_ray import settings; from act_ray.models.discriminators import build_discriminator; "
        "build_discriminator(settings.load('digits', {'discriminator.kind': 'stylegan2'}), 1, 8); "
        "sys.exit('timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    kinds = get_args(DiscriminatorConfig.model_fields["kind"].annotation)
    for kind in kinds:
        module = importlib.import_module(f"act_ray.models.discriminators.{kind}")
        assert all(callable(getattr(module, name)) for name in ("build", "check", "require_files"))
    assert len(kinds) == 3


def test_a_conditional_discriminator_sees_two_images() -> None:
    D = build_discriminator(of_kind("stylegan2", **{"discriminator.conditional": True}), 1, 8)
    assert D(torch.zeros(2, 2, 8, 8), T[:2]).shape == (2,)


def test_what_does_not_fit_is_found_before_anything_is_built() -> None:
    with pytest.raises(UserError, match="needs a multiple of 32 with 4 workers; nearest: 64"):
        check_discriminator(of_kind("stylegan2", **{"train.global_batch": 80}), 1, 8, 4)
    with pytest.raises(UserError, match="28x28 images"):
        check_discriminator(of_kind("stylegan2"), 1, 28, 1)
    with pytest.raises(UserError, match="images of 4 channels; it takes 1 or 3"):
        check_discriminator(of_kind("projected"), 4, 8, 1)
    for function in (lambda cfg: check_discriminator(cfg, 4, 9, 7), require_discriminator_files):
        function(of_kind("projected", **{"loss.w": 0, "loss.w_mid": 0}))  # no D at all
        function(of_kind("ddpm"))


def test_missing_timm_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"^discriminator.kind = 'projected': needs timm: pip install 'act-ray\[proj"):
        require_discriminator_files(of_kind("projected", **{"discriminator.feature_weights": "random"}))
