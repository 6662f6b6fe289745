"""Keys and tags written as templates over a function's parameters: `user:{id}`."""

import functools
import inspect
import re
import string
from collections.abc import Callable
from typing import Any

from grelmicro.cache._arguments import KeyMaker, write

__all__ = ["template_key"]


_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


class _Plain(string.Formatter):
    """Formats text and numbers as they are, and other values as the default keys write them."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, str) or format_spec:
            return format(value, format_spec)
        return write(value)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        converted = super().convert_field(value, conversion)
        if conversion and not isinstance(value, str) and _ADDRESS.search(converted):
            raise TypeError(f"{type(value).__name__} shows its address, which no key may hold")
        return converted


_FORMATTER = _Plain()


def template_key(function: Callable[..., Any], template: str, *, what: str = "key") -> KeyMaker:
    """Make a key maker that fills `template` with a call's arguments, defaults included.

    Args:
        function: Whose parameters the template names.
        template: Text with fields such as `{id}` or `{user.id}`.
        what: What messages call it.

    Raises:
        ValueError: The template is malformed or names no parameter of the function.
    """
    signature = inspect.signature(function)
    _check(template, signature, what)

    def make(_: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            return _FORMATTER.vformat(template, (), bound.arguments)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise TypeError(f"{what}={template!r} cannot be filled: {error}") from None

    return functools.update_wrapper(make, function, assigned=())


def _check(template: str, signature: inspect.Signature, what: str) -> None:
    if not isinstance(template, str):
        raise TypeError(f"{what}: expected a template such as 'user:{{id}}'")
    try:
        fields = [part[1] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"{what}={template!r}: {error}") from None
    for field in fields:
        name = field.partition(".")[0].partition("[")[0]
        if name not in signature.parameters:
            known = ", ".join(signature.parameters) or "none"
            raise ValueError(f"{what}={template!r}: no parameter {name!r} (there are: {known})")
