"""A classifier as one ONNX model, proved equal to the pipeline."""
