"""bench: its rows and formats, what it refuses, and that it never outlives a signal or the one that started it."""
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

import cli

QUICK = ["-p", "32", "-n", "8", "-r", "2", "-t", "2"]
ROW = {"name": str, "depth": int, "batch": int, "tps_median": float, "tps_min": float, "tps_max": float,
       "ttft_ms_median": float}
LONG = ["-p", "4000", "-n", "64", "-r", "1000000"]  # ends only when it is ended
SOON = 10  # seconds


class BenchTest(cli.CliTest):
    def setUp(self):
        super().setUp()
        self.env.pop("CI", None)

    def bench(self, *args, **kwargs):
        return self.mmfp4("bench", "-m", self.model, *args, **kwargs)

    def bench_json(self, *args):
        result = self.assert_ok(self.bench(*args, "-o", "json"))
        self.assertEqual(result.stderr, "", result)
        return json.loads(result.stdout)


class Reports(BenchTest):
    def check(self, found):
        self.assertEqual(found["model"]["name"], "GLM-4.7-Flash-Demo-MMFP4")
        self.assertIs(found["model"]["synthetic"], False)
        self.assertGreaterEqual(found["model"]["file_bytes"], found["model"]["weight_bytes"])
        self.assertGreater(found["weight_bytes_per_token"], 0)
        self.assertLess(found["weight_bytes_per_token"], found["model"]["weight_bytes"])
        self.assertGreater(found["load_s"], 0)
        self.assertGreater(found["first_prefill_s"], found["load_s"])
        for row in found["tests"]:
            for key, kind in ROW.items():
                self.assertIsInstance(row[key], kind, row)
            self.assertTrue(0 < row["tps_min"] <= row["tps_median"] <= row["tps_max"], row)
            self.assertGreater(row["ttft_ms_median"], 0)
            if row["name"].startswith("pp"):
                self.assertIsNone(row["gbps"])
                continue
            per_step = row["step_bytes"]
            if row["batch"] == 1:
                self.assertEqual(per_step, found["weight_bytes_per_token"])
            else:
                self.assertGreater(per_step, found["weight_bytes_per_token"])
                self.assertLess(per_step, row["batch"] * found["weight_bytes_per_token"])
            self.assertAlmostEqual(row["gbps"] * 1e9, per_step * row["tps_median"] / row["batch"], delta=1)

    def test_json(self):
        found = self.bench_json(*QUICK)
        self.check(found)
        self.assertEqual([row["name"] for row in found["tests"]], ["pp32", "tg8"])
        self.assertEqual((found["threads"], found["kv"], found["device"]), (2, "f16", "cpu"))
        self.assertIsNone(found["bandwidth_gbps"])
        self.assertIsNone(found["tests"][1]["percent_of_bandwidth"])
        self.assertGreater(found["peak_rss_bytes"], 1 << 20)

    def test_depths_and_batches(self):
        found = self.bench_json(*QUICK, "-d", "0,100,128", "-b", "1-4*2", "--kv", "q8")
        self.check(found)
        self.assertEqual([(row["depth"], row["batch"], row["name"]) for row in found["tests"]],
                         [(d, b, name) for d in (0, 100, 128) for b in (1, 2, 4) for name in ("pp32", "tg8")])
        self.assertEqual(found["kv"], "q8")

    def test_roofline(self):
        found = self.bench_json("-p", "0", "-n", "8", "-r", "1", "--roofline")
        self.check(found)
        self.assertTrue(0 < found["bandwidth_gbps_min"] <= found["bandwidth_gbps"] <= found["bandwidth_gbps_max"])
        (row,) = found["tests"]
        self.assertAlmostEqual(row["percent_of_bandwidth"], 100 * row["gbps"] / found["bandwidth_gbps"], places=6)
        if found["peak_rss_bytes"] is not None:  # the buffer of 1 GiB is none of the model's memory
            self.assertLess(found["peak_rss_bytes"], 1 << 30)

    def test_rows(self):
        lines = self.assert_ok(self.bench(*QUICK, "-o", "jsonl")).stdout.splitlines()
        rows = [json.loads(line) for line in lines]
        self.assertEqual([row["name"] for row in rows], ["pp32", "tg8"])
        table = list(csv.DictReader(io.StringIO(self.assert_ok(self.bench(*QUICK, "-o", "csv")).stdout)))
        self.assertEqual([row["name"] for row in table], ["pp32", "tg8"])
        self.assertEqual(list(table[0]), list(rows[0]))
        self.assertEqual(table[0]["gbps"], "")
        self.assertGreater(float(table[1]["tps_median"]), 0)

    def test_markdown(self):
        lines = self.assert_ok(self.bench(*QUICK, "-d", "64", "-n", "0")).stdout.splitlines()
        self.assertEqual([cell.strip() for cell in lines[0].split("|")[1:8]],
                         ["model", "size", "device", "threads", "kv", "batch", "test"])
        self.assertEqual({len(line) for line in lines[:3]}, {len(lines[0])})
        self.assertIn(" pp32 @ d64 ", lines[2])
        self.assertIn("of weights a token", lines[-1])

    def test_repeated_lists_add_up(self):
        found = self.bench_json("-p", "8", "-p", "16,24", "-n", "0", "-r", "1")
        self.assertEqual([row["name"] for row in found["tests"]], ["pp8", "pp16", "pp24"])

    def test_a_synthetic_model_is_marked(self):
        model = self.copy_model(files={"config.json": self.config(synthetic=True)})
        args = ["-m", model, *QUICK]
        self.assertTrue(json.loads(self.assert_ok(self.mmfp4("bench", *args, "-o", "json")).stdout)["model"]["synthetic"])
        self.assertIn("| model (synthetic) |", self.assert_ok(self.mmfp4("bench", *args)).stdout)


class Refusals(BenchTest):
    def test_flags(self):
        for flag, values in {"-p": ["x", "-1", "", "1,,2", "5-1"], "-n": ["1.5"], "-d": ["4k"], "-b": ["0", "2000"],
                             "-t": ["0", "99999"], "-r": ["0"], "-o": ["xml"], "--kv": ["f8"],
                             "--device": ["abacus"]}.items():
            for value in values:
                with self.subTest(flag=flag, value=value):
                    self.assert_error(self.bench(f"{flag}={value}" if flag[1] == "-" else f"{flag}{value}")
                                      if value else self.bench(flag, ""), 2, flag)
        self.assert_error(self.bench("-p", "0", "-n", "0"), 2, "nothing to measure")
        self.assert_error(self.mmfp4("bench"), 2, "--model")

    def test_longer_than_the_model(self):
        self.assert_error(self.bench("-d", "4096"), 2, "4096 positions")

    def test_more_cache_than_memory(self):
        # A thousand million positions of the demo model are some terabytes.
        model = self.copy_model(files={"config.json": self.config(max_position_embeddings=1 << 20)})
        self.assert_error(self.mmfp4("bench", "-m", model, "-d", "1000000", "-b", "1024", "-n", "0"), 1, "does not fit",
                          "KV cache", "1024 sequences")

    def test_ci(self):
        for value in ["true", "1", "yes"]:
            self.env["CI"] = value
            self.assert_error(self.bench(*QUICK), 2, "CI", "--allow-ci")
        self.assert_ok(self.bench("-p", "8", "-n", "0", "-r", "1", "--allow-ci"))
        for value in ["", "false"]:
            self.env["CI"] = value
            self.assert_ok(self.bench("-p", "8", "-n", "0", "-r", "1"))


def alive(pid):
    """Whether a process runs; one that has ended and that nobody has asked about counts as gone."""
    proc = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        state = proc.read_text().rpartition(")")[2].split()[0] if proc.exists() else ""
    else:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


class Endings(BenchTest):
    def command(self, *args):
        return [cli.ARGS.program, "mmfp4", "bench", "-m", self.model, *LONG, *args]

    def test_signals(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            for args, delay in (([], 0.5), ([], 2.0), (["--roofline"], 1.0)):
                with self.subTest(signal=number, args=args, delay=delay):
                    process = subprocess.Popen(self.command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                               env=self.env)
                    time.sleep(delay)
                    self.assertIsNone(process.poll())
                    process.send_signal(number)
                    out, err = process.communicate(timeout=SOON)
                    self.assertEqual((process.returncode, out), (130, b""), err)
                    self.assertEqual(err, b"metal-marlin: interrupted\n")

    def test_the_parent_dies(self):
        starter = ("import subprocess, sys, time\n"
                   "child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
                   "print(child.pid, flush=True)\n"
                   "time.sleep(600)\n")
        parent = subprocess.Popen([sys.executable, "-c", starter, *self.command()], stdout=subprocess.PIPE, env=self.env)
        pid = int(parent.stdout.readline())
        time.sleep(1.5)
        self.assertTrue(alive(pid))
        parent.kill()
        parent.wait()
        parent.stdout.close()
        deadline = time.monotonic() + SOON
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        gone = not alive(pid)
        if not gone:
            os.kill(pid, signal.SIGKILL)
        self.assertTrue(gone, "bench outlived its parent")


if __name__ == "__main__":
    cli.main()
