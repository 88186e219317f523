"""Which extra of pyproject.toml an installation lacks: `pip install .` alone brings what predicts."""

from importlib.util import find_spec

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
    module = (error.name or "").partition(".")[0]
    for extra, modules in MODULES.items():
        if module in modules and find_spec(module) is None:
            named = "pipeline,cpu" if extra == "pipeline" else extra  # keras needs a backend
            return (
                f"wanted the extra `{extra}`, got an installation without {module}; "
                f"run `make setup` in a clone, or `pip install '.[{named}]'` there"
            )
    return None
