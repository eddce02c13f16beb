"""Every way to write a graph: what it says, and that no name from outside can say anything else."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from rich.console import Console

from tracklayer.lineage import document, dot, mermaid, picture, tree
from tracklayer.lineage.graph import DatasetNode, Edge, Graph, RunNode

HOSTILE = (
    "[red]bold[/red] [link=http://x]",
    'a"]\n  end\n  x --> y',
    "-->|x| end",
    "%%{init: {}}%%",
    "`md` **b** <script>alert(1)</script>",
    "#35;&quot; #quot;",
    "\x1b[31mred\x00\x07\r \u202egnp.exe",
    '\\" ]; } digraph other {',
    "end",
    ":smile: \\",
    "ünïcödé 漢字 😀",
    " \n ",
    "x" * 3000,
)


def run(run_id: str, task: str, workflow: str = "flights", **more: object) -> RunNode:
    group = f"airflow:default/{workflow}/r1"
    known = {
        "name": task or "r1",
        "stage": task or None,
        "status": "FINISHED",
        "orchestrator": "airflow",
        "workflow": workflow,
        "workflow_run": "r1",
        "experiment": workflow,
        "key": f"{group}/{task}#1" if task else group,
    }
    return RunNode(id=run_id, **{**known, **more})  # type: ignore[arg-type]


def shown(graph: Graph, width: int = 100) -> str:
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(tree.render(graph))
    return capture.get()


def relay() -> Graph:
    """prepare (flights) → train (model) → evaluate (model), asked about train."""
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    return Graph(
        root="t" * 8,
        runs=(
            run("t" * 8, "train", "model", started_at=noon, ended_at=noon.replace(minute=2), url="http://mlflow/#/t"),
            run("m" * 8, "", "model"),
            run("p" * 8, "prepare", "flights"),
            run("e" * 8, "evaluate", "model", status="FAILED"),
        ),
        datasets=(
            DatasetNode(id="dataset:raw", name="raw", uri="s3://raw", digest="0123456789abcdef"),
            DatasetNode(id="dataset:features", name="features", uri="s3://features", digest="d1"),
        ),
        edges=(
            Edge(source="p" * 8, target="t" * 8, kind="data", dataset="s3://features", digest="d1"),
            Edge(source="p" * 8, target="m" * 8, kind="token"),
            Edge(source="t" * 8, target="e" * 8, kind="hand-over"),
            Edge(source="dataset:raw", target="p" * 8, kind="input"),
            Edge(source="p" * 8, target="dataset:features", kind="output"),
            Edge(source="dataset:features", target="t" * 8, kind="input"),
        ),
        notices=("stopped 20 links upstream; there is more (--depth)",),
    )


def hostile() -> Graph:
    """A chain of runs and datasets, in which everything that can be named is named with malice."""
    runs = tuple(
        RunNode(
            id=f"id{number}",
            name=name,
            stage=name,
            status=name,
            outcome=name,
            orchestrator=name,
            workflow=name,
            workflow_run=name,
            experiment=f"{name} ",
            key=f"o:i/w/{number}/t#1",
            url=f'http://mlflow/"><b> {name}',
        )
        for number, name in enumerate(HOSTILE)
    )
    datasets = tuple(
        DatasetNode(id=f"dataset:{number}", name=name, uri=name, digest=name) for number, name in enumerate(HOSTILE)
    )
    links = tuple(
        Edge(source=f"id{number}", target=f"id{number + 1}", kind="token", dataset=f"{name} ", digest=name)
        for number, name in enumerate(HOSTILE[:-1])
    )
    inputs = tuple(
        Edge(source=data.id, target=node.id, kind="input") for data, node in zip(datasets, runs, strict=True)
    )
    return Graph(root=runs[-1].id, runs=runs, datasets=datasets, edges=(*links, *inputs), notices=HOSTILE)


class TestPicture:
    def test_what_is_known_twice_is_drawn_once(self) -> None:
        """The token on the workflow run, and the dataset that stands on the link, say nothing new."""
        edges = {(edge.source[0], edge.target[0], edge.kind) for edge in picture.compose(relay()).edges}

        assert edges == {("p", "t", "data"), ("t", "e", "hand-over"), ("d", "p", "input")}

    def test_runs_of_one_workflow_run_stand_together(self) -> None:
        groups = {group.title: [node.name for node in group.runs] for group in picture.compose(relay()).groups}

        assert groups == {"airflow model / r1": ["train", "evaluate"], "airflow flights / r1": ["prepare"]}

    def test_a_workflow_run_that_alone_is_linked_is_drawn(self) -> None:
        graph = Graph(
            root="p",
            runs=(run("p", "prepare"), run("m", "", "model")),
            edges=(Edge(source="p", target="m", kind="token"),),
        )

        assert picture.compose(graph).edges == graph.edges


class TestTree:
    def test_it_leads_to_the_data_and_to_what_uses_it(self) -> None:
        upstream, downstream = shown(relay()).split("Downstream of train")

        assert re.search(
            r"Upstream of train: what it was made from\n"
            r"airflow model / r1  2026-11-21\n"
            r"train  FINISHED  2 min 0 s  tttttttt\n"
            r"└── airflow flights / r1\n"
            r"    by data s3://features @d1\n"
            r"    prepare  FINISHED  pppppppp\n"
            r"    └── read s3://raw @0123456789ab\n",
            upstream,
        )
        assert re.search(r"└── evaluate  FAILED  eeeeeeee  handed over\n", downstream)
        assert "Note: stopped 20 links upstream" in downstream

    def test_in_a_terminal_the_name_alone_is_bold_and_links_to_the_page(self) -> None:
        console = Console(width=100, force_terminal=True, color_system="standard", markup=False, highlight=False)
        with console.capture() as capture:
            console.print(tree.render(relay()))

        pattern = r"\x1b\]8;id=\d+;http://mlflow/#/t\x1b\\\x1b\[1mtrain\x1b\[0m\x1b\]8;;\x1b\\  \x1b\[32mFINISHED"
        assert re.search(pattern, capture.get())

    def test_a_circle_ends(self) -> None:
        graph = Graph(
            root="a",
            runs=(run("a", "one"), run("b", "two")),
            edges=(Edge(source="a", target="b", kind="token"), Edge(source="b", target="a", kind="token")),
        )

        assert shown(graph).count("shown above") == 2, "once in each direction"

    def test_runs_that_cannot_be_read_say_why(self) -> None:
        graph = Graph(
            root="a",
            runs=(
                run("a", "one", superseded_by="b"),
                RunNode(id="gone", state="missing"),
                RunNode(id="secret", state="hidden"),
                run("trash", "old", state="deleted"),
            ),
            edges=tuple(Edge(source=source, target="a", kind="hand-over") for source in ("gone", "secret", "trash")),
        )

        text = shown(graph)

        assert "one  FINISHED  superseded by a later try" in text
        assert "gone  not in this tracking server" in text
        assert "secret  not readable with these credentials" in text
        assert "old  FINISHED  DELETED" in text

    def test_a_run_with_nothing_linked_to_it(self) -> None:
        text = shown(Graph(root="a", runs=(RunNode(id="a"),)))

        assert "no dataset and no other run" in text
        assert "nothing yet" in text

    def test_a_workflow_run_stands_above_its_stages(self) -> None:
        graph = Graph(
            root="m",
            members=("t", "e"),
            runs=(
                run("m", "", "model"),
                run("t", "train", "model"),
                run("e", "evaluate", "model"),
                run("p", "prepare"),
            ),
            edges=(Edge(source="t", target="e", kind="hand-over"), Edge(source="p", target="t", kind="token")),
        )

        upstream, downstream = shown(graph).split("Downstream of")

        assert [upstream.index(name) for name in ("workflow run", "evaluate", "train", "prepare")] == sorted(
            upstream.index(name) for name in ("workflow run", "evaluate", "train", "prepare")
        )
        assert downstream.index("train") < downstream.index("evaluate")

    @pytest.mark.parametrize("width", [40, 80, 120])
    def test_no_name_can_steer_the_terminal_or_be_taken_for_markup(self, width: int) -> None:
        text = shown(hostile(), width)

        assert "\x1b" not in text
        assert not {"\x00", "\x07", "\r", "\u202e"} & set(text)
        assert all(len(line) <= width for line in text.splitlines())
        whole = shown(hostile(), 4000)
        assert "[red]bold[/red] [link=http://x]" in whole
        assert ":smile:" in whole
        assert "?[31mred" in whole


class TestMermaid:
    LABEL = r'"(?:[\w .,:@/+=·…-]|<br/>|#\d+;)+"'
    GRAMMAR = re.compile(
        "|".join(
            (
                r"flowchart LR|%% [^\n]*",
                rf"\s+subgraph w\d+\[{LABEL}\]|\s+end",
                rf"\s+r\d+\[{LABEL}\]|\s+d\d+\[\({LABEL}\)\]",
                rf"\s+[rd]\d+ (?:-->|-\.->)\|{LABEL}\| [rd]\d+",
                r'\s+click r\d+ href "[^"<>\s]*" _blank',
                r"\s+classDef \w+ [\w:#, -]+|\s+class [r\d,]+ \w+",
            )
        )
    )

    @pytest.mark.parametrize("graph", [relay(), hostile()], ids=["relay", "hostile"])
    def test_every_line_is_one_of_the_few_that_are_meant(self, graph: Graph) -> None:
        for line in mermaid.render(graph).splitlines():
            assert self.GRAMMAR.fullmatch(line), line
            assert "{" not in line

    def test_it_says_what_the_graph_says(self) -> None:
        text = mermaid.render(relay())

        names = dict(re.findall(r'(r\d+)\["(\w+)<br/>', text))
        edges = {
            (names[source], label, names[target])
            for source, label, target in re.findall(r'(r\d+) -->\|"(.*)"\| (r\d+)', text)
        }
        assert edges == {("prepare", "by data s3://features @d1", "train"), ("train", "handed over", "evaluate")}
        assert "click r0 href" in text
        assert "class r0 asked" in text


class TestDot:
    @pytest.mark.parametrize("graph", [relay(), hostile()], ids=["relay", "hostile"])
    def test_outside_of_quotes_stand_only_our_own_words(self, graph: Graph) -> None:
        lines = [line for line in dot.render(graph).splitlines() if not line.strip().startswith("//")]

        left = re.sub(r'"(?:[^"\\]|\\.)*"', "Q", "\n".join(lines))

        for line in left.splitlines():
            assert re.fullmatch(
                r"digraph lineage \{|\s*\}|\s*rankdir=LR;|\s+node \[[\w=, Q]+\];|\s+subgraph cluster_\d+ \{|\s+label=Q;"
                r"|\s+[rd]\d+ \[[\w=., Q]+\];|\s+[rd]\d+ -> [rd]\d+ \[[\w=, Q]+\];",
                line,
            ), line

    def test_html_entities_stay_text(self) -> None:
        assert dot.quoted("&quot;") == '"&amp;quot;"'


class TestDocument:
    def test_names_are_whole_and_moments_are_utc(self) -> None:
        told = json.loads(document.render(hostile()))

        assert [node["name"] for node in told["nodes"] if node["type"] == "run"] == list(HOSTILE)
        assert json.loads(document.render(relay()))["nodes"][0]["started_at"] == "2026-11-21T12:00:00+00:00"

    def test_every_field_is_always_there(self) -> None:
        told = document.as_dict(Graph(root="a", runs=(RunNode(id="a", state="missing"),)))

        assert told == {
            "schema": "tracklayer.lineage/1",
            "root": "a",
            "members": [],
            "nodes": [
                {
                    "type": "run",
                    "id": "a",
                    "state": "missing",
                    **dict.fromkeys(
                        (
                            *("name", "experiment_id", "experiment", "stage", "status", "outcome", "orchestrator"),
                            *("workflow", "workflow_run", "key", "parent", "superseded_by", "started_at", "ended_at"),
                            *("url", "group"),
                        )
                    ),
                }
            ],
            "edges": [],
            "notices": [],
        }
