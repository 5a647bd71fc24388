import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from secpipeline.detection import onnx_import
from secpipeline.errors import InputError

SHAPE = (2, 4, 8, 12)


def weights(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def whole(*values):
    return np.array(values, np.int64)


def model(nodes, constants=(), batch=1, outputs=("y",), opset=13):
    """An ONNX file of a graph from x to the outputs; a node is (operator, inputs, output, attributes)."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *SHAPE[1:]])
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), [output], **settings) for op, inputs, output, settings in nodes],
        "graph",
        [value],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in dict(constants).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made).SerializeToString()


ONE = {"kernel_shape": [3, 3]}
CASES = {
    "Add": ([("Add", "xc", "y", {})], {"c": weights(4, 1, 1)}),
    "AveragePool": ([("AveragePool", "x", "y", {**ONE, "strides": [2, 2], "pads": [1, 1, 1, 1]})], {}),
    "AveragePool with padding counted": (
        [("AveragePool", "x", "y", {**ONE, "pads": [1, 1, 1, 1], "count_include_pad": 1})],
        {},
    ),
    "BatchNormalization": (
        [("BatchNormalization", "xabmv", "y", {"epsilon": 1e-3})],
        {"a": weights(4), "b": weights(4), "m": weights(4), "v": abs(weights(4)) + 1},
    ),
    "Clip": ([("Clip", "xlh", "y", {})], {"l": np.float32(0.2), "h": np.float32(0.7)}),
    "Clip from below": ([("Clip", "xl", "y", {})], {"l": np.float32(0.2)}),
    "Concat": ([("Concat", "xx", "y", {"axis": 1})], {}),
    "Conv": ([("Conv", "xwb", "y", {"pads": [1, 1, 1, 1]})], {"w": weights(6, 4, 3, 3), "b": weights(6)}),
    "Conv in groups, strided": (
        [("Conv", "xw", "y", {"group": 4, "strides": [2, 2], "dilations": [2, 1]})],
        {"w": weights(8, 1, 3, 3)},
    ),
    "Conv padded on one side": ([("Conv", "xw", "y", {"pads": [0, 1, 2, 0]})], {"w": weights(2, 4, 3, 3)}),
    "Constant": (
        [("Constant", "", "c", {"value": onnx.numpy_helper.from_array(weights(4, 1, 1))}), ("Mul", "xc", "y", {})],
        {},
    ),
    "Div": ([("Div", "xc", "y", {})], {"c": np.float32(3)}),
    "Exp": ([("Exp", "x", "y", {})], {}),
    "Flatten": ([("Flatten", "x", "y", {"axis": 1})], {}),
    "Gather": ([("Gather", "xi", "y", {"axis": 1})], {"i": whole(2, 0)}),
    "Gather of one": ([("Gather", "xi", "y", {"axis": 1})], {"i": np.int64(3)}),
    "GlobalAveragePool": ([("GlobalAveragePool", "x", "y", {})], {}),
    "HardSigmoid": ([("HardSigmoid", "x", "y", {"alpha": 0.5, "beta": 0.1})], {}),
    "HardSwish": ([("HardSwish", "x", "y", {})], {}),
    "Identity": ([("Identity", "x", "y", {})], {}),
    "LeakyRelu": ([("Sub", "xc", "z", {}), ("LeakyRelu", "z", "y", {"alpha": 0.3})], {"c": np.float32(0.5)}),
    "MaxPool": ([("MaxPool", "x", "y", {**ONE, "strides": [2, 2], "pads": [1, 1, 1, 1]})], {}),
    "MaxPool wide": ([("MaxPool", "x", "y", {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]})], {}),
    "Mul": ([("Mul", "xx", "y", {})], {}),
    "Pad": ([("Pad", "xpv", "y", {})], {"p": whole(0, 0, 1, 2, 0, 0, 3, 4), "v": np.float32(0.5)}),
    "Relu": ([("Sub", "xc", "z", {}), ("Relu", "z", "y", {})], {"c": np.float32(0.5)}),
    "Reshape": ([("Reshape", "xs", "y", {})], {"s": whole(0, 2, -1)}),
    "Resize by scales": (
        [
            (
                "Resize",
                ["x", "", "s"],
                "y",
                {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
            )
        ],
        {"s": np.array([1, 1, 2, 3], np.float32)},
    ),
    "Sigmoid": ([("Sigmoid", "x", "y", {})], {}),
    "Slice": ([("Slice", "xbeas", "y", {})], {"b": whole(1), "e": whole(2**40), "a": whole(3), "s": whole(2)}),
    "Slice from behind": ([("Slice", "xbea", "y", {})], {"b": whole(-5), "e": whole(-1), "a": whole(2)}),
    "Softmax": ([("Softmax", "x", "y", {"axis": 3})], {}),
    "Sub": ([("Sub", "xc", "y", {})], {"c": weights(4, 1, 1)}),
    "Tanh": ([("Tanh", "x", "y", {})], {}),
    "Transpose": ([("Transpose", "x", "y", {"perm": [0, 3, 1, 2]})], {}),
}


def test_every_covered_operator_has_a_case():
    assert {name.split()[0] for name in CASES} - {"Constant"} == set(onnx_import.OPERATORS)


@pytest.mark.parametrize("case", CASES)
def test_an_operator_computes_what_onnxruntime_computes_and_has_a_gradient(case):
    nodes, constants = CASES[case]
    content = model(nodes, constants, opset=14)
    network = onnx_import.convert(content, "made.onnx")
    images = torch.rand(*SHAPE, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    (found,) = network(images)
    (wanted,) = onnx_import.run(onnx_import.session(content, "made.onnx"), images)
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-5, atol=1e-6)
    found.sum().backward()
    assert images.grad.isfinite().all()


def test_float_weights_are_parameters_and_settings_are_not():
    nodes, constants = CASES["Conv"]
    resize, scales = CASES["Resize by scales"]
    both = [("Conv", "xwb", "z", nodes[0][3]), ("Resize", ["z", "", "s"], "y", resize[0][3])]
    network = onnx_import.convert(model(both, {**constants, **scales}), "made.onnx")
    assert sorted(tuple(weight.shape) for weight in network.parameters()) == [(6,), (6, 4, 3, 3)]


def test_a_graph_for_one_image_takes_many_and_keeps_them_apart():
    shuffle = [("Reshape", "xs", "z", {}), ("Transpose", "z", "t", {"perm": [1, 0, 2]}), ("Reshape", "tr", "y", {})]
    network = onnx_import.convert(model(shuffle, {"s": whole(2, 2, 96), "r": whole(1, 4, 8, 12)}), "made.onnx")
    images = torch.rand(5, *SHAPE[1:])
    (together,) = network(images)
    for index in range(5):
        assert torch.equal(together[index : index + 1], network(images[index : index + 1])[0])
    assert together.shape == images.shape


def test_a_graph_with_an_open_batch_is_run_at_once():
    nodes, constants = CASES["Conv"]
    network = onnx_import.convert(model(nodes, constants, batch="n"), "made.onnx")
    assert not network.fixed_batch
    assert network(torch.rand(3, *SHAPE[1:]))[0].shape == (3, 6, 8, 12)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.integers(-9, 9)] * 2),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_slices_are_onnxs_whatever_their_bounds(bounds, axis, step):
    constants = {"b": whole(bounds[0]), "e": whole(bounds[1]), "a": whole(axis), "s": whole(step)}
    content = model([("Slice", "xbeas", "y", {})], constants)
    images = torch.rand(1, *SHAPE[1:])
    try:
        (wanted,) = onnx_import.run(onnx_import.session(content, "made.onnx"), images)
    except InputError:
        return
    try:
        (found,) = onnx_import.convert(content, "made.onnx")(images)
    except InputError:
        assert wanted.numel() == 0  # nothing to compare is no proof
        return
    assert torch.equal(found, wanted)


def test_an_operator_that_is_not_covered_is_refused_by_name():
    content = model([("Erf", "x", "y", {})])
    with pytest.raises(InputError, match=r"made\.onnx: node y: the operator Erf is not covered; use .* black box"):
        onnx_import.convert(content, "made.onnx")


@pytest.mark.parametrize(
    ("node", "constants", "named"),
    [
        (("MaxPool", "x", "y", {**ONE, "ceil_mode": 1, "strides": [2, 2]}), {}, "ceil_mode"),
        (("Conv", "xw", "y", {"auto_pad": "SAME_UPPER"}), {"w": weights(2, 4, 3, 3)}, "auto_pad"),
        (("Pad", "xp", "y", {"mode": "reflect"}), {"p": whole(0, 0, 1, 1, 0, 0, 1, 1)}, "mode"),
        (("Slice", "xbeas", "y", {}), {"b": whole(5), "e": whole(0), "a": whole(2), "s": whole(-1)}, "step -1"),
        (("Gather", "xi", "y", {"axis": 1}), {"i": np.zeros((2, 2), np.int64)}, "2 axes"),
        (("Resize", ["x", "", "s"], "y", {"mode": "linear"}), {"s": np.array([1, 1, 2, 2], np.float32)}, "mode"),
    ],
)
def test_a_setting_that_is_not_covered_is_refused_by_name(node, constants, named):
    with pytest.raises(InputError, match=f"made.onnx: .*{named}.* not covered"):
        onnx_import.convert(model([node], constants), "made.onnx")


def test_a_conversion_that_computes_something_else_is_refused(monkeypatch):
    content = model(*CASES["Sigmoid"])
    monkeypatch.setitem(onnx_import.OPERATORS, "Sigmoid", lambda i, _: torch.sigmoid(i[0]) + 2e-3)
    with pytest.raises(InputError, match=r"made\.onnx: output 0 .* not onnxruntime's within 0\.0001"):
        onnx_import.convert(content, "made.onnx")
    monkeypatch.setitem(onnx_import.OPERATORS, "Sigmoid", lambda i, _: torch.sigmoid(i[0]) + 1e-5)
    assert onnx_import.convert(content, "made.onnx")(torch.rand(*SHAPE))[0].shape == SHAPE


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04" + bytes(100)])
def test_bytes_that_are_no_model_are_refused(content):
    with pytest.raises(InputError, match=r"made\.onnx: "):
        onnx_import.convert(content, "made.onnx")


@pytest.mark.parametrize("opset", [9, 10])
def test_an_old_operator_set_is_refused(opset):
    with pytest.raises(InputError, match=f"operator set {opset}; covered are 11 to 21"):
        onnx_import.convert(model([("Relu", "x", "y", {})], opset=opset), "made.onnx")


def test_two_inputs_are_refused():
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, *SHAPE[1:]]) for n in "xz"]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, *SHAPE[1:]])
    graph = helper.make_graph([helper.make_node("Add", ["x", "z"], ["y"])], "graph", value, [output])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with pytest.raises(InputError, match=r"inputs \['x', 'z'\]; a detector takes one"):
        onnx_import.convert(made.SerializeToString(), "made.onnx")


def test_images_of_another_shape_are_refused_by_onnxruntime_in_one_clear_error():
    runtime = onnx_import.session(model(*CASES["Relu"]), "made.onnx")
    with pytest.raises(InputError, match=r"images of shape \(1, 4, 8, 13\)"):
        onnx_import.run(runtime, torch.rand(1, 4, 8, 13))
