#!/usr/bin/env python3
"""The command line on the emulated Metal device, end to end: host code, shaders, engine."""
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cli"))
import cli  # noqa: E402

DEVICE = ("--device", "metal-emulated")


class MetalTest(cli.CliTest):
    def generate(self, *args):
        result = self.mmfp4("generate", "-m", str(self.model), "-p", "What is 23 + 45?", "--temperature", "0", *args)
        self.assertEqual(result.code, 0, result)
        return result.stdout

    def test_the_answer_is_the_cpus(self):
        answer = self.generate("--device", "cpu")
        self.assertIn("68", answer)
        self.assertEqual(self.generate(*DEVICE), answer)

    def test_options_that_choose_other_kernels_give_the_answer(self):
        for options in (["--no-fused-moe"], ["--deterministic"], ["--kv", "q8"], ["--check-numerics"]):
            with self.subTest(options=options):
                self.assertIn("68", self.generate(*DEVICE, *options))

    def test_sampling_on_the_device_repeats_with_its_seed(self):
        options = ("--temperature", "0.8", "--top-p", "0.95", "--seed", "7", "--max-tokens", "24", *DEVICE)
        first = self.mmfp4("generate", "-m", str(self.model), "-p", "Tell me a story.", *options)
        second = self.mmfp4("generate", "-m", str(self.model), "-p", "Tell me a story.", *options)
        self.assertEqual(first.code, 0, first)
        self.assertEqual(first.stdout, second.stdout)

    def test_auto_does_not_choose_an_emulator(self):
        result = self.run_cli("doctor")
        self.assertRegex(result.stdout, re.compile(r"^ *metal-emulated +Fake", re.M))
        verbose = self.mmfp4("generate", "-m", str(self.model), "-p", "Hello", "--max-tokens", "1")
        self.assertIn("on cpu", verbose.stderr)


if __name__ == "__main__":
    cli.main()
