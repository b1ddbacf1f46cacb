"""Packages that only some of the work needs."""


def missing_package(error: ModuleNotFoundError, extra: str) -> str:
    """
    The message for a package that is not installed.

    Args:
        error (`ModuleNotFoundError`): that its import raised.
        extra (`str`): of `setup.py`, which brings it.
    """
    return (
        f"{error.name} is missing: pip install 'randar-hf[{extra}]' brings it, in a checkout pip install '.[{extra}]'."
    )
