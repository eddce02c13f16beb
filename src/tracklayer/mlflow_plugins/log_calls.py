"""What is logged inside a stage: checked as MLflow would, written to the journal, and delivered from there."""

from __future__ import annotations

import copy
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from mlflow.entities import LoggedModelInput
from mlflow.exceptions import MlflowException
from mlflow.utils.async_logging.run_operations import RunOperations

from tracklayer.description import NOTE_TAG, compose, with_user_text
from tracklayer.interruption import let_through
from tracklayer.journal.operations import DeleteTag, Inputs, Linked, Log
from tracklayer.mlflow_plugins.entities import stored_dataset
from tracklayer.mlflow_plugins.stages import opening_of, report_failure
from tracklayer.mlflow_plugins.store_calls import NOT_THERE, StoreCalls
from tracklayer.provisional import is_provisional
from tracklayer.store.calling import is_own_call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow.entities import RunTag

    from tracklayer.mlflow_plugins.known_runs import KnownRun

USERS: Final = (MlflowException, TypeError, ValueError, OverflowError)
"""What a call with wrong arguments raises in MLflow itself; anything else is a fault of ours."""

SAID: Final = frozenset({NOT_THERE, "INVALID_PARAMETER_VALUE"})
"""What a server says of a call that it understood; whatever else it says may be another thing the next time."""


class LogCalls(StoreCalls):
    """Stands before a stock store's class, of which the rest is."""

    def log_metric(self, run_id: str, metric: Any) -> None:
        """Log a metric point."""
        run = self._run_here(run_id)
        if run is None:
            self._stock.log_metric(self._server_id(None, run_id), self._with_model(metric))
            return
        try:
            if run.deleted:
                self.tracklayer_refusals.active(run)
            point = self.tracklayer_refusals.point(run, metric)
            run.recorder.append(Log(run.run_id, (point,)))
            run.saw_point(point)
        except USERS:
            raise
        except Exception as error:
            report_failure("writing a metric to the journal", error)
            self._asked(run.state, lambda: self._stock.log_metric(self._now(run), metric))

    def log_param(self, run_id: str, param: Any) -> None:
        """Log a param."""
        run = self._run_here(run_id)
        if run is None:
            self._stock.log_param(self._server_id(None, run_id), param)
            return
        try:
            told = self.tracklayer_refusals.param(run, param)
            with run.claiming({told.key: told.value}) as lost:
                if lost:  # another thread, or a signal handler, was faster with this name
                    self.tracklayer_refusals.param(run, param)
                run.recorder.append(Log(run.run_id, params={told.key: told.value}))
        except USERS:
            raise
        except Exception as error:
            report_failure("writing a param to the journal", error)
            self._asked(run.state, lambda: self._stock.log_param(self._now(run), param))

    def set_tag(self, run_id: str, tag: Any) -> None:
        """Set a tag; a description of the stage run goes above tracklayer's part of it."""
        run = self._run_here(run_id)
        if run is None:
            self._stock.set_tag(self._server_id(None, run_id), self._with_server_ids(None, [tag])[0])
            return
        try:
            told = self.tracklayer_refusals.tag(run, tag)
            self.tracklayer_refusals.active(run)
            if told.key == NOTE_TAG and run.is_stage_run:
                self._describe(run, told.value)
                return
            tags = {told.key: told.value}
            run.recorder.append(Log(run.run_id, tags=tags))
            run.saw_tags(tags)
        except USERS:
            raise
        except Exception as error:
            report_failure("writing a tag to the journal", error)
            self._asked(run.state, lambda: self._stock.set_tag(self._now(run), tag))

    def log_batch(self, run_id: str, metrics: Any, params: Any, tags: Sequence[RunTag]) -> None:
        """Log a batch; a description of the stage run goes above tracklayer's part of it."""
        run = self._run_here(run_id)
        if run is None:
            self._stock.log_batch(
                self._server_id(None, run_id),
                [self._with_model(metric) for metric in metrics] if metrics else metrics,
                params,
                self._with_server_ids(None, tags) if tags else tags,
            )
            return
        try:
            points, told, named = self.tracklayer_refusals.batch(run, metrics, params, tags)
            values = {param.key: param.value for param in told}
            with run.claiming(values) as lost:
                if lost:
                    self.tracklayer_refusals.batch(run, metrics, params, tags)
                all_tags = {tag.key: tag.value for tag in named}
                note = all_tags.pop(NOTE_TAG, None) if run.is_stage_run else None
                run.recorder.append(Log(run.run_id, tuple(points), values, all_tags))
            for point in points:
                run.saw_point(point)
            run.saw_tags(all_tags)
            if note is not None:
                self._describe(run, note)
        except USERS:
            raise
        except Exception as error:
            report_failure("writing a batch to the journal", error)
            self._asked(run.state, lambda: self._stock.log_batch(self._now(run), metrics, params, tags))

    def log_batch_async(self, run_id: str, metrics: Any, params: Any, tags: Any) -> RunOperations:
        """Log a batch without waiting for the server, which inside a stage nobody does; see MLflow's own."""
        if self._run_here(run_id) is None:
            operations: RunOperations = self._stock.log_batch_async(
                self._server_id(None, run_id), metrics=metrics, params=params, tags=tags
            )
            return operations
        done: Future[None] = Future()
        try:
            self.log_batch(run_id, metrics, params, tags)
            done.set_result(None)
        except Exception as error:
            let_through(error)
            done.set_exception(error)
        return RunOperations([done])  # type: ignore[no-untyped-call]

    def flush_async_logging(self) -> None:
        """Let the server have what was logged, if it is there."""
        self._flushed(self._stage())
        self._stock.flush_async_logging()

    def delete_tag(self, run_id: str, key: str) -> None:
        """Take a tag away. One that is not known here is asked for; where the server does not say, that is left to delivery."""
        run = self._run_here(run_id)
        if run is None:
            self._stock.delete_tag(self._server_id(None, run_id), key)
            return
        try:
            self.tracklayer_refusals.active(run)
            self.tracklayer_refusals.untag(run, key)
        except USERS:
            raise
        except Exception as error:
            report_failure("checking a tag", error)
        # A server that does not have yet what was logged before would say that there is no such tag.
        if key not in run.tags and not run.recorder.away and self._flushed(run.state):
            try:
                self._asked(run.state, lambda: self._stock.delete_tag(self._now(run), key), once=True)
            except MlflowException as error:
                if error.error_code in SAID:
                    raise
            else:
                return
        run.recorder.append(DeleteTag(run.run_id, key))
        run.tags.pop(key, None)

    def log_inputs(self, run_id: str, datasets: Any = None, models: Any = None) -> None:
        """Log datasets and models that a run reads."""
        run = self._run_here(run_id)
        if run is None:
            read = [LoggedModelInput(self._real(None, model.model_id)) for model in models or ()]
            self._stock.log_inputs(self._server_id(None, run_id), datasets=datasets, models=read or models)
            return
        try:
            self.tracklayer_refusals.inputs(run, datasets)
            self.tracklayer_refusals.active(run)
            ids = tuple(str(model.model_id) for model in models or ())
            run.recorder.append(Inputs(run.run_id, tuple(stored_dataset(told) for told in datasets or ()), ids))
            known = {(told.dataset.name, told.dataset.digest) for told in run.inputs}
            run.inputs.extend(told for told in datasets or () if (told.dataset.name, told.dataset.digest) not in known)
            run.input_models.extend(ids)
        except USERS:
            raise
        except Exception as error:
            report_failure("writing inputs to the journal", error)
            self._asked(run.state, lambda: self._stock.log_inputs(self._now(run), datasets=datasets, models=models))

    # ---------------------------------------------------------------------------------------------- how it is written

    def _with_model(self, told: Any) -> Any:
        """A metric that goes to the server itself, with the server's id of its model."""
        model_id = getattr(told, "model_id", None)
        if type(model_id) is not str or not is_provisional(model_id) or is_own_call():
            return told
        changed = copy.copy(told)
        changed._model_id = self._real(None, model_id)  # noqa: SLF001 - MLflow's entity has no other way
        return changed

    def _describe(self, run: KnownRun, text: str) -> None:
        """Put a description above tracklayer's part of that of a stage run, which is found out on delivery."""
        run.recorder.append(Linked(run.run_id, "", text))
        before, opening = run.tags.get(NOTE_TAG, ""), opening_of(run.state.stage)
        if not before and opening is not None:
            stage = run.state.stage
            before = compose(stage.context, parent=stage.parent, upstream=opening.upstream)
        run.saw_tags({NOTE_TAG: with_user_text(before, text) if before else text})
