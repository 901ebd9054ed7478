#!/usr/bin/env python3
"""Runs clang-tidy on the changed sources, a few at a time. A source that passed is not checked again until it, a
project header it includes, its compile command, .clang-tidy or the tool changes.

A changed header is checked through one source that includes it. Without --base every source is checked.
The static analyzer takes three quarters of the time, so it runs only with --analyze, and never on tests (there it mostly
walks through GoogleTest's macros).
"""
import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)
NO_ANALYZER = "--checks=-clang-analyzer-*"
EXTRA = ["--quiet", "--extra-arg=-Wno-unknown-warning-option"]


def compile_commands(build):
    """{source: (folder, command)} of the sources in the tree, generated ones left out."""
    commands = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = Path(entry["directory"], entry["file"]).resolve()
        if path.is_relative_to(ROOT) and "build" not in path.relative_to(ROOT).parts and path.exists():
            commands[str(path.relative_to(ROOT))] = entry["command"].replace(str(ROOT), ".")
    return commands


class Headers:
    """Which project headers a file includes, directly or not."""

    def __init__(self):
        self.direct = {}

    def included_by(self, file):
        if file not in self.direct:
            text = (ROOT / file).read_text(errors="replace")
            places = ("src", "include", "tests", os.path.dirname(file))
            candidates = (os.path.normpath(os.path.join(place, name)) for name in INCLUDE.findall(text) for place in places)
            self.direct[file] = {name for name in candidates if (ROOT / name).is_file()}
        return self.direct[file]

    def closure(self, file):
        seen, todo = {file}, [file]
        while todo:
            new = self.included_by(todo.pop()) - seen
            seen |= new
            todo += new
        return seen


def changed_files(base):
    def git(*args):
        return subprocess.run(["git", *args], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()

    return set(git("diff", "--name-only", base)) | set(git("ls-files", "--others", "--exclude-standard"))


def sources_for(changed, sources, headers):
    """The changed sources, and for each changed header that none of them includes one source that does."""
    chosen = changed & sources
    covered = set().union(*map(headers.closure, chosen)) if chosen else set()
    for header in sorted(file for file in changed if file.endswith(".h") and (ROOT / file).exists()):
        if header in covered:
            continue
        users = [source for source in sorted(sources) if header in headers.closure(source)]
        own = header[:-2] + ".cc"
        if users:
            source = own if own in users else users[0]
            chosen.add(source)
            covered |= headers.closure(source)
    return chosen


def digest(source, command, headers, fixed):
    total = hashlib.sha256(fixed)
    total.update(command.encode())
    for file in sorted(headers.closure(source)):
        total.update(file.encode() + b"\0" + (ROOT / file).read_bytes())
    return total.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tidy", default="clang-tidy-14")
    parser.add_argument("--build", default="build/release", help="the folder of compile_commands.json")
    parser.add_argument("--base", help="check what differs from this commit")
    parser.add_argument("--analyze", action="store_true", help="run the static analyzer too")
    parser.add_argument("--cache", default=os.environ.get("LINT_CACHE", "build/lint-cache"))
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 2, 8))
    args = parser.parse_args()

    os.chdir(ROOT)
    commands, headers = compile_commands(Path(args.build)), Headers()
    chosen = set(commands)
    if args.base:
        chosen = sources_for(changed_files(args.base), set(commands), headers)
    version = subprocess.run([args.tidy, "--version"], check=True, capture_output=True).stdout
    fixed = version + Path(".clang-tidy").read_bytes() + " ".join([*EXTRA, NO_ANALYZER, str(args.analyze)]).encode()
    cache = Path(args.cache)
    cache.mkdir(parents=True, exist_ok=True)
    stamps = {source: cache / digest(source, commands[source], headers, fixed) for source in chosen}
    todo = sorted(source for source in chosen if not stamps[source].exists())
    scope = f"changed since {args.base[:12]}" if args.base else "all"
    print(f"lint: clang-tidy, {len(chosen)} source(s) ({scope}), {len(chosen) - len(todo)} of them unchanged since they passed",
          flush=True)

    def check(source):
        checks = [] if args.analyze and not source.startswith("tests/") else [NO_ANALYZER]
        run = subprocess.run([args.tidy, "-p", args.build, *EXTRA, *checks, source], capture_output=True, text=True)
        if run.returncode == 0:
            stamps[source].touch()
            return True
        print(run.stdout + "".join(line for line in run.stderr.splitlines(True) if "warnings" not in line), flush=True)
        return False

    with ThreadPoolExecutor(args.jobs) as pool:
        failed = [source for source, ok in zip(todo, pool.map(check, todo)) if not ok]
    if failed:
        print("lint: clang-tidy failed on " + " ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
