"""Checks of settings whose messages name the argument, what was given and what is allowed."""


def check_positive(config, *names: str) -> None:
    """Raise a `ValueError` for the first of the named fields of `config` that is not above 0."""
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise ValueError(f"`{name}`: {value} was given; it must be above 0")


def check_not_negative(config, *names: str) -> None:
    """Raise a `ValueError` for the first of the named fields of `config` that is below 0."""
    for name in names:
        value = getattr(config, name)
        if not value >= 0:
            raise ValueError(f"`{name}`: {value} was given; it must be at least 0")


def check_fraction(config, *names: str) -> None:
    """Raise a `ValueError` for the first of the named fields of `config` outside [0, 1)."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ValueError(f"`{name}`: {value} was given; it must be at least 0 and below 1")


def check_choice(config, name: str, allowed: tuple) -> None:
    """Raise a `ValueError` if the named field of `config` is not one of `allowed`."""
    value = getattr(config, name)
    if value not in allowed:
        raise ValueError(f"`{name}`: {value!r} was given; it must be one of {', '.join(map(repr, allowed))}")


def check_resume(config) -> None:
    """Raise a `ValueError` if a run is both to be continued and to be started over."""
    if config.resume and config.overwrite:
        raise ValueError("`resume`, `overwrite`: both were given; a run is either continued or started over")
