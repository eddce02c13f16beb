"""What is gathered for one run until it is worth a request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tracklayer.journal.operations import Log
from tracklayer.store.delivery import ITEMS, Refusal, deliver
from tracklayer.store.inputs import all_refused, deliver_inputs, deliver_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracklayer.journal.operations import Point
    from tracklayer.journal.record import Record
    from tracklayer.store import Dataset, Metric, Store

FULL: Final = ITEMS
"""So many items are one full request."""


class Parcel:
    """Params, metrics, tags, inputs and outputs of one run, in any order: they do not touch each other.

    Attributes:
        run_id: the server's id of the run.
        position: where in the journal the first of its records begins; it is not delivered before the parcel is.
        since: when it was begun, on the monotonic clock.
        links: names of the tags that were sent last.
    """

    def __init__(self, run_id: str, position: int) -> None:
        self.run_id = run_id
        self.position = position
        self.links: frozenset[str] = frozenset()
        self.since = time.monotonic()
        self._last = position
        self._of_last = 0
        self._under_way: list[Metric] = []
        self._behind = position
        self._metrics: list[Metric] = []
        self._params: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._yielding: set[str] = set()
        self._datasets: dict[tuple[str, str], Dataset] = {}
        self._models: dict[str, None] = {}
        self._outputs: dict[str, int] = {}
        self._rivals: list[tuple[str, str]] = []

    @property
    def size(self) -> int:
        """How many params, metrics and tags it holds, those that are under way among them."""
        return len(self._under_way) + len(self._metrics) + len(self._params) + len(self._tags)

    @property
    def room(self) -> int:
        """How many items are missing until what is not under way fills a request; 0 or less if it does."""
        return FULL - len(self._metrics) - len(self._params) - len(self._tags)

    @property
    def full(self) -> bool:
        """True if what is not under way fills a request."""
        return self.room <= 0

    @property
    def only_points(self) -> bool:
        """True if there is nothing in it but metric points."""
        return not (self._params or self._tags or self._datasets or self._models or self._outputs or self._rivals)

    def add(
        self,
        position: int,
        metrics: Sequence[Metric],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        *,
        yields: bool = False,
    ) -> None:
        """Add what was logged. The last value of a tag counts; a param keeps its first one, as in MLflow.

        Args:
            position: where the record begins.
            metrics: points.
            params: params.
            tags: tags.
            yields: True if the params give way, without a word, to what the run has by their names.
        """
        self._last, self._of_last = position, len(metrics)
        self._metrics += metrics
        self._tags.update(tags)
        for key, value in params.items():
            before = self._params.get(key)
            if before is None:
                self._params[key] = value
                if yields:
                    self._yielding.add(key)
            elif not yields and before != value:
                self._rivals.append((key, value))
            elif not yields:
                self._yielding.discard(key)

    def take_points(self, run: str, records: Sequence[Record], begin: int) -> int:
        """Take metric points from records that hold nothing else of this run, until they fill a request.

        Args:
            run: the run's local id.
            records: what was read of the journal.
            begin: which of them is the first.

        Returns:
            From how many of the records they are, one behind the other; 0 if the first holds anything else.
        """
        index, room = begin, self.room
        points: list[Point] = []
        while index < len(records) and len(points) < room:
            operation = records[index].operation
            if type(operation) is not Log or operation.run != run or operation.params or operation.tags:
                break
            if any([point.model_id for point in operation.points]):  # noqa: C419 - a list is quicker here
                break
            points += operation.points
            self._last, self._of_last = records[index].position, len(operation.points)
            index += 1
        self._metrics += points  # type: ignore[arg-type]  # a point has all that a metric has
        return index - begin

    def add_inputs(self, datasets: Sequence[Dataset], models: Sequence[str]) -> None:
        """Add what the run read (or, by its context, made), each once: what a dataset was first called stays, as in MLflow."""
        for item in datasets:
            self._datasets.setdefault((item.name, item.digest), item)
        self._models.update(dict.fromkeys(models))

    def add_outputs(self, models: Sequence[tuple[str, int]]) -> None:
        """Add models that the run made."""
        self._outputs.update(models)

    def request(self) -> list[Metric]:
        """The points that the next request has room for."""
        return self._metrics[:FULL]

    def take_off(self, points: Sequence[Metric]) -> bool:
        """These points are under way. Until they have arrived or come back nothing else may be sent.

        Args:
            points: what `request` has returned.

        Returns:
            False if it would return something else by now; nothing is under way then.
        """
        if points != self.request():  # the very same objects, so that this is quick
            return False
        self._under_way, self._metrics = self._metrics[:FULL], self._metrics[FULL:]
        self._behind = self._left_from()
        self.since = time.monotonic()
        return True

    def arrived(self) -> None:
        """What took off is delivered."""
        self._under_way = []
        self.links = frozenset()
        self.position = self._behind

    def came_back(self) -> None:
        """What took off is not delivered, and comes before what was gathered since."""
        self._metrics = self._under_way + self._metrics
        self._under_way = []

    def send(self, store: Store, *, whole: bool) -> list[Refusal]:
        """Send what fills requests, or all of it. It stays as it is if that fails; sending it again does no harm.

        Args:
            store: where to.
            whole: True to send all of it; False leaves the metrics that would begin a new request.

        Returns:
            What was refused for good.

        Raises:
            StoreError: see `tracklayer.store.delivery.deliver`.
        """
        count = len(self._metrics)
        if not whole:
            others = len(self._params) + len(self._tags)
            count = max((others + count) // FULL * FULL - others, 0)
        refusals: list[Refusal] = []
        if self._tags or self._params or count:
            refused = deliver(store, self.run_id, metrics=self._metrics[:count], params=self._params, tags=self._tags)
            refusals += [item for item in refused if not (item.kind == "param" and item.key in self._yielding)]
            refusals += self._among_rivals(store, {item.key for item in refused if item.kind == "param"})
        if self._datasets or self._models:
            inputs = list(self._datasets.values())
            refusals = refusals + deliver_inputs(store, self.run_id, inputs, list(self._models))
        if self._outputs:
            refusals = refusals + deliver_outputs(store, self.run_id, list(self._outputs.items()))
        self._metrics = self._metrics[count:]
        self.links = frozenset(self._tags)
        self._params, self._tags, self._datasets, self._models, self._outputs = {}, {}, {}, {}, {}
        self._yielding, self._rivals = set(), []
        self.position = self._left_from()
        self.since = time.monotonic()
        return refusals

    def _among_rivals(self, store: Store, missing: set[str]) -> list[Refusal]:
        """Send the later values of params of which the first was refused; what was refused of all later ones."""
        refusals: list[Refusal] = []
        stand = {key: value for key, value in self._params.items() if key not in missing}
        for key, value in self._rivals:
            if key not in stand:
                refused = deliver(store, self.run_id, params={key: value})
                refusals += refused
                if not refused:
                    stand[key] = value
            elif stand[key] != value:
                told = f"the run has it as {stand[key]!r}"
                refusals.append(Refusal(kind="param", key=key, value=value, reason=told))
        return refusals

    def _left_from(self) -> int:
        """Where the records of the points begin that are left; further to the front, if that is not known."""
        return self._last if len(self._metrics) <= self._of_last else self.position

    def refused(self, reason: str) -> list[Refusal]:
        """All of it, as refused."""
        letters = [Refusal.of_point(item, reason) for item in self._metrics]
        params = [*self._params.items(), *self._rivals]
        letters += [Refusal(kind="param", key=key, value=value, reason=reason) for key, value in params]
        letters += [Refusal(kind="tag", key=key, value=value, reason=reason) for key, value in self._tags.items()]
        outputs = list(self._outputs.items())
        return letters + all_refused(list(self._datasets.values()), list(self._models), outputs, reason)
