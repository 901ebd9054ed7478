#!/usr/bin/env python3
"""Checks what a compiler cannot: the direction of #includes between the layers, the sizes that keep the code
readable, machine paths in tracked files, and the size of the repository. Prints file:line for each offence.

usage: scripts/check_layers.py [--self-test]
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What each layer may include besides itself. Dependencies point down only; "include" is the public API.
BELOW_MODEL = {"include", "base", "format", "ops", "backend"}  # of backend: only the headers directly in it
BELOW_ENGINE = BELOW_MODEL | {"model", "text"}
LAYERS = {
    "include": set(),
    "base": {"include"},
    "format": {"include", "base"},
    "text": {"include", "base"},
    "ops": {"include", "base", "format"},
    "backend": {"include", "base", "format", "ops"},
    "model": BELOW_MODEL,
    "engine": BELOW_ENGINE,
    "quantize": BELOW_ENGINE | {"engine"},
    "eval": BELOW_ENGINE | {"engine"},
    "server": {"include"},
    "cli": {"include", "base", "format", "quantize", "eval", "server"},
}
# System headers that one folder alone may know.
FENCED_SYSTEM_HEADERS = {
    "src/backend/metal": re.compile(r"^(Metal|Foundation|QuartzCore|MetalPerformanceShaders)/"),
    "src/backend/cuda": re.compile(r"^(cuda|cublas|nccl|cooperative_groups)"),
}

MAX_FILE_LINES = 1000
MAX_FUNCTION_LINES = 70
MAX_KERNEL_LINES = 300
MAX_REPOSITORY_BYTES = 40 << 20

CXX = {".cc", ".cpp", ".h", ".hpp", ".cu", ".cuh", ".metal", ".mm"}
CODE = CXX | {".py", ".sh", ".js", ".mjs", ".ts", ".cmake"}
# Spelled in two parts, so that this file passes its own check.
MACHINE_PATH = re.compile(r"(?<![\w.])/(" + "|".join(["work", "root", "home"]) + r")/")
INCLUDE = re.compile(r'^\s*#\s*(?:include|import)\s*(["<])([^">]+)[">]')


def lines_of(path):
    return path.read_text(encoding="utf-8", errors="replace").split("\n")


# --- the direction of includes -------------------------------------------------------------------


def layer_of(file):
    """The layer of a file given by its path from the root, or None for tests and the like."""
    parts = file.split("/")
    if parts[0] == "include":
        return "include"
    return parts[1] if parts[0] == "src" and len(parts) > 2 else None


def resolve(root, file, name):
    """The path from the root of a project header included as "name" in file, or None if it is none of ours."""
    for base in ("src", "include", os.path.dirname(file)):
        candidate = os.path.normpath(os.path.join(base, name))
        if (root / candidate).is_file():
            return candidate
    return None


def include_fault(file, target):
    """Why file must not include target (both paths from the root), or None."""
    source, dest = layer_of(file), layer_of(target)
    if source is None:
        return None
    if dest is None:
        return f"src must not include {target}"
    if dest != source:
        if source not in LAYERS:
            return f"folder src/{source} is not in the table of layers"
        if dest not in LAYERS[source]:
            return f"{source} must not include {target} (allowed: {', '.join(sorted(LAYERS[source])) or 'nothing'})"
    if dest == "backend" and target.count("/") > 2 and os.path.dirname(file) != "src/backend":
        implementation = "/".join(target.split("/")[:3]) + "/"
        if not file.startswith(implementation):
            return f"{target} is private to {implementation}"
    if target.startswith("src/ops/ref/") and source != "ops" and not file.startswith("src/backend/reference/"):
        return f"{target} is the oracle, for tests and backend/reference only"
    return None


def check_includes(root, files):
    for file in files:
        if Path(file).suffix not in CXX or layer_of(file) is None:
            continue
        for number, line in enumerate(lines_of(root / file), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quote, name = match.groups()
            if quote == "<":
                for folder, pattern in FENCED_SYSTEM_HEADERS.items():
                    if pattern.match(name) and not file.startswith(folder + "/"):
                        yield f"{file}:{number}: <{name}> belongs to {folder} alone"
            if ".." in name.split("/"):
                yield f"{file}:{number}: include \"{name}\" by its path from src/"
            target = resolve(root, file, name)
            fault = target and include_fault(file, target)
            if fault:
                yield f"{file}:{number}: {fault}"


# --- sizes ---------------------------------------------------------------------------------------

# Everything whose braces and parentheses are not structure. Raw strings first, directives with their continuations.
NOISE = re.compile(
    r'R"([^()\\\s]{0,16})\(.*?\)\1"|//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\''
    r"|^[ \t]*#(?:\\\n|[^\n])*",
    re.S | re.M,
)


def without_noise(text):
    """text with comments, literals and directives blanked out, every line kept in its place."""
    return NOISE.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def innermost_removed(text, opening, closing):
    pattern = re.compile(re.escape(opening) + r"[^" + re.escape(opening + closing) + r"]*" + re.escape(closing))
    while True:
        shorter = pattern.sub(" ", text)
        if shorter == text:
            return text
        text = shorter


def opens(header):
    """What the brace after header opens, at namespace or class scope: 'scope', 'function', 'data', or
    'member': an initialiser after which the header goes on."""
    text = re.sub(r"\boperator\s*(\(\s*\)|[^\s\w(]+)", "operator_", header)
    if text.count("(") > text.count(")"):
        return "member"  # an initialiser among the parameters
    has_parameters = "(" in text
    text = innermost_removed(text, "(", ")")
    text = re.sub(r"\btemplate\s*", " ", innermost_removed(text, "<", ">"))
    text = re.sub(r"\[\[.*?\]\]|::|\b(public|private|protected)\s*:", " ", text).strip()
    if re.match(r"(inline\s+)?(namespace|class|struct|union|enum|extern)\b", text) and not (
        has_parameters and re.search(r"\w\s+\w+\s*$", text) and not re.match(r".*\b(alignas|final|__attribute__|:)", text)
    ):
        return "scope"
    if re.search(r"(^|[^\w])concept\b", text):
        return "data"
    if "=" in text:
        return "function" if re.search(r"\]\s*(mutable|noexcept)?\s*$", text) else "data"
    if not has_parameters:
        return "data"
    # Foo::Foo() : member_{1}, other_(2) { ... }: a brace right after a name initialises that member.
    if re.search(r":.*[\w>]\s*$", text) and header.rstrip()[-1:] not in ")}":
        return "member"
    return "function"


def functions(text):
    """Yields (first line, last line, name) of every function at namespace or class scope."""
    clean = without_noise(text)
    stack, header, begin, line = [], "", 1, 1
    inside = None  # (depth, first line, name, kind) of the function or initialiser being skipped
    for char in clean:
        if char == "\n":
            line += 1
        if inside:
            if char == "{":
                stack.append(None)
            elif char == "}" and stack:
                stack.pop()
                if len(stack) == inside[0]:
                    if inside[3] == "function":
                        yield inside[1], line, inside[2]
                    header = header + "}" if inside[3] == "member" else ""
                    inside = None
            continue
        if char == "{":
            kind = opens(header)
            if kind == "scope":
                header = ""
            else:
                name = re.findall(r"([~\w]+)\s*\(", header)
                inside = (len(stack), begin, name[0] if name else "(lambda)", kind)
            stack.append(None)
        elif char == "}":
            if stack:
                stack.pop()
            header = ""
        elif char == ";" and header.count("(") == header.count(")"):
            header = ""
        else:
            if not header.strip() and not char.isspace():
                begin = line
            header += char


def check_sizes(root, files):
    for file in files:
        suffix = Path(file).suffix
        if suffix not in CODE:
            continue
        text = (root / file).read_text(encoding="utf-8", errors="replace")
        count = text.count("\n")
        if count > MAX_FILE_LINES:
            yield f"{file}:{count}: {count} lines, at most {MAX_FILE_LINES} are allowed"
        if suffix not in CXX:
            continue
        limit = MAX_KERNEL_LINES if "/kernels/" in file else MAX_FUNCTION_LINES
        for first, last, name in functions(text):
            if last - first + 1 > limit:
                yield f"{file}:{first}: {name} has {last - first + 1} lines, at most {limit} are allowed"


# --- the repository ------------------------------------------------------------------------------


def check_paths(root, files):
    for file in files:
        data = (root / file).read_bytes()
        if b"\0" in data[:8192]:
            continue
        for number, line in enumerate(data.decode("utf-8", errors="replace").split("\n"), 1):
            if MACHINE_PATH.search(line):
                yield f"{file}:{number}: a path of one machine: {line.strip()[:100]}"


def check_repository_size(root, files, limit=MAX_REPOSITORY_BYTES):
    sizes = sorted(((root / file).stat().st_size, file) for file in files)
    total = sum(size for size, _ in sizes)
    if total > limit:
        largest = ", ".join(f"{file} {size / 2**20:.1f}" for size, file in sizes[:-4:-1])
        yield f"tracked files: {total / 2**20:.1f} MiB, at most {limit / 2**20:.1f} are allowed (largest: {largest})"


def tracked_files(root):
    out = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True).stdout
    names = [name for name in out.decode().split("\0") if name]
    return [name for name in names if (root / name).is_file() and not (root / name).is_symlink()]


# --- self-test -----------------------------------------------------------------------------------


def body(lines):
    return "\n".join("  x();" for _ in range(lines - 2))


PARSER_CASES = [  # (source, lines of each function found)
    ("namespace a {\nint f() {\n return 1;\n}\n}\n", [3]),
    ("template <typename T>\nclass alignas(64) Foo final : public Bar<int(int)> {\n void g() const { h({1, 2}); }\n};\n", [1]),
    ("Foo::Foo(int a) : a_{a}, b_(2), c_{3} {\n  run();\n}\n", [3]),
    ("Foo::Foo() : a_{1} {}\nvoid g() {\n}\n", [1, 2]),
    ("const int kTable[] = {\n1,\n2};\nauto f = [](int a) {\n return a;\n};\n", [3]),
    ('const char* s = R"x({{ (}")x";\nchar c = \'{\';\nint n = 1\'000;\nvoid f() {\n  // }\n}\n', [3]),
    ("#define M(x) {\nbool operator==(const A& a, const A& b) {\n return true;\n}\n", [3]),
    ("struct P {\n int a = 1;\n std::vector<int> v{1, 2};\n Options f(Options o = {}) {\n  return o;\n }\n};\n", [3]),
    ("TEST(A, B) {\n for (;;) {\n }\n}\n", [4]),
    ("struct Point make(int x) {\n return {x};\n}\nauto g() -> std::vector<int> {\n}\n", [3, 2]),
]


def self_test():
    for source, expected in PARSER_CASES:
        found = [last - first + 1 for first, last, _ in functions(source)]
        assert found == expected, f"{source!r}: found {found}, expected {expected}"

    machine_path = "/" + "home/someone/model"
    good = {
        "include/marlin/error.h": "#pragma once\n",
        "src/base/a.h": '#include "marlin/error.h"\n#include "b.h"\n',
        "src/base/b.h": "void f() {\n" + body(70) + "\n}\n",
        "src/ops/ops.h": '#include "base/a.h"\n',
        "src/backend/backend.h": '#include "ops/ops.h"\n',
        "src/backend/registry.cc": '#include "backend/cpu/cpu.h"\n',
        "src/backend/cpu/cpu.h": '#include "backend/backend.h"\n',
        "src/backend/cuda/device.cc": "#include <cuda_runtime.h>\n",
        "src/model/forward.cc": '#include "backend/backend.h"\n#include "ops/ops.h"\n',
        "src/backend/cpu/kernels/k.h": "void k() {\n" + body(300) + "\n}\n",
        "tests/a_test.cc": '#include "backend/cpu/cpu.h"\n',
        "docs/web.md": "https://example.org/work/x and build/work/y\n",
        "src/base/long.cc": "\n" * 1000,
    }
    bad = [  # (file, contents, what must be reported)
        ("src/base/up.cc", '#include "ops/ops.h"\n', "base must not include src/ops/ops.h"),
        ("src/text/t.cc", '\n\n#include "ops/ops.h"\n', "src/text/t.cc:3: "),
        ("src/server/s.cc", '#include "base/a.h"\n', "server must not include"),
        ("src/model/m.cc", '#include "backend/cpu/cpu.h"\n', "private to src/backend/cpu/"),
        ("src/backend/cuda/c.cc", '#include "backend/cpu/cpu.h"\n', "private to src/backend/cpu/"),
        ("include/marlin/e.h", '#include "base/a.h"\n', "include must not include"),
        ("src/ops/rel.cc", '#include "../base/a.h"\n', "by its path from src/"),
        ("src/new/n.cc", '#include "base/a.h"\n', "not in the table of layers"),
        ("src/model/g.cc", "#include <cuda_runtime.h>\n", "belongs to src/backend/cuda alone"),
        ("src/base/f.cc", "int one;\nvoid big() {\n" + body(71) + "\n}\n", "src/base/f.cc:2: big has 71 lines"),
        ("src/backend/cpu/kernels/b.h", "void big() {\n" + body(301) + "\n}\n", "big has 301 lines"),
        ("tools/long.py", "\n" * 1001, "1001 lines"),
        ("docs/p.md", f"see\n`{machine_path}`\n", "docs/p.md:2: a path of one machine"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def write(name, text):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

        for name, text in good.items():
            write(name, text)
        assert (found := list(check_all(root, list(good)))) == [], found
        for name, text, report in bad:
            write(name, text)
            found = list(check_all(root, [*good, name]))
            assert len(found) == 1 and report in found[0], f"{name}: expected one report of {report!r}, got {found}"
            (root / name).unlink()
        write("models/big.bin", "\0" * 2000)
        assert list(check_repository_size(root, ["models/big.bin"], limit=1999))
        assert not list(check_repository_size(root, ["models/big.bin"], limit=2000))
    print("check_layers: self-test passed")


def check_all(root, files):
    for check in (check_includes, check_sizes, check_paths, check_repository_size):
        yield from check(root, files)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-test", action="store_true", help="prove that each check fires")
    if parser.parse_args().self_test:
        return self_test()
    faults = list(check_all(ROOT, tracked_files(ROOT)))
    for fault in faults:
        print(fault)
    print(f"check_layers: {len(faults)} offence(s)" if faults else "check_layers: ok")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
