import numpy as np
from onnx import numpy_helper

from relearn.heads.graph import Graph


def test_arrays_become_constants_and_nodes_get_names_of_their_own():
    graph = Graph()
    first = graph.add("Add", "features", np.array([1.0, 2.0]))
    second = graph.add("Add", first, first)
    last = graph.add("Softmax", second, output="probabilities", axis=1)
    assert len({first, second, last}) == 3
    assert last == "probabilities"
    assert [(node.op_type, list(node.input), list(node.output)) for node in graph.nodes] == [
        ("Add", ["features", "constant_0"], [first]),
        ("Add", [first, first], [second]),
        ("Softmax", [second], ["probabilities"]),
    ]
    (constant,) = graph.constants
    np.testing.assert_array_equal(numpy_helper.to_array(constant), [1.0, 2.0])
    assert [(attribute.name, attribute.i) for attribute in graph.nodes[2].attribute] == [("axis", 1)]
