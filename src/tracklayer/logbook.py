"""What user code logs on a run, as operations for the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracklayer.datasets import dataset_of
from tracklayer.fence import log
from tracklayer.journal.operations import Artifact, Inputs, Log, Point
from tracklayer.linking import link_tags, produced_tags
from tracklayer.opening import milliseconds
from tracklayer.params import encode, valid_key
from tracklayer.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tracklayer.context import Upstream
    from tracklayer.journal.recorder import Recorder
    from tracklayer.params import EncodedParams
    from tracklayer.settings import Settings
    from tracklayer.store import Dataset

PAIRS: Final = 1_000
"""So many params or tags are in one operation; a record stays small, however many are logged at once."""


class Logbook:
    """Encodes, masks, and writes down. Safe to use from several threads, and from a signal handler.

    There is no lock on purpose: whoever held one while the journal takes something would wait for the journal's, which
    may be held by what a handler has interrupted that logs a param, too. A param is whose name is put down first.

    Args:
        settings: the settings; they say what is masked.
        run_id: local id of the run.
    """

    def __init__(self, settings: Settings, run_id: str) -> None:
        self._run = run_id
        self._redaction = Redaction(settings.redact)
        self._params: dict[str, str] = {}

    def params(self, recorder: Recorder, params: Mapping[str, object]) -> None:
        """Write params down. As in MLflow one does not change: a second, different value is reported and left out."""
        encoded = encode(params, redact=self._redaction)
        new: dict[str, str] = {}
        try:
            for name, value in encoded.params.items():
                if name not in self._params:
                    new[name] = value
                if (stays := self._params.setdefault(name, value)) != value:
                    new.pop(name, None)
                    _report_twice(name, stays, value)
            self._write_params(recorder, new, encoded, yielding=False)
        except BaseException:  # a signal handler's, for a time-out: the names are free for another attempt
            for name in new:
                self._params.pop(name, None)
            raise

    def yielding_params(self, recorder: Recorder, params: Mapping[str, object]) -> None:
        """Write params down that give way to those of the same name, logged here or by MLflow's own calls."""
        encoded = encode(params, redact=self._redaction)
        new = {name: value for name, value in encoded.params.items() if name not in self._params}
        self._write_params(recorder, new, encoded, yielding=True)

    def _write_params(
        self, recorder: Recorder, params: dict[str, str], encoded: EncodedParams, *, yielding: bool
    ) -> None:
        if not params:
            return
        for portion in _portions(params):
            recorder.append(Log(run=self._run, params=portion, yielding=yielding))
        for path, content in encoded.artifacts.items():
            self.artifact(recorder, path, content)

    def metrics(self, recorder: Recorder, metrics: Mapping[str, float], step: int) -> None:
        """Write metric points of now down."""
        now, number = milliseconds(None), int(step)
        points = [Point(valid_key(str(key)), float(value), now, number) for key, value in metrics.items()]
        for begin in range(0, len(points), PAIRS):
            recorder.append(Log(self._run, tuple(points[begin : begin + PAIRS])))

    def tags(self, recorder: Recorder, tags: Mapping[str, object]) -> None:
        """Write tags down, masked."""
        masked = {valid_key(str(key)): str(self._redaction.mask(str(key), str(tags[key]))) for key in tags}
        for portion in _portions(masked):
            recorder.append(Log(run=self._run, tags=portion))

    def artifact(self, recorder: Recorder, path: str, source: Path | bytes) -> None:
        """Copy a file (or its content) aside, to be stored at `path` among the run's artifacts."""
        recorder.append(Artifact(owner=self._run, path=path, file=recorder.keep(source)))

    def produced(self, recorder: Recorder, uri: str, digest: str | None, dataset: Dataset) -> None:
        """Write down that the run makes a dataset."""
        recorder.append(Log(run=self._run, tags=produced_tags(uri, digest)))
        recorder.append(Inputs(run=self._run, datasets=(dataset,)))

    def consumed(self, recorder: Recorder, uri: str, digest: str | None, name: str | None) -> None:
        """Write down that the run reads a dataset."""
        recorder.append(Inputs(run=self._run, datasets=(dataset_of(uri, digest, "consumed", name=name),)))

    def link(self, recorder: Recorder, upstream: Upstream) -> None:
        """Write down that the run is fed by another one."""
        recorder.append(Log(run=self._run, tags=link_tags([upstream])))

    def masked(self, name: str, text: str) -> str:
        """`text`, with what looks like a secret masked."""
        return str(self._redaction.mask(name, text))


def _report_twice(name: str, stays: str, value: str) -> None:
    log.warning("param %r was logged twice: %.100r stays, %.100r is left out; use another name", name, stays, value)


def _portions(pairs: dict[str, str]) -> list[dict[str, str]]:
    if len(pairs) <= PAIRS:
        return [pairs] if pairs else []
    items = list(pairs.items())
    return [dict(items[begin : begin + PAIRS]) for begin in range(0, len(items), PAIRS)]
