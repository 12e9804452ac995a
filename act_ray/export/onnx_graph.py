"""The one-step sampler as an ONNX graph: z [N,C,H,W] (and labels [N]) -> images [N,C,H,W] in [-1, 1], any N."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from act_ray.core.consistency import Preconditioned, one_step
from act_ray.errors import UserError
from act_ray.export.card import GRAPH

NEEDS = ("onnx", "onnxscript", "onnxruntime")


class OneStep(nn.Module):
    """f(T z, T), clipped to images' range."""

    def __init__(self, f: Preconditioned) -> None:
        super().__init__()
        self.f = f

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return one_step(self.f, z, self.f.cfg, labels).clamp(-1, 1)


def require_libraries() -> dict[str, Any]:
    """onnx, onnxscript and onnxruntime, which only this needs. Raises UserError where one is missing."""
    try:
        return {name: importlib.import_module(name) for name in NEEDS}
    except ModuleNotFoundError as error:
        raise UserError(f"--format onnx: needs {error.name}: pip install 'act-ray[onnx]'") from None


def write_graph(f: Preconditioned, z: Tensor, labels: Tensor | None, folder: Path, metadata: Mapping[str, str]) -> None:
    """Trace f on z [N,C,H,W] and labels [N] and write folder/model.onnx; weights of over 2 GB become a second file."""
    inputs = {"z": z} if labels is None else {"z": z, "labels": labels}
    program = torch.onnx.export(
        OneStep(f).eval(),
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=["images"],
        dynamic_shapes={name: {0: "N" if name == "z" else torch.export.Dim.DYNAMIC} for name in inputs},  # one N
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: a third of the file, with this machine's paths
    program.model.metadata_props.update(metadata)
    program.save(folder / GRAPH)


def run_graph(folder: Path, z: Tensor, labels: Tensor | None) -> Tensor:
    """Images of onnxruntime on the CPU, one call for the first and one for all others: N is free."""
    session = require_libraries()["onnxruntime"].InferenceSession(folder / GRAPH, providers=["CPUExecutionProvider"])
    images = []
    for part in (slice(0, 1), slice(1, None)):
        inputs = {"z": z[part].numpy()} if labels is None else {"z": z[part].numpy(), "labels": labels[part].numpy()}
        images.append(torch.from_numpy(session.run(["images"], inputs)[0]))
    return torch.cat(images)
