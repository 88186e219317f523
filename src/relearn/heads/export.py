"""A fitted head with its calibration as ONNX."""

from collections.abc import Sequence

import numpy as np

from relearn.errors import TrainingError
from relearn.heads.calibration import Calibration
from relearn.heads.fitted import Head, TreeHead
from relearn.heads.graph import Graph
from relearn.inference.classifier import open_head
from relearn.inference.screening import FLOAT, IR_VERSION, OPSETS, STRING

# float32 probabilities of the head against float64 ones here; onnxruntime also adds up the trees' answers in float32.
HEAD_TOLERANCE = 1e-6
TREE_TOLERANCE = 1e-5


def export_head(head: Head, calibration: Calibration, classes: list[str], blocks: Sequence[np.ndarray]) -> bytes:
    """Return a head as ONNX: input `features` float32; outputs `label` text, `probabilities` float32.

    Raises
    ------
    TrainingError
        For a row of `blocks` the ONNX head computes other probabilities than `head`, or another label.
    IntegrityError
        It cannot be opened again: it is larger than `read_classifier` accepts, or a tree is too deep.
    """
    content = build_model(head, calibration, classes, blocks[0].shape[1])
    session = open_head(content, blocks[0].shape[1], classes)
    tolerance = TREE_TOLERANCE if isinstance(head, TreeHead) else HEAD_TOLERANCE
    for block in blocks:
        features = np.asarray(block, np.float32)
        answered, labels = session.run(["probabilities", "label"], {"features": features})
        difference = float(np.abs(answered - calibration.compute_probabilities(head.compute_scores(features))).max())
        if not difference <= tolerance:
            raise TrainingError(
                where="head.onnx",
                wanted=f"the probabilities of the fitted head within {tolerance:g}",
                got=f"some that differ by {difference:.2g}",
                advice="choose another train.head",
            )
        if list(labels) != [classes[column] for column in answered.argmax(axis=1)]:
            raise TrainingError(
                where="head.onnx",
                wanted="the label of the largest probability",
                got="another",
                advice="choose another train.head",
            )
    return content


def build_model(head: Head, calibration: Calibration, classes: list[str], n_features: int) -> bytes:
    """Return a head as ONNX without checking it."""
    from onnx import helper

    graph = Graph()
    values = calibration.add_nodes(graph, head.add_nodes(graph), len(classes))
    probabilities = graph.add("Cast", values, to=FLOAT, output="probabilities")
    number = graph.add("ArgMax", probabilities, axis=1, keepdims=0)
    graph.add("Gather", np.array(classes, object), number, output="label")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "head",
            [helper.make_tensor_value_info("features", FLOAT, [None, n_features])],
            [
                helper.make_tensor_value_info("label", STRING, [None]),
                helper.make_tensor_value_info("probabilities", FLOAT, [None, len(classes)]),
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid(*pair) for pair in OPSETS.items()],
        ir_version=IR_VERSION,
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content
