"""What the tests of the command line share: running the program, and broken copies of the demo model."""
import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ARGS = None  # set by main(): program, model, bf16
TIMEOUT = 240  # seconds a command may take, under sanitizers too

WEATHER = {
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "tools": [{
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }],
}


class Result:
    def __init__(self, code, stdout, stderr):
        self.code = code
        self.stdout = stdout.decode("utf-8", "replace")
        self.stderr = stderr.decode("utf-8", "replace")

    def __str__(self):
        return f"exit code {self.code}\nstdout: {self.stdout}\nstderr: {self.stderr}"


class CliTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="marlin-cli-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.env = {**os.environ, "XDG_STATE_HOME": str(self.folder / "state"), "TERM": "xterm"}
        self.model = ARGS.model

    def run_cli(self, *args, stdin=b"", cwd=None):
        """Runs the program; fails when it crashes or hangs."""
        stdin = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run([ARGS.program, *args], input=stdin, capture_output=True, timeout=TIMEOUT, env=self.env,
                              cwd=cwd or self.folder)
        result = Result(done.returncode, done.stdout, done.stderr)
        self.assertGreaterEqual(result.code, 0, f"{args} died of a signal: {result}")
        self.assertIn(result.code, (0, 1, 2, 130), f"{args}: {result}")
        return result

    def mmfp4(self, command, *args, **kwargs):
        return self.run_cli("mmfp4", command, *args, **kwargs)

    def generate(self, *args, model=None, **kwargs):
        return self.mmfp4("generate", "-m", self.model if model is None else model, *args, **kwargs)

    def generate_json(self, *args, **kwargs):
        result = self.generate(*args, "--json", **kwargs)
        self.assertEqual(result.code, 0, result)
        self.assertEqual(result.stdout.count("\n"), 1, result)
        return json.loads(result.stdout)

    def assert_ok(self, result):
        self.assertEqual(result.code, 0, result)
        return result

    def assert_error(self, result, code, *words):
        """One line on standard error that contains all words, nothing on standard output."""
        self.assertEqual(result.code, code, result)
        self.assertEqual(result.stdout, "", result)
        self.assertTrue(result.stderr.startswith("metal-marlin: "), result)
        self.assertTrue(result.stderr.endswith("\n") and result.stderr.count("\n") == 1, result)
        for word in words:
            self.assertIn(word, result.stderr)

    def write(self, name, content):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def write_json(self, name, value):
        return self.write(name, json.dumps(value))

    def copy_model(self, name="model", without=(), files=None):
        """A model directory of links to the demo model's files, except those left out or given new contents."""
        folder = self.folder / name
        folder.mkdir()
        for file in Path(self.model).iterdir():
            if file.name not in without and file.name not in (files or {}):
                (folder / file.name).symlink_to(file)
        for file, content in (files or {}).items():
            (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    def copy_without_tensor(self, tensor):
        """A copy of the demo model that lacks one tensor, in shard and index."""
        shard = next(Path(self.model).glob("model-*.safetensors")).name
        index = json.loads((Path(self.model) / "model.safetensors.index.json").read_text())
        del index["weight_map"][tensor]
        return self.copy_model(files={
            shard: without_tensor((Path(self.model) / shard).read_bytes(), tensor),
            "model.safetensors.index.json": json.dumps(index),
        })

    def config(self, **changes):
        return json.dumps({**json.loads((Path(self.model) / "config.json").read_text()), **changes})

    def needs_bf16(self):
        if not (Path(ARGS.bf16) / "config.json").exists():
            self.skipTest("the BF16 demo checkpoint is not here (../shared/demo-model/bf16)")


def without_tensor(shard, name):
    """The bytes of a safetensors file without one of its tensors."""
    (length,) = struct.unpack("<Q", shard[:8])
    header = json.loads(shard[8:8 + length])
    data = shard[8 + length:]
    kept, offset, pieces = {}, 0, []
    for key, tensor in sorted(((k, v) for k, v in header.items() if k != "__metadata__"),
                              key=lambda item: item[1]["data_offsets"]):
        if key == name:
            continue
        begin, end = tensor["data_offsets"]
        kept[key] = {**tensor, "data_offsets": [offset, offset + end - begin]}
        offset += end - begin
        pieces.append(data[begin:end])
    text = json.dumps({"__metadata__": header.get("__metadata__", {}), **kept}).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(pieces)


class Report(unittest.TextTestResult):
    """Says what was skipped in GoogleTest's words, which scripts/run_tests.py reads."""

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        name = ".".join(test.id().split(".")[-2:])
        print(f"{Path(sys.argv[0]).name}:0: Skipped\n{reason}\n[  SKIPPED ] {name} (0 ms)", flush=True)


def main():
    global ARGS
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True, type=os.path.abspath)
    parser.add_argument("--model", required=True, type=os.path.abspath)
    parser.add_argument("--bf16", default="", type=os.path.abspath)
    ARGS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2, testRunner=unittest.TextTestRunner(
        stream=sys.stdout, verbosity=2, resultclass=Report))
