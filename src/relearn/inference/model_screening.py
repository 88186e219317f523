"""What an exported model in ONNX may hold, checked before onnxruntime opens it.

As with a head (`relearn.inference.screening`), a model may come from anybody. What passes here is a network from pixels
to `features`, and a head as `check_head` accepts it. It computes with the given pixels and constants, without control
flow, files or code of its own. Every value has one entry per image and a bounded size, and the work is bounded.
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
    End,
    check_attributes,
    check_constant,
    check_ends,
    check_head,
    read_model,
    want,
)

IMAGE = "image"
FEATURES = "features"
BATCH_SIZE = 8  # images in one run: more gain nothing on a CPU, and each takes memory
MAX_MODEL_BYTES = 2**31 - 1  # of a message of protobuf
MAX_NODES = 20_000
MAX_VALUES = 2**27  # at one place of the network, of one image: 512 MiB in float32
MAX_ALL_VALUES = 2**32  # at all places together, of one image
MAX_PRODUCTS = 2**43  # for one image
UINT8, INT8, INT32, FLOAT16 = 2, 3, 6, 10
NETWORK_ITEM_BYTES = ITEM_BYTES | {UINT8: 1, INT8: 1, INT32: 4, FLOAT16: 2}
MAX_AXES = 5
WINDOW = {"kernel_shape": "INTS", "strides": "INTS", "pads": "INTS"}
# The attributes of each operator that `relearn.exporting` writes before the head, with their types.
OPERATORS: dict[str, dict[str, str]] = {
    **{name: {} for name in ("Add", "Clip", "Erf", "GlobalAveragePool", "GlobalMaxPool", "HardSwish", "Identity")},
    **{name: {} for name in ("Mul", "Relu", "Reshape", "Round", "Sigmoid", "Slice")},
    **{name: {"axis": "INT"} for name in ("Concat", "DequantizeLinear", "Flatten", "QuantizeLinear")},
    "AveragePool": WINDOW | {"count_include_pad": "INT"},
    "Cast": {"to": "INT"},
    "Conv": WINDOW | {"dilations": "INTS", "group": "INT"},
    "HardSigmoid": {"alpha": "FLOAT", "beta": "FLOAT"},
    "LayerNormalization": {"axis": "INT", "epsilon": "FLOAT"},
    "MaxPool": WINDOW,
    "Pad": {"mode": "STRING"},
    "Resize": {
        **{"antialias": "INT", "axes": "INTS", "coordinate_transformation_mode": "STRING"},
        **{"cubic_coeff_a": "FLOAT", "mode": "STRING"},
    },
    "Transpose": {"perm": "INTS"},
}
# Least and greatest whole numbers in attributes; all others are 0 to 16.
RANGES = {
    **dict.fromkeys(("kernel_shape", "strides", "dilations"), (1, 64)),
    "pads": (0, 64),
    "group": (1, 2**16),
    "axis": (-1, MAX_AXES),
}
TEXTS = {b"constant", b"half_pixel", b"linear", b"cubic"}
MAX_NUMBER = 2**16  # in constants that decide shapes
BEFORE_RESIZE = ("Cast", "Transpose")  # operators that may see images of any size


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
    outputs: list[End] = [("label", STRING, [None]), ("probabilities", FLOAT, [None, len(classes)])]
    if has_features:
        outputs.append((FEATURES, FLOAT, [None, n_features]))
    check_ends(graph, [(IMAGE, UINT8, [None, size_px, size_px, 3])], outputs)
    want(len(network) <= MAX_NODES, f"at most {MAX_NODES:,} nodes before the head", f"{len(network):,}")
    for node in network:
        _check_node(node)
    used = {name for node in head for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name not in used]
    for tensor in constants:
        _check_network_constant(tensor)
    _check_sizes(model, network, constants, n_features)
    check_head(_cut_head(model, head, used, n_features), n_features, classes)


def _check_node(node: Any) -> None:
    """Check operator and attributes of a node of the network."""
    is_known = node.domain in ("", "ai.onnx") and node.op_type in OPERATORS and not node.overload
    operator = f"{node.domain}:{node.op_type}"[:60]
    want(is_known, "no operator but those of networks and heads", repr(operator))
    check_attributes(node, OPERATORS[node.op_type])
    for attribute in node.attribute:
        low, high = RANGES.get(attribute.name, (0, 16))
        kind = OPERATORS[node.op_type][attribute.name]
        numbers = {"INT": [attribute.i], "INTS": list(attribute.ints)}.get(kind, [])
        named = f"{node.op_type} with {attribute.name}"
        want(all(low <= number <= high for number in numbers), f"{named} from {low} to {high}", f"{numbers}"[:100])
        want(not attribute.s or attribute.s in TEXTS, f"{named} of {sorted(TEXTS)}", f"{attribute.s!r}"[:60])
    if node.op_type == "Resize":
        is_size = len(node.input) == 4 and list(node.input[1:3]) == ["", ""]
        want(is_size, "Resize to a size", f"{list(node.input)}"[:100])


def _check_network_constant(tensor: Any) -> None:
    from onnx import numpy_helper

    check_constant(tensor, NETWORK_ITEM_BYTES, MAX_AXES)
    if tensor.data_type == INT64:
        numbers = numpy_helper.to_array(tensor)
        is_small = numbers.size <= 16 and bool(((numbers >= 0) & (numbers <= MAX_NUMBER)).all())
        want(is_small, f"at most 16 numbers from 0 to {MAX_NUMBER:,}", f"{numbers}"[:100])


def _check_sizes(model: Any, network: Sequence[Any], constants: Sequence[Any], n_features: int) -> None:
    """Check by ONNX's own inference that every value has one entry per image, and that sizes and work are bounded.

    Only what comes before the resizing may be of any height and width.
    """
    one, many = (_infer_shapes(model, network, constants, n_features, n) for n in (1, BATCH_SIZE))
    shapes = {tensor.name: list(tensor.dims) for tensor in constants}
    fixed = set(shapes)  # what does not depend on the images: constants, and quantized ones in float32
    n_all = n_products = 0
    for node in network:
        for name in node.output:
            named = repr(name[:60])
            want(name in one and name in many, "values of a known shape", f"one of none: {named}")
            dims = shapes[name] = one[name]
            is_fixed = {value for value in node.input if value} <= fixed
            if is_fixed:
                fixed.add(name)
            else:
                is_per_image = dims[:1] == [1] and many[name] == [BATCH_SIZE, *dims[1:]]
                want(is_per_image, "values with one entry per image", f"{dims} and {many[name]}: {named}")
            known = [size for size in dims if size is not None]
            is_known = len(known) == len(dims) or node.op_type in BEFORE_RESIZE
            want(is_known and min(known, default=1) > 0, "values of a known shape", f"{dims}: {named}")
            want(math.prod(known) <= MAX_VALUES, f"at most {MAX_VALUES:,} numbers", f"{dims}: {named}")
            n_all += math.prod(known)
            n_products += math.prod(known) * _count_products(node, shapes)
    want(n_all <= MAX_ALL_VALUES, f"at most {MAX_ALL_VALUES:,} numbers in all", f"{n_all:,}")
    want(n_products <= MAX_PRODUCTS, f"at most {MAX_PRODUCTS:,} products", f"{n_products:,}")


def _infer_shapes(
    model: Any, network: Sequence[Any], constants: Sequence[Any], n_features: int, n_images: int
) -> dict[str, list[int | None]]:
    """Return the shapes of the values for a number of images; None for a size that is not known."""
    from onnx import checker, helper, shape_inference

    image = model.graph.input[0]
    sizes = [d.dim_value if d.HasField("dim_value") else d.dim_param or "n" for d in image.type.tensor_type.shape.dim]
    # Large constants only by their shapes; small whole numbers decide shapes, so the inference has to know them.
    small = [tensor for tensor in constants if tensor.data_type == INT64]
    inputs = [helper.make_tensor_value_info(IMAGE, UINT8, [n_images, *sizes[1:]])]
    inputs += [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in constants
        if tensor.data_type != INT64
    ]
    outputs = [helper.make_tensor_value_info(FEATURES, FLOAT, [n_images, n_features])]
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
    return {
        value.name: [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *outputs)
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")
    }


def _count_products(node: Any, shapes: dict[str, list[int | None]]) -> int:
    """Return how many products, or comparisons, one value of a node's output takes."""
    if node.op_type == "Conv":
        return math.prod(size or MAX_NUMBER for size in shapes.get(node.input[1], [])[1:])
    return math.prod(number for a in node.attribute if a.name == "kernel_shape" for number in a.ints)


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
