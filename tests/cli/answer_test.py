"""What generate prints, where, and how it ends."""
import json
import os
import signal
import subprocess
import unittest

import cli

FIGURES = r"prompt \d+ tokens?.*, [\d.]+ tok/s \| decode \d+ tokens?, [\d.]+ tok/s \| first token after \d+ ms \| peak memory [\d.]+ [KMG]iB \| seed \d+"
SUM = ("-p", "What is 23 + 45?", "--temperature", "0")


class Answers(cli.CliTest):
    def test_greedy_sum(self):
        result = self.assert_ok(self.generate(*SUM))
        self.assertEqual(result.stdout, "23 plus 45 is 68.\n")  # the content alone
        self.assertIn("23 + 40 = 63", result.stderr)  # the reasoning
        first, *_, last = result.stderr.strip().split("\n")
        self.assertRegex(first, r"context 4096 of 4096")
        self.assertRegex(last, f"^{FIGURES}$")
        self.assertNotIn("\x1b", result.stdout + result.stderr)

    def test_json_object(self):
        answer = self.generate_json(*SUM)
        self.assertEqual(list(answer), ["text", "reasoning", "content", "tool_calls", "finish_reason", "prompt_ids", "ids",
                                        "usage", "timings", "peak_rss_bytes", "seed"])
        self.assertEqual(answer["content"], "23 plus 45 is 68.")
        self.assertEqual(answer["reasoning"], "23 + 40 = 63, and 63 + 5 = 68.")
        self.assertIn("</think>", answer["text"])
        self.assertEqual(answer["tool_calls"], [])
        self.assertEqual(answer["finish_reason"], "stop")
        self.assertEqual(answer["usage"], {"prompt_tokens": len(answer["prompt_ids"]), "completion_tokens": len(answer["ids"])})
        self.assertEqual(set(answer["timings"]), {"prompt_tps", "decode_tps", "ttft_ms"})
        self.assertIn(answer["ids"][-1], [8160, 8167, 8169])  # the stop token is one of the ids
        self.assertGreater(answer["peak_rss_bytes"], 1 << 20)

    def test_json_prints_nothing_else(self):
        result = self.assert_ok(self.generate(*SUM, "--json", "-v"))
        json.loads(result.stdout)
        self.assertRegex(result.stderr.strip().split("\n")[-1], f"^{FIGURES}$")
        self.assertNotIn("63", result.stderr.split("\n")[1])

    def test_verbose(self):
        result = self.assert_ok(self.generate(*SUM, "-v"))
        self.assertIn("temperature 0", result.stderr)
        self.assertIn("device:", result.stderr)

    def test_no_think_and_system(self):
        plain = self.generate_json("-p", "Hello", "--temperature", "0", "--no-think")
        self.assertEqual(plain["reasoning"], "")
        with_system = self.generate_json("-p", "Hello", "--system", "Be kind.", "--max-tokens", "1")
        self.assertGreater(len(with_system["prompt_ids"]), len(plain["prompt_ids"]))

    def test_prompt_from_stdin_and_file(self):
        ids = self.generate_json(*SUM, "--max-tokens", "1")["prompt_ids"]
        rest = ("--temperature", "0", "--max-tokens", "1")
        self.assertEqual(self.generate_json("-p", "-", *rest, stdin="What is 23 + 45?\n")["prompt_ids"], ids)
        file = self.write("prompt.txt", "What is 23 + 45?\r\n")
        self.assertEqual(self.generate_json("-f", file, *rest)["prompt_ids"], ids)
        two = self.generate_json("-f", self.write("two.txt", "What is 23 + 45?\n\n"), *rest)["prompt_ids"]
        self.assertNotEqual(two, ids)  # only one newline is dropped

    def test_raw(self):
        answer = self.generate_json("-p", "[gMASK]<sop><|user|>Hello<|assistant|></think>", "--raw", "--temperature", "0")
        templated = self.generate_json("-p", "Hello", "--no-think", "--temperature", "0")
        self.assertEqual(answer["prompt_ids"], templated["prompt_ids"])
        self.assertEqual(answer["ids"], templated["ids"])
        thinking = self.generate_json("-p", "[gMASK]<sop><|user|>Hello<|assistant|><think>", "--raw", "--temperature", "0")
        self.assertIn("</think>", thinking["content"])  # verbatim

    def test_users_control_tokens_are_text(self):
        few = ("--max-tokens", "1", "--no-think")
        user = 8167
        self.assertEqual(self.generate_json("-p", "<|user|>", *few)["prompt_ids"].count(user), 1)
        self.assertEqual(self.generate_json("-p", "<|user|>", "--allow-special", *few)["prompt_ids"].count(user), 2)

    def test_tool_call(self):
        file = self.write_json("request.json", cli.WEATHER)
        answer = self.generate_json("--messages", file, "--temperature", "0")
        self.assertEqual(answer["tool_calls"], [{"name": "get_weather", "arguments": {"city": "Paris"}}])
        plain = self.assert_ok(self.generate("--messages", file, "--temperature", "0"))
        self.assertEqual(plain.stdout, "")  # content only
        self.assertIn('tool call: get_weather {"city":"Paris"}\n', plain.stderr)
        no_thinking = {**cli.WEATHER, "template_args": {"enable_thinking": False}}
        answer = self.generate_json("--messages", "-", "--max-tokens", "1", stdin=json.dumps(no_thinking))
        self.assertEqual(answer["prompt_ids"][-1], 8183)  # </think>

    def test_bare_messages(self):
        file = self.write_json("messages.json", [{"role": "user", "content": "What is 23 + 45?"}])
        self.assertEqual(self.generate_json("--messages", file, "--temperature", "0")["content"], "23 plus 45 is 68.")

    def test_seed(self):
        story = ("-p", "Tell me a story", "--no-think", "--max-tokens", "24", "--temperature", "1.5")
        one = self.generate_json(*story, "--seed", "18446744073709551615")
        self.assertEqual(one["seed"], 18446744073709551615)
        again = self.generate_json(*story, "--seed", "18446744073709551615", "--threads", "1")
        self.assertEqual(one["ids"], again["ids"])
        self.assertNotEqual(one["ids"], self.generate_json(*story, "--seed", "2")["ids"])
        drawn = self.generate_json(*story)
        self.assertEqual(self.generate_json(*story, "--seed", str(drawn["seed"]))["ids"], drawn["ids"])

    def test_sampling_flags_reach_the_sampler(self):
        hello = ("-p", "Hello", "--no-think", "--temperature", "0", "--max-tokens", "6")
        greedy = self.generate_json(*hello)["ids"]
        self.assertEqual(self.generate_json(*hello[:-4], "--max-tokens", "6", "--top-k", "1")["ids"], greedy)
        biased = self.generate_json(*hello, "--logit-bias", f"{greedy[0]}=-100", "--logit-bias", "17=-inf")["ids"]
        self.assertNotEqual(biased[0], greedy[0])
        for flag in ["--presence-penalty", "--frequency-penalty"]:
            self.assertEqual(len(self.generate_json(*hello, flag, "-2")["ids"]), 6)
        self.assertEqual(len(self.generate_json(*hello, "--min-p", "0.1", "--top-p", "0.5",
                                                "--repetition-penalty", "1.1")["ids"]), 6)

    def test_engine_flags(self):
        for flags in [["--kv", "f32"], ["--kv", "q8"], ["--deterministic"], ["--check-numerics"], ["--no-fused-moe"],
                      ["--device", "cpu"], ["--ctx", "100"]]:
            with self.subTest(flags=flags):
                self.assertEqual(len(self.generate_json("-p", "Hello", "--max-tokens", "2", *flags)["ids"]), 2)


class Endings(cli.CliTest):
    def test_max_tokens(self):
        answer = self.generate_json(*SUM, "--max-tokens", "3")
        self.assertEqual((answer["finish_reason"], len(answer["ids"])), ("length", 3))
        self.assertIn("ended by --max-tokens", self.generate(*SUM, "--max-tokens", "3").stderr)

    def test_context_is_full(self):
        answer = self.generate_json(*SUM, "--ctx", "20")
        self.assertEqual(answer["finish_reason"], "length")
        self.assertEqual(len(answer["prompt_ids"]) + len(answer["ids"]), 20)
        self.assertIn("the context is full", self.generate(*SUM, "--ctx", "20").stderr)

    def test_stop_strings(self):
        answer = self.generate_json(*SUM, "--no-think", "--stop", "nothing [like] this", "--stop", " is ")
        self.assertEqual(answer["finish_reason"], "stop")
        self.assertNotIn(" is ", answer["content"])
        self.assertTrue(answer["content"])

    def test_thinking_budget(self):
        answer = self.generate_json(*SUM, "--max-thinking-tokens", "3")
        self.assertLess(len(answer["reasoning"]), len("23 + 40 = 63"))
        self.assertTrue(answer["content"])

    def test_copied_weights_answer_alike(self):
        self.assertEqual(self.generate_json(*SUM, "--load", "copy")["content"], "23 plus 45 is 68.")

    def test_locked_weights_or_the_limit(self):
        result = self.generate(*SUM, "--mlock")
        if result.code == 0:
            self.assertEqual(result.stdout, "23 plus 45 is 68.\n")
        else:
            self.assert_error(result, 1, "ulimit -l", "--mlock")

    def test_ignore_eos(self):
        self.assertEqual(len(self.generate_json(*SUM, "--ignore-eos", "--max-tokens", "60")["ids"]), 60)

    def endless(self, *args):
        command = [cli.ARGS.program, "mmfp4", "generate", "-m", self.model, "-p", "Tell me a story", "--no-think",
                   "--ignore-eos", "--temperature", "1.5", *args]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env)

    def test_interrupt_ends_with_the_figures(self):
        for number in [signal.SIGINT, signal.SIGTERM]:
            process = self.endless()
            text = process.stdout.read(20)
            process.send_signal(number)
            out, err = process.communicate(timeout=cli.TIMEOUT)
            self.assertEqual(process.returncode, 130, err)
            self.assertEqual(len(text), 20)
            self.assertTrue(out.endswith(b"\n"))
            self.assertRegex(err.decode().strip().split("\n")[-1], rf"^{FIGURES} \| interrupted$")

    def test_interrupt_with_json(self):
        process = self.endless("--json")
        self.assertIn(b"context", process.stderr.readline())  # it is generating now
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=cli.TIMEOUT)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(json.loads(out)["finish_reason"], "cancelled")

    def test_closed_pipe_ends_quietly(self):
        process = self.endless()
        self.assertEqual(len(process.stdout.read(1)), 1)
        process.stdout.close()
        err = process.stderr.read().decode()
        self.assertEqual(process.wait(cli.TIMEOUT), 0, err)
        self.assertNotIn("metal-marlin:", err)

    def hello(self, **streams):
        command = [cli.ARGS.program, "mmfp4", "generate", "-m", self.model, "-p", "Hello", "--max-tokens", "5", "--no-think",
                   "--temperature", "0"]
        return subprocess.run(command, env=self.env, timeout=cli.TIMEOUT,
                              **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams})

    def test_closed_standard_streams(self):
        answer = self.hello().stdout
        self.assertEqual(self.hello(preexec_fn=lambda: os.close(0)).stdout, answer)
        self.assertEqual(self.hello(preexec_fn=lambda: os.close(2)).stdout, answer)
        done = self.hello(preexec_fn=lambda: os.close(1))
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"metal-marlin: cannot write to standard output: Bad file descriptor", done.stderr)

    @unittest.skipUnless(os.path.exists("/dev/full"), "there is no /dev/full here")
    def test_full_standard_error_loses_no_answer(self):
        with open("/dev/full", "wb") as full:
            done = self.hello(stderr=full)
        self.assertEqual((done.returncode, done.stdout), (0, self.hello().stdout))

    @unittest.skipUnless(os.path.exists("/dev/full"), "there is no /dev/full here")
    def test_full_disk(self):
        for extra in [[], ["--json"]]:
            with open("/dev/full", "wb") as full:
                done = subprocess.run([cli.ARGS.program, "mmfp4", "generate", "-m", self.model, "-p", "Hello",
                                       "--max-tokens", "5", "--no-think", *extra],
                                      stdout=full, stderr=subprocess.PIPE, env=self.env, timeout=cli.TIMEOUT)
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"metal-marlin: cannot write to standard output: No space left", done.stderr)


if __name__ == "__main__":
    cli.main()
