"""The workflows on GitHub and .ci/run: what they refer to exists. (GitHub's cannot run here.)"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tools import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text("utf-8"))
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
JOBS = {f"{name}.{key}": job for name, w in WORKFLOWS.items() for key, job in w["jobs"].items()}
SCRIPTS = {n: [s["run"] for s in job["steps"] if "run" in s] for n, job in JOBS.items()}
SCRIPTS[".ci/run"] = [(ROOT / ".ci" / "run").read_text("utf-8")]


def test_they_run_on_push_for_the_site_and_every_week():
    triggers = {name: workflow[True] for name, workflow in WORKFLOWS.items()}  # yaml's `on`
    assert {"push", "pull_request"} <= set(triggers["tests"])
    assert triggers["site"]["push"] == {"branches": ["main"]}
    (entry,) = triggers["weekly"]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", entry["cron"]), "once a week"


@pytest.mark.parametrize("name", JOBS)
def test_an_action_is_pinned_and_a_job_ends(name):
    job = JOBS[name]
    assert job["timeout-minutes"] <= 120
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step), step
        assert "uses" not in step or re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"])
    matrix = job.get("strategy", {}).get("matrix", {})
    steps = {step["id"] for step in job["steps"] if "id" in step}
    for expression in re.findall(r"\$\{\{ (matrix|steps)\.(\w+)", yaml.dump(job)):
        assert expression[1] in (matrix if expression[0] == "matrix" else steps), expression


@pytest.mark.skipif(os.name == "nt" or not shutil.which("make"), reason="needs make and bash")
@pytest.mark.parametrize("name", SCRIPTS)
def test_its_commands_exist(name):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for script in SCRIPTS[name]:
        for target in re.findall(r"(?m)(?:^|[;&(] ?|run: )\s*make ([a-z.][\w./-]+)", script):
            known = "$(READY)" if target == ".venv/.ready" else target
            assert re.search(rf"(?m)^{re.escape(known)}:", makefile), f"no target {target!r}"
        for extras in re.findall(r'"\.\[([\w,]+)\]"', script):
            assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
        for path in re.findall(r"\b(?:tools|tests|labkit)/[\w/.]+", script):
            assert (ROOT / path).exists(), path
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_what_installs_packages_can_write_nothing():
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}, name
    for name, job in JOBS.items():
        if "write" in job.get("permissions", {}).values():
            assert all(script.startswith("tools/publish.sh ") for script in SCRIPTS[name]), name
            assert "setup-python" not in str(job), name
        assert "token" not in yaml.dump(job.get("env", {})), name


def test_zizmor_finds_nothing():
    zizmor = shutil.which("zizmor", path=Path(sys.executable).parent) or pytest.skip("no zizmor")
    done = subprocess.run([zizmor, "--offline", "--no-progress", ROOT / ".github"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_oldest_and_newest_python_on_each_system():
    for name in ("tests.make", "tests.windows", "tests.oldest"):
        assert PROJECT["requires-python"].removeprefix(">=") in yaml.dump(JOBS[name])
    systems = {s for name in JOBS for s in re.findall(r"(\w+)-latest", yaml.dump(JOBS[name]))}
    assert systems == {"ubuntu", "macos", "windows"}
    assert any("--resolution lowest-direct" in script for script in SCRIPTS["tests.oldest"])


def test_they_hold_no_address_of_the_repository():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        addresses = re.findall(r"github\.com/(\S+?)[\"\s]", path.read_text("utf-8"))
        assert set(addresses) <= {"$GITHUB_REPOSITORY"}, "the workflows work in every copy"
