"""Starting from weights that somebody trained (model.init)."""

from collections.abc import Collection

from act_ray import settings
from act_ray.config import Config
from act_ray.core.consistency import Preconditioned
from act_ray.core.step import TrainState, unwrap
from act_ray.errors import UserError
from act_ray.generators.generator import load_unet
from act_ray.generators.reading import read_generator


def warm_start(state: TrainState, cfg: Config) -> None:
    """Begin from the weights of model.init, in the model and both of its averages."""
    if cfg.model.init is not None:
        source = read_generator(cfg.model.init, image_size=1)
        for net in (unwrap(state.model), state.teacher, state.ema):
            assert isinstance(net, Preconditioned)
            load_unet(net.network.unet, source.tensors, cfg.model.init)


def adopt_architecture(cfg: Config, given: Collection[str] = ()) -> Config:
    """With model.init, the network is the one of those weights: the config with its model section (but dropout).

    Raises UserError where the weights were trained to be told other things of t or of classes than the config says, or
    where `given`, the dotted names that the user set, ask for another network.
    """
    init = cfg.model.init
    if init is None:
        return cfg
    source = read_generator(init, image_size=1)  # the images' side does not change the weights
    theirs, classes = source.cfg, cfg.model.num_classes
    if source.makes_images and theirs.schedule.time_input != cfg.schedule.time_input:
        raise UserError(
            f"model.init = {init}: its network was told of t as '{theirs.schedule.time_input}'; "
            f"use --set schedule.time_input={theirs.schedule.time_input}"
        )
    if classes not in (None, theirs.model.num_classes):
        raise UserError(
            f"model.num_classes = {classes}: the network of model.init = {init} knows "
            f"{theirs.model.num_classes or 'no'} classes"
        )
    for name in given:
        section, _, key = name.partition(".")
        if section == "model" and key not in ("init", "dropout"):
            ours, known = getattr(cfg.model, key), getattr(theirs.model, key)
            if ours != known:
                raise UserError(f"{name} = {ours}: the network of model.init = {init} has {known}; leave it out")
    model = theirs.model.model_copy(update={"init": init, "dropout": cfg.model.dropout})
    return settings.build({**cfg.model_dump(), "model": model.model_dump()})
