"""Where the stages meet: every path that more than one of them knows, relative to the repository's root."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")

# What saves time and may be deleted.
CACHE = Path(os.environ.get("RELEARN_CACHE") or ".relearn")
INSPECTIONS = CACHE / "inspections.sqlite"

DATASET = Path("data/dataset")
MANIFEST = Path("data/manifest.csv")
SIGHTINGS = Path("data/sightings.csv")
HASHES = Path("data/hashes.npy")
EXCLUDED = Path("data/excluded.csv")
SOURCE = Path("data/source.json")

VALIDATION_REPORT = Path("reports/validation.json")
VALIDATION_PAGE = Path("reports/validation.html")
DATA_DOCS = Path("reports/data_docs")

FEATURES = Path("data/features")
VERIFICATION_REPORT = Path("reports/verification.json")

CLASSIFIER = Path("models/classifier")
TRAINING_METRICS = Path("metrics/training.json")

EVALUATION_METRICS = Path("metrics/evaluation.json")
PREDICTIONS = Path("reports/predictions.csv")
CLASS_REPORT = Path("reports/classes.csv")

PLOTS = Path("reports/plots")
SCORE_BY_C = PLOTS / "score_by_c.csv"
CONFUSION = PLOTS / "confusion.csv"
ROC = PLOTS / "roc.csv"
PRECISION_RECALL = PLOTS / "precision_recall.csv"
CALIBRATION = PLOTS / "calibration.csv"
