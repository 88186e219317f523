"""Where the stages meet: every path that more than one of them knows, relative to the repository's root."""

from pathlib import Path

PARAMS = Path("params.yaml")

DATASET = Path("data/dataset")
MANIFEST = Path("data/manifest.csv")
EXCLUDED = Path("data/excluded.csv")

VALIDATION_REPORT = Path("reports/validation.json")

FEATURES = Path("data/features")

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
