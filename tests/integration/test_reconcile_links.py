"""Links that lead nowhere yet are resolved: ids that were given out, datasets whose producer was not known."""

from __future__ import annotations

import json
import time

import pytest

from harness.story import dataset, link
from harness.world import PARENT, World
from tracklayer.context import RunRef, Upstream
from tracklayer.description import MARKER, NOTE_TAG, compose, run_link
from tracklayer.identity import ROOT_TAG, upstream_tag
from tracklayer.journal.courier import WANTED_TAG
from tracklayer.linking import read_links
from tracklayer.provisional import id_tag, provisional_id
from tracklayer.reconcile.findings import UnresolvedId, WantedDataset


class TestLinks:
    def test_ids_that_were_given_out_are_resolved(self, world: World) -> None:
        world.truth.workflow(world.run_id, "RUNNING")
        made, never = provisional_id(), provisional_id()
        prepare = world.author.stage(world.context, "prepare", "data-prep", tags={id_tag(made): "1"})
        pending = RunRef(run_id=made, experiment_id="pending", key=prepare.key, name="prepare")
        outer = RunRef(run_id=provisional_id(world.key), experiment_id="pending", key=world.key)
        note = compose(world.context, parent=outer, upstream=[link(pending)], user="my words")
        train = world.author.stage(
            world.context,
            "train",
            "training",
            upstream=[link(pending), link(RunRef(run_id=never, experiment_id=""))],
            tags={ROOT_TAG: outer.run_id, PARENT: outer.run_id, "tracklayer.superseded_by": made, NOTE_TAG: note},
        )

        findings = world.examine()

        assert {type(finding) for finding in findings.found} == {UnresolvedId}
        assert len(findings.found) == 4
        assert [item.run.run_id for item in findings.left_alone] == [train.run_id]
        assert never in findings.left_alone[0].because
        world.repair()
        tags = world.get(train).tags
        assert tags[PARENT] == tags[ROOT_TAG] == world.parent.run_id
        assert tags["tracklayer.superseded_by"] == prepare.run_id
        assert upstream_tag(prepare.run_id) in tags
        assert upstream_tag(made) not in tags
        assert tags[NOTE_TAG].startswith("my words")
        assert f"#/experiments/{prepare.experiment_id}/runs/{prepare.run_id})" in tags[NOTE_TAG]
        assert made not in tags[NOTE_TAG]
        assert f"/runs/{train.run_id})" in world.get(prepare).tags[NOTE_TAG]
        again = world.examine()
        assert (again.found, len(again.left_alone)) == ((), 1)

    @pytest.mark.parametrize("digest", [None, "v1"])
    def test_a_dataset_whose_producer_was_not_known(self, world: World, digest: str | None) -> None:
        world.truth.workflow(world.run_id, "RUNNING")
        uri = f"s3://{world.author.mark}/{digest}"
        wanted = {"uri": uri, "digest": digest, "at": time.time_ns() // 1_000_000 + 60_000}
        train = world.author.stage(
            world.context,
            "train",
            "training",
            tags={f"{WANTED_TAG}{'0' * 32}": json.dumps(wanted), NOTE_TAG: f"my words\n\n{MARKER}\n\n**harness** x"},
        )
        nothing = world.examine()
        assert (nothing.found, nothing.left_alone) == ((), ())

        prepare = world.author.stage(world.context, "prepare", "data-prep", makes=[dataset(uri, "v1", produced=True)])
        findings = world.examine()
        assert [type(finding) for finding in findings.found] == [WantedDataset]
        world.repair()
        now = world.get(train)
        assert read_links(now.tags) == [
            Upstream(run=RunRef(run_id=prepare.run_id, experiment_id=""), kind="data", dataset=uri, digest="v1")
        ]
        assert not [tag for tag in now.tags if tag.startswith(WANTED_TAG)]
        assert now.tags[NOTE_TAG].startswith("my words")
        assert run_link(prepare) in now.tags[NOTE_TAG]
        assert f"/runs/{train.run_id})" in world.get(prepare).tags[NOTE_TAG]
        assert world.examine().found == ()

    def test_the_producer_is_the_last_one_at_that_time(self, world: World) -> None:
        world.truth.workflow(world.run_id, "RUNNING")
        uri = f"s3://{world.author.mark}/features"
        early = world.author.stage(world.context, "early", "data-prep", makes=[dataset(uri, "v1", produced=True)])
        between = time.time_ns() // 1_000_000
        time.sleep(0.01)
        late = world.author.stage(world.context, "late", "data-prep", makes=[dataset(uri, "v2", produced=True)])
        wanted = {"uri": uri, "digest": None, "at": between}
        train = world.author.stage(
            world.context, "train", "training", tags={f"{WANTED_TAG}{'1' * 32}": json.dumps(wanted)}
        )
        world.repair()
        (found_link,) = read_links(world.get(train).tags)
        assert found_link.run.run_id == early.run_id != late.run_id
