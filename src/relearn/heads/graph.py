"""An ONNX graph in the making."""

from typing import Any

import numpy as np


class Graph:
    """The nodes and constants of an ONNX graph, in the order of their adding; `prefix` begins their names."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str | np.ndarray, output: str | None = None, **attributes: Any) -> str:
        """Add a node whose inputs are names, or arrays that become constants; return the name of its output."""
        from onnx import helper, numpy_helper

        names = []
        for value in inputs:
            if isinstance(value, str):
                names.append(value)
                continue
            names.append(f"{self._prefix}constant_{len(self.constants)}")
            self.constants.append(numpy_helper.from_array(value, names[-1]))
        output = output or f"{self._prefix}{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output
