"""chat: driven by standard input, and on a terminal."""
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
import unittest

import cli

GREEDY = ("--temperature", "0", "--no-think")
HELLO = "Hello! I am a tiny demo model. I can tell you a story, explain a word, or do a small sum. What would you like?\n"


class Piped(cli.CliTest):
    def chat(self, text, *args):
        return self.mmfp4("chat", "-m", self.model, *args, stdin=text)

    def test_turns(self):
        result = self.assert_ok(self.chat("My name is Anna.\nWhat is my name?\n", *GREEDY))
        self.assertTrue(result.stdout.endswith("Your name is Anna.\n"), result)
        self.assertEqual(result.stdout.count("\n"), 2)  # no prompts, no echo
        self.assertFalse(self.folder.joinpath("state", "metal-marlin", "chat_history").exists())

    def test_reasoning_goes_to_stderr(self):
        result = self.assert_ok(self.chat("/think off\n/think\nWhat is 23 + 45?\n", "--temperature", "0"))
        self.assertEqual(result.stdout, "23 plus 45 is 68.\n")
        self.assertIn("23 + 40 = 63", result.stderr)
        self.assertIn("reasoning is off\nreasoning is on\n", result.stderr)

    def test_undo_regen_reset(self):
        result = self.assert_ok(self.chat("My name is Anna.\nHello\n/undo\nWhat is my name?\n/regen\n/reset\nHello\n", *GREEDY))
        lines = result.stdout.split("\n")
        self.assertEqual(lines[2:4], ["Your name is Anna."] * 2)
        self.assertEqual(lines[4] + "\n", HELLO)

    def test_regen_draws_again_from_one_seed(self):
        text = "Tell me a story\n/regen\n"
        args = ("--no-think", "--temperature", "1.5", "--max-tokens", "12", "--seed", "5")
        lines = self.assert_ok(self.chat(text, *args)).stdout.strip().split("\n")
        self.assertNotEqual(lines[0], lines[1])
        self.assertEqual(lines, self.assert_ok(self.chat(text, *args)).stdout.strip().split("\n"))

    def test_save_and_load(self):
        self.assert_ok(self.chat("My name is Anna.\n/save saved.json\n/exit\nnever read\n", *GREEDY))
        saved = json.loads((self.folder / "saved.json").read_text())
        self.assertEqual([m["role"] for m in saved["messages"]], ["user", "assistant"])
        result = self.assert_ok(self.chat("/load saved.json\nWhat is my name?\n/save saved.json\n", *GREEDY))
        self.assertEqual(result.stdout, "Your name is Anna.\n")
        saved["messages"].append({"role": "user", "content": "What is my name?"})
        again = self.generate_json("--messages", self.write_json("again.json", saved), "--temperature", "0")
        self.assertEqual(again["content"], "Your name is Anna.")

    def test_system_and_help(self):
        result = self.assert_ok(self.chat("/system\n/system Be kind.\n/system\n/system -\n/system\n/help\n", "--system", "Be brief."))
        self.assertIn("Be brief.\nBe kind.\nno system message\n", result.stderr)
        for command in "/system /think /regen /undo /stats /reset /save /load /help /exit".split():
            self.assertIn(command, result.stderr)

    def test_prefix_is_reused(self):
        long = "Once upon a time there was a fox. " * 12
        result = self.assert_ok(self.chat(f"{long}\nHello\n/stats\n", *GREEDY, "--max-tokens", "4"))
        cached = re.search(r"prompt (\d+) tokens \((\d+) of them cached\)", result.stderr)
        self.assertTrue(cached, result)
        self.assertGreaterEqual(int(cached[2]), 64)
        self.assertIn("KV blocks", result.stderr)

    def test_errors_do_not_end_it(self):
        result = self.chat("/regen\n/frob\n/think maybe\n/load nowhere.json\n/save\n" + "word " * 300 + "\nHello\n", *GREEDY,
                           "--ctx", "64")
        self.assertEqual(result.code, 1)
        self.assertEqual(result.stdout, HELLO)
        self.assertEqual(result.stderr.count("metal-marlin: "), 6)

    def test_files_of_another_shape_leave_the_conversation(self):
        turns = [{"role": "system", "content": None}, {"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
        self.write_json("parts.json", turns)
        self.write_json("number.json", [{"role": "user", "content": 5}])
        self.write_json("think.json", {"messages": turns, "template_args": {"enable_thinking": "no"}})
        result = self.chat("/load number.json\n/load think.json\n/load parts.json\n/system\n/think\n/system x\nHello\n", *GREEDY)
        self.assertEqual(result.code, 1)
        errors = [line for line in result.stderr.split("\n") if line.startswith("metal-marlin: ")]
        self.assertEqual(len(errors), 2, result)
        self.assertIn('"content" of messages[0] is number', errors[0])
        self.assertIn('"enable_thinking" is string; expected true or false', errors[1])
        self.assertIn("2 messages read from parts.json\nnull\nreasoning is", result.stderr)
        self.assertTrue(result.stdout, result)

    def interrupted(self, number):
        """The exit code of a piped chat that a signal meets in its first answer."""
        process = subprocess.Popen([cli.ARGS.program, "mmfp4", "chat", "-m", self.model, "--no-think", "--ignore-eos",
                                    "--temperature", "1.5"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, env=self.env)
        process.stdin.write(b"Tell me a story\nTell me another\n")
        process.stdin.flush()
        self.assertTrue(process.stdout.read(20))
        process.send_signal(number)
        process.communicate(timeout=cli.TIMEOUT)
        return process.returncode

    def test_a_signal_ends_it(self):
        self.assertEqual(self.interrupted(signal.SIGINT), 130)
        self.assertEqual(self.interrupted(signal.SIGTERM), 130)

    def test_invalid_utf8(self):
        result = self.chat(b"\xff\nHello\n", *GREEDY)
        self.assertEqual((result.code, result.stdout), (1, HELLO))
        self.assertIn("offset 0", result.stderr)

    def test_continued_lines_and_no_input(self):
        self.assertEqual(self.assert_ok(self.chat("\n  \n", *GREEDY)).stdout, "")
        self.assertEqual(self.assert_ok(self.chat("", *GREEDY)).stdout, "")
        result = self.assert_ok(self.chat("Hello\\\nfriend\n/save saved.json\n", *GREEDY))
        self.assertEqual(json.loads((self.folder / "saved.json").read_text())["messages"][0]["content"], "Hello\nfriend")
        self.assertTrue(result.stdout)

    def test_refused_before_it_starts(self):
        self.assert_error(self.mmfp4("chat", "-m", "nowhere"), 1, "nowhere")
        self.assert_error(self.chat("", "--temperature", "9"), 2, "--temperature")


class Terminal(cli.CliTest):
    def start(self, *args):
        self.seen = ""
        command = [cli.ARGS.program, *args]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(self.folder)
            os.execve(command[0], command, self.env)
        self.addCleanup(self.stop)

    def stop(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def expect(self, pattern):
        """Reads until the pattern appears in what came since the last match."""
        deadline = time.monotonic() + cli.TIMEOUT
        while not (match := re.search(pattern, self.seen)):
            self.assertLess(time.monotonic(), deadline, f"waited for {pattern!r}; got {self.seen!r}")
            if select.select([self.fd], [], [], 1)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:  # the other side is gone
                    data = b""
                self.assertTrue(data, f"ended while waiting for {pattern!r}; got {self.seen!r}")
                self.seen += data.decode("utf-8", "replace")
        self.seen = self.seen[match.end():]

    def type(self, text):
        os.write(self.fd, text.encode())

    def exit_code(self):
        while True:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def test_interrupts_and_history(self):
        self.start("mmfp4", "chat", "-m", self.model, "--no-think", "--ignore-eos", "--temperature", "1.5")
        self.expect(r"/help lists the commands")
        self.expect(r"> ")
        self.type("half a line\x03")  # at the prompt: the line is dropped
        self.expect(r"Ctrl-D or /exit leaves")
        self.expect(r"> ")
        self.type("Tell me a story\n")
        self.expect(r"(?i)[a-z]+ [a-z]+ [a-z]+ [a-z]+ [a-z]+ [a-z]+ [a-z]+ [a-z]+")
        self.type("\x03\x03")  # in the answer: the answer ends, even pressed twice
        self.expect(r"interrupted")
        self.expect(r"> ")
        self.type("/save saved.json\n")
        self.expect(r"2 messages written")
        self.expect(r"> ")
        self.type("/exit\n")
        self.assertEqual(self.exit_code(), 0)
        history = self.folder / "state" / "metal-marlin" / "chat_history"
        self.assertIn("story", history.read_text())
        self.assertEqual(history.stat().st_mode & 0o077, 0)

    def test_termination_at_the_prompt(self):
        self.start("mmfp4", "chat", "-m", self.model)
        self.expect(r"> ")
        os.kill(self.pid, signal.SIGTERM)
        self.assertEqual(self.exit_code(), 130)

    def test_termination_in_an_answer(self):
        self.start("mmfp4", "chat", "-m", self.model, "--no-think", "--ignore-eos", "--temperature", "1.5")
        self.expect(r"> ")
        self.type("Tell me a story\n")
        self.expect(r"(?i)[a-z]+ [a-z]+ [a-z]+ [a-z]+ [a-z]+ [a-z]+ [a-z]+ [a-z]+")
        os.kill(self.pid, signal.SIGTERM)
        self.assertEqual(self.exit_code(), 130)

    def test_a_second_interrupt_leaves_no_dim_terminal(self):
        # Without </think> the reasoning goes on until it is interrupted.
        self.start("mmfp4", "generate", "-m", self.model, "-p", "What is 23 + 45?", "--ignore-eos", "--logit-bias",
                   f"{self.think_end()}=-100", "--temperature", "1.5")
        self.expect(r"\x1b\[2m[^\x1b]{20}")
        os.kill(self.pid, signal.SIGINT)
        os.kill(self.pid, signal.SIGINT)
        self.expect(r"\x1b\[0m")

    def think_end(self):
        tokens = json.loads((cli.Path(self.model) / "tokenizer.json").read_text())["added_tokens"]
        return next(t["id"] for t in tokens if t["content"] == "</think>")

    def test_reasoning_is_dimmed(self):
        self.start("mmfp4", "generate", "-m", self.model, "-p", "What is 23 + 45?", "--temperature", "0")
        self.expect(r"\x1b\[2m23 \+ 40 = 63, and 63 \+ 5 = 68\.\r\n\x1b\[0m\r\n23 plus 45 is 68\.\r\n")
        self.expect(r"tok/s")
        self.assertEqual(self.exit_code(), 0)

    def test_no_color(self):
        self.env["NO_COLOR"] = "1"
        self.start("mmfp4", "generate", "-m", self.model, "-p", "What is 23 + 45?", "--temperature", "0")
        self.expect(r"\n23 \+ 40 = 63, and 63 \+ 5 = 68\.\r\n\r\n23 plus 45 is 68\.\r\n")
        self.assertEqual(self.exit_code(), 0)


if __name__ == "__main__":
    cli.main()
