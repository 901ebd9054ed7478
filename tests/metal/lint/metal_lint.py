#!/usr/bin/env python3
"""Finds in .metal files what Apple's compiler would refuse and a C++ build of them does not see.

Rules over tokens: bindings of kernels, address spaces of pointers, words that MSL lacks, recursion, threadgroup
variables. Then clang checks the types of the same text with real address spaces (address_spaces.h), and its syntax tree
is searched for casts that change one.

Prints  file:line: severity: [rule] message; exit status 1 if there are errors.

usage: metal_lint.py FILE.metal... [--include DIR]... [--define NAME=VALUE]... [--root DIR]
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

import msl

ADDRESS_SPACES = {"device", "constant", "threadgroup", "thread"}
BANNED = {
    "double": "MSL has no double",
    "new": "MSL has no new",
    "delete": "MSL has no delete",
    "virtual": "MSL has no virtual functions",
    "throw": "MSL has no exceptions",
    "try": "MSL has no exceptions",
    "catch": "MSL has no exceptions",
    "noexcept": "MSL has no exceptions",
    "dynamic_cast": "MSL has no run-time types",
    "typeid": "MSL has no run-time types",
    "goto": "MSL has no goto",
    "thread_local": "MSL has no thread_local",
    "asm": "MSL has no asm",
    "std": "MSL has no C++ standard library",
}
BUILT_IN_TYPES = {"uint", "ushort", "uint2", "ushort2", "uint3", "ushort3"}
# Of a kernel these are all scalars or all vectors of one size.
POSITIONS = {
    "dispatch_threads_per_threadgroup",
    "thread_position_in_grid",
    "thread_position_in_threadgroup",
    "threadgroup_position_in_grid",
    "threadgroups_per_grid",
    "threads_per_grid",
    "threads_per_threadgroup",
}
SCALAR_BUILT_INS = {
    "thread_index_in_threadgroup",
    "thread_index_in_simdgroup",
    "simdgroup_index_in_threadgroup",
    "simdgroups_per_threadgroup",
    "threads_per_simdgroup",
}
VECTOR = re.compile(r"(packed_)?(float|half|bfloat|bool|char|uchar|short|ushort|int|uint|long|ulong)[234]")
VECTOR3 = re.compile(r"(float|half|bfloat|int|uint|short|ushort|char|uchar)3")
FLOW = {"if", "for", "while", "switch"}


class Findings:
    def __init__(self):
        self.found = set()

    def add(self, token, rule, message, severity="error"):
        self.found.add((token.file, token.line, severity, rule, message))

    def at(self, file, line, rule, message, severity="error"):
        self.found.add((file, line, severity, rule, message))

    def errors(self):
        return [finding for finding in self.found if finding[2] == "error"]


# --- rules over tokens ---------------------------------------------------------------------------


class Function:
    """A function with a body: its name, the ranges of its parameters and of its body among the tokens."""

    def __init__(self, name, parameters, body):
        self.name, self.parameters, self.body = name, parameters, body


def opening(tokens, end):
    """The index of the '(' of the ')' at end."""
    depth = 0
    for i in range(end, -1, -1):
        depth += {")": 1, "(": -1}.get(tokens[i].text, 0)
        if depth == 0:
            return i
    return 0


def functions(tokens):
    """Functions at namespace and class scope; their bodies are not searched for more."""
    found, i = [], 0
    while i < len(tokens):
        if tokens[i].text == "{" and i and tokens[i - 1].text in (")", "const"):
            end = i - 1 if tokens[i - 1].text == ")" else i - 2
            begin = opening(tokens, end)
            name = tokens[begin - 1]
            close = msl.closing(tokens, i)
            if name.kind == "name" and name.text not in FLOW:
                found.append(Function(name, (begin + 1, end), (i + 1, close)))
            i = close
        i += 1
    return found


def check_parameters(tokens, function, findings):
    for part in msl.split_commas(tokens[slice(*function.parameters)]):
        part, _ = msl.without_attributes(part)
        memory = any(t.text in "*&" for t in part)
        if memory and not any(t.text in ADDRESS_SPACES for t in part):
            name = part[-1].text
            findings.add(
                part[0], "address-space", f"parameter '{name}' of {function.name.text} points to no address space"
            )


def statement_begin(tokens, i):
    while tokens[i - 1].text not in (";", "{", "}"):
        i -= 1
    return i


def check_locals(tokens, function, findings):
    """T* name and T& name at the beginning of a statement."""
    for i in range(*function.body):
        if tokens[i].text not in ("*", "&") or tokens[i + 1].kind != "name" or tokens[i + 2].text not in ("=", ";"):
            continue
        declared = tokens[statement_begin(tokens, i) : i]
        words = [t.text for t in declared]
        plain = words and all(t.kind == "name" or t.text in ("::", "<", ">", ",") for t in declared)
        plain = plain and words.count("<") == words.count(">")  # else a comparison
        if plain and "=" not in words and words[0] not in ("return", "auto") and not ADDRESS_SPACES & set(words):
            findings.add(tokens[i], "address-space", f"local '{tokens[i + 1].text}' points to no address space")


def check_body(tokens, function, is_kernel, findings):
    for i in range(*function.body):
        token, before = tokens[i], tokens[i - 1].text
        if token.text == "[" and before in ("=", "(", ",", "return", "{"):
            after = tokens[msl.closing(tokens, i) + 1].text
            if after in ("(", "{"):
                findings.add(token, "banned", "MSL 3 has no lambda expressions")
        if token.text == "threadgroup" and before in (";", "{", "}"):
            end = msl.find(tokens, i, ";")
            declared = tokens[i + 1 : end]
            stop = next((k for k, t in enumerate(declared) if t.text in "[="), len(declared))
            if any(t.text in "*&" for t in declared[:stop]):
                continue
            if not is_kernel:
                findings.add(token, "threadgroup", f"'{declared[stop - 1].text}' is declared outside of a kernel")
            if any(t.text == "=" for t in declared):
                findings.add(token, "threadgroup", "a threadgroup variable cannot be initialised")


def check_recursion(tokens, all_functions, findings):
    names = {function.name.text for function in all_functions}
    calls = {name: set() for name in names}
    for function in all_functions:
        for i in range(*function.body):
            if tokens[i].text in names and tokens[i + 1].text in ("(", "<"):
                calls[function.name.text].add(tokens[i].text)

    def reached(name, seen):
        for other in calls[name] - seen:
            seen.add(other)
            reached(other, seen)
        return seen

    for function in all_functions:
        if function.name.text in reached(function.name.text, set()):
            findings.add(function.name, "recursion", f"{function.name.text} calls itself")


def check_words(tokens, findings):
    depth_of_struct, depth = [], 0
    for i, token in enumerate(tokens):
        if token.text == "threadgroup" and tokens[i + 1].text == "atomic_float":
            findings.add(token, "atomic", "floating-point atomics exist in device memory only")
        if token.kind == "name" and token.text in BANNED:
            findings.add(token, "banned", BANNED[token.text])
        if token.text == "struct" and tokens[i + 2].text == "{":
            depth_of_struct.append(depth)
        depth += {"{": 1, "}": -1}.get(token.text, 0)
        if token.text == "}" and depth_of_struct and depth == depth_of_struct[-1]:
            depth_of_struct.pop()
        in_struct = depth_of_struct and depth == depth_of_struct[-1] + 1
        if in_struct and token.kind == "name" and VECTOR3.fullmatch(token.text):
            message = f"{token.text} in a struct takes the room of four; packed_{token.text} takes that of three"
            findings.add(token, "vector3", message, "warning")


def check_kernels(kernels, findings):
    for kernel in kernels.values():
        shapes = {}  # of positions: components, and the first parameter that has so many
        for parameter in kernel.parameters:
            first = parameter.tokens[0]
            words = {t.text for t in parameter.tokens}
            where = f"parameter '{parameter.name}' of {kernel.name}"
            if parameter.index("buffer") is not None:
                if not parameter.is_memory():
                    findings.add(first, "binding", f"{where}: [[buffer]] needs a pointer or a reference")
                if not words & {"device", "constant"}:
                    findings.add(first, "binding", f"{where}: a buffer is in device or constant memory")
            if parameter.index("threadgroup") is not None and "threadgroup" not in words:
                findings.add(first, "binding", f"{where}: is not in threadgroup memory")
            if not parameter.attributes and parameter.is_memory():
                findings.add(first, "binding", f"{where}: has no explicit [[buffer(n)]]", "warning")
            built_in = next((a for a in parameter.attributes if a in msl.BUILT_INS), None)
            kind = parameter.tokens[0].text
            if built_in and (kind not in BUILT_IN_TYPES or (built_in in SCALAR_BUILT_INS and kind[-1] in "23")):
                findings.add(first, "binding", f"{where}: {built_in} cannot be {kind}")
            if built_in in POSITIONS:
                shapes.setdefault(kind[-1] if kind[-1] in "23" else "1", first)
        if len(shapes) > 1:
            findings.add(list(shapes.values())[1], "binding", f"{kernel.name}: positions are scalars and vectors")


# What clang says of text that Metal accepts.
ACCEPTED = [
    "bool __attribute__((ext_vector_type",  # clang's comparisons of vectors give vectors of int, Metal's of bool
    "hexadecimal floating literals",
]


# --- types ---------------------------------------------------------------------------------------


class TypeRewriter(msl.Rewriter):
    """The text with attributes of clang for address spaces; faults of kernels are findings."""

    words = {
        "device": "MARLIN_DEVICE",
        "constant": "MARLIN_CONSTANT const",
        "threadgroup": "MARLIN_THREADGROUP_SPACE",
        "thread": "",
        "kernel": "",
        "METAL_FUNC": "inline",
    }

    def __init__(self, tokens, findings=None):
        super().__init__(tokens)
        self.findings = findings

    def fault(self, token, message):
        pass  # check_body() says it

    def registration(self, kernel, host_name, expression, token):
        return ""

    def function_constant(self, index, kind, name):
        return f"extern MARLIN_CONSTANT const {kind} {name};"

    def derived_constant(self, kind, name, value):
        return f"MARLIN_CONSTANT const {kind} {name} = {value};"

    def threadgroup_memory(self, kind, name, dimensions):
        # A reference: clang has no constructors for objects of a class in an address space.
        space = f"MARLIN_THREADGROUP_SPACE marlin_type_{name}"
        return f"typedef {kind} marlin_type_{name}{dimensions}; {space}& {name} = *({space}*)0; "

    def kernel(self, begin):
        try:
            super().kernel(begin)
        except msl.GenerateError as error:
            file, line, _, message = str(error).split(":", 3)
            self.findings.at(file, int(line), "binding", message.strip())

    def name(self, token):
        following = self.tokens[self.position + 1 : self.position + 4]
        after = next((t for t in following if t.kind not in msl.BLANK), None)
        if VECTOR.fullmatch(token.text) and after and after.text == "(":
            self.emit(f"metal::marlin_make<{token.text}>")
            return True
        return super().name(token)


def check_types(text, source, findings):
    """clang's errors, and casts that change an address space, which it accepts."""
    with tempfile.NamedTemporaryFile("w", suffix=".cc") as file:
        file.write(f'#include "{HERE / "address_spaces.h"}"\n{text}')
        file.flush()
        command = [msl.COMPILER, "-fsyntax-only", "-std=c++14", "-Wno-everything", "-Wc++17-extensions", "-Wc++20-extensions"]
        command += ["-Wno-reserved-user-defined-literal", "-fno-caret-diagnostics", "-fno-color-diagnostics"]
        command += ["-ferror-limit=0", "-Xclang", "-ast-dump", file.name]
        result = subprocess.run(command, capture_output=True, text=True)
    for line in result.stderr.splitlines():
        match = re.match(r"(.*?):(\d+):\d+: (error|warning): (.*)", line)
        if match and not any(text in line for text in ACCEPTED):
            findings.at(match.group(1), int(match.group(2)), "type", match.group(4), match.group(3))
    place = (source, 0)
    for line in result.stdout.splitlines():
        begin, place = locations(line, place)
        if "CStyleCastExpr" in line and "<AddressSpaceConversion>" in line:
            findings.at(*begin, "type", "a cast changes the address space")


LOCATION = re.compile(r"([^\s:<>,]+):(\d+):\d+|\bcol:\d+")


def locations(line, place):
    """(where the node of a line of the syntax tree's dump begins, the last location that the line names): each location
    is given by what differs from the one before."""
    begin = None
    for match in LOCATION.finditer(line.split("'", 1)[0]):
        if match.group(1):
            place = (place[0] if match.group(1) == "line" else match.group(1), int(match.group(2)))
        begin = begin or place
    return begin or place, place


# --- files ---------------------------------------------------------------------------------------


def lint(source, includes=(), defines=(), root=None):
    """The findings of one file, sorted: (file, line, severity, rule, message)."""
    findings = Findings()
    text = msl.relative_markers(msl.preprocess(source, includes, defines), root)
    name = os.path.relpath(source, root) if root else str(source)
    tokens = msl.tokenize(text, name)
    rewriter = TypeRewriter(tokens, findings)
    rewritten = rewriter.run()
    words = msl.significant(tokens)
    all_functions = functions(words)
    for function in all_functions:
        check_parameters(words, function, findings)
        check_locals(words, function, findings)
        check_body(words, function, function.name.text in rewriter.kernels, findings)
    check_recursion(words, all_functions, findings)
    check_words(words, findings)
    check_kernels(rewriter.kernels, findings)
    check_types(rewritten, name, findings)
    return sorted(findings.found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--include", action="append", default=[])
    parser.add_argument("--define", action="append", default=[])
    parser.add_argument("--root", help="paths in messages are relative to it")
    options = parser.parse_args()
    errors = 0
    for source in options.files:
        found = lint(Path(source).resolve(), options.include, options.define, options.root)
        for file, line, severity, rule, message in found:
            print(f"{file}:{line}: {severity}: [{rule}] {message}")
            errors += severity == "error"
    print(f"metal lint: {len(options.files)} file(s), {f'{errors} error(s)' if errors else 'ok'}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
