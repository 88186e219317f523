"""Changes of a sound ONNX head, each into something that no head may be."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def find(model, name):
    return next(node for node in model.graph.node if node.op_type == name)


def find_tree(model, name):
    (node,) = [node for node in model.graph.node if node.op_type == "TreeEnsembleClassifier"]
    return next(attribute for attribute in node.attribute if attribute.name == name)


def add_constant(model, name, values):
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))


def put_before_softmax(model, *nodes, last):
    """Put nodes that begin with `scores` before the softmax; `last` is what it takes instead."""
    softmax = find(model, "Softmax")
    nodes = [helper.make_node("Identity" if not node else node[0], *node[1:-1], **node[-1]) for node in nodes]
    for node in nodes:
        node.input[:] = [softmax.input[0] if name == "scores" else name for name in node.input]
    where = list(model.graph.node).index(softmax)
    softmax.input[0] = last
    rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*rest[:where], *nodes, *rest[where:]])


def replace_softmax(name):
    def change(model):
        softmax = find(model, "Softmax")
        softmax.op_type = name
        del softmax.attribute[:]

    return change


def add_branch(model):
    scores = find(model, "Softmax").input[0]
    body = helper.make_graph(
        [helper.make_node("Identity", [scores], ["chosen"])],
        "branch",
        [],
        [helper.make_tensor_value_info("chosen", TensorProto.DOUBLE, None)],
    )
    add_constant(model, "yes", np.array(True))
    put_before_softmax(model, ("If", ["yes"], ["b"], {"then_branch": body, "else_branch": body}), last="b")


def add_endless_loop(model):
    body = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("going", "value")],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.DOUBLE, None),
        ],
        [
            helper.make_tensor_value_info("going_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_out", TensorProto.DOUBLE, None),
        ],
    )
    add_constant(model, "times", np.array(3))
    add_constant(model, "yes", np.array(True))
    put_before_softmax(model, ("Loop", ["times", "yes", "scores"], ["looped"], {"body": body}), last="looped")


def add_scan(model):
    body = helper.make_graph(
        [helper.make_node("Identity", ["row"], ["row_out"])],
        "body",
        [helper.make_tensor_value_info("row", TensorProto.DOUBLE, [3])],
        [helper.make_tensor_value_info("row_out", TensorProto.DOUBLE, [3])],
    )
    put_before_softmax(model, ("Scan", ["scores"], ["s"], {"body": body, "num_scan_inputs": 1}), last="s")


def add_function(model):
    identity = helper.make_node("Identity", ["x"], ["y"])
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("", "Relu", ["x"], ["y"], [identity], opset))


def add_filled(model):
    """8 GB of zeros of a few bytes."""
    add_constant(model, "shape", [1000, 1000, 1000])
    add_constant(model, "axes", [0, 1, 2])
    put_before_softmax(
        model,
        ("ConstantOfShape", ["shape"], ["zeros"], {"value": numpy_helper.from_array(np.zeros(1))}),
        ("ReduceSum", ["zeros", "axes"], ["zero"], {"keepdims": 0}),
        ("Add", ["scores", "zero"], ["sum"], {}),
        last="sum",
    )


def add_tiled(name):
    def change(model):
        add_constant(model, "seed", np.zeros((1, 1)))
        add_constant(model, "sizes", [30000, 30000])
        add_constant(model, "axes", [0, 1])
        put_before_softmax(
            model,
            (name, ["seed", "sizes"], ["big"], {}),
            ("ReduceSum", ["big", "axes"], ["zero"], {"keepdims": 0}),
            ("Add", ["scores", "zero"], ["sum"], {}),
            last="sum",
        )

    return change


def add_outer(name):
    """Two columns of 240 kB whose product or sum has 7 GB."""

    def change(model):
        add_constant(model, "column", np.zeros((30000, 1)))
        add_constant(model, "row", np.zeros((1, 30000)))
        add_constant(model, "axes", [0, 1])
        put_before_softmax(
            model,
            (name, ["column", "row"], ["big"], {}),
            ("ReduceSum", ["big", "axes"], ["zero"], {"keepdims": 0}),
            ("Add", ["scores", "zero"], ["sum"], {}),
            last="sum",
        )

    return change


def add_doublings(axis):
    def change(model):
        nodes = [("Concat", ["scores", "scores"], ["d0"], {"axis": axis})]
        nodes += [("Concat", [f"d{n}", f"d{n}"], [f"d{n + 1}"], {"axis": axis}) for n in range(27)]
        add_constant(model, "first", [0])
        add_constant(model, "axes", [axis])
        nodes.append(("ReduceSum", ["d27", "axes"], ["sum"], {"keepdims": 1}))
        put_before_softmax(model, *nodes, ("Add", ["sum", "scores"], ["sum2"], {}), last="sum2")

    return change


def add_pairs(model):
    """A value with a column for each image."""
    add_constant(model, "axes", [1])
    put_before_softmax(
        model,
        ("ArgMax", ["scores"], ["best"], {"axis": 1, "keepdims": 0}),
        ("Gather", ["scores", "best"], ["pairs"], {"axis": 1}),
        ("ReduceSum", ["pairs", "axes"], ["sum"], {"keepdims": 1}),
        ("Add", ["scores", "sum"], ["sum2"], {}),
        last="sum2",
    )


def add_many_nodes(model):
    nodes = [("Relu", ["scores"], ["r0"], {})]
    nodes += [("Relu", [f"r{n}"], [f"r{n + 1}"], {}) for n in range(2000)]
    put_before_softmax(model, *nodes, last="r2000")


def drop_rows(model):
    add_constant(model, "axes", [0])
    put_before_softmax(model, ("ReduceSum", ["scores", "axes"], ["one"], {"keepdims": 1}), last="one")


def set_bias(value):
    def change(model):
        add_constant(model, "bias", np.full(3, value))
        find(model, "Add").input[1] = "bias"

    return change


def set_external(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="params.yaml")
    tensor.ClearField("raw_data")


def set_half_external(model):
    model.graph.initializer[0].external_data.add(key="location", value="params.yaml")


def set_sparse(model):
    values = numpy_helper.from_array(np.ones(1), "sparse")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64)), [10**9])
    )


def set_dims(*sizes):
    def change(model):
        tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
        tensor.dims[:] = sizes

    return change


def set_ends(**changes):
    def change(model):
        values = model.graph.input if "features" in changes else model.graph.output
        for value in values:
            if value.name in changes:
                value.CopyFrom(helper.make_tensor_value_info(*changes[value.name]))

    return change


def add_output(model):
    model.graph.output.append(helper.make_tensor_value_info(find(model, "Softmax").output[0], TensorProto.DOUBLE, None))


def add_input(model):
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def set_classes(*names):
    def change(model):
        tensor = next(tensor for tensor in model.graph.initializer if tensor.string_data)
        tensor.string_data[:] = [name.encode() for name in names]

    return change


def set_label(model):
    add_constant(model, "first", [0])
    find(model, "Gather").input[1] = "first"


def set_smallest(model):
    find(model, "ArgMax").op_type = "ArgMin"


def set_last(model):
    find(model, "ArgMax").attribute.append(helper.make_attribute("select_last_index", 1))


def set_hidden_graph(model):
    body = helper.make_graph([], "hidden", [], [])
    attribute = helper.make_attribute("axis", body)
    softmax = find(model, "Softmax")
    del softmax.attribute[:]
    softmax.attribute.append(attribute)


def set_domain(model):
    find(model, "Softmax").domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def set_opset(model):
    model.opset_import[0].version = 12


def set_text_value(model):
    put_before_softmax(
        model,
        ("Cast", ["scores"], ["words"], {"to": TensorProto.STRING}),
        ("Cast", ["words"], ["numbers"], {"to": TensorProto.DOUBLE}),
        last="numbers",
    )


def repeat_constant(model):
    model.graph.initializer.append(model.graph.initializer[0])


def name_value(model):
    model.graph.value_info.append(helper.make_tensor_value_info("matmul_3", TensorProto.DOUBLE, [1]))


def grow_chain(model, n_levels=5000):
    """A tree of one leaf a level."""
    n_nodes = 2 * n_levels + 1
    branches = [n % 2 == 0 and n < n_nodes - 1 for n in range(n_nodes)]
    columns = {
        "nodes_treeids": [0] * n_nodes,
        "nodes_nodeids": list(range(n_nodes)),
        "nodes_featureids": [0] * n_nodes,
        "nodes_truenodeids": [n + 1 if branch else 0 for n, branch in enumerate(branches)],
        "nodes_falsenodeids": [n + 2 if branch else 0 for n, branch in enumerate(branches)],
        "nodes_missing_value_tracks_true": [0] * n_nodes,
    }
    for name, values in columns.items():
        find_tree(model, name).ints[:] = values
    find_tree(model, "nodes_modes").strings[:] = [b"BRANCH_LEQ" if branch else b"LEAF" for branch in branches]
    for name in ("nodes_values", "nodes_hitrates"):
        find_tree(model, name).floats[:] = [0.0] * n_nodes
    leaves = [n for n, branch in enumerate(branches) if not branch]
    find_tree(model, "class_nodeids").ints[:] = leaves
    for name in ("class_treeids", "class_ids"):
        find_tree(model, name).ints[:] = [0] * len(leaves)
    find_tree(model, "class_weights").floats[:] = [1.0] * len(leaves)


def set_tree(name, value, row=0):
    def change(model):
        attribute = find_tree(model, name)
        (attribute.ints or attribute.strings)[row] = value

    return change


def share_child(model):
    """Both ways lead to one child, level after level: onnxruntime would visit 2^levels nodes."""
    find_tree(model, "nodes_falsenodeids").ints[0] = find_tree(model, "nodes_truenodeids").ints[0]
