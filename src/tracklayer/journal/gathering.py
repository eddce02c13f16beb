"""What is logged to a run, with the server's ids, gathered until it is worth a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracklayer.journal.dead_letters import living
from tracklayer.journal.operations import Inputs, Outputs

if TYPE_CHECKING:
    from tracklayer.journal.courier import Courier
    from tracklayer.journal.dead_letters import DeadLetters
    from tracklayer.journal.identities import Identities
    from tracklayer.journal.operations import Consumed, Log
    from tracklayer.journal.parcels import Parcels


class Gatherer:
    """Puts operations into parcels. Raises `Held` if a run or model is not there yet, and `StoreError`."""

    def __init__(self, courier: Courier, identities: Identities, parcels: Parcels, letters: DeadLetters) -> None:
        """Gather nothing yet.

        Args:
            courier: knows what operations mean to the server.
            identities: what the server calls runs and models.
            parcels: what is gathered.
            letters: is told of models that are not to be.
        """
        self._courier = courier
        self._ids = identities
        self._parcels = parcels
        self._letters = letters

    def log(self, operation: Log, lane: str, position: int) -> None:
        """Params, metrics and tags."""
        run_id, metrics, tags = self._courier.gathered(operation)
        self._parcels.add(lane, run_id, position, metrics, operation.params, tags, yields=operation.yielding)

    def more(self, operation: Inputs | Outputs | Consumed, lane: str, position: int) -> None:
        """Datasets and models."""
        resolve = self._ids.resolve
        run_id = resolve(operation.run)
        if isinstance(operation, Inputs | Outputs):
            operation, gone = living(operation, self._ids.dead)
            self._letters.keep(run_id, gone)
        if isinstance(operation, Inputs):
            models = [resolve(model) for model in operation.models]
            self._parcels.begun(lane, run_id, position).add_inputs(operation.datasets, models)
        elif isinstance(operation, Outputs):
            made = [(resolve(model), step) for model, step in operation.models]
            self._parcels.begun(lane, run_id, position).add_outputs(made)
        else:
            tags, dataset = self._courier.consumed(operation)
            self._parcels.add(lane, run_id, position, (), {}, tags).add_inputs([dataset], ())
