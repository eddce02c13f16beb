"""Reading the graph out of a tracking back end: level by level, both ways, across experiments.

Upstream links stand on the run itself, so a whole level of them is one request (two with the parents, for their
names). Downstream links stand on the consumers and are found by the NAME of a tag, one indexed look-up for each run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from tracklayer.context import RunRef
from tracklayer.exceptions import AccessDenied, NotFound, StoreError
from tracklayer.identity import PARENT_TAG, member_tag, upstream_tag
from tracklayer.lineage.graph import DatasetNode, Edge, Graph, RunNode, State
from tracklayer.lineage.nodes import dataset_node, run_node
from tracklayer.lineage.query import RUN_ID
from tracklayer.linking import read_links
from tracklayer.parent import BALLOT

if TYPE_CHECKING:
    from tracklayer.store import Run, Store

DEPTH: Final = 20
"""How many links are followed in each direction, unless asked otherwise."""

LIMIT: Final = 500
"""How many runs are read, parents included, unless asked otherwise."""

_BATCH: Final = 100
_SINGLE: Final = 20
"""At most so many runs that a search does not find are asked for one by one."""

Page = Callable[[RunRef], "str | None"]
"""The address of a run's page; None where nobody serves one."""


def read(
    store: Store,
    run_id: str,
    *,
    upstream: bool = True,
    downstream: bool = True,
    depth: int = DEPTH,
    limit: int = LIMIT,
    page: Page | None = None,
) -> Graph:
    """Read what is linked to a run.

    Upstream of it is everything that it was made from, downstream everything that was made from it; runs that merely
    share an ancestor are neither. A workflow-run parent is asked about together with its stage runs.

    Args:
        store: the tracking back end.
        run_id: the run; a deleted one can be asked about too.
        upstream: whether to look towards the data.
        downstream: whether to look towards what uses it.
        depth: how many links are followed in each direction.
        limit: how many runs are read at most.
        page: gives each run the address of its page; None: no run has one.

    Raises:
        NotFound: there is no such run.
        StoreError: the back end could not be asked.
    """
    reading = _Reading(store, max(limit, 1), page or (lambda _: None))
    start = reading.start(run_id)
    if upstream:
        reading.upwards(start, depth)
    if downstream:
        reading.downwards(start, depth)
    return reading.graph(run_id, tuple(start[1:]))


class _Reading:
    """The state of one reading: what was found so far."""

    def __init__(self, store: Store, limit: int, page: Page) -> None:
        self._store = store
        self._limit = limit
        self._page = page
        self._runs: dict[str, Run] = {}
        self._states: dict[str, State] = {}
        self._edges: dict[tuple[str, str, str, str | None], Edge] = {}
        self._notices: dict[str, None] = {}
        self._active: dict[str, str] | None = None

    def start(self, run_id: str) -> list[str]:
        """Read the run that was asked about and, of a workflow run, its stage runs; their ids, its own first."""
        run = self._store.get_run(run_id)
        self._add([run], "deleted" if run.deleted else "active")
        ids = [run.run_id]
        key = run.tags.get("tracklayer.key")
        if key and run_node(run, "active").is_workflow_run:
            found = self._search(f"tags.`{member_tag(key)}` != ''")
            ids += [member.run_id for member in found if member.run_id not in ids]
        self._with_parents(ids)
        return ids

    def upwards(self, start: Sequence[str], depth: int) -> None:
        """Follow links towards the data."""
        seen = set(start)
        level = list(start)
        for step in range(depth + 1):
            edges = [edge for run_id in level for edge in self._links_of(run_id)]
            sources = list(dict.fromkeys(edge.source for edge in edges if edge.source not in seen))
            if not sources:
                self._take(edges)
                return
            if step == depth:
                self._take([edge for edge in edges if edge.source in self._runs])
                self._notices[f"stopped {depth} links upstream; there is more (--depth)"] = None
                return
            self._fetch(sources)
            self._take(edges)
            level = [source for source in sources if source in self._runs]
            self._with_parents(level)
            seen.update(sources)

    def downwards(self, start: Sequence[str], depth: int) -> None:
        """Follow links towards what was made from it."""
        seen = set(start)
        level = list(start)
        for step in range(depth + 1):
            found: dict[str, Run] = {}
            for run_id in level:
                if not RUN_ID.fullmatch(run_id):
                    continue
                consumers = self._search(f"tags.`{upstream_tag(run_id)}` != ''", peek=step == depth)
                if consumers and step == depth:
                    self._notices[f"stopped {depth} links downstream; there is more (--depth)"] = None
                    return
                found.update((consumer.run_id, consumer) for consumer in consumers)
            for consumer in found:
                self._take(edge for edge in self._links_of(consumer) if edge.source in level)
            level = [run_id for run_id in found if run_id not in seen]
            if not level:
                return
            self._with_parents(level)
            seen.update(level)

    def graph(self, root: str, members: tuple[str, ...]) -> Graph:
        """What was found, as values."""
        experiments = self._names()
        nodes = []
        for run_id, state in self._states.items():
            run = self._runs.get(run_id)
            if run is None:
                nodes.append(RunNode(id=run_id, state=state))
                continue
            ref = RunRef(run_id=run.run_id, experiment_id=run.experiment_id)
            nodes.append(run_node(run, state, experiments.get(run.experiment_id), self._page(ref)))
        datasets: dict[str, DatasetNode] = {}
        edges = list(self._edges.values())
        for run in self._runs.values():
            for dataset in run.datasets:
                if dataset.name == BALLOT:  # how parents are elected, not data
                    continue
                node = dataset_node(dataset)
                datasets.setdefault(node.id, node)
                made = dataset.context == "produced"
                source, target = (run.run_id, node.id) if made else (node.id, run.run_id)
                edges.append(Edge(source=source, target=target, kind="output" if made else "input"))
        return Graph(
            root=root,
            members=members,
            runs=tuple(nodes),
            datasets=tuple(datasets.values()),
            edges=tuple(dict.fromkeys(edges)),
            notices=tuple(self._notices),
        )

    # ------------------------------------------------------------------------------------------------ links

    def _links_of(self, run_id: str) -> list[Edge]:
        """The edges that feed a run. One without links of its own is fed through its outer run, if that is."""
        run = self._runs.get(run_id)
        if run is None:
            return []
        edges = [
            Edge(source=link.run.run_id, target=run_id, kind=link.kind, dataset=link.dataset, digest=link.digest)
            for link in read_links(run.tags)
            if link.run.run_id != run_id
        ]
        parent = self._runs.get(run.tags.get(PARENT_TAG, ""))
        if not edges and parent is not None and (read_links(parent.tags) or parent.tags.get("tracklayer.stage")):
            edges.append(Edge(source=parent.run_id, target=run_id, kind="nested"))
        return edges

    def _take(self, edges: Iterable[Edge]) -> None:
        for edge in edges:
            if edge.source in self._states and edge.target in self._states:
                self._edges.setdefault((edge.source, edge.target, edge.kind, edge.dataset), edge)

    # ------------------------------------------------------------------------------------------------ runs

    def _add(self, runs: Iterable[Run], state: State) -> None:
        for run in runs:
            if run.run_id not in self._states:
                self._runs[run.run_id] = run
                self._states[run.run_id] = state

    def _room(self) -> int:
        return self._limit - len(self._states)

    def _full(self) -> None:
        self._notices[f"only the first {self._limit} runs are shown; there are more (--limit)"] = None

    def _search(self, filter_string: str, *, peek: bool = False) -> Sequence[Run]:
        """Live runs that match, oldest first, as many as there is room for (with `peek`: one that is not known yet)."""
        known = len(self._states)
        runs = self._store.search_runs(
            list(self._experiments()),
            filter_string,
            order_by=["attributes.start_time ASC"],
            limit=known + 1 if peek else self._limit + 1,
        )
        if peek:
            return [run for run in runs if run.run_id not in self._states]
        new = [run for run in runs if run.run_id not in self._states]
        if len(new) > self._room():
            self._full()
            new = new[: max(self._room(), 0)]
        self._add(new, "active")
        return [run for run in runs if run.run_id in self._states]

    def _with_parents(self, run_ids: Iterable[str]) -> None:
        """Read the parents of these runs, for their names: one request for all of them."""
        parents = (self._runs[run_id].tags.get(PARENT_TAG) for run_id in run_ids if run_id in self._runs)
        self._fetch([parent for parent in dict.fromkeys(parents) if parent])

    def _fetch(self, run_ids: Sequence[str]) -> None:
        """Read runs that are not known yet; those that cannot be read become nodes that say so."""
        wanted = [run_id for run_id in run_ids if run_id not in self._states]
        if len(wanted) > self._room():
            self._full()
            wanted = wanted[: max(self._room(), 0)]
        askable = [run_id for run_id in wanted if RUN_ID.fullmatch(run_id)]
        for deleted in (False, True):
            askable = [run_id for run_id in askable if run_id not in self._states]
            for begin in range(0, len(askable), _BATCH):
                batch = askable[begin : begin + _BATCH]
                listed = ", ".join(f"'{run_id}'" for run_id in batch)
                runs = self._store.search_runs(
                    list(self._experiments()), f"attributes.run_id IN ({listed})", limit=len(batch), deleted=deleted
                )
                self._add(runs, "deleted" if deleted else "active")
        for count, run_id in enumerate(run_id for run_id in wanted if run_id not in self._states):
            self._states[run_id] = self._single(run_id) if count < _SINGLE and run_id in askable else "missing"

    def _single(self, run_id: str) -> State:
        """Read a run that no search finds, because its whole experiment is deleted, or it may not be read."""
        try:
            run = self._store.get_run(run_id)
        except AccessDenied:
            return "hidden"
        except NotFound:
            return "missing"
        self._runs[run_id] = run
        return "deleted"

    def _experiments(self) -> dict[str, str]:
        """Names of the active experiments by id. MLflow searches only where it is told to, so all are asked for once."""
        if self._active is None:
            self._active = {each.experiment_id: each.name for each in self._store.search_experiments()}
        return self._active

    def _names(self) -> dict[str, str]:
        """Names of the experiments of the runs that were found, also of deleted ones."""
        names = dict(self._experiments())
        for experiment_id in dict.fromkeys(run.experiment_id for run in self._runs.values()):
            if experiment_id in names:
                continue
            try:
                names[experiment_id] = self._store.get_experiment(experiment_id).name
            except (NotFound, AccessDenied) as error:
                self._notices[f"the name of experiment {experiment_id} cannot be read: {_reason(error)}"] = None
        return names


def _reason(error: StoreError) -> str:
    return str(error) or type(error).__name__
