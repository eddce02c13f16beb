"""What carries a tracked task's token to what the task starts: attributes of its operator.

While a task runs, its token is in the environment of its process, and a subprocess inherits it. Where an operator gives
what it starts an environment of its own, or a ``conf``, the token is put in there meanwhile. Operators are told by
their attributes and not by their classes, so that the kin of each is served, and no provider need be installed. One
attribute alone does not tell enough: an ``environment`` is something else on Dataflow's operators, which have no image.
In each, what the user has given under the same name stands.

==================  ================================================  ==================================================
attribute           is found on                                       what it is
==================  ================================================  ==================================================
``env``             ``BashOperator``, ``BashSensor``                  the whole environment, unless ``append_env``
``env_vars``        ``PythonVirtualenvOperator`` and its kin          the whole environment, if ``inherit_env`` is false
``env_vars``        ``KubernetesPodOperator`` and its kin             a container's: a list of ``V1EnvVar``, or a dict
``environment``     ``DockerOperator``, ``DockerSwarmOperator``       a container's
``conf``            ``SparkSubmitOperator``                           Spark's settings, which name variables of driver
                                                                      and executors
``conf``            ``TriggerDagRunOperator``                         the ``conf`` of the DAG run that is triggered
==================  ================================================  ==================================================

An ``env`` that is None stands for "as inherited" and is left alone. Processes on the same machine are also told the tracking server's address, and so are containers, if it can be the same from there (it is no loopback
address, no database, no file). Credentials are never put into an attribute: Airflow stores and shows some of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tracklayer.current import PARENT_VARIABLE
from tracklayer.interruption import let_through
from tracklayer.store.endpoint import is_loopback, without_credentials
from tracklayer_airflow.connection import URI
from tracklayer_airflow.workflow import CONF_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("tracklayer")

_SPARK: Final = ("spark.executorEnv.", "spark.kubernetes.driverEnv.", "spark.yarn.appMasterEnv.")
"""How Spark's settings begin that name a variable of its executors, and of its driver in a cluster. ``env_vars`` is not
used: some ways of submitting refuse it."""


@contextmanager
def loaded(operator: Any, environment: Mapping[str, str]) -> Iterator[None]:
    """Have the operator's attributes carry the token within the block; afterwards they are what they were.

    Fails in nothing but what the block fails in.

    Args:
        operator: the operator, rendered.
        environment: what `tracklayer.stage.StageRun.environment` tells; without a token nothing is carried.
    """
    before: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    try:
        if PARENT_VARIABLE in environment:
            ours = _load(operator, environment)
        for name, value in ours.items():
            before[name] = getattr(operator, name)
            setattr(operator, name, value)
    except Exception as error:
        let_through(error)
        log.warning("tracking: what this task starts is not told of its run", exc_info=True)
    try:
        yield
    finally:
        with suppress(Exception):
            for name, value in before.items():
                if getattr(operator, name, None) is ours[name]:  # else the operator has put something else there
                    setattr(operator, name, value)


def conf_with(conf: Any, token: str) -> dict[str, Any] | None:
    """The conf of a DAG run that is triggered, with a token in it, if it has none; None where there is no place for one.

    Raises:
        ValueError: it is text, and no JSON.
    """
    given = json.loads(conf) if isinstance(conf, str) and conf else conf or {}
    return {CONF_KEY: token, **given} if isinstance(given, dict) else None


def _load(operator: Any, environment: Mapping[str, str]) -> dict[str, Any]:
    """The attributes that carry something, by name, with what they are to be."""
    token = {PARENT_VARIABLE: environment[PARENT_VARIABLE]}
    conf = getattr(operator, "conf", None)
    if hasattr(operator, "trigger_dag_id"):
        with_token = conf_with(conf, environment[PARENT_VARIABLE])
        return {} if with_token is None else {"conf": with_token}
    if all(hasattr(operator, name) for name in ("application", "conf", "env_vars")):
        given = getattr(operator, "env_vars", None) or {}
        # The address is not told: Spark's own files may have one, over which these settings would win.
        told = {start + name: value for start in _SPARK for name, value in token.items() if name not in given}
        return {"conf": {**told, **(conf or {})}}
    found: dict[str, Any] = {}
    env = getattr(operator, "env", None)
    if isinstance(env, dict) and hasattr(operator, "bash_command") and not getattr(operator, "append_env", False):
        found["env"] = {**_for_processes(environment), **env}
    container = getattr(operator, "environment", None)
    if isinstance(container, dict) and hasattr(operator, "image"):
        elsewhere = getattr(operator, "env_file", None) or ""
        told = {name: value for name, value in _for_containers(environment).items() if name not in elsewhere}
        found["environment"] = {**told, **container}
    if hasattr(operator, "env_vars"):
        found |= _env_vars(operator, environment)
    return found


def _env_vars(operator: Any, environment: Mapping[str, str]) -> dict[str, Any]:
    given = operator.env_vars
    inherits = getattr(operator, "inherit_env", None)
    if inherits is not None:
        return {} if inherits else {"env_vars": {**_for_processes(environment), **(given or {})}}
    if not hasattr(operator, "image") or not hasattr(operator, "env_from"):
        return {}
    told = _for_containers(environment)
    if operator.env_from:  # a config map that may have an address, over which this one would win
        told.pop(URI, None)
    if isinstance(given, dict):
        return {"env_vars": {**told, **given}}
    return {"env_vars": _listed(given or [], told)} if isinstance(given, (list, type(None))) else {}


def _listed(variables: list[Any], told: Mapping[str, str]) -> list[Any]:
    """A list of Kubernetes' ``V1EnvVar`` (or of the dictionaries that stand for them) with ours at its beginning."""
    taken = {one.get("name") if isinstance(one, Mapping) else getattr(one, "name", None) for one in variables}
    missing = {name: value for name, value in told.items() if name not in taken}
    if variables and all(isinstance(one, Mapping) for one in variables):
        return [*({"name": name, "value": value} for name, value in missing.items()), *variables]
    from kubernetes.client.models import V1EnvVar  # type: ignore[import-untyped]  # it is there, where such a task runs

    return [*(V1EnvVar(name=name, value=value) for name, value in missing.items()), *variables]


def _for_processes(environment: Mapping[str, str]) -> dict[str, str]:
    """What a process on this machine is told."""
    names = (name for name in (PARENT_VARIABLE, URI) if name in environment)
    return {name: without_credentials(environment[name]) for name in names}


def _for_containers(environment: Mapping[str, str]) -> dict[str, str]:
    """What a process elsewhere is told: the server's address only if it can be that from there, too."""
    told = {PARENT_VARIABLE: environment[PARENT_VARIABLE]}
    address = environment.get(URI, "")
    try:
        parts = urlsplit(address)
    except ValueError:
        return told
    if parts.scheme in {"http", "https"} and not is_loopback(parts.hostname or ""):
        told[URI] = without_credentials(address)
    return told
