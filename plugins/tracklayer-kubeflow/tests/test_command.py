from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tracklayer_kubeflow.command import NotAPythonComponent, is_supervised, supervised

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = (
    'program_path=$(mktemp -d)\n\nprintf "%s" "$0" > "$program_path/ephemeral_component.py"\n'
    '_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main    --component_module_path "$program_path/x.py" "$@"\n'
)
SOURCE = 'def component():\n    print("python3 -m kfp.dsl.executor_main")\n'
FAKE_PYTHON = """#!/bin/sh
if [ "$1" = "-c" ]; then exit {guard}; fi
echo "python3" "$@"
exit 7
"""


def test_only_the_call_of_the_executor_changes() -> None:
    command = supervised(["sh", "-c", "install", "sh", "-ec", SCRIPT, SOURCE], "data-prep")
    assert command[:5] == ["sh", "-c", "install", "sh", "-ec"]
    assert command[6] == SOURCE
    before, _, after = command[5].partition("if python3")
    assert before == SCRIPT.partition("_KFP_RUNTIME")[0]
    assert (
        "_KFP_RUNTIME=true python3 -m tracklayer_kubeflow.supervise --stage data-prep -m kfp.dsl.executor_main" in after
    )
    assert SCRIPT.splitlines()[3] in after


@pytest.mark.parametrize(("guard", "tracked"), [(0, True), (1, False)])
@pytest.mark.parametrize("stage", ["training", "what I do; echo $HOME", None])
def test_the_script_runs_with_and_without_our_package_in_the_image(
    tmp_path: Path, guard: int, tracked: bool, stage: str | None
) -> None:
    python = tmp_path / "python3"
    python.write_text(FAKE_PYTHON.format(guard=guard))
    python.chmod(0o755)
    command = supervised(["sh", "-ec", SCRIPT, SOURCE], stage)
    ran = subprocess.run(
        [*command, "--executor_input", "{}", "two words"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "TMPDIR": str(tmp_path)},  # the script leaves a folder there
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 7, "the script ends as the executor ended"
    assert ran.stderr == ""
    expected = "python3 "
    if tracked:
        expected += "-m tracklayer_kubeflow.supervise " + (f"--stage {stage} " if stage else "")
    assert ran.stdout.startswith(f"{expected}-m kfp.dsl.executor_main --component_module_path ")
    assert ran.stdout.endswith("/x.py --executor_input {} two words\n")


@pytest.mark.parametrize("guard", [0, 1])
def test_a_containerized_component(tmp_path: Path, guard: int) -> None:
    python = tmp_path / "python3"
    python.write_text(FAKE_PYTHON.format(guard=guard))
    python.chmod(0o755)
    command = supervised(["python3", "-m", "kfp.dsl.executor_main"], "training")
    ran = subprocess.run(
        [*command, "--executor_input", "{}"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert ran.returncode == 7
    supervisor = "" if guard else "tracklayer_kubeflow.supervise --stage training -m "
    assert ran.stdout == f"python3 -m {supervisor}kfp.dsl.executor_main --executor_input {{}}\n"


def test_a_call_over_several_lines() -> None:
    script = 'set -x\npython3 -m kfp.dsl.executor_main \\\n  --one 1 \\\n  "$@"\necho done\n'
    (rewritten,) = supervised([script], None)
    assert rewritten.endswith("\nfi\necho done\n")
    assert rewritten.count('--one 1 \\\n  "$@"') == 2


def test_what_cannot_be_supervised() -> None:
    with pytest.raises(NotAPythonComponent, match="does not call"):
        supervised(["sh", "-c", "echo hello"], "training")
    with pytest.raises(NotAPythonComponent, match="tracked already"):
        supervised(supervised(["sh", "-ec", SCRIPT, SOURCE], "training"), "training")


def test_supervised_commands_are_known_again() -> None:
    assert is_supervised(supervised(["sh", "-ec", SCRIPT, SOURCE], "training"))
    assert not is_supervised(["sh", "-ec", SCRIPT, SOURCE])
