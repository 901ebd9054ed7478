#!/usr/bin/env python3
"""Every line of lint/bad that says so is reported by the rule that it names; no other line, and nothing in good files."""
import re
import subprocess
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
METAL = HERE.parent
sys.path.insert(0, str(HERE))

import metal_lint  # noqa: E402

SHADERS = METAL.parent.parent / "src" / "backend" / "metal" / "kernels"


class LintTest(unittest.TestCase):
    def test_bad_lines(self):
        for source in sorted((HERE / "bad").glob("*.metal")):
            marks = {}
            for number, line in enumerate(source.read_text().split("\n"), 1):
                match = re.search(r"// bad: ([\w-]+)$", line)
                if match:
                    marks[number] = match.group(1)
            found = {}
            for _, line, _, rule, message in metal_lint.lint(source):
                found.setdefault(line, []).append((rule, message))
            for line, rule in marks.items():
                self.assertIn(rule, [r for r, _ in found.get(line, [])], f"{source.name}:{line}: found {found.get(line)}")
            self.assertGreater(len(marks), 10)
            self.assertEqual({line: found[line] for line in found if line not in marks}, {}, source.name)

    def test_good_files(self):
        good = [*SHADERS.glob("*.metal"), *(METAL / "fake_kernels").glob("*.metal"), METAL / "defects" / "legal.metal"]
        self.assertGreater(len(good), 7)
        for source in good:
            self.assertEqual(metal_lint.lint(source, includes=[SHADERS]), [], source.name)

    def test_exit_status(self):
        for source, status in ((HERE / "bad" / "types.metal", 1), (METAL / "fake_kernels" / "simple.metal", 0)):
            result = subprocess.run([sys.executable, HERE / "metal_lint.py", source], capture_output=True, text=True)
            self.assertEqual(result.returncode, status, result.stdout)


if __name__ == "__main__":
    unittest.main()
