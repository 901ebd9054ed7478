#!/usr/bin/env python3
"""Turns shaders into a C++ file that holds their text, with our headers put in, and the names of their kernels.

usage: embed_kernels.py OUT.cc A.metal B.metal ...
"""
import re
import sys
from pathlib import Path

INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.M)
KERNEL = re.compile(r"^\s*kernel\s+void\s+(\w+)\s*\(", re.M)
HOST_NAME = re.compile(r'host_name\("(\w+)"\)')
CHUNK = 12000  # compilers limit the length of a string literal


def flatten(path, seen):
    """The text of a file with each of our headers in place of its first #include."""
    lines = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        match = INCLUDE.match(line)
        if match:
            header = path.parent / match.group(1)
            if header not in seen:
                seen.add(header)
                lines.append(flatten(header, seen))
        elif line.strip() != "#pragma once":
            lines.append(line)
    return "\n".join(lines)


def literal(text):
    parts = [text[i : i + CHUNK] for i in range(0, len(text), CHUNK)]
    return "\n".join(f'R"metal({part})metal"' for part in parts)


def main():
    out, *files = sys.argv[1:]
    entries = []
    for file in map(Path, files):
        text = flatten(file, set())
        names = KERNEL.findall(text) + HOST_NAME.findall(text)
        if not names:
            sys.exit(f"{file}: no kernel found")
        listed = ", ".join(f'"{name}"' for name in names)
        entries.append(f'    {{"{file.name}",\n{literal(text)},\n     {{{listed}}}}},')
    body = "\n".join(entries)
    Path(out).write_text(
        '#include "backend/metal/pipelines.h"\n\nnamespace marlin::metal {\n\n'
        f"const std::vector<KernelSource>& kernel_sources() {{\n  static const std::vector<KernelSource> sources = {{\n"
        f"{body}\n  }};\n  return sources;\n}}\n\n}}  // namespace marlin::metal\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
