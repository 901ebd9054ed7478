"""doctor, and the commands that work on checkpoints: inspect, quantize, repair, eval."""
import json
import resource
import shutil
import signal
import struct
import subprocess
import unittest
from pathlib import Path

import cli


class Doctor(cli.CliTest):
    def test_text(self):
        text = self.assert_ok(self.run_cli("doctor")).stdout
        for word in ["features", "memory", "swap", "devices", "cpu", "not usable:", "versions", "CLI11"]:
            self.assertIn(word, text)

    def test_json(self):
        found = json.loads(self.assert_ok(self.run_cli("doctor", "--json")).stdout)
        self.assertEqual(set(found), {"system", "logical_cores", "cpu_features", "memory", "devices", "versions", "advice"})
        devices = {device["name"]: device for device in found["devices"]}
        self.assertTrue(devices["cpu"]["usable"])
        self.assertTrue(devices["cpu"]["description"])
        self.assertTrue(all(device["usable"] or device["why_not"] for device in devices.values()))
        self.assertGreater(found["memory"]["total_bytes"], 0)


class Inspect(cli.CliTest):
    def inspect(self, directory, code=0):
        result = self.mmfp4("inspect", directory, "--json")
        self.assertEqual(result.code, code, result)
        return json.loads(result.stdout), result.stderr

    def test_demo_model(self):
        found, _ = self.inspect(self.model)
        self.assertTrue(found["whole"])
        self.assertEqual([found[k] for k in ("missing", "misshapen", "extra", "missing_files")], [[], [], [], []])
        self.assertTrue(found["mtp"])
        self.assertIn("metal-marlin", found["producer"])
        kinds = {kind["kind"]: kind for kind in found["kinds"]}
        self.assertEqual(set(kinds), {"embeddings", "attention", "dense MLP", "shared experts", "routed experts",
                                      "MTP layer", "norms", "routers", "head"})
        experts = kinds["routed experts"]
        self.assertEqual((experts["tensors"], experts["parameters"]), (6 * 32 * 3, 6 * 32 * 3 * 256 * 128))
        self.assertEqual((experts["bits_per_weight"], experts["stored_as"]), (4.125, ["FP4 g128"]))
        self.assertEqual(found["total"]["parameters"], sum(kind["parameters"] for kind in found["kinds"]))
        self.assertIn("routed experts", self.assert_ok(self.mmfp4("inspect", self.model)).stdout)

    def test_says_what_is_missing(self):
        found, err = self.inspect(self.copy_without_tensor("model.norm.weight"), code=1)
        self.assertEqual((found["whole"], found["missing"]), (False, ["model.norm.weight"]))
        self.assertIn("repair", err)
        self.assertEqual(err.count("\n"), 1)

    def test_index_names_what_no_shard_holds(self):
        index = json.loads((Path(self.model) / "model.safetensors.index.json").read_text())
        broken = self.copy_without_tensor("model.norm.weight")
        (broken / "model.safetensors.index.json").write_text(json.dumps(index))
        self.assertEqual(self.inspect(broken, code=1)[0]["missing"], ["model.norm.weight"])

    def test_missing_files(self):
        found, err = self.inspect(self.copy_model(without=["tokenizer.json"]), code=1)
        self.assertEqual(found["missing_files"], ["tokenizer.json"])
        self.assertIn("1 files missing", err)
        (self.copy_model("folders", without=["tokenizer.json"]) / "tokenizer.json").mkdir()
        self.assertEqual(self.inspect(self.folder / "folders", code=1)[0]["missing_files"], ["tokenizer.json"])

    def test_config_of_another_size(self):
        found, _ = self.inspect(self.copy_model(files={"config.json": self.config(num_hidden_layers=6)}), code=1)
        self.assertTrue(found["missing"] or found["misshapen"] or found["extra"])
        found, _ = self.inspect(self.copy_model("wide", files={"config.json": self.config(intermediate_size=1024)}), code=1)
        self.assertEqual(len(found["misshapen"]), 3)
        self.assertIn("expected", found["misshapen"][0])

    def test_unreadable(self):
        self.assert_error(self.mmfp4("inspect", self.folder), 1, "config.json")
        self.assert_error(self.mmfp4("inspect", "nowhere"), 1, "nowhere")


class Quantize(cli.CliTest):
    def test_converts_and_resumes(self):
        self.needs_bf16()
        target = self.folder / "out"
        report = self.folder / "report.json"
        result = self.assert_ok(self.mmfp4("quantize", cli.ARGS.bf16, target, "--include-embeddings", "--max-shard-size",
                                           "8MiB", "--report", report))
        self.assertIn("model.layers.*.mlp.experts.*.gate_proj", result.stdout)
        self.assertIn("bits a weight", result.stdout)
        errors = json.loads(report.read_text())["tensors"]
        self.assertTrue(all(0 < tensor["relative_rmse"] < 0.2 for tensor in errors))
        self.assertGreater(len(list(target.glob("model-*.safetensors"))), 1)
        self.assertTrue(json.loads(self.mmfp4("inspect", target, "--json").stdout)["whole"])
        for resume in ([], ["--resume"]):
            self.assert_error(self.mmfp4("quantize", cli.ARGS.bf16, target, *resume), 2, "out", "not empty")

    def test_full_disk_then_resume(self):
        self.needs_bf16()
        target = self.folder / "out"
        args = (cli.ARGS.bf16, target, "--include-embeddings", "--max-shard-size", "4MiB")

        def limit():  # less than the last shard
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))

        done = subprocess.run([cli.ARGS.program, "mmfp4", "quantize", *args], capture_output=True, preexec_fn=limit,
                              timeout=cli.TIMEOUT)
        self.assert_error(cli.Result(done.returncode, done.stdout, done.stderr), 1, "model-00005", "free some space")
        self.assert_error(self.mmfp4("inspect", target), 1, "unfinished", "quantize --resume")
        self.assert_error(self.mmfp4("quantize", *args), 2, "--resume")
        self.assert_error(self.mmfp4("quantize", *args, "--resume", "--group-size", "64"), 2, "group_size was 128, is 64")
        (target / "model-00001-of-00009.safetensors.partial").write_text("cut off")
        resumed = json.loads(self.assert_ok(self.mmfp4("quantize", *args, "--resume", "--json")).stdout)
        fresh = json.loads(self.assert_ok(self.mmfp4("quantize", cli.ARGS.bf16, self.folder / "fresh", *args[2:],
                                                     "--json")).stdout)
        for total in ("tensors", "quantized_parameters", "plain_parameters", "bytes", "bits_per_weight"):
            self.assertEqual(resumed[total], fresh[total])
        self.assertEqual(sorted(file.name for file in target.iterdir()),
                         sorted(file.name for file in (self.folder / "fresh").iterdir()))

    def test_refuses(self):
        self.assert_error(self.mmfp4("quantize", "nowhere", self.folder / "out"), 1, "nowhere")
        self.assert_error(self.mmfp4("quantize", self.model, self.folder / "out"), 2, "quantized already")
        self.assert_error(self.mmfp4("quantize", self.model, self.folder / "out", "--report", "no/such/report.json"), 2,
                          "--report")
        self.assert_error(self.mmfp4("quantize", self.model, self.folder / "out", "--max-shard-size", "0"), 2,
                          "--max-shard-size")
        self.assert_error(self.mmfp4("quantize", self.model, self.folder / "out", "--report", self.folder), 2,
                          "--report", "is a directory")
        self.assert_error(self.mmfp4("inspect", self.folder / "out"), 1)  # nothing that looks whole


class Repair(cli.CliTest):
    def test_adds_what_is_missing(self):
        self.needs_bf16()
        broken = self.copy_without_tensor("model.norm.weight")
        (broken / "tokenizer.json").unlink()
        result = self.assert_ok(self.mmfp4("repair", broken, "--from", cli.ARGS.bf16, "--json"))
        self.assertEqual(json.loads(result.stdout),
                         {"added": ["model.norm.weight"], "copied_files": ["tokenizer.json"]})
        self.assert_ok(self.mmfp4("inspect", broken))
        self.assertEqual(self.generate("-p", "What is 23 + 45?", "--temperature", "0", model=broken).stdout,
                         "23 plus 45 is 68.\n")
        self.assertEqual(self.assert_ok(self.mmfp4("repair", broken, "--from", cli.ARGS.bf16)).stdout,
                         "nothing is missing\n")

    def test_refuses(self):
        self.assert_error(self.mmfp4("repair", self.model), 2, "--from")
        self.assert_error(self.mmfp4("repair", self.model, "--from", "nowhere"), 1, "nowhere")


class Synth(cli.CliTest):
    def synth(self, target, *args):
        return self.mmfp4("synth", "--arch", "glm-4.7-flash", target, *args)

    def test_one_layer_of_the_real_widths(self):
        if shutil.disk_usage(self.folder).free < 2 << 30:
            self.skipTest("needs 2 GB of temporary space")
        target = self.folder / "synth"
        report = json.loads(self.assert_ok(self.synth(target, "--layers", "1", "--seed", "7", "--json")).stdout)
        self.assertEqual((report["layers"], report["seed"], report["arch"]), (1, 7, "glm-4.7-flash"))
        self.assertEqual(report["parameters"], 1_362_774_592)
        self.assertLess(report["tensor_bytes"], 710_000_000)
        found = json.loads(self.assert_ok(self.mmfp4("inspect", target, "--json")).stdout)
        self.assertEqual((found["whole"], found["mtp"], found["extra"]), (True, True, []))
        self.assertEqual(found["total"]["parameters"], report["parameters"])
        result = self.assert_ok(self.generate("-p", "Hello", "--max-tokens", "2", "--temperature", "0", "--ctx", "64",
                                              model=target))
        self.assertIn("warning: synth is synthetic", result.stderr)
        self.assert_error(self.synth(target), 2, "not empty")
        (target / "INCOMPLETE").write_text("{}")
        self.assert_error(self.generate("-p", "x", model=target), 1, "unfinished", "synth")
        self.assert_error(self.mmfp4("inspect", target), 1, "unfinished", "synth")

    def test_refuses(self):
        self.assert_error(self.synth(self.write("file", "x")), 2, "is a file")
        self.assert_error(self.synth(self.folder), 2, "not empty", "file")


class Eval(cli.CliTest):
    ROW = {"messages": [{"role": "user", "content": "What is 23 + 45?"},
                        {"role": "assistant", "reasoning_content": "23 + 40 = 63, and 63 + 5 = 68.",
                         "content": "23 plus 45 is 68."}]}

    def test_against_itself(self):
        rows = self.write("rows.jsonl", json.dumps(self.ROW) + "\n" + json.dumps(self.ROW) + "\n")
        result = self.assert_ok(self.mmfp4("eval", "-m", self.model, "--text", rows, "--reference", self.model,
                                           "--deterministic", "--json"))
        found = json.loads(result.stdout)
        self.assertGreater(found["predictions"], 20)
        self.assertLess(found["perplexity"], 10)
        self.assertEqual((found["kl_mean"], found["kl_p99"], found["top1_agreement"]), (0, 0, 1))
        one = self.assert_ok(self.mmfp4("eval", "-m", self.model, "--text", rows, "--windows", "1"))
        self.assertRegex(one.stdout, rf"predictions +{found['predictions'] // 2}\n")

    def test_logits(self):
        ids = self.write_json("ids.json", [8162, 8164, 8167, 39])
        out = self.folder / "logits.safetensors"
        self.assert_ok(self.mmfp4("eval", "-m", self.model, "--ids", ids, "--logits-out", out))
        self.assertGreater(out.stat().st_size, 4 * 8192 * 4)

    def test_refuses(self):
        self.assert_error(self.mmfp4("eval", "-m", self.model, "--text", "nowhere.jsonl"), 1, "nowhere.jsonl")
        self.assert_error(self.mmfp4("eval", "-m", self.model, "--text", self.write("bad.jsonl", "{}\n")), 1, "bad.jsonl:1")
        short = self.write_json("short.jsonl", {"text": "Too short."})
        self.assert_error(self.mmfp4("eval", "-m", self.model, "--text", short), 2, "too short")
        self.assert_error(self.mmfp4("eval", "-m", self.model, "--text", self.folder), 2, "is a directory")
        question = self.write_json("question.jsonl", {"messages": self.ROW["messages"][:1]})
        self.assert_error(self.mmfp4("eval", "-m", self.model, "--text", question), 2, "nothing to score")

    def test_combinations(self):
        logits = ["eval", "-m", self.model, "--ids", self.write_json("ids.json", [1]), "--logits-out", self.folder / "x"]
        self.assert_error(self.mmfp4(*logits, "--reference", self.model), 2, "--reference", "--ids")
        self.assert_error(self.mmfp4(*logits, "--windows", "1"), 2, "--windows", "--ids")
        self.assert_error(self.mmfp4(*logits, "--text", "rows.jsonl"), 2, "--text")
        self.assert_error(self.mmfp4(*logits[:-2]), 2, "--logits-out")
        self.assert_error(self.mmfp4(*logits[:3]), 2, "--text")
        self.assertFalse((self.folder / "x").exists())

    def test_ids_the_model_does_not_have(self):
        for ids in ([8192], [1, -1], [2**31 - 1]):
            self.assert_error(self.mmfp4("eval", "-m", self.model, "--ids", self.write_json("ids.json", ids),
                                         "--logits-out", self.folder / "x"), 2, "ids.json", f"id {ids[-1]}", "0 to 8191")
        # Of a tokenizer that is larger than the model.
        tokenizer = json.loads((Path(self.model) / "tokenizer.json").read_text())
        user = next(token for token in tokenizer["added_tokens"] if token["content"] == "<|user|>")
        user["id"] = 8192
        model = self.copy_model(files={"tokenizer.json": json.dumps(tokenizer)})
        rows = self.write_json("rows.jsonl", self.ROW)
        self.assert_error(self.mmfp4("eval", "-m", model, "--text", rows), 2, "tokenizer.json", "id 8192", "0 to 8191")

    def test_logits_that_are_not_finite(self):
        shard = sorted(Path(self.model).glob("model-*.safetensors"))[-1]
        content = bytearray(shard.read_bytes())
        start = 8 + struct.unpack("<Q", content[:8])[0]
        begin = start + json.loads(content[8:start])["model.norm.weight"]["data_offsets"][0]
        content[begin:begin + 2] = b"\xc0\x7f"  # NaN
        broken = self.copy_model(files={shard.name: bytes(content)})
        rows = self.write_json("rows.jsonl", self.ROW)
        self.assert_error(self.mmfp4("eval", "-m", broken, "--text", rows), 1, "not finite", "--check-numerics")
        self.assert_error(self.mmfp4("eval", "-m", self.model, "--text", rows, "--reference", broken), 1, "reference",
                          "not finite", "--check-numerics")


if __name__ == "__main__":
    cli.main()
