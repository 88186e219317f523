"""Classifiers of somebody else, whose hashes are right: each is refused in one line, before it can do harm."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from sklearn.tree import DecisionTreeClassifier

from inference.records import make_record
from inference.tampering import (
    add_branch,
    add_doublings,
    add_endless_loop,
    add_filled,
    add_function,
    add_input,
    add_many_nodes,
    add_outer,
    add_output,
    add_pairs,
    add_scan,
    add_tiled,
    drop_rows,
    find_tree,
    grow_chain,
    name_value,
    repeat_constant,
    replace_softmax,
    set_bias,
    set_classes,
    set_dims,
    set_domain,
    set_ends,
    set_external,
    set_half_external,
    set_hidden_graph,
    set_label,
    set_last,
    set_opset,
    set_smallest,
    set_sparse,
    set_text_value,
    set_tree,
    share_child,
)
from relearn.errors import IntegrityError
from relearn.heads.calibration import UNCALIBRATED
from relearn.heads.export import export_head
from relearn.heads.fitted import LayeredHead, TreeHead
from relearn.inference.classifier import read_classifier, write_classifier

CLASSES = ["cat", "cow", "dog"]
N_FEATURES = 4
ROWS = np.random.default_rng(0).normal(size=(6, N_FEATURES)).astype(np.float32)


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


def answer(folder, content):
    """Write a classifier with hashes that are right, open it, and let it predict."""
    write_classifier(folder, content, make_record(content, CLASSES, N_FEATURES))
    classifier = read_classifier(folder)
    return classifier, classifier.predict_probabilities(ROWS)


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


def test_own_head_that_could_not_be_opened_is_not_written():
    """Classes that take turns, each image weightier than the one before: every level parts one image."""
    rows = np.arange(1200, dtype=np.float32)[:, np.newaxis]
    estimator = DecisionTreeClassifier().fit(rows, np.arange(1200) % 2, sample_weight=1.02 ** np.arange(1200))
    with pytest.raises(IntegrityError, match=r"head\.onnx: wanted trees of at most 1,000 levels, got more; set max_de"):
        export_head(TreeHead(estimator), UNCALIBRATED, ["a", "b"], [rows])
