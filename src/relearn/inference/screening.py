"""What a head in ONNX may hold, checked before onnxruntime opens it.

A classifier may come from anybody, and the hashes in its folder only prove that the files belong together. What passes
here is what `relearn.heads.export` could have written: it computes with the given features and constants, without
loops, files or code, and its memory and time grow with its own size.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from relearn.errors import IntegrityError

MAX_HEAD_BYTES = 2**30
MAX_TREE_DEPTH = 1000  # onnxruntime builds a tree by recursion
# Types and versions of ONNX; onnxruntime has supported these versions for years.
FLOAT = 1
INT64 = 7
STRING = 8
BOOL = 9
DOUBLE = 11
OPSETS = {"": 18, "ai.onnx.ml": 3}
IR_VERSION = 8

ITEM_BYTES = {FLOAT: 4, INT64: 8, DOUBLE: 8}
IMAGES = "images"  # the name of the first axis
End = tuple[str, int, list[int | None]]  # name, type and shape of an input or output
TREES = "TreeEnsembleClassifier"
TREE_NODES = ("treeids", "nodeids", "featureids", "modes", "truenodeids", "falsenodeids", "values")
TREE_CLASSES = ("treeids", "nodeids", "ids", "weights")
# The attributes of each operator that is allowed, with their types.
OPERATORS: dict[tuple[str, str], dict[str, str]] = {
    **{("", name): {} for name in ("Sub", "Div", "Relu", "MatMul", "Add", "Mul", "Max", "Min", "Log")},
    **{("", name): {} for name in ("Sigmoid", "Equal", "Where")},
    **{("", name): {"axis": "INT"} for name in ("Gather", "Concat", "Softmax")},
    ("", "Cast"): {"to": "INT"},
    ("", "ReduceSum"): {"keepdims": "INT"},
    ("", "ArgMax"): {"axis": "INT", "keepdims": "INT"},
    ("ai.onnx.ml", TREES): {
        **{f"nodes_{name}": "INTS" for name in (*TREE_NODES, "missing_value_tracks_true")},
        **{f"class_{name}": "INTS" for name in TREE_CLASSES},
        **dict.fromkeys(("nodes_values", "nodes_hitrates", "class_weights"), "FLOATS"),
        "nodes_modes": "STRINGS",
        "classlabels_int64s": "INTS",
        "post_transform": "STRING",
    },
}


def check_head(content: bytes, n_features: int, classes: Sequence[str]) -> None:
    """Check that a head takes `features` and returns `label` and `probabilities`, by known operators alone.

    Raises
    ------
    IntegrityError
        It does not; the caller adds the path to the text.
    """
    want(len(content) <= MAX_HEAD_BYTES, f"a head of at most {MAX_HEAD_BYTES:,} bytes", f"{len(content):,}")
    model = read_model(content)
    graph = model.graph
    outputs: list[End] = [("label", STRING, [None]), ("probabilities", FLOAT, [None, len(classes)])]
    check_ends(graph, [("features", FLOAT, [None, n_features])], outputs)
    want(len(graph.node) <= 64 + 8 * len(classes), f"at most {64 + 8 * len(classes)} nodes", f"{len(graph.node)}")
    for node in graph.node:
        _check_operator(node)
        if node.op_type == TREES:
            _check_trees(node, n_features, len(classes))
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for tensor in graph.initializer:
        check_constant(tensor, ITEM_BYTES, max_axes=2)
    widths = (size for tensor in graph.initializer for size in tensor.dims)
    _check_shapes(model, max(n_features, len(classes), *widths), len(classes))
    _check_label(graph, constants, classes)


def read_model(content: bytes) -> Any:
    """Parse a model, and check that it is of our versions and holds nodes and constants alone.

    Raises
    ------
    IntegrityError
        It is not; the caller adds the path to the text.
    """
    from google.protobuf.message import DecodeError
    from onnx import load_model_from_string

    try:
        model = load_model_from_string(content)
    except DecodeError:
        raise IntegrityError(wanted="ONNX", got="other bytes") from None
    graph = model.graph
    opsets = sorted((opset.domain, opset.version) for opset in model.opset_import)
    want(opsets == sorted(OPSETS.items()), f"the operator sets {OPSETS}", f"{dict(opsets)}")
    want(model.ir_version == IR_VERSION, f"version {IR_VERSION} of ONNX", f"{model.ir_version}")
    for part, name in (
        (model.functions, "functions"),
        (model.training_info, "training steps"),
        (graph.sparse_initializer, "sparse constants"),
        (graph.quantization_annotation, "quantization"),
        (graph.value_info, "notes on values"),
    ):
        want(not part, f"no {name}", f"{len(part)}")
    is_named = len({tensor.name for tensor in graph.initializer}) == len(graph.initializer)
    want(is_named, "constants of different names", "two of one name")
    return model


def want(is_met: bool, wanted: str, got: str) -> None:
    """Raise `IntegrityError` unless a condition is met; the caller adds the path to the text."""
    if not is_met:
        raise IntegrityError(wanted=wanted, got=got)


def check_ends(graph: Any, inputs: Sequence[End], outputs: Sequence[End]) -> None:
    """Check names, types and shapes of the inputs and outputs; None is an open size, such as the number of images."""
    for wanted, found, kind in ((list(inputs), graph.input, "input"), (list(outputs), graph.output, "outputs")):
        listed = [
            (
                value.name,
                value.type.tensor_type.elem_type,
                [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim],
            )
            for value in found
        ]
        want(listed == wanted, f"the {kind} (name, type, shape) {wanted}", f"{listed}"[:300])


def check_constant(tensor: Any, item_bytes: dict[int, int], max_axes: int) -> None:
    """Check that a constant is complete, stored in the file itself, and no larger than its bytes."""
    named = f"constant {tensor.name[:60]!r}"
    is_external = tensor.data_location != tensor.DEFAULT or tensor.external_data
    want(not is_external, f"{named} in the file itself", "a reference to another file")
    sizes = list(tensor.dims)
    is_small = len(sizes) <= max_axes and min(sizes, default=0) >= 0
    want(is_small, f"{named} of at most {max_axes} axes", f"the shape {sizes}")
    if tensor.data_type == STRING:
        n_items, n_found = math.prod(sizes), len(tensor.string_data)
    else:
        want(tensor.data_type in item_bytes, f"{named} of a known type", f"the type {tensor.data_type}")
        n_items, n_found = math.prod(sizes) * item_bytes[tensor.data_type], len(tensor.raw_data)
    want(n_found == n_items, f"{named} of shape {sizes}", f"{n_found:,} instead of {n_items:,} bytes or texts")


def _check_operator(node: Any) -> None:
    """Check that the operator of a node is one of `OPERATORS`, with attributes that hold plain values."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    known = OPERATORS.get((domain, node.op_type))
    if known is None or node.overload:
        operator = f"{domain}:{node.op_type}"[:60]
        raise IntegrityError(wanted="no operator but those of heads", got=repr(operator))
    check_attributes(node, known)


def check_attributes(node: Any, known: dict[str, str]) -> None:
    """Check that the attributes of a node are known ones of known types: numbers and texts, no graph, no tensor."""
    for attribute in node.attribute:
        kind = attribute.AttributeType.Name(attribute.type)
        is_plain = known.get(attribute.name) == kind and not attribute.ref_attr_name
        want(is_plain, f"{node.op_type} with {sorted(known) or 'no attributes'}", f"{attribute.name[:60]!r}, {kind}")


def _check_trees(node: Any, n_features: int, n_classes: int) -> None:
    """Check that trees are trees, because onnxruntime follows the indices in them without a check.

    In each tree nodes are numbered from 0, a parent before its children, each the child of one parent. Features and
    classes exist.
    """
    from onnx.helper import get_attribute_value

    values = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    modes = values.get("nodes_modes", [])
    n_nodes = len(modes)
    nodes = {key: np.array(values.get(f"nodes_{key}", [])) for key in TREE_NODES if key != "modes"}
    leaves = {key: np.array(values.get(f"class_{key}", [])) for key in TREE_CLASSES}
    for name, wanted in (("hitrates", (0, n_nodes)), ("missing_value_tracks_true", (0, n_nodes))):
        want(len(values.get(f"nodes_{name}", [])) in wanted, f"trees of {n_nodes:,} nodes", f"other {name}")
    is_even = {len(column) for column in nodes.values()} == {n_nodes} and n_nodes > 0
    is_even &= len({len(column) for column in leaves.values()}) == 1
    want(is_even, "a row for each node of the trees", "columns of different lengths")
    want(set(modes) <= {b"BRANCH_LEQ", b"LEAF"}, "trees of BRANCH_LEQ and LEAF", f"{sorted(set(modes))}"[:100])
    want(values.get("post_transform", b"NONE") == b"NONE", "trees without post_transform", "one")
    labels = values.get("classlabels_int64s", [])
    want(list(labels) == list(range(n_classes)), f"trees of the classes 0 to {n_classes - 1}", "others")
    want(list(node.input) == ["features"], "trees that look at the features", f"{list(node.input)}"[:100])
    want(len(node.output) == 2, "trees of two outputs", f"{len(node.output)}")

    def _is_within(column: np.ndarray, n: int) -> bool:
        return column.dtype == np.int64 and bool(((column >= 0) & (column < n)).all())

    want(_is_within(nodes["featureids"], n_features), f"trees of {n_features:,} features", "another feature")
    want(_is_within(leaves["ids"], n_classes), f"trees of {n_classes:,} classes", "another class")
    starts = np.flatnonzero(np.append(True, np.diff(nodes["treeids"]) != 0))
    sizes = np.diff(np.append(starts, n_nodes))
    trees = np.repeat(np.arange(len(starts)), sizes)
    ids = np.arange(n_nodes) - starts[trees]
    is_numbered = np.array_equal(nodes["treeids"], trees) and np.array_equal(nodes["nodeids"], ids)
    want(is_numbered, "trees and their nodes numbered from 0", "other numbers")
    branches = np.array(modes) == b"BRANCH_LEQ"
    parents = np.tile(np.flatnonzero(branches), 2)
    children = np.concatenate([nodes["truenodeids"][branches], nodes["falsenodeids"][branches]])
    is_after = (children > ids[parents]) & (children < sizes[trees[parents]])
    want(bool(is_after.all()), "trees whose nodes come before their children", "another order, or a loop")
    children = children + starts[trees[parents]]
    n_parents = np.bincount(children, minlength=n_nodes)
    want(np.array_equal(n_parents, (ids > 0).astype(int)), "trees whose nodes have one parent", "another number")
    _check_depth(starts, parents, children, n_nodes)
    is_known = _is_within(leaves["treeids"], len(starts)) and _is_within(leaves["nodeids"], n_nodes)
    is_known = is_known and bool((leaves["nodeids"] < sizes[leaves["treeids"]]).all())
    is_known = is_known and not branches[starts[leaves["treeids"]] + leaves["nodeids"]].any()
    want(is_known, "classes of the leaves of the trees", "those of other nodes")


def _check_depth(roots: np.ndarray, parents: np.ndarray, children: np.ndarray, n_nodes: int) -> None:
    left, right = np.full((2, n_nodes), -1)
    half = len(parents) // 2
    left[parents[:half]], right[parents[half:]] = children[:half], children[half:]
    level = roots
    for _ in range(MAX_TREE_DEPTH):
        level = np.concatenate([left[level], right[level]])
        level = level[level >= 0]
        if not len(level):
            return
    raise IntegrityError(wanted=f"trees of at most {MAX_TREE_DEPTH:,} levels", got="more", advice="set max_depth")


def _check_shapes(model: Any, max_width: int, n_classes: int) -> None:
    """Check by ONNX's own inference that every value is of shape (images,) or (images, width).

    So no value has more rows than there are images, or more columns than the file itself has numbers along an axis.
    """
    from onnx import ModelProto, checker, helper, shape_inference

    graph, types = model.graph, (FLOAT, DOUBLE, INT64, BOOL)
    inputs = [helper.make_tensor_value_info("features", FLOAT, [IMAGES, *_read_dims(graph.input[0])[1:]])]
    axes = []  # of a reduction, which the inference has to know
    for tensor in graph.initializer:
        if tensor.data_type == INT64 and len(tensor.raw_data) == ITEM_BYTES[INT64]:
            axes.append(tensor)
        else:
            inputs.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for label, probabilities in (node.output for node in graph.node if node.op_type == TREES):
        inputs.append(helper.make_tensor_value_info(label, INT64, [IMAGES]))
        inputs.append(helper.make_tensor_value_info(probabilities, FLOAT, [IMAGES, n_classes]))
    outputs = [
        helper.make_tensor_value_info("label", STRING, [IMAGES]),
        helper.make_tensor_value_info("probabilities", FLOAT, [IMAGES, n_classes]),
    ]
    nodes = [node for node in graph.node if node.op_type != TREES]
    skeleton = helper.make_model(
        helper.make_graph(nodes, "head", inputs, outputs, axes),
        opset_imports=list(model.opset_import),
        ir_version=IR_VERSION,
    )
    try:
        checker.check_model(skeleton)
        inferred: ModelProto = shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True)
    except (checker.ValidationError, shape_inference.InferenceError, ValueError) as error:
        problem = " ".join(str(error).split())[:300]
        raise IntegrityError(wanted="values of shape (images, n)", got=problem) from None
    found = {value.name: value for value in inferred.graph.value_info}
    for name in (name for node in nodes for name in node.output if name not in ("label", "probabilities")):
        want(name in found, "values of a known type and shape", f"one of none: {name[:60]!r}")
        want(found[name].type.tensor_type.elem_type in types, "values of numbers", f"others: {name[:60]!r}")
        rows, *width = _read_dims(found[name]) or [0]
        is_bounded = rows == IMAGES and len(width) < 2 and all(isinstance(n, int) and 0 < n <= max_width for n in width)
        want(is_bounded, f"values of shape (images, at most {max_width:,})", f"{[rows, *width]}: {name[:60]!r}")


def _read_dims(value: Any) -> list[int | str]:
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in value.type.tensor_type.shape.dim]


def _check_label(graph: Any, constants: dict[str, Any], classes: Sequence[str]) -> None:
    """Check that the label is the class of the largest probability, and the classes are those of the record."""
    made = {name: node for node in graph.node for name in node.output}
    gather = made.get("label")
    names, number = [*(gather.input if gather else []), "", ""][:2]
    largest = made.get(number)
    is_largest = (
        gather is not None
        and largest is not None
        and (gather.op_type, list(gather.attribute)) == ("Gather", [])
        and (largest.op_type, list(largest.input)) == ("ArgMax", ["probabilities"])
        and {attribute.name: attribute.i for attribute in largest.attribute} == {"axis": 1, "keepdims": 0}
    )
    want(is_largest, "the label of the largest probability", "another")
    listed = list(constants[names].string_data) if names in constants else []
    want(listed == [name.encode() for name in classes], "the classes of the record, in their order", "others")
