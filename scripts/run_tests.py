#!/usr/bin/env python3
"""Runs ctest in a build folder, then says in one line for each part what was skipped and why.

usage: scripts/run_tests.py BUILD [ctest arguments...]
With STRICT_SKIPS=1, as in CI, a skipped part is a failure.
"""
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

# GoogleTest: "file.cc:12: Skipped", the reason on the lines below, then "[  SKIPPED ] Suite.Name (0 ms)".
GTEST_SKIP = re.compile(r"^[^\n]*: Skipped\n(.*?)^\[  SKIPPED \] (\S+)(?:, where .*)? \(\d+ ms\)$", re.M | re.S)


def one_line(text):
    return " ".join(text.split())


def skipped_in(case):
    """[(test, reason)] of one <testcase> of ctest's report."""
    output = case.findtext("system-out") or ""
    found = [(name, one_line(reason) or "no reason given") for reason, name in GTEST_SKIP.findall(output)]
    status = case.find("skipped")
    if found or (status is None and case.get("status") not in ("notrun", "disabled")):
        return found
    lines = [line for line in output.splitlines() if line.strip()]
    said = [line for line in lines if "skip" in line.lower()]
    message = status.get("message", "") if status is not None else ""
    reason = one_line((said or lines or [message or "not run"])[-1])
    return [("", re.sub(r"^skip(ped)?: *", "", reason, flags=re.I))]


def summary(report):
    """One line a (program, reason), with the number of its tests."""
    groups = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        for test, reason in skipped_in(case):
            groups.setdefault((case.get("name"), reason), []).append(test)
    for (program, reason), tests in groups.items():
        part = program if tests == [""] else f"{program} ({tests[0]})" if len(tests) == 1 else f"{program} ({len(tests)} tests)"
        yield f"skipped: {part}: {reason}"


def node_version():
    node = shutil.which("node")
    if not node:
        return None
    match = re.match(r"v(\d+)", subprocess.run([node, "--version"], capture_output=True, text=True).stdout)
    return int(match.group(1)) if match else None


def missing_tools(lines):
    """Tools whose tests may not even have been registered, where no skipped test has said so."""
    node = node_version()
    if (node is None or node < 20) and not any("node" in line for line in lines):
        yield f"skipped: comparison with npm's tokenizers and jinja: needs node 20 or newer, found {node or 'none'} (scripts/setup.sh --ci)"


def main():
    build, *arguments = sys.argv[1:]
    report = Path(build, "ctest.xml").resolve()
    report.unlink(missing_ok=True)
    run = subprocess.run(["ctest", "--test-dir", build, "--output-on-failure", "--output-junit", str(report),
                          "--test-output-size-passed", "4000000", "--test-output-size-failed", "4000000", *arguments])
    if not report.exists():
        return run.returncode or 1
    lines = list(summary(report))
    lines += missing_tools(lines)
    print("\n".join(lines) if lines else "nothing was skipped")
    if lines and os.environ.get("STRICT_SKIPS") == "1":
        print("run_tests: STRICT_SKIPS=1 and something was skipped", file=sys.stderr)
        return 1
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
