"""Help, exit codes, and one clear line for everything that can be wrong with flags, prompts and models."""
import json
import subprocess
import unittest
from pathlib import Path

import cli

COMMANDS = ["generate", "chat", "quantize", "repair", "synth", "inspect", "eval", "bench"]


class Help(cli.CliTest):
    def test_every_command_has_examples(self):
        for command in [[], ["mmfp4"], ["doctor"], *[["mmfp4", c] for c in COMMANDS]]:
            result = self.assert_ok(self.run_cli(*command, "--help"))
            self.assertIn("Examples:\n", result.stdout)
            self.assertIn("Usage: metal-marlin", result.stdout)
            self.assertEqual(result.stderr, "")

    def test_generate_help_names_every_flag(self):
        text = self.mmfp4("generate", "--help").stdout
        for flag in ("-m -p -f -v --max-tokens --temperature --top-p --top-k --min-p --seed --system --no-think --raw "
                     "--allow-special --stop --ctx --threads --load --mlock --kv --device --deterministic --max-thinking-tokens "
                     "--repetition-penalty --presence-penalty --frequency-penalty --logit-bias --ignore-eos --messages "
                     "--check-numerics --no-fused-moe --json").split():
            self.assertRegex(text, rf"(?m)[ ,]{flag}[ ,]")

    def test_version(self):
        self.assertRegex(self.assert_ok(self.run_cli("--version")).stdout, r"^metal-marlin \d+\.\d+\.\d+\n$")

    def test_no_command(self):
        self.assert_error(self.run_cli(), 2, "give a command", "--help")
        self.assert_error(self.run_cli("mmfp4"), 2, "give a command", "metal-marlin mmfp4 --help")
        self.assert_error(self.run_cli("generate"), 2, "metal-marlin mmfp4 generate")
        self.assert_error(self.run_cli("mmfp4", "conjure"), 2, "'conjure'")


class Flags(cli.CliTest):
    def test_values_out_of_range(self):
        for flag, values in {
                "--temperature": ["-0.1", "2.1", "nan", "hot", ""],
                "--top-p": ["0", "1.01", "-1", "1e-60", "inf"],
                "--top-k": ["-1", "1.5", "99999999999"],
                "--min-p": ["-0.1", "1.1"],
                "--repetition-penalty": ["0", "2.5"],
                "--presence-penalty": ["-2.1", "2.1"],
                "--frequency-penalty": ["-2.1", "2.1"],
                "--max-tokens": ["0", "-5", "many"],
                "--max-thinking-tokens": ["-1"],
                "--ctx": ["0", "-1", "4k"],
                "--threads": ["0", "-2", "1025", "0x10"],
                "--load": ["fast"],
                "--seed": ["-1", "1e3", "99999999999999999999"],
                "--kv": ["bf16"],
                "--device": ["abacus"],
                "--stop": [""],
                "--logit-bias": ["5", "x=1", "5=", "-1=2", "5=nan", "5=inf"],
        }.items():
            for value in values:
                with self.subTest(flag=flag, value=value):
                    self.assert_error(self.generate("-p", "x", flag, value), 2, flag)

    def test_numbers_are_decimal(self):
        answer = self.generate_json("-p", "Hello", "--no-think", "--temperature", "0", "--max-tokens", "010", "--seed", "010")
        self.assertEqual((answer["usage"]["completion_tokens"], answer["seed"]), (10, 10))

    def test_wrong_flags(self):
        self.assert_error(self.generate("-p", "x", "--frobnicate"), 2, "--frobnicate", "--help")
        self.assert_error(self.generate("-p"), 2, "--prompt")
        self.assert_error(self.mmfp4("generate", "-p", "x"), 2, "--model")
        self.assert_error(self.generate("-p", "x", "-f", "y"), 2, "exactly one")
        self.assert_error(self.generate(), 2, "exactly one")
        self.assert_error(self.generate("-p", "x", "--raw", "--system", "y"), 2, "--raw")
        self.assert_error(self.mmfp4("quantize", "a", "b", "--group-size", "48"), 2, "--group-size")
        self.assert_error(self.mmfp4("quantize", "a", "b", "--max-shard-size", "big"), 2, "--max-shard-size")
        self.assert_error(self.mmfp4("synth", "x"), 2, "--arch")
        self.assert_error(self.mmfp4("synth", "--arch", "gpt-2", "x"), 2, "--arch", "gpt-2")
        self.assert_error(self.mmfp4("synth", "--arch", "glm-4.7-flash"), 2, "directory")
        for layers in ["0", "-1", "48", "all"]:
            self.assert_error(self.mmfp4("synth", "--arch", "glm-4.7-flash", "--layers", layers, "x"), 2, "layers")
        self.assert_error(self.mmfp4("synth", "--arch", "glm-4.7-flash", "--seed", "-1", "x"), 2, "--seed")
        self.assert_error(self.mmfp4("eval", "-m", self.model), 2, "--text")
        self.assert_error(self.mmfp4("eval", "-m", self.model, "--ids", "x"), 2, "--logits-out")

    def test_device_that_is_not_here(self):
        devices = json.loads(self.run_cli("doctor", "--json").stdout)["devices"]
        for device in devices:
            if not device["usable"]:
                self.assert_error(self.generate("-p", "x", "--device", device["name"]), 1, device["why_not"])

    def test_logit_bias_of_an_id_that_is_none(self):
        self.assert_error(self.generate("-p", "x", "--logit-bias", "8192000=1"), 2, "8192000")


class Prompts(cli.CliTest):
    def test_empty(self):
        self.assert_error(self.generate("-p", ""), 2, "empty")
        self.assert_error(self.generate("-p", "-"), 2, "standard input is empty")
        self.assert_error(self.generate("-p", "-", stdin="\n"), 2, "empty")
        self.assert_error(self.generate("-f", self.write("empty.txt", "")), 2, "empty.txt", "empty")
        self.assert_error(self.generate("-p", "", "--raw"), 2, "empty")

    def test_invalid_utf8_names_the_offset(self):
        for text in [b"ab\xff", b"ab\xc0\xaf", b"ab\xed\xa0\x80", b"ab\xf4\x90\x80\x80", b"ab\xe2\x82"]:
            with self.subTest(text=text):
                self.assert_error(self.generate("-p", "-", stdin=text), 2, "offset 2", "UTF-8")
                self.assert_error(self.generate("-p", text), 2, "offset 2", "UTF-8")
        self.assert_error(self.generate("-p", "x", "--system", b"\x80"), 2, "--system", "offset 0")
        self.assert_error(self.generate("-p", "x", "--stop", b"a\x80"), 2, "--stop", "offset 1")

    def test_files(self):
        self.assert_error(self.generate("-f", "nowhere.txt"), 1, "nowhere.txt", "No such file")
        self.assert_error(self.generate("-f", self.folder), 2, "directory")

    def test_longer_than_the_context(self):
        self.assert_error(self.generate("-p", "word " * 100, "--ctx", "64"), 2, "64", "--ctx")
        self.assert_error(self.generate("-p", "x", "--ctx", "1000000"), 2, "4096")

    def test_messages(self):
        for content, code, *words in [
                ("{", 1, "bad.json:1:2"),
                ("[\n {},]", 1, "bad.json:2:"),
                ('"text"', 1, "expected an object"),
                ("{}", 1, "messages", "missing"),
                ("[]", 2, "empty"),
                ('{"messages": 5}', 1, "messages"),
                ("[5]", 1, "messages[0]"),
                ('[{"role": 5}]', 1, "messages[0]"),
                ('{"messages": [{"role": "user", "content": "x"}], "tool": []}', 1, '"tool"'),
                ('{"messages": [{"role": "user", "content": "x"}], "tools": {}}', 1, "tools"),
                ('{"messages": [{"role": "user", "content": "x"}], "template_args": 1}', 1, "template_args"),
                ("[" * 100000, 1, "deep"),
                (b'[{"role": "user", "content": "\xff"}]', 2, "offset 30"),
        ]:
            with self.subTest(content=content[:60]):
                self.assert_error(self.generate("--messages", self.write("bad.json", content)), code, *words)
        self.assert_error(self.generate("--messages", "nowhere.json"), 1, "nowhere.json")


class Models(cli.CliTest):
    def refused(self, model, *words, code=1):
        self.assert_error(self.generate("-p", "x", model=model), code, *words)

    def test_not_there(self):
        self.refused("no-such-model", "no-such-model", "models there: GLM-4.7-Flash-Demo-MMFP4")
        self.refused("", "empty", code=2)
        self.refused(self.write("file.gguf", "x"), "is a file", code=2)
        self.refused(self.folder, "config.json")

    def test_found_by_name(self):
        name = Path(self.model).name
        self.assert_ok(self.mmfp4("inspect", name))  # beside the program
        elsewhere = self.folder / "models"
        elsewhere.mkdir()
        (elsewhere / "mine").symlink_to(self.model)
        self.assert_ok(self.mmfp4("inspect", "mine"))  # models/ of the working directory

    def test_installed(self):
        prefix = self.folder / "prefix"
        subprocess.run(["cmake", "--install", Path(cli.ARGS.program).parents[2], "--prefix", prefix], check=True,
                       stdout=subprocess.DEVNULL)
        result = subprocess.run([prefix / "bin" / "metal-marlin", "mmfp4", "inspect", "GLM-4.7-Flash-Demo-MMFP4"],
                                capture_output=True, env=self.env, cwd=self.folder, timeout=cli.TIMEOUT)
        self.assertEqual(result.returncode, 0, result)

    def test_truncated_shard(self):
        shard = next(Path(self.model).glob("model-*.safetensors"))
        self.refused(self.copy_model(files={shard.name: shard.read_bytes()[:-1000]}), shard.name)
        self.refused(self.copy_model("header", files={shard.name: shard.read_bytes()[:100]}), shard.name)
        self.refused(self.copy_model("empty", files={shard.name: b""}), shard.name)
        huge = (1 << 63).to_bytes(8, "little") + shard.read_bytes()[8:4096]
        self.refused(self.copy_model("huge", files={shard.name: huge}), shard.name)

    def test_missing_parts(self):
        shard = next(Path(self.model).glob("model-*.safetensors"))
        self.refused(self.copy_model("no-shard", without=[shard.name]), shard.name)
        self.refused(self.copy_model("no-index", without=["model.safetensors.index.json"]), "index")
        self.refused(self.copy_model("no-config", without=["config.json"]), "config.json")
        self.refused(self.copy_model("no-tokenizer", without=["tokenizer.json"]), "tokenizer.json")
        self.refused(self.copy_without_tensor("model.norm.weight"), "model.norm.weight", "repair")

    def test_configs(self):
        self.refused(self.copy_model("a", files={"config.json": self.config(model_type="llama")}), "llama")
        self.refused(self.copy_model("b", files={"config.json": "{"}), "config.json")
        self.refused(self.copy_model("c", files={"config.json": self.config(hidden_size=-1)}), "hidden_size")
        self.refused(self.copy_model("d", files={"config.json": self.config(moe_intermediate_size=256)}), "expected")
        self.refused(self.copy_model("e", files={"generation_config.json": '{"temperature": "x"}'}), "temperature")

    def test_texts(self):
        self.refused(self.copy_model("a", files={"tokenizer.json": '{"model": 1}'}), "tokenizer.json")
        self.refused(self.copy_model("b", files={"tokenizer.json": "\xff\x00"}), "tokenizer.json")
        self.refused(self.copy_model("c", files={"chat_template.jinja": "\n{% if %}"}), "chat_template.jinja:2")
        self.refused(self.copy_model("d", files={"chat_template.jinja": "{{ messages | explode }}"}), "explode")


if __name__ == "__main__":
    cli.main()
