"""Settings: one field is one option. Defaults < preset < configuration file < command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cryoatom import __version__

_NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)
_SHOWN = 300  # characters of a wrong value in an error message

RECORDED = ("cmd", "version", "time")  # what a run's file says about the run: ignored when read


def setting(default: Any, text: str, *, flags: tuple[str, ...] = (), argument: bool = False, **bounds: Any) -> Any:
    """Describe one setting.

    Parameters
    ----------
    default : object
        The default, or ``...`` for a setting that must be given.
    text : str
        The help text, for the command line and the documentation.
    flags : tuple of str
        Option names where the field's own (``--num-epochs``) is not enough.
    argument : bool
        Whether the command line takes it as a positional argument.
    **bounds
        pydantic's ``ge``, ``gt``, ``le``, ``lt``, ``union_mode``.
    """
    extra = {"flags": list(flags), "argument": argument}
    return Field(default, description=text, json_schema_extra=extra, **bounds)


class Settings(BaseModel):
    """Base of every command's settings: frozen, and unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    sections: ClassVar[dict[str, str]] = {}  # first field of each part of the help -> its heading

    @classmethod
    def merge(cls, flags: Mapping[str, Any], config: Path | None = None) -> Self:
        """Build the settings from the preset, a configuration file and the flags that were given.

        Parameters
        ----------
        flags : mapping
            Field name -> value, only for the options that the user gave.
        config : Path, optional
            A YAML file, for instance a run's config.yaml.

        Raises
        ------
        ValueError
            For an unknown or missing setting, or a value out of bounds; says which, and in which file.
        """
        from_file = {} if config is None else load_config(config, cls)
        given = {**from_file, **flags}
        name = given.get("preset", "default")
        merged = {**cls.presets.get(name, {}), **given}
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            in_file = config if _blames_file(error, from_file, flags) else None
            raise ValueError(_explain(error, cls, in_file)) from None

    def to_yaml(self, command: list[str]) -> str:
        """Return the settings as YAML, with the command line, version and time; `merge` reads it back.

        Paths are absolute, so that the file means the same from every folder.
        """
        record = {"cmd": command, "version": __version__, "time": datetime.now().isoformat(timespec="seconds")}
        settings = {name: _plain(getattr(self, name)) for name in type(self).model_fields}
        return yaml.safe_dump({**record, **settings}, sort_keys=False)


def load_config(path: Path, model: type[Settings]) -> dict[str, Any]:
    """Read a YAML file of settings of `model`, unvalidated but with every name known.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a YAML mapping, or has an unknown name (the nearest known one is suggested).
    """
    content = read_mapping(path)
    settings = {str(name): value for name, value in content.items() if name not in RECORDED}
    for name in settings:
        if name not in model.model_fields:
            near = difflib.get_close_matches(name.replace("-", "_"), list(model.model_fields), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(model.model_fields)}"
            raise ValueError(f"unknown setting {_shortened(name)} in {path}; {hint}")
    return settings


def recorded_command(path: Path) -> list[object]:
    """Return the command line that a run's configuration file tells of."""
    command = read_mapping(path).get("cmd")
    return command if isinstance(command, list) else []


def read_mapping(
    path: Path, *, kind: str = "configuration file", expected: str = "lines like 'batch_size: 256'"
) -> dict[Any, Any]:
    """Read a YAML file of plain values under names; messages call it `kind` and say what was expected.

    Raises
    ------
    FileNotFoundError, ValueError
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} {path}")
    try:
        content = _PlainLoader(path.read_text(encoding="utf-8")).get_single_data()
    except _NOT_YAML as error:
        raise ValueError(f"{path} is not a YAML file: {_yaml_problem(error)}") from None
    if not isinstance(content, dict | None):
        raise ValueError(f"{path} must hold {expected}, found a {type(content).__name__}")
    return content or {}


def _yaml_problem(error: Exception) -> str:
    """Say what is wrong and in which line, without the parser's drawing of the place."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())[:_SHOWN]
    return f"{problem[:_SHOWN]} in line {mark.line + 1}"


class _PlainLoader(yaml.SafeLoader):
    """Reads plain values: nothing is run, and a few lines of aliases cannot unfold to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("settings have no aliases (*name)")
        return super().compose_node(parent, index)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return list(value) if isinstance(value, tuple) else value


def _blames_file(error: ValidationError, from_file: Mapping[str, Any], flags: Mapping[str, Any]) -> bool:
    names = [issue["loc"][0] for issue in error.errors() if issue["loc"]]
    return any(name in from_file and name not in flags for name in names)


def _explain(error: ValidationError, model: type[Settings], config: Path | None) -> str:
    """Turn pydantic's report into one line."""
    missing = [_option(str(issue["loc"][0]), model) for issue in error.errors() if issue["type"] == "missing"]
    reasons: dict[str, str] = {}  # a union reports once for each of its types: the first is enough
    for issue in error.errors():
        if issue["type"] != "missing":
            reason = issue["msg"].removeprefix("Value error, ")
            if not issue["loc"]:  # of several settings together
                return reason
            name = str(issue["loc"][0])
            reasons.setdefault(name, f"{name}: {reason[0].lower()}{reason[1:]}, found {_shortened(issue['input'])}")
    if missing:
        return f"not given, on the command line or by --config: {', '.join(missing)}"
    return "; ".join(reasons.values()) + (f" (in {config})" if config else "")


def _option(name: str, model: type[Settings]) -> str:
    extra = model.model_fields[name].json_schema_extra
    is_argument = isinstance(extra, dict) and extra.get("argument")
    return name.upper() if is_argument else f"--{name.replace('_', '-')}"
