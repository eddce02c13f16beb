"""Reconciling: MLflow is made to agree with what really happened.

A process that is killed, a server that was away, a network that was split, somebody at the trash: each can leave runs
in MLflow that say something else than the orchestrator. `examine` compares the two and says what it would change;
`repair` changes it. Both can be repeated at will, and run at the same time as each other and as the pipelines.

==============  ======================================================================================================
module          what it is
==============  ======================================================================================================
`findings`      what is found: one frozen value for each thing that is wrong
`scope`         which runs are looked at
`reading`       runs, page by page
`truth`         what has become of a run, by its orchestrator's word or by its process
`openness`      runs that are open though what they stand for has ended
`relations`     duplicate parents, runs whose parent is gone, links that never resolved
`examination`   all of that: `examine`
`relinking`     links moved from one run to another, in tags and descriptions
`repairing`     `repair`
==============  ======================================================================================================
"""

from __future__ import annotations

from tracklayer.reconcile.examination import examine
from tracklayer.reconcile.findings import Finding, Findings, LeftAlone
from tracklayer.reconcile.repairing import Repair, repair
from tracklayer.reconcile.scope import Scope

__all__ = ["Finding", "Findings", "LeftAlone", "Repair", "Scope", "examine", "repair"]
