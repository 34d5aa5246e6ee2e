"""Strict conversion of nested mappings to dataclasses, with errors that help."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from condense_core.errors import ConfigError


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the keys of ``over``, recursively."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def plain(value: Any) -> Any:
    """Tuples as lists, recursively."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def build(cls: Any, values: Any, path: str) -> Any:
    """A dataclass from a mapping; an unknown key or wrong value is a ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'the config'} is {values!r}: expected key: value")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in hints:
            raise ConfigError(
                f"unknown config key {where!r}{nearest(str(key), hints)}: choose from "
                f"{', '.join(hints)}"
            )
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            arguments[key] = build(hint, value, where)
        else:
            arguments[key] = _coerce(hint, value, where)
    return cls(**arguments)


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Convert one value to its annotated type, or say what was expected."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # Literal | None is the latter
        if value is None and type(None) in choices:
            return None
        (hint,) = (choice for choice in choices if choice is not type(None))
        return _coerce(hint, value, where)
    if origin is Literal:
        # By type too: to Python, True and 1.0 are equal to 1.
        if not any(type(value) is type(c) and value == c for c in choices):
            guess = nearest(str(value), [str(choice) for choice in choices])
            raise ConfigError(
                f"{where} is {value!r}{guess}: choose from "
                f"{', '.join(map(str, choices))}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {value!r}: expected a list, as [a, b]")
        if choices[-1] is not ... and len(value) != len(choices):
            raise ConfigError(f"{where} is {value!r}: expected {len(choices)} values")
        return tuple(_coerce(choices[0], item, where) for item in value)
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    """YAML reads 1e-3 as text: numbers written so are accepted where one belongs."""
    expected = {int: "a whole number", float: "a number", bool: "true or false"}
    message = f"{where} is {value!r}: expected {expected.get(hint, 'text')}"
    if hint is bool or isinstance(value, bool):
        if hint is bool and isinstance(value, bool):
            return value
        raise ConfigError(message)
    if hint is str:
        if isinstance(value, str | int | float):
            return str(value)
        raise ConfigError(message)
    if hint is int and isinstance(value, int):
        return value  # a float would round a large seed
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(message) from error
    if not math.isfinite(number):
        raise ConfigError(f"{where} is {value!r}: expected a finite number")
    if hint is int:
        if number != int(number):
            raise ConfigError(message)
        return int(number)
    return number


def nearest(name: str, choices: Any) -> str:
    """A hint `` (did you mean ...?)`` or nothing."""
    match = difflib.get_close_matches(name, list(choices), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def at_least(name: str, value: int | None, least: int) -> None:
    """Refuse a value below ``least``; None passes."""
    if value is not None and value < least:
        raise ConfigError(f"{name} is {value}: choose at least {least}")


def positive(name: str, value: float) -> None:
    """Refuse a value that is not above zero."""
    if not value > 0:
        raise ConfigError(f"{name} is {value}: choose a value above 0")


def non_negative(name: str, value: float) -> None:
    """Refuse a value below zero."""
    if not value >= 0:
        raise ConfigError(f"{name} is {value}: choose 0 or more")
