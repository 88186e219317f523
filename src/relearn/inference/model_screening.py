"""What an exported model in ONNX may hold, checked before onnxruntime opens it.

As with a head (`relearn.inference.screening`), a model may come from anybody. What passes here is a network from pixels
to `features`, and a head as `check_head` accepts it. It computes with the given pixels and constants, without control
flow, files or code of its own, and every value of it has a bounded size.
"""

import math
from collections.abc import Sequence
from typing import Any

from relearn.errors import IntegrityError
from relearn.inference.screening import (
    FLOAT,
    INT64,
    ITEM_BYTES,
    STRING,
    check_attributes,
    check_constant,
    check_head,
    read_model,
    want,
)

IMAGE = "image"
FEATURES = "features"
MAX_MODEL_BYTES = 2**31 - 1  # of a message of protobuf
MAX_NODES = 20_000
MAX_VALUES = 2**27  # at one place of the network, of one image: 512 MiB in float32
MAX_ALL_VALUES = 2**32  # at all places together
UINT8, INT8, INT32, FLOAT16 = 2, 3, 6, 10
NETWORK_ITEM_BYTES = ITEM_BYTES | {UINT8: 1, INT8: 1, INT32: 4, FLOAT16: 2}
MAX_AXES = 5
# The attributes of each operator that `relearn.exporting` writes before the head.
WINDOW = {"kernel_shape", "strides", "pads", "dilations", "auto_pad", "ceil_mode", "count_include_pad"}
OPERATORS: dict[str, set[str]] = {
    **{name: set() for name in ("Add", "Clip", "Div", "Erf", "GlobalAveragePool", "GlobalMaxPool", "HardSwish")},
    **{name: set() for name in ("Identity", "MatMul", "Mul", "Relu", "Reshape", "Round", "Sigmoid", "Slice", "Sub")},
    **{name: {"axis"} for name in ("Concat", "DequantizeLinear", "Flatten", "QuantizeLinear")},
    **dict.fromkeys(("AveragePool", "MaxPool"), WINDOW),
    "BatchNormalization": {"epsilon"},
    "Cast": {"to"},
    "Conv": WINDOW | {"group"},
    "HardSigmoid": {"alpha", "beta"},
    "LayerNormalization": {"axis", "epsilon"},
    "Pad": {"mode"},
    "Resize": {"antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "mode"},
    "Transpose": {"perm"},
}


def check_model(
    content: bytes, classes: Sequence[str], n_features: int, size_px: int | None, *, has_features: bool
) -> None:
    """Check that a model takes `image` and returns `label` and `probabilities`, by known operators alone.

    Parameters
    ----------
    size_px
        Height and width of its input; None if it takes any.
    has_features
        Whether it also returns `features`.

    Raises
    ------
    IntegrityError
        It does not; the caller adds the path to the text.
    """
    model = read_model(content)
    graph = model.graph
    ends = [number for number, node in enumerate(graph.node) if FEATURES in node.output]
    want(len(ends) == 1, "one node that computes the features", f"{len(ends)}")
    network, head = graph.node[: ends[0] + 1], graph.node[ends[0] + 1 :]
    _check_ends(graph, classes, n_features, size_px, has_features=has_features)
    want(len(network) <= MAX_NODES, f"at most {MAX_NODES:,} nodes before the head", f"{len(network):,}")
    for node in network:
        is_known = node.domain in ("", "ai.onnx") and node.op_type in OPERATORS and not node.overload
        operator = f"{node.domain}:{node.op_type}"[:60]
        want(is_known, "no operator but those of networks and heads", repr(operator))
        check_attributes(node, OPERATORS[node.op_type])
    used = {name for node in head for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name not in used]
    for tensor in constants:
        check_constant(tensor, NETWORK_ITEM_BYTES, MAX_AXES)
    _check_sizes(model, network, constants, n_features)
    check_head(_cut_head(model, head, used, n_features), n_features, classes)


def _check_ends(
    graph: Any, classes: Sequence[str], n_features: int, size_px: int | None, *, has_features: bool
) -> None:
    """Check names, types and shapes of the inputs and outputs; the number of images is open."""
    outputs = [("label", STRING, [None]), ("probabilities", FLOAT, [None, len(classes)])]
    if has_features:
        outputs.append((FEATURES, FLOAT, [None, n_features]))
    for wanted, found, kind in (
        ([(IMAGE, UINT8, [None, size_px, size_px, 3])], graph.input, "input"),
        (outputs, graph.output, "outputs"),
    ):
        listed = [
            (
                value.name,
                value.type.tensor_type.elem_type,
                [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim],
            )
            for value in found
        ]
        want(listed == wanted, f"the {kind} (name, type, shape) {wanted}", f"{listed}"[:300])


def _check_sizes(model: Any, network: Sequence[Any], constants: Sequence[Any], n_features: int) -> None:
    """Check by ONNX's own inference for one image that every value of the network has a bounded size."""
    from onnx import checker, helper, shape_inference

    graph = model.graph
    image = graph.input[0]
    sizes = [d.dim_value if d.HasField("dim_value") else d.dim_param or "n" for d in image.type.tensor_type.shape.dim]
    # Large constants only by their shapes; small whole numbers decide shapes, so the inference has to know them.
    small = [tensor for tensor in constants if tensor.data_type == INT64]
    inputs = [helper.make_tensor_value_info(IMAGE, UINT8, [1, *sizes[1:]])]
    inputs += [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in constants
        if tensor.data_type != INT64
    ]
    outputs = [helper.make_tensor_value_info(FEATURES, FLOAT, [1, n_features])]
    skeleton = helper.make_model(
        helper.make_graph(list(network), "network", inputs, outputs, small),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    try:
        checker.check_model(skeleton)
        inferred = shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True, data_prop=True)
    except (checker.ValidationError, shape_inference.InferenceError, ValueError) as error:
        problem = " ".join(str(error).split())[:300]
        raise IntegrityError(wanted="values of known shapes", got=problem) from None
    found = {value.name: value.type.tensor_type.shape.dim for value in (*inferred.graph.value_info, *outputs)}
    n_all = 0
    for node in network:
        for name in node.output:
            want(name in found, "values of a known shape", f"one of none: {name[:60]!r}")
            dims = [d.dim_value for d in found[name] if d.HasField("dim_value")]
            # Only what comes before the resizing may be of any size.
            is_known = len(dims) == len(found[name]) or node.op_type in ("Cast", "Transpose")
            want(is_known and min(dims, default=1) > 0, "values of a known shape", f"{dims}: {name[:60]!r}")
            want(math.prod(dims) <= MAX_VALUES, f"at most {MAX_VALUES:,} numbers", f"{dims}: {name[:60]!r}")
            n_all += math.prod(dims)
    want(n_all <= MAX_ALL_VALUES, f"at most {MAX_ALL_VALUES:,} numbers in all", f"{n_all:,}")


def _cut_head(model: Any, nodes: Sequence[Any], used: set[str], n_features: int) -> bytes:
    """Return the head of a model as `check_head` takes it."""
    from onnx import helper

    head = helper.make_model(
        helper.make_graph(
            list(nodes),
            "head",
            [helper.make_tensor_value_info(FEATURES, FLOAT, [None, n_features])],
            list(model.graph.output[:2]),
            [tensor for tensor in model.graph.initializer if tensor.name in used],
        ),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    content: bytes = head.SerializeToString()
    return content
