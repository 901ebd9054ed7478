#!/usr/bin/env python3
"""The lint finds in bad/*.metal exactly what the ends of their lines expect, and nothing in good.metal, in the shipped
shaders and in legal ones of other tests."""
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
METAL = HERE.parent
sys.path.insert(0, str(HERE))

import metal_lint  # noqa: E402

SHADERS = sorted((METAL.parent.parent / "src" / "backend" / "metal" / "kernels").glob("*.metal"))
LEGAL = [HERE / "good.metal", METAL / "fake_kernels" / "simple.metal", METAL / "defects" / "legal.metal"]
LEGAL += [METAL / "emulator_kernels" / "legal.metal", METAL / "emulator_kernels" / "simdgroups.metal"]
LEAST_FAULTS = 80  # planted in bad/

CONSTANTS = """#include <metal_stdlib>
constant {kind} {name} [[function_constant({index})]];
kernel void k(device {kind}* out [[buffer(0)]]) {{ out[0] = {name}; }}
"""
LONG_KERNEL = """#include <metal_stdlib>
kernel void long_one(device int* out [[buffer(0)]]) {{
{lines}}}
"""


def lint(*sources, flags=()):
    options = metal_lint.arguments([*flags, *map(str, sources)])
    return metal_lint.lint(options.files, options)


def flags_of(text):
    """A first line  // lint: FLAGS  says what the lint is called with."""
    match = re.match(r"// lint: (.*)\n", text)
    return match.group(1).split() if match else []


def expected(text):
    """(line, rule) of everything that must be reported."""
    marks = []
    for number, line in enumerate(text.split("\n"), 1):
        match = re.search(r"// expect: ([\w, -]+)$", line)
        if match:
            marks += [(number, rule) for rule in match.group(1).split(", ")]
    return sorted(marks)


class MetalLintTest(unittest.TestCase):
    maxDiff = None

    def written(self, name, text):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name) / name
        path.write_text(text)
        return path

    def test_bad_files(self):
        faults, rules = 0, set()
        for source in sorted((HERE / "bad").glob("*.metal")):
            text = source.read_text()
            with self.subTest(source.name):
                found = sorted((line, rule) for _, line, rule, _ in lint(source, flags=flags_of(text)))
                faults += len(found)
                rules |= {rule for _, rule in found}
                self.assertEqual(found, expected(text))
        self.assertGreaterEqual(faults, LEAST_FAULTS)
        self.assertEqual(rules | {"kernel-size", "syntax"}, set(metal_lint.RULES))

    def test_good_files(self):
        self.assertGreater(len(SHADERS), 5)
        self.assertEqual(lint(*SHADERS), [])
        for source in LEGAL:
            self.assertEqual(lint(source), [], source.name)

    def test_function_constants_of_several_files(self):
        one = self.written("one.metal", CONSTANTS.format(kind="uint", name="width", index=3))
        same = self.written("same.metal", CONSTANTS.format(kind="uint", name="width", index=3))
        renamed = self.written("renamed.metal", CONSTANTS.format(kind="uint", name="height", index=3))
        retyped = self.written("retyped.metal", CONSTANTS.format(kind="int", name="width", index=3))
        self.assertEqual(lint(one, same), [])
        for other in (renamed, retyped):
            self.assertEqual(lint(other), [])
            self.assertEqual([rule for _, _, rule, _ in lint(one, other)], ["function-constant"])

    def test_long_kernel(self):
        for lines, rules in ((298, []), (299, ["kernel-size"])):
            source = self.written("long.metal", LONG_KERNEL.format(lines="  out[0] += 1;\n" * lines))
            self.assertEqual([rule for _, _, rule, _ in lint(source)], rules)

    def test_unfinished_text(self):
        source = self.written("torn.metal", "#include <metal_stdlib>\nkernel void k(device int* out [[buffer(0)]]) {\n")
        self.assertIn("syntax", [rule for _, _, rule, _ in lint(source)])

    def test_command(self):
        for source, status in (("bad/types.metal", 1), ("good.metal", 0)):
            command = [sys.executable, "-B", "metal_lint.py", source]
            result = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
            self.assertEqual(result.returncode, status, result.stdout + result.stderr)
            for line in result.stdout.splitlines()[:-1]:
                self.assertRegex(line, r"^bad/types\.metal:\d+: (type|cast|double): \S")


if __name__ == "__main__":
    unittest.main()
