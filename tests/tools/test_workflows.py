"""The workflows on GitHub: what they refer to exists here. (They cannot run here.)"""

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
JOBS = [(f"{name}.{key}", job) for name, w in WORKFLOWS.items() for key, job in w["jobs"].items()]
each_job = pytest.mark.parametrize(("name", "job"), JOBS, ids=[name for name, _ in JOBS])


def commands(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def test_they_run_on_push_for_the_site_and_every_week():
    triggers = {name: set(workflow[True]) for name, workflow in WORKFLOWS.items()}  # yaml's `on`
    assert {"push", "pull_request"} <= triggers["tests"] and "push" in triggers["site"]
    assert WORKFLOWS["site"][True]["push"] == {"branches": ["main"]}
    (entry,) = WORKFLOWS["weekly"][True]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", entry["cron"]), "once a week"
    assert set(triggers) == {"tests", "site", "weekly"}


@each_job
def test_a_job_is_whole(name, job):
    siblings = WORKFLOWS[name.split(".")[0]]["jobs"]
    assert job.get("timeout-minutes", 0) or [s for s in job["steps"] if "deploy-pages" in str(s)]
    needed = job.get("needs", [])
    assert set([needed] if isinstance(needed, str) else needed) <= set(siblings)
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step), step
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"]), (
                "GitHub's own, pinned"
            )
    matrix = set(job.get("strategy", {}).get("matrix", {}))
    identifiers = {step["id"] for step in job["steps"] if "id" in step}
    for expression in re.findall(r"\$\{\{ (.*?) \}\}", yaml.dump(job)):
        root, key, *_ = expression.split(".")
        assert root in ("matrix", "github", "steps"), expression
        assert key in {"matrix": matrix, "steps": identifiers}.get(root, {key}), expression


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@each_job
def test_its_commands_exist(name, job):
    for script in commands(job):
        for target in re.findall(r"\bmake ([\w./-]+)", script):
            dry = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True)
            assert dry.returncode == 0, f"no target {target!r} in the Makefile"
        for extras in re.findall(r'"\.\[([\w,]+)\]"', script):
            assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
        for path in re.findall(r"\b(?:tools|tests|labkit)/[\w/.]+", script):
            assert (ROOT / path).exists(), path
        if shutil.which("bash") and os.name != "nt":
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_what_installs_packages_can_write_nothing():
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}, name
    for name, job in JOBS:
        if "write" in job.get("permissions", {}).values():
            ours = [
                script for script in commands(job) if not script.startswith("tools/publish.sh ")
            ]
            assert not ours and "setup-python" not in str(job), name
        assert "token" not in yaml.dump(job.get("env", {})), name


def test_zizmor_finds_nothing():
    zizmor = shutil.which("zizmor", path=Path(sys.executable).parent) or pytest.skip("no zizmor")
    done = subprocess.run([zizmor, "--offline", "--no-progress", ROOT / ".github"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_oldest_and_newest_python_on_each_system():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    seen = {}
    for name, job in JOBS:
        if name in ("tests.make", "tests.windows", "tests.oldest"):
            matrix = job["strategy"]["matrix"]
            (setup,) = [step["with"] for step in job["steps"] if "setup-python" in str(step)]
            for system in matrix.get("os", [job["runs-on"]]):
                pythons = matrix.get("python", [setup["python-version"]])
                seen.setdefault(system.removesuffix("-latest"), set()).update(pythons)
    assert set(seen) == {"ubuntu", "macos", "windows"}
    for pythons in seen.values():
        assert oldest in pythons and any(int(p.split(".")[1]) >= 13 for p in pythons)
    bounds = commands(dict(JOBS)["tests.oldest"])
    assert any("--resolution lowest-direct" in command for command in bounds)


def test_windows_gets_the_commands_of_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    install, test = commands(dict(JOBS)["tests.windows"])
    assert install.replace("[lab,test]", "[lab]") in readme
    assert test == "python -m pytest"


def test_they_hold_no_address_of_the_repository():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        addresses = re.findall(r"github\.com/(\S+?)[\"\s]", path.read_text("utf-8"))
        assert set(addresses) <= {"$GITHUB_REPOSITORY"}, "the workflows work in every copy"
