"""Options that several commands have; and one for every setting of a campaign, made from `flows.engine.settings`."""

from __future__ import annotations

import functools
import inspect
import json
import sys
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from flows.engine.settings import Settings

RUN = typer.Argument(
    None, help="run directory, name under runs/, or s3://bucket/prefix; default: the newest run"
)
CAMPAIGN = typer.Option(None, "--campaign", help="campaign id, when the store has several")
GPUS = typer.Option(
    None,
    "--gpus",
    help="GPUs that may be used: indices as in nvidia-smi, or UUIDs, with commas; default all",
)
ENVIRONMENT = typer.Argument(..., help="name of an environment, or a folder with an environment.toml")
CONFIG = typer.Option(None, "--config", help="campaign.toml with settings; options override it")
PLAIN = typer.Option(False, "--plain", help="one line per event instead of the live display")
NO_SETTINGS: dict[str, Any] = {}
VARIANT = typer.Option(None, "--variant", help="a variant of it, as bakeoff environments lists them")
AS_JSON = typer.Option(False, "--json", help="machine-readable output")


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, sort_keys=True, default=str, allow_nan=False)
    sys.stdout.write("\n")


def setting_options(*without: str, **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every setting but `environment` and those in `without`.

    The command gets what was given as the dictionary `given`: settings that were left out are not in it,
    except those with one of `defaults`. Values are checked by `load_settings`, not here.
    """
    fields = {n: f for n, f in Settings.model_fields.items() if n not in ("environment", *without)}
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_option(name, field, defaults.get(name)),
            annotation=_kind(field),
        )
        for name, field in fields.items()
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        mine = [p.replace(kind=p.KEYWORD_ONLY) for p in own.parameters.values() if p.name != "given"]

        @functools.wraps(command)
        def with_options(**values: Any) -> None:
            given = {name: values.pop(name) for name in fields}
            command(**values, given={k: v for k, v in given.items() if v is not None})

        signature = own.replace(parameters=[*mine, *options])
        with_options.__signature__ = signature  # type: ignore[attr-defined]
        with_options.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return with_options

    return decorate


def _option(name: str, field: FieldInfo, default: Any) -> Any:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    shown = default if default is not None else field.default
    text = ": ".join(filter(None, (field.description, " | ".join(_choices(field)))))
    if shown not in (None, "", 0, (), {}) and not isinstance(shown, bool):
        text += f"; default {shown}"
    return typer.Option(
        default,
        str(extra["option"] or f"--{name.replace('_', '-')}"),
        help=text,
        rich_help_panel=str(extra["group"]),
        show_default=False,
    )


def _kind(field: FieldInfo) -> Any:
    """The type that the command line reads: text for choices and for tables, which are given as JSON."""
    kind = _without_none(field.annotation)
    if get_origin(kind) is tuple:
        return list[str] | None
    return (kind if kind in (int, float, bool) else str) | None


def _choices(field: FieldInfo) -> tuple[str, ...]:
    kind = _without_none(field.annotation)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(kind for kind in get_args(annotation) if kind is not type(None))
    return annotation
