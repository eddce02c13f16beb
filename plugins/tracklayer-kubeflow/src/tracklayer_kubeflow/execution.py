"""One execution of a component, as KFP describes it to the container: its parameters, its artifacts, where outputs go.

Read from the JSON text of KFP's ``ExecutorInput`` that is among the executor's arguments. It comes from the
orchestrator, but it is read as if from outside: what has an unexpected form is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tracklayer.json_text import decoded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPTION: Final = "--executor_input"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An input or output artifact.

    Attributes:
        name: of the component's input or output (not KFP's name of the artifact itself).
        kind: KFP's schema title (``system.Dataset``); empty if unknown.
        uri: where it is kept.
        metadata: what its producer said of it.
    """

    name: str
    kind: str = ""
    uri: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What a component is run with.

    Attributes:
        parameters: input parameters by name.
        inputs: input artifacts; one input may hold several.
        outputs: output artifacts, as far as they are known before they are made.
        output_file: where the executor writes what it made; None if that is not said.
    """

    parameters: Mapping[str, object] = field(default_factory=dict)
    inputs: Sequence[Artifact] = ()
    outputs: Sequence[Artifact] = ()
    output_file: str | None = None

    @property
    def places(self) -> Sequence[str]:
        """Paths and URIs that say where outputs go, the most telling first."""
        return tuple(place for place in (self.output_file, *(artifact.uri for artifact in self.outputs)) if place)


def execution_of(arguments: Sequence[str]) -> Execution | None:
    """The execution that is described among the arguments of a process; None if there is none."""
    for index, argument in enumerate(arguments):
        if argument == OPTION and index + 1 < len(arguments):
            return parse(arguments[index + 1])
        if argument.startswith(f"{OPTION}="):
            return parse(argument.removeprefix(f"{OPTION}="))
    return None


def parse(text: str) -> Execution | None:
    """Read an ``ExecutorInput``; None if `text` is not a JSON object."""
    try:
        told = decoded(text)
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    inputs, outputs = _mapping(told.get("inputs")), _mapping(told.get("outputs"))
    parameters = inputs.get("parameterValues")
    output_file = outputs.get("outputFile")
    return Execution(
        parameters=_mapping(parameters),
        inputs=_artifacts(inputs.get("artifacts")),
        outputs=_artifacts(outputs.get("artifacts")),
        output_file=output_file if isinstance(output_file, str) and output_file else None,
    )


def _artifacts(told: object) -> tuple[Artifact, ...]:
    return tuple(
        Artifact(
            name=name,
            kind=_text(_mapping(artifact.get("type")).get("schemaTitle")),
            uri=_text(artifact.get("uri")),
            metadata=_mapping(artifact.get("metadata")),
        )
        for name, holder in _mapping(told).items()
        for artifact in _mappings(_mapping(holder).get("artifacts"))
    )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
