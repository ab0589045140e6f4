"""One click option for each field of a settings model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from annotated_types import Ge, Gt, Le, Lt
from click.core import ParameterSource
from pydantic.fields import FieldInfo

from cryoatom.config import Settings

_GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.PROMPT)


class SettingOption(click.Option):
    """An option that knows its part of the help page."""

    def __init__(self, *args: Any, section: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help page lists its options in parts, each under a heading."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those without a part of their own last."""
        parts: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record, section = parameter.get_help_record(ctx), getattr(parameter, "section", None)
            if record is not None and isinstance(parameter, click.Option):
                parts.setdefault(section or "Other options", []).append(record)
        for heading in sorted(parts, key=lambda heading: heading == "Other options"):
            with formatter.section(heading):
                formatter.write_dl(parts[heading])


def settings_options(
    model: type[Settings], *, example: str = "a run's config.yaml"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of `model`, and `--config`; the merged settings are its first argument.

    Parameters
    ----------
    model
        Settings of the command.
    example
        The file that the help of `--config` names.
    """
    text = f"YAML file of settings, for instance {example}."

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(config: Path | None, **values: Any) -> Any:
            context = click.get_current_context()
            fields = {name: values.pop(name) for name in model.model_fields}
            given = {name: fields[name] for name in fields if context.get_parameter_source(name) in _GIVEN}
            return function(model.merge(given, config), **values)

        decorated = click.option("--config", type=click.Path(path_type=Path), help=text)(command)
        sections = _section_of_fields(model)
        for name, field in reversed(model.model_fields.items()):
            decorated = _parameter(name, field, sections[name])(decorated)
        return decorated

    return decorate


def _section_of_fields(model: type[Settings]) -> dict[str, str | None]:
    """Return the part of the help page of each field: fields of a part follow each other."""
    section, sections = None, {}
    for name in model.model_fields:
        section = model.sections.get(name, section)
        sections[name] = section
    return sections


def _parameter(name: str, field: FieldInfo, section: str | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    extra: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    kind = click_type(field)
    if extra.get("argument"):
        metavar = name.upper() if field.is_required() else f"[{name.upper()}]"
        return click.argument(name, type=kind["type"], required=False, metavar=metavar)
    flags = extra.get("flags") or [f"--{name.replace('_', '-')}"]
    if field.annotation is bool:
        flags = [f"{flag}/--no-{flag.removeprefix('--')}" if flag.startswith("--") else flag for flag in flags]
    text = f"{field.description}  [required]" if field.is_required() else field.description
    default = {} if field.is_required() or field.default in (None, ()) else {"default": field.default}
    kind |= {"cls": SettingOption, "section": section}
    return click.option(name, *flags, help=text, show_default=True, **default, **kind)


def click_type(field: FieldInfo) -> dict[str, Any]:
    """Return click's `type`, `nargs` and such for a field; a union of types is a word that pydantic parses."""
    alternatives = [t for t in _alternatives(field.annotation) if t is not NoneType]
    if len(alternatives) > 1:
        return {"type": str}
    (kind,) = alternatives
    if get_origin(kind) is tuple:
        members = get_args(kind)
        if members[-1] is Ellipsis:
            return {"type": members[0], "multiple": True}
        return {"type": members[0], "nargs": len(members)}
    if get_origin(kind) is Literal:
        return {"type": click.Choice([str(word) for word in get_args(kind)])}
    base = getattr(kind, "__origin__", kind)  # PositiveInt is Annotated[int, Gt(0)]
    bounds = _bounds([*field.metadata, *getattr(kind, "__metadata__", ())])
    if base is Path:
        return {"type": click.Path(path_type=Path)}
    if base is int:
        return {"type": click.IntRange(**bounds) if bounds else int, "metavar": "INTEGER"}
    if base is float:
        return {"type": click.FloatRange(**bounds) if bounds else float, "metavar": "NUMBER"}
    return {"type": base}


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _bounds(metadata: list[Any]) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for item in metadata:
        match item:
            case Ge(ge):
                bounds |= {"min": ge}
            case Gt(gt):
                bounds |= {"min": gt, "min_open": True}
            case Le(le):
                bounds |= {"max": le}
            case Lt(lt):
                bounds |= {"max": lt, "max_open": True}
    return bounds
