"""Which extra of pyproject.toml an installation lacks: `pip install .` alone brings what predicts."""

# The modules that each extra brings, as they are imported; a test compares them with pyproject.toml and the imports.
MODULES = {
    "serve": ("fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn"),
    "pipeline": (
        *("dvc", "dvc_data", "fsspec", "great_expectations", "h5py", "hydra", "imagehash", "jinja2", "keras"),
        *("markupsafe", "pandas", "rich", "scipy", "scmrepo", "skl2onnx", "sklearn", "threadpoolctl"),
    ),
}


def describe_missing(error: Exception) -> str | None:
    """Return what to install if an error says that a module of an extra is missing, in one line; None for others."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    for extra, modules in MODULES.items():
        if error.name in modules:
            named = "pipeline,cpu" if extra == "pipeline" else extra  # keras needs a backend
            return (
                f"wanted the extra `{extra}`, got an installation without {error.name}; "
                f"run `make setup` in a clone, or `pip install 'relearn[{named}]'`"
            )
    return None
