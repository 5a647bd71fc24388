"""From an ONNX graph to a torch network with the same outputs, so that gradients exist.

Covers the operators of convolutional detectors as exporters write them (ONNX operator sets 11 to 21), for float32
graphs whose shapes are fixed but for the batch. Nothing is trusted: the converted network is compared with
onnxruntime before anybody gets it, and an operator or a setting that is not covered is refused by name.

>>> network = convert(Path("detector.onnx").read_bytes(), "detector.onnx")         # doctest: +SKIP
>>> [output.shape for output in network(torch.rand(8, 3, 352, 352))]               # doctest: +SKIP
[torch.Size([8, 85, 22, 22])]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secpipeline.errors import InputError

TOLERANCE = 1e-4
_OPSETS = range(11, 22)

Attributes = dict[str, Any]
# Operators whose further inputs are settings such as shapes, not weights.
_SET_BY_INPUTS = ("Clip", "Pad", "Reshape", "Resize", "Slice")
# Inputs that the graph leaves out are None.
Operator = Callable[[Sequence[Any], Attributes], Any]


@dataclass(frozen=True)
class _Step:
    """One node: what it computes, the names of its inputs ("" for none), its attributes and its output's name."""

    operator: str
    inputs: tuple[str, ...]
    attributes: Attributes
    output: str


class OnnxNetwork(nn.Module):
    """A network that walks through the nodes of a graph.

    Parameters
    ----------
    graph
        The graph, with one input and float32 weights.
    fixed_batch
        The graph holds shapes for one image: several are mapped over it.

    Raises
    ------
    InputError
        If an operator is not covered; names it.
    """

    def __init__(self, graph: onnx.GraphProto, fixed_batch: bool) -> None:
        super().__init__()
        self.fixed_batch = fixed_batch
        self._constants: dict[str, Tensor] = {}
        self._names: dict[str, str] = {}
        self._settings = {name for node in graph.node if node.op_type in _SET_BY_INPUTS for name in node.input[1:]}
        for tensor in graph.initializer:
            self._hold(tensor.name, onnx.numpy_helper.to_array(tensor))
        given = [value.name for value in graph.input if value.name not in {t.name for t in graph.initializer}]
        if len(given) != 1:
            raise InputError(f"an ONNX graph with the inputs {given}; a detector takes one, the images")
        self._input, self._outputs = given[0], [value.name for value in graph.output]
        self._steps: list[_Step] = []
        for node in graph.node:
            self._add(node)

    def _hold(self, name: str, array: np.ndarray[Any, Any]) -> None:
        tensor = torch.from_numpy(np.array(array))
        if not tensor.is_floating_point() or tensor.dim() == 0 or name in self._settings:
            self._constants[name] = tensor  # read on the processor, wherever the weights are
            return
        self._names[name] = f"weight{len(self._names)}"
        self.register_parameter(self._names[name], nn.Parameter(tensor))

    def _add(self, node: onnx.NodeProto) -> None:
        attributes = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute}
        if node.op_type == "Constant" and set(attributes) == {"value"}:
            self._hold(node.output[0], attributes["value"])
            return
        where = f"node {node.name or node.output[0]}"
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS or len(node.output) != 1:
            raise InputError(
                f"{where}: the operator {node.op_type} is not covered; use the detector as a black box, "
                "or export it with fewer kinds of operators"
            )
        self._steps.append(_Step(node.op_type, tuple(node.input), attributes, node.output[0]))

    def forward(self, images: Tensor) -> list[Tensor]:
        """The graph's outputs for images as the graph takes them, (B, C, H, W)."""
        if not self.fixed_batch:
            return list(self._walk(images))
        mapped = torch.vmap(lambda image: tuple(output[0] for output in self._walk(image[None])))
        return list(mapped(images))

    def _walk(self, images: Tensor) -> tuple[Tensor, ...]:
        values: dict[str, Any] = {"": None, **self._constants, self._input: images}
        values |= {name: getattr(self, held) for name, held in self._names.items()}
        for step in self._steps:
            try:
                values[step.output] = OPERATORS[step.operator]([values[name] for name in step.inputs], step.attributes)
            except (KeyError, IndexError, TypeError, RuntimeError, ValueError) as error:
                raise InputError(f"node {step.output}: {step.operator} cannot be computed ({error})") from error
        return tuple(values[name] for name in self._outputs)


def convert(content: bytes, name: str, probes: Tensor | None = None) -> OnnxNetwork:
    """A torch network from the bytes of an ONNX file, shown to compute the same.

    Parameters
    ----------
    content
        The file's bytes.
    name
        The file, as errors call it.
    probes
        (n, C, H, W), what the two are compared on; left out, two images of noise in [0, 1]. Give a network what it
        is made for: on anything else its own rounding may exceed the tolerance.

    Raises
    ------
    InputError
        If it is no ONNX file, holds what is not covered, or its outputs differ from onnxruntime's by more than
        :data:`TOLERANCE` (absolute and relative) on the probes.
    """
    try:
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:
        raise InputError(f"{name}: no ONNX model ({str(error).strip()})") from error
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset not in _OPSETS:
        raise InputError(f"{name}: operator set {opset}; covered are {_OPSETS[0]} to {_OPSETS[-1]}")
    shape = _input_shape(model.graph, name)
    try:
        network = OnnxNetwork(model.graph, fixed_batch=shape[0] is not None).eval()
        _compare(network, content, noise(2, shape[1:]) if probes is None else probes)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return network


def noise(count: int, shape: Sequence[int]) -> Tensor:
    """``count`` images of uniform noise in [0, 1], (count, *shape), always the same."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def session(content: bytes, name: str) -> onnxruntime.InferenceSession:
    """Onnxruntime with a model's bytes.

    Raises
    ------
    InputError
        If it cannot load them.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Weights in another file are not what the digest names: no folder holds any.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"{name}: not an ONNX model that onnxruntime can load: {error}") from error


def run(runtime: onnxruntime.InferenceSession, images: Tensor) -> list[Tensor]:
    """Every output for (B, C, H, W); a model for one image is run on one after the other.

    Raises
    ------
    InputError
        If the images have another shape than the model takes.
    """
    taken = runtime.get_inputs()[0]
    pixels = images.detach().cpu().numpy().astype(np.float32)
    batches = np.split(pixels, len(pixels)) if taken.shape[0] == 1 else [pixels]
    try:
        rows = [runtime.run(None, {taken.name: batch}) for batch in batches]
    except Exception as error:
        raise InputError(f"images of shape {tuple(images.shape)}; the model takes {taken.shape}") from error
    return [torch.from_numpy(np.concatenate(output)).to(images.device) for output in zip(*rows, strict=True)]


def _input_shape(graph: onnx.GraphProto, name: str) -> tuple[int | None, int, int, int]:
    """The input's shape, None for an open batch."""
    held = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in held]
    sides = [side.dim_value for side in given[0].type.tensor_type.shape.dim] if given else []
    if len(sides) != 4 or not all(sides[1:]) or sides[0] > 1:
        raise InputError(f"{name}: its input has the shape {sides}; needed is (N, C, H, W), fixed but for N, or N = 1")
    return (sides[0] or None, sides[1], sides[2], sides[3])


def _compare(network: OnnxNetwork, content: bytes, probes: Tensor) -> None:
    runtime = session(content, "onnxruntime")
    with torch.no_grad():
        found = network(probes)
    for place, (ours, theirs) in enumerate(zip(found, run(runtime, probes), strict=True)):
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
            raise InputError(
                f"output {place} of the converted network is not onnxruntime's within {TOLERANCE}; "
                "use the detector as a black box"
            )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _numbers(tensor: Tensor) -> list[int]:
    return [int(value) for value in tensor.tolist()]


def _require(attributes: Attributes, **allowed: Any) -> None:
    for key, values in allowed.items():
        if key in attributes and attributes[key] not in values:
            raise InputError(f"the setting {key} = {attributes[key]!r} is not covered; covered is {values[0]!r}")


def _conv(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    _require(attributes, auto_pad=("NOTSET",))
    x: Tensor = inputs[0]
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    padding = (top, left)
    if padding != (bottom, right):
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    bias = inputs[2] if len(inputs) > 2 else None
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    return F.conv2d(x, inputs[1], bias, tuple(strides), padding, tuple(dilations), attributes.get("group", 1))


def _batch_norm(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    _require(attributes, training_mode=(0,))
    x, weight, bias, mean, variance = inputs
    # The statistics are settled: torch refuses to learn them.
    return F.batch_norm(x, mean.detach(), variance.detach(), weight, bias, eps=attributes.get("epsilon", 1e-5))


def _max_pool(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    _require(attributes, ceil_mode=(0,), storage_order=(0,), auto_pad=("NOTSET",))
    pads = attributes.get("pads", (0, 0, 0, 0))
    x = F.pad(inputs[0], (pads[1], pads[3], pads[0], pads[2]), value=float("-inf"))
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    return F.max_pool2d(x, tuple(attributes["kernel_shape"]), tuple(strides), 0, tuple(dilations))


def _average_pool(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    _require(attributes, ceil_mode=(0,), auto_pad=("NOTSET",), dilations=([1, 1],))
    pads = attributes.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:]:
        raise InputError(f"the setting pads = {pads!r} is not covered; covered is equal padding on both sides")
    strides = tuple(attributes.get("strides", (1, 1)))
    counted = bool(attributes.get("count_include_pad", 0))
    return F.avg_pool2d(
        inputs[0], tuple(attributes["kernel_shape"]), strides, tuple(pads[:2]), count_include_pad=counted
    )


def _resize(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    _require(attributes, mode=("nearest",), nearest_mode=("floor",), coordinate_transformation_mode=("asymmetric",))
    x = inputs[0]
    sizes = _numbers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else None
    if sizes is None:
        scales = inputs[2].tolist()
        sizes = [round(side * scale) for side, scale in zip(x.shape, scales, strict=True)]
    if any(side % small for side, small in zip(sizes[2:], x.shape[2:], strict=True)) or sizes[1] != x.shape[1]:
        raise InputError(f"a resize from {list(x.shape)} to {sizes} is not covered; covered are whole factors")
    resized: Tensor = F.interpolate(x, size=sizes[2:], mode="nearest")
    return resized


def _pad(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    _require(attributes, mode=("constant",))
    x: Tensor = inputs[0]
    pads = _numbers(inputs[1])
    if len(inputs) > 3 and inputs[3] is not None:
        raise InputError("padding of chosen axes is not covered")
    value = float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else 0.0
    if not any(pads):
        return x
    pairs = list(zip(pads[: x.dim()], pads[x.dim() :], strict=True))
    return F.pad(x, [side for pair in reversed(pairs) for side in pair], value=value)


def _slice(inputs: Sequence[Any], _: Attributes) -> Tensor:
    x: Tensor = inputs[0]
    starts, ends = _numbers(inputs[1]), _numbers(inputs[2])
    axes = _numbers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
    steps = _numbers(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise InputError(f"a slice with step {step} is not covered; covered are steps from 1")
        chosen: list[slice] = [slice(None)] * x.dim()
        chosen[axis] = slice(start, min(end, x.shape[axis]) if end >= 0 else end, step)
        x = x[tuple(chosen)]
    return x


def _reshape(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    _require(attributes, allowzero=(0,))
    x: Tensor = inputs[0]
    return x.reshape([x.shape[place] if size == 0 else size for place, size in enumerate(_numbers(inputs[1]))])


def _gather(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x: Tensor = inputs[0]
    index, axis = inputs[1], attributes.get("axis", 0)
    if index.dim() > 1:
        raise InputError(f"a gather with {index.dim()} axes of indices is not covered; covered are none and one")
    return x.select(axis, int(index)) if index.dim() == 0 else x.index_select(axis, index.to(x.device).long())


def _clip(inputs: Sequence[Any], _: Attributes) -> Tensor:
    low, high = (float(v) if v is not None else None for v in [*inputs[1:], None, None][:2])
    return torch.clamp(inputs[0], low, high)


OPERATORS: dict[str, Operator] = {
    "Add": lambda i, _: i[0] + i[1],
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": lambda i, a: torch.cat(list(i), dim=a["axis"]),
    "Conv": _conv,
    "Div": lambda i, _: i[0] / i[1],
    "Exp": lambda i, _: torch.exp(i[0]),
    "Flatten": lambda i, a: i[0].flatten(a.get("axis", 1)),
    "Gather": _gather,
    "GlobalAveragePool": lambda i, _: i[0].mean((2, 3), keepdim=True),
    "HardSigmoid": lambda i, a: torch.clamp(i[0] * a.get("alpha", 0.2) + a.get("beta", 0.5), 0, 1),
    "HardSwish": lambda i, _: F.hardswish(i[0]),
    "Identity": lambda i, _: i[0],
    "LeakyRelu": lambda i, a: F.leaky_relu(i[0], a.get("alpha", 0.01)),
    "MaxPool": _max_pool,
    "Mul": lambda i, _: i[0] * i[1],
    "Pad": _pad,
    "Relu": lambda i, _: F.relu(i[0]),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": lambda i, _: torch.sigmoid(i[0]),
    "Slice": _slice,
    "Softmax": lambda i, a: torch.softmax(i[0], dim=a.get("axis", -1)),
    "Sub": lambda i, _: i[0] - i[1],
    "Tanh": lambda i, _: torch.tanh(i[0]),
    "Transpose": lambda i, a: i[0].permute(a["perm"]),
}
