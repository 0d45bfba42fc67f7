"""Checks of a value against a shape of botocore's service model, compiled once and cheap to run.

botocore's client leaves most of this to the service: lengths, patterns, enums and, in JSON, unknown members.
"""

import base64
import binascii
import math
import re
from collections.abc import Callable
from typing import Any

Check = Callable[[object], None]
"""Returns for a value that fits its shape, raises `ShapeError` for any other."""


class ShapeError(Exception):
    """A value that does not fit, with the path to it."""

    def __init__(self, rule: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(f"{'.'.join(path) or 'The request'} {rule}")
        self.rule = rule
        self.path = path

    def inside(self, step: str) -> "ShapeError":
        return ShapeError(self.rule, (step, *self.path))


def compile_shape(shape: Any) -> Check:
    """The check of `shape` and of all that is in it."""
    match shape.type_name:
        case "structure":
            return _structure(shape)
        case "list":
            return _list(shape)
        case "map":
            return _map(shape)
        case "string":
            return _string(shape)
        case "timestamp":
            return _anything  # its form depends on where it stands; the operation reads it
        case "blob":
            return _blob
        case scalar:
            return _scalar(scalar)


def _structure(shape: Any) -> Check:
    members = {name: compile_shape(member) for name, member in shape.members.items()}
    required = frozenset(shape.required_members)

    def check(value: object) -> None:
        if not isinstance(value, dict):
            raise ShapeError("must be an object")
        if not required <= value.keys():
            raise ShapeError(f"lacks {', '.join(sorted(required - value.keys()))}")
        if not value.keys() <= members.keys():
            raise ShapeError(f"has unknown members: {', '.join(sorted(value.keys() - members.keys()))}")
        for name, member in value.items():
            try:
                members[name](member)
            except ShapeError as error:
                raise error.inside(name) from None

    return check


def _list(shape: Any) -> Check:
    check_item = compile_shape(shape.member)
    check_length = _length(shape, "items")

    def check(value: object) -> None:
        if not isinstance(value, list):
            raise ShapeError("must be a list")
        check_length(value)
        for position, item in enumerate(value):
            try:
                check_item(item)
            except ShapeError as error:
                raise error.inside(str(position)) from None

    return check


def _map(shape: Any) -> Check:
    check_key, check_value = compile_shape(shape.key), compile_shape(shape.value)

    def check(value: object) -> None:
        if not isinstance(value, dict):
            raise ShapeError("must be an object")
        for key, item in value.items():
            try:
                check_key(key)
                check_value(item)
            except ShapeError as error:
                raise error.inside(str(key)) from None

    return check


def _anything(_: object) -> None:
    pass


def _string(shape: Any) -> Check:
    rules: list[Callable[[str], None]] = []
    if shape.metadata.keys() & {"min", "max"}:
        rules.append(_length(shape, "characters"))
    if "pattern" in shape.metadata:
        rules.append(_pattern(shape.metadata["pattern"]))
    if shape.enum:
        rules.append(_enum(frozenset(shape.enum)))

    def check(value: object) -> None:
        if not isinstance(value, str):
            raise ShapeError("must be a string")
        for rule in rules:
            rule(value)

    return check


def _length(shape: Any, unit: str) -> Callable[[str | list[object]], None]:
    least, most = shape.metadata.get("min", 0), shape.metadata.get("max", math.inf)

    def check(value: str | list[object]) -> None:
        if not least <= len(value) <= most:
            raise ShapeError(f"must have {least} to {most} {unit}")

    return check


def _pattern(pattern: str) -> Callable[[str], None]:
    matches = re.compile(pattern).fullmatch

    def check(value: str) -> None:
        if not matches(value):
            raise ShapeError(f"must match {pattern}")

    return check


def _enum(allowed: frozenset[str]) -> Callable[[str], None]:
    def check(value: str) -> None:
        if value not in allowed:
            raise ShapeError(f"must be one of {', '.join(sorted(allowed))}")

    return check


def _blob(value: object) -> None:
    try:
        base64.b64decode(value if isinstance(value, str) else "?", validate=True)
    except binascii.Error:
        raise ShapeError("must be a string in base64") from None


def _scalar(type_name: str) -> Check:
    python_type: type | tuple[type, ...] = {"boolean": bool, "integer": int, "long": int}.get(type_name, (int, float))

    def check(value: object) -> None:
        if not isinstance(value, python_type) or (isinstance(value, bool) and python_type is not bool):
            raise ShapeError(f"must be of type {type_name}")

    return check
