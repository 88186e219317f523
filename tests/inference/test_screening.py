"""Classifiers of somebody else, whose hashes are right: each is refused in one line, before it can do harm."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.tree import DecisionTreeClassifier

from relearn.errors import IntegrityError
from relearn.heads.calibration import UNCALIBRATED
from relearn.heads.export import export_head
from relearn.heads.fitted import LayeredHead, TreeHead
from relearn.inference import classifier as module
from relearn.inference.classifier import hash_record, read_classifier, write_classifier
from relearn.storage.files import hash_bytes

CLASSES = ["cat", "cow", "dog"]
N_FEATURES = 4
ROWS = np.random.default_rng(0).normal(size=(6, N_FEATURES)).astype(np.float32)
RECORD = {"classes": CLASSES, "features": {}, "extractor": {"n_features": N_FEATURES}}


def make_linear():
    rng = np.random.default_rng(1)
    layers = [(rng.normal(size=(N_FEATURES, 3)), rng.normal(size=3))]
    head = LayeredHead(np.zeros(N_FEATURES), np.ones(N_FEATURES), layers, has_probabilities=True)
    return onnx.load_from_string(export_head(head, UNCALIBRATED, CLASSES, [ROWS]))


def make_tree():
    rng = np.random.default_rng(2)
    estimator = DecisionTreeClassifier(max_depth=3, random_state=0)
    estimator.fit(rng.normal(size=(60, N_FEATURES)), np.arange(60) % 3)
    return onnx.load_from_string(export_head(TreeHead(estimator), UNCALIBRATED, CLASSES, [ROWS]))


def answer(folder, content, record=None):
    """Write a classifier with hashes that are right, open it, and let it predict."""
    write_classifier(folder, content, RECORD)
    record = {"head_sha256": hash_bytes(content), **(record or RECORD)}
    text = json.dumps({"record_sha256": hash_record(record), **record})
    (folder / "classifier.json").write_text(text)
    classifier = read_classifier(folder)
    return classifier, classifier.predict_probabilities(ROWS)


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


HEADS = {
    "name of the input": (set_ends(features=("x", TensorProto.FLOAT, [None, 4])), "the input"),
    "type of the input": (set_ends(features=("features", TensorProto.DOUBLE, [None, 4])), "the input"),
    "number of images": (set_ends(features=("features", TensorProto.FLOAT, [1, 4])), "the input"),
    "number of features": (set_ends(features=("features", TensorProto.FLOAT, [None, 5])), "the input"),
    "two inputs": (add_input, "the input"),
    "three outputs": (add_output, "the output"),
    "one output": (lambda model: model.graph.output.pop(), "the output"),
    "number of classes": (set_ends(probabilities=("probabilities", TensorProto.FLOAT, [None, 4])), "the output"),
    "type of the label": (set_ends(label=("label", TensorProto.INT64, [None])), "the output"),
    "outputs in another order": (lambda model: model.graph.output.reverse(), "the output"),
    "loop": (add_endless_loop, "no operator but those of heads, got ':Loop'"),
    "branch": (add_branch, "no operator but those of heads, got ':If'"),
    "scan": (add_scan, "no operator but those of heads, got ':Scan'"),
    "function": (add_function, "no functions"),
    "hidden graph": (set_hidden_graph, "Softmax with"),
    "another domain": (set_domain, "the operator sets"),
    "another operator set": (set_opset, "the operator sets"),
    "random numbers": (replace_softmax("RandomNormalLike"), "no operator but those of heads"),
    "8 GB of zeros": (add_filled, "no operator but those of heads, got ':ConstantOfShape'"),
    "7 GB by Expand": (add_tiled("Expand"), "no operator but those of heads, got ':Expand'"),
    "7 GB by Tile": (add_tiled("Tile"), "no operator but those of heads, got ':Tile'"),
    "7 GB by a sum": (add_outer("Add"), r"values of shape \(images, at most"),
    "7 GB by a product": (add_outer("MatMul"), r"values of shape \(images, at most"),
    "doubled in width": (add_doublings(1), r"values of shape \(images, at most"),
    "doubled in height": (add_doublings(0), r"values of shape \(images, at most"),
    "a column for each image": (add_pairs, r"values of shape \(images, at most"),
    "2,000 nodes": (add_many_nodes, "at most 88 nodes, got 2010"),
    "data in another file": (set_external, "constant .* in the file itself"),
    "data in both": (set_half_external, "constant .* in the file itself"),
    "sparse constant": (set_sparse, "no sparse constants"),
    "constant larger than its bytes": (set_dims(30000, 30000), "constant .* of shape"),
    "negative size": (set_dims(-4, -3), "constant .* of at most 2 axes"),
    "two constants of one name": (repeat_constant, "constants of different names"),
    "notes on values": (name_value, "no notes on values"),
    "text as a value": (set_text_value, "values of numbers"),
    "not a number": (set_bias(np.nan), "probabilities from 0 to 1 that sum to 1, got nan to nan"),
    "infinite": (set_bias(np.inf), "probabilities from 0 to 1 that sum to 1, got nan to nan"),
    "negative and large": (replace_softmax("Relu"), "probabilities from 0 to 1 that sum to 1, got"),
    "sums of other than 1": (replace_softmax("Sigmoid"), "probabilities from 0 to 1 that sum to 1, got"),
    "a row less": (drop_rows, r"values of shape \(images, "),
    "other classes": (set_classes("cat", "cow", "pig"), "the classes of the record, in their order"),
    "classes in another order": (set_classes("dog", "cow", "cat"), "the classes of the record, in their order"),
    "the same label always": (set_label, "the label of the largest probability"),
    "the least likely label": (set_smallest, "no operator but those of heads, got ':ArgMin'"),
    "the last of a tie": (set_last, "ArgMax with"),
}


@pytest.mark.parametrize("kind", HEADS)
def test_made_heads_are_refused(tmp_path, kind):
    change, message = HEADS[kind]
    model = make_linear()
    change(model)
    with pytest.raises(IntegrityError, match=rf"model/head\.onnx: wanted {message}") as caught:
        answer(tmp_path / "model", model.SerializeToString())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900


def test_good_heads_are_opened(tmp_path):
    for number, model in enumerate((make_linear(), make_tree())):
        classifier, probabilities = answer(tmp_path / str(number), model.SerializeToString())
        assert classifier.classes == CLASSES
        assert probabilities.shape == (6, 3)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80" * 50], ids=["empty", "text", "bytes"])
def test_other_files_are_refused(tmp_path, content):
    with pytest.raises(IntegrityError, match=r"model/head\.onnx: wanted "):
        answer(tmp_path / "model", content)


def test_cut_head_is_refused(tmp_path):
    content = make_linear().SerializeToString()
    for n_bytes in range(1, len(content), 40):
        with pytest.raises(IntegrityError, match=r"head\.onnx: wanted "):
            answer(tmp_path / "model", content[:n_bytes])


def test_head_is_read_as_onnx_whatever_its_first_bytes(tmp_path):
    """`ORTM` at the fifth byte would make onnxruntime take the file for its own format, which nobody checked."""
    model = make_linear()
    _, expected = answer(tmp_path / "before", model.SerializeToString())
    model.producer_name = "ORTM" + "x" * 40
    content = model.SerializeToString()
    assert content[4:8] == b"ORTM"
    _, probabilities = answer(tmp_path / "model", content)
    assert np.array_equal(probabilities, expected)


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


TREES = {
    "loop": (set_tree("nodes_truenodeids", 0), "trees whose nodes come before their children"),
    "child of another tree": (set_tree("nodes_falsenodeids", 10**6), "trees whose nodes come before their children"),
    "shared child": (share_child, "trees whose nodes have one parent"),
    "too deep": (grow_chain, "trees of at most 1,000 levels"),
    "another feature": (set_tree("nodes_featureids", 10**9), "trees of 4 features"),
    "negative feature": (set_tree("nodes_featureids", -(10**9)), "trees of 4 features"),
    "another class": (set_tree("class_ids", 10**9), "trees of 3 classes"),
    "another leaf": (set_tree("class_nodeids", 10**9), "classes of the leaves"),
    "a branch as a leaf": (set_tree("class_nodeids", 0), "classes of the leaves"),
    "leaf of another tree": (set_tree("class_treeids", 5), "classes of the leaves"),
    "another kind of branch": (set_tree("nodes_modes", b"BRANCH_MEMBER"), "trees of BRANCH_LEQ and LEAF"),
    "numbers of nodes": (set_tree("nodes_nodeids", 7), "trees and their nodes numbered from 0"),
    "short column": (lambda model: find_tree(model, "nodes_featureids").ints.pop(), "a row for each node"),
    "no leaves": (lambda model: [find_tree(model, f"class_{n}").ints.pop() for n in ("ids",)], "a row for each node"),
    "another transform": (
        lambda model: setattr(find_tree(model, "post_transform"), "s", b"SOFTMAX"),
        "trees without post_transform",
    ),
    "other labels": (set_tree("classlabels_int64s", 9), "trees of the classes 0 to 2"),
}


@pytest.mark.parametrize("kind", TREES)
def test_made_trees_are_refused(tmp_path, kind):
    change, message = TREES[kind]
    model = make_tree()
    change(model)
    with pytest.raises(IntegrityError, match=rf"model/head\.onnx: wanted {message}"):
        answer(tmp_path / "model", model.SerializeToString())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["cat", "cat", "dog"]}, "classes: wanted at least two, all different, got 3"),
        ({"classes": ["cat"]}, "classes: wanted at least two"),
        ({"classes": "cat"}, "classes: wanted a list of texts"),
        ({"classes": ["cat", 1, "dog"]}, "classes: wanted a list of texts"),
        ({"classes": ["cat", "\x1b]0;x\x07", "dog"]}, r"classes: wanted text without control characters, got '\\x1b"),
        ({"classes": ["cat", "\x9b2J", "dog"]}, "classes: wanted text without control characters"),
        ({"classes": ["cat", "a\nb", "dog"]}, "classes: wanted text without control characters"),
        ({"classes": ["cat", "\ud800", "dog"]}, "classes: wanted text without control characters"),
        ({"classes": ["cat", "", "dog"]}, "classes: wanted text without control characters"),
        ({"extractor": []}, r"extractor\.n_features: wanted a whole number, got None"),
        ({"extractor": {"n_features": True}}, r"extractor\.n_features: wanted a whole number, got True"),
        ({"extractor": {"n_features": 0}}, r"extractor\.n_features: wanted a whole number, got 0"),
        ({"extractor": {"n_features": "\x1b"}}, r"extractor\.n_features: wanted a whole number, got '\\x1b'"),
    ],
)
def test_made_records_are_refused(tmp_path, changes, message):
    with pytest.raises(IntegrityError, match=rf"model/classifier\.json: {message}"):
        answer(tmp_path / "model", make_linear().SerializeToString(), RECORD | changes)


@pytest.mark.parametrize("key", ["record_sha256", "head_sha256"])
def test_hashes_that_are_none_are_one_short_line(tmp_path, key):
    answer(tmp_path / "model", make_linear().SerializeToString())
    path = tmp_path / "model" / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: "\n" * 10**6}))
    with pytest.raises(IntegrityError, match=rf"classifier\.json: {key}: wanted a SHA-256, got '") as caught:
        read_classifier(path.parent)
    assert len(str(caught.value)) < 500
    path.write_text(json.dumps({"x" * 10**6: 1}))
    with pytest.raises(IntegrityError, match=r"classifier\.json: wanted the key record_sha256, got x") as caught:
        read_classifier(path.parent)
    assert len(str(caught.value)) < 600


def test_record_of_900_brackets_or_of_64_mb_is_refused(tmp_path):
    answer(tmp_path / "model", make_linear().SerializeToString())
    path = tmp_path / "model" / "classifier.json"
    path.write_text('{"classes": ' + "[" * 100_000)
    with pytest.raises(IntegrityError, match=r"classifier\.json: wanted JSON, got maximum recursion depth"):
        read_classifier(path.parent)
    with path.open("r+b") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(IntegrityError, match=r"classifier\.json: wanted at most 67,108,864 bytes, got 67,108,865"):
        read_classifier(path.parent)


def test_large_head_is_not_read(tmp_path, monkeypatch):
    answer(tmp_path / "model", make_linear().SerializeToString())
    monkeypatch.setattr(module, "MAX_HEAD_BYTES", 100)
    with pytest.raises(IntegrityError, match=r"head\.onnx: wanted at most 100 bytes, got"):
        read_classifier(tmp_path / "model")


def test_features_of_another_length_are_one_line(tmp_path):
    classifier, _ = answer(tmp_path / "model", make_linear().SerializeToString())
    with pytest.raises(IntegrityError, match=r"model/head\.onnx: onnxruntime: .*INVALID_ARGUMENT") as caught:
        classifier.predict_probabilities(ROWS[:, :2])
    assert "\n" not in str(caught.value)


def test_own_head_that_could_not_be_opened_is_not_written():
    """Classes that take turns, each image weightier than the one before: every level parts one image."""
    rows = np.arange(1200, dtype=np.float32)[:, np.newaxis]
    estimator = DecisionTreeClassifier().fit(rows, np.arange(1200) % 2, sample_weight=1.02 ** np.arange(1200))
    with pytest.raises(IntegrityError, match=r"head\.onnx: wanted trees of at most 1,000 levels, got more; set max_de"):
        export_head(TreeHead(estimator), UNCALIBRATED, ["a", "b"], [rows])
