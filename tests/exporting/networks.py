"""Networks of keras, run as ONNX."""

from pathlib import Path

import numpy as np

from relearn.exporting.network import PREFIX, add_model, add_preprocessing
from relearn.heads.graph import Graph
from relearn.inference.classifier import open_session
from relearn.inference.screening import FLOAT, IR_VERSION, OPSETS


def compute_exported(model, preprocess, images):
    """Return the outputs (images, values) of a keras model with its preprocessing, computed by onnxruntime."""
    import keras
    from onnx import helper

    graph = Graph(PREFIX)
    values = graph.add("Transpose", "image", perm=[0, 3, 1, 2])
    values = add_model(keras, graph, model, add_preprocessing(graph, values, preprocess))
    if len(model.output.shape) == 4:
        values = graph.add("Transpose", values, perm=[0, 2, 3, 1])
    graph.add("Flatten", values, axis=1, output="values")
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            [helper.make_tensor_value_info("image", FLOAT, ["n", *images.shape[1:]])],
            [helper.make_tensor_value_info("values", FLOAT, ["n", None])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSETS[""])],
        ir_version=IR_VERSION,
    )
    session = open_session(proto.SerializeToString(), Path("network.onnx"), 1)
    return session.run(["values"], {"image": images.astype(np.float32)})[0]
