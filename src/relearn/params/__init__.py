"""`params.yaml` as typed blocks, one per stage."""
