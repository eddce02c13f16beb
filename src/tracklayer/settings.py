"""What users set, read once and then frozen: arguments > environment > file > defaults.

The file is the nearest ``tracklayer.toml``, or ``pyproject.toml`` with a table ``[tool.tracklayer]``, in the working
directory or above it; ``TRACKLAYER_CONFIG`` names one explicitly. Whatever is wrong is a `SettingsError` that names
the key, where it stands, and what is allowed. Every setting: ``docs/reference/settings.md``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import msgspec

from tracklayer.conversion import Found, convert, unknown
from tracklayer.exceptions import SettingsError
from tracklayer.naming import check_template
from tracklayer.redaction import Redaction
from tracklayer.settings_file import CONFIG_VARIABLE, find

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

T = TypeVar("T", bound=msgspec.Struct)

PREFIX: Final = "TRACKLAYER_"

PLUGINS: Final = frozenset({"airflow", "git", "kubeflow", "prefect"})
"""Plugins of this project. Their tables are allowed where they are not installed: one file serves every machine."""

RESERVED: Final = frozenset(
    {
        "TRACKLAYER_PARENT",
        "TRACKLAYER_ATTACH",
        "TRACKLAYER_PROCESS",
        "TRACKLAYER_UNTRACKED",
        CONFIG_VARIABLE,
        "TRACKLAYER_REQUIRE_BACKENDS",
    }
)
"""Variables that carry something else than settings."""

TEST_PREFIX: Final = "TRACKLAYER_TEST_"
"""How variables begin that say where this project's tests find their databases."""

RESERVED_PREFIXES: Final = ("TRACKLAYER_GIT_", "TRACKLAYER_KUBEFLOW_")
"""Prefixes of variables of which only some are settings (the plugin's own fields)."""

ARGUMENTS: Final = "in the arguments"

TEMPLATES: Final = ("experiment", "run_name", "parent_name")

# Kubernetes sets these in every pod of a namespace that holds a service called "tracklayer" or "tracklayer-…".
_SERVICE_LINK = re.compile(
    r"TRACKLAYER_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
Bytes = Annotated[int, msgspec.Meta(ge=1_048_576)]


class Tables(Mapping[str, Mapping[str, object]]):
    """The plugins' own tables as they were found, with what the environment says about them. Immutable.

    A mapping from plugin name to the plugin's table in file and arguments. `table` validates one.
    """

    __slots__ = ("_environ", "_layers")

    def __init__(
        self, layers: Mapping[str, tuple[Found, ...]] | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self._layers = dict(layers or {})
        self._environ = dict(environ or {})

    def __getitem__(self, name: str) -> Mapping[str, object]:
        return {found.key: found.value for found in self._layers[name]}

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tables):
            return dict(self) == other
        return (self._layers, self._environ) == (other._layers, other._environ)

    def __hash__(self) -> int:
        return hash((frozenset(self._layers), frozenset(self._environ.items())))

    def __repr__(self) -> str:
        redaction = Redaction()
        return repr({name: redaction.mask(name, dict(table)) for name, table in self.items()})

    def found(self, name: str, of: Iterable[str] | None = None) -> Iterator[Found]:
        """What was set for the plugin, each key once: arguments before environment before file.

        Args:
            name: the plugin's name.
            of: the plugin's fields, where its prefix is also that of variables that are no settings; such variables
                are passed over unless they look like a misspelt field. None if all of them must be settings.
        """
        values = {item.key: item for item in self._layers.get(name, ())}
        prefix = _prefix(name)
        for variable in sorted(key for key in self._environ if key.startswith(prefix)):
            key = variable.removeprefix(prefix).lower()
            if of is not None and not _is_near(key, of):
                continue
            if key not in values or values[key].where != ARGUMENTS:
                values[key] = Found(
                    key, self._environ[variable], f"in the environment variable {variable}", is_text=True
                )
        for item in values.values():
            yield Found(f"{name}.{item.key}", item.value, item.where, item.is_text)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of core. Make it with `load`; made directly, it holds exactly what it is given.

    Attributes:
        enabled: False turns tracking off; the user's code runs as if tracklayer were not there.
        tracking_uri: MLflow's tracking URI; ``MLFLOW_TRACKING_URI`` counts where no variable or argument of
            tracklayer's own is set. None: that of an imported mlflow, else tracking is off.
        ui_url: where MLflow's pages are, for links, if that is not `tracking_uri`.
        experiment: template of the experiment's name.
        run_name: template of a stage run's name.
        parent_name: template of the name of a workflow run's parent run.
        team: for templates and tags; None if there is none.
        project: for templates and tags; None if there is none.
        version: version of the project, for templates; None takes the workflow's own.
        instance: which installation of the orchestrator this is, where several have workflows of the same name.
        on_error: ``log``: tracking's own failures are logged; ``raise``: they reach the user's code.
        attempts: ``new``: each try is a run of its own; ``reuse``: a later try resumes the run of the first.
        plugins: more plugins, as ``module:object``.
        disabled_plugins: names of plugins that are not loaded.
        journal: folder of the journals, in which what was logged is kept until the tracking server has it; None for
            one in the user's state folder; ``off`` keeps it in memory only, so that a kill loses what was not sent.
        journal_limit: most bytes that the journal of one process takes on disk.
        durability: ``cache``: what was logged survives the process; ``disk``: it survives the machine, too, at the
            price of waiting for the disk at each call.
        patience: how long a stage waits in all, at its start and again at its end, for a tracking server that does
            not answer, in seconds. What is not sent by then is delivered later.
        linger: how long a stage's end waits for what is still to be sent while the server takes it, in seconds.
        carry: fsspec URL of a folder to which a process takes what it could not deliver, where the disk with the
            journal goes away; None leaves it in the journal.
        connect_timeout: longest wait for a connection to the tracking server, in seconds.
        timeout: longest wait for an answer of the tracking server, in seconds.
        flush_interval: how long what was logged is gathered before it is sent while a stage runs, in seconds.
        describe_upstream: whether links are also written into the run's description, as Markdown.
        redact: names to mask in addition to the built-in ones; see `tracklayer.redaction.Redaction`.
        tables: the plugins' own tables; read them with `table`.
    """

    enabled: bool = True
    tracking_uri: str | None = None
    ui_url: str | None = None
    experiment: str = "{workflow}"
    run_name: str = "{task_run}"
    parent_name: str = "{workflow_run}"
    team: str | None = None
    project: str | None = None
    version: str | None = None
    instance: str = "default"
    on_error: Literal["log", "raise"] = "log"
    attempts: Literal["new", "reuse"] = "new"
    plugins: tuple[str, ...] = ()
    disabled_plugins: tuple[str, ...] = ()
    journal: str | None = None
    journal_limit: Bytes = 1_073_741_824
    durability: Literal["cache", "disk"] = "cache"
    patience: Seconds = 0.65
    linger: Seconds = 30.0
    carry: str | None = None
    connect_timeout: Seconds = 0.75
    timeout: Seconds = 5.0
    flush_interval: Seconds = 5.0
    describe_upstream: bool = True
    redact: tuple[str, ...] = ()
    tables: Mapping[str, Mapping[str, object]] = msgspec.field(default_factory=Tables)

    def __repr__(self) -> str:
        redaction = Redaction(self.redact)
        shown = ((name, redaction.mask(name, getattr(self, name))) for name in self.__struct_fields__)
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown)})"


class NoSettings(msgspec.Struct, frozen=True):
    """The settings of a plugin that has none: whatever stands in its table is wrong."""


_TYPES: Final[Mapping[str, Any]] = {
    field.name: field.type for field in msgspec.structs.fields(Settings) if field.name != "tables"
}


def load(
    overrides: Mapping[str, object] | None = None,
    *,
    start: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings.

    Args:
        overrides: arguments, by the names of `Settings`' fields, and plugins' tables by the plugin's name. A value of
            None means "not given".
        start: the folder to look for a file in and above; None for the working directory.
        environ: the environment; None for the process's own. A variable that is empty counts as not set.

    Raises:
        SettingsError: names every key that is wrong, where it stands, its value (unless it may be a secret) and what
            is allowed.
    """
    found, tables, variables = _gathered(overrides, start, os.environ if environ is None else environ)
    problems: list[str] = []
    values = _converted(found, problems)
    problems += _strangers(found, tables, variables, values)
    if problems:
        raise SettingsError("\n".join(problems))
    layers = {name: tuple(table.values()) for name, table in tables.items()}
    return Settings(**values, tables=Tables(layers, variables))


def replaced(settings: object, overrides: Mapping[str, object]) -> Settings:
    """The settings with other values in place of some.

    Args:
        settings: the settings.
        overrides: arguments, by the names of `Settings`' fields.

    Raises:
        SettingsError: `settings` are none, or a value is wrong; the message is as that of `load`.
    """
    if not isinstance(settings, Settings):
        given = Found("settings", settings, ARGUMENTS)
        raise SettingsError(f"settings must be a tracklayer.settings.Settings (load() makes them), not {given.shown}")
    problems: list[str] = []
    values = _converted({name: Found(name, value, ARGUMENTS) for name, value in overrides.items()}, problems)
    if problems:
        raise SettingsError("\n".join(problems))
    return msgspec.structs.replace(settings, **values) if values else settings


def origins(*, start: Path | None = None, environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Where each setting stands that is set at all, by its name, in words for people (``in /srv/app/tracklayer.toml``).

    A field of a plugin's table is named with the plugin (``airflow.xcom_key``). Values are not looked at: see `load`.

    Raises:
        SettingsError: the file cannot be read.

    >>> origins(environ={"TRACKLAYER_TEAM": "risk"})["team"]
    'in the environment variable TRACKLAYER_TEAM'
    """
    found, tables, variables = _gathered(None, start, os.environ if environ is None else environ)
    places = {key: item.where for key, item in found.items()}
    read = Tables({name: tuple(table.values()) for name, table in tables.items()}, variables)
    names = {*PLUGINS, *tables, *(_installed() if variables else ())}
    return places | {item.key: item.where for name in sorted(names) for item in read.found(name)}


def _gathered(
    overrides: Mapping[str, object] | None, start: Path | None, environ: Mapping[str, str]
) -> tuple[dict[str, Found], dict[str, dict[str, Found]], dict[str, str]]:
    """What is set, the strongest place of each: core's settings, tables, and the variables that are left over."""
    variables = {
        name: value for name, value in environ.items() if name.startswith(PREFIX) and value and not _is_reserved(name)
    }
    found: dict[str, Found] = {}
    tables: dict[str, dict[str, Found]] = {}
    # From the weakest to the strongest: what comes later replaces what came before.
    content, file = find(start, environ.get(CONFIG_VARIABLE, ""))
    _sort(content, f"in {file}", found, tables)
    if uri := environ.get("MLFLOW_TRACKING_URI"):
        where = "in the environment variable MLFLOW_TRACKING_URI"
        found["tracking_uri"] = Found("tracking_uri", uri, where, is_text=True)
    for key in _TYPES:
        name = PREFIX + key.upper()
        if name in variables:
            where = f"in the environment variable {name}"
            found[key] = Found(key, variables.pop(name), where, is_text=True)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    _sort(given, ARGUMENTS, found, tables)
    return found, tables, variables


def table(settings: Settings, name: str, type: type[T]) -> T:  # noqa: A002 - reads as what it is
    """A plugin's own settings: the table `name` of file and arguments, with ``TRACKLAYER_<NAME>_<FIELD>`` above the file.

    Args:
        settings: the settings; only those that `load` made know the environment.
        name: the plugin's name, that of its entry point (``airflow``).
        type: the plugin's `msgspec.Struct`; make it frozen, every field with a default.

    Raises:
        SettingsError: as `load`; also if a field without a default is not set.

    Example:
        >>> class Airflow(msgspec.Struct, frozen=True):
        ...     xcom_key: str = "tracklayer"
        >>> table(load(environ={"TRACKLAYER_AIRFLOW_XCOM_KEY": "mlflow"}), "airflow", Airflow)
        Airflow(xcom_key='mlflow')
    """
    tables = settings.tables
    if not isinstance(tables, Tables):
        layer = tuple(Found(key, value, ARGUMENTS) for key, value in tables.get(name, {}).items())
        tables = Tables({name: layer})
    fields = {field.encode_name: field for field in msgspec.structs.fields(type)}
    reserved = _prefix(name).startswith(RESERVED_PREFIXES)
    values, problems = {}, []
    for item in tables.found(name, fields if reserved else None):
        field = fields.get(item.key.removeprefix(f"{name}."))
        if field is None:
            problems.append(unknown(item, (f"{name}.{key}" for key in fields)))
            continue
        try:
            values[field.name] = convert(item, field.type)
        except SettingsError as error:
            problems.append(str(error))
    missing = [key for key, field in fields.items() if field.required and field.name not in values]
    if missing and not problems:
        where = f"as {_prefix(name)}{missing[0].upper()} or as {missing[0]!r} in the table [tool.tracklayer.{name}]"
        problems.append(f"setting '{name}.{missing[0]}' is missing: set it {where}")
    if problems:
        raise SettingsError("\n".join(problems))
    try:
        return type(**values)
    except (TypeError, ValueError) as error:  # what the struct's own __post_init__ says
        raise SettingsError(f"settings of the plugin {name!r}: {error}") from None


def _sort(
    content: Mapping[str, object], where: str, found: dict[str, Found], tables: dict[str, dict[str, Found]]
) -> None:
    for key, value in content.items():
        if isinstance(value, Mapping) and key not in _TYPES:
            into = tables.setdefault(key, {})
            into.update({str(inner): Found(str(inner), part, where) for inner, part in value.items()})
        else:
            found[key] = Found(key, value, where)


def _converted(found: Mapping[str, Found], problems: list[str]) -> dict[str, Any]:
    """The values of core's own settings; what is wrong with them is added to `problems`."""
    values = {}
    for key in [key for key in _TYPES if key in found]:
        try:
            values[key] = convert(found[key], _TYPES[key])
            if key in TEMPLATES:
                check_template(values[key], setting=f"{key!r} {found[key].where}")
        except SettingsError as error:
            problems.append(str(error))
    return values


def _strangers(
    found: Mapping[str, Found],
    tables: Mapping[str, Mapping[str, Found]],
    variables: Mapping[str, str],
    values: Mapping[str, Any],
) -> Iterator[str]:
    """What is wrong with keys, tables and variables that core does not know.

    Tables belong to plugins. Those of this project are known by name; only for other names are the installed plugins
    looked up, which costs some tens of milliseconds: their entry points, the names in `disabled_plugins`, and the parts
    of each ``module:object`` in `plugins`.
    """
    for key in [key for key in found if key not in _TYPES]:
        if key in PLUGINS:
            yield f"setting {key!r} {found[key].where} must be a table of the plugin {key!r}, not {found[key].shown}"
        else:
            yield unknown(found[key], [*_TYPES, *sorted(PLUGINS)])
    names = set(PLUGINS)
    strange_tables = tables.keys() - names
    strange_variables = {name for name in variables if not _belongs(name, names)}
    if not strange_tables and not strange_variables:
        return
    names |= _installed() | set(values.get("disabled_plugins", ()))
    names.update(part for plugin in values.get("plugins", ()) for part in re.split(r"[.:]", plugin))
    known = [*_TYPES, *sorted(names)]
    for name in sorted(strange_tables - names):
        first = next(iter(tables[name].values()), Found(name, {}, ""))
        shown = Found(name, {key: item.value for key, item in tables[name].items()}, first.where)
        yield (
            f"{unknown(shown, known)}. A table of a plugin that is not installed here is allowed if disabled_plugins"
            " names the plugin"
        )
    for name in sorted(strange_variables):
        if not _belongs(name, names):
            item = Found(name.removeprefix(PREFIX).lower(), variables[name], f"in the environment variable {name}")
            yield unknown(item, known)


def _installed() -> set[str]:
    from importlib.metadata import entry_points

    return {entry_point.name for entry_point in entry_points(group="tracklayer")}


def _is_reserved(variable: str) -> bool:
    return variable in RESERVED or variable.startswith(TEST_PREFIX) or bool(_SERVICE_LINK.fullmatch(variable))


def _prefix(name: str) -> str:
    return f"{PREFIX}{name.upper().replace('-', '_')}_"


def _belongs(variable: str, plugins: set[str]) -> bool:
    return any(variable.startswith(_prefix(plugin)) for plugin in plugins)


def _is_near(key: str, fields: Iterable[str]) -> bool:
    from difflib import get_close_matches

    return bool(get_close_matches(key, fields, n=1, cutoff=0.8))
