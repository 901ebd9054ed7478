#!/usr/bin/env python3
"""Finds in .metal files what Apple's compiler refuses, or this project does without, and a C++ build does not see.

Rules over tokens: bindings of kernels, address spaces of pointers, words that MSL lacks, function constants, recursion,
threadgroup variables, sizes. Then clang checks the types of the same text with real address spaces (type_check.py).
Prints file:line: rule: text for each finding; the exit status is 1 if there is one.

usage: metal_lint.py [--clang clang++-19] [--language 3.1] [--include DIR]... FILE.metal...
"""
import argparse
import os
import re
import shutil
import sys
from pathlib import Path

import msl
import type_check

ADDRESS_SPACES = {"device", "constant", "threadgroup", "thread", "threadgroup_imageblock", "ray_data", "object_data"}
BANNED = {
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
    "register": "MSL has no register",
    "asm": "MSL has no asm",
    "std": "MSL has no C++ standard library",
}
BUILT_IN_TYPES = {"uint", "ushort", "uint2", "ushort2", "uint3", "ushort3"}
VECTOR3 = re.compile(r"(float|half|bfloat|bool|u?(?:char|short|int|long))3")
BFLOAT = re.compile(r"(packed_)?bfloat[234]?|(simdgroup_)?bfloat\dx\d|.*\d\.?(bf|BF)")
DOUBLE = re.compile(r"(?=.*[.eE])(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?[lL]?")
RULES = [
    "address-space",  # a pointer or reference without one, a variable at namespace scope that is not constant
    "atomic",  # a threadgroup atomic_float
    "banned",  # a word that MSL lacks, a lambda expression
    "binding",  # a kernel's parameter that gets no value, or one of another type; a kernel that returns a value
    "buffer-index",  # above 30, or used twice
    "cast",  # one that changes the address space
    "double",  # the type, or a literal that is one in C++
    "function-constant",  # an index of several names or types
    "kernel-size",  # more than 300 lines
    "language",  # bfloat before Metal 3.1
    "recursion",
    "static-inline",  # a function that is neither a kernel nor that
    "struct-copy",  # a whole struct between memories
    "syntax",  # what the lint cannot follow
    "threadgroup",  # a variable outside of a kernel, or with an initialiser
    "threadgroup-size",  # more than 32 KiB in a kernel
    "type",  # what clang says: spaces mixed, writes through const and constant, and the rest
    "vector3",  # in a struct
]
NOT_FUNCTIONS = {"alignas", "decltype", "__attribute__"}
NOT_VARIABLES = {"class", "enum", "extern", "namespace", "static_assert", "struct", "template", "typedef", "union", "using"}
STAGES = {"kernel", "vertex", "fragment"}
MAX_BUFFER_INDEX = 30
MAX_KERNEL_LINES = 300


class Findings:
    def __init__(self):
        self.found = set()

    def add(self, token, rule, message):
        self.at(token.file, token.line, rule, message)

    def at(self, file, line, rule, message):
        self.found.add((file, line, rule, message))


# --- declarations --------------------------------------------------------------------------------


class Declaration:
    """At namespace or class scope: the tokens up to its body or semicolon, the body's tokens (None without one), its
    closing brace."""

    def __init__(self, head, body, last, in_class):
        self.head, self.body, self.last, self.in_class = head, body, last, in_class
        self.words = {token.text for token in head}
        self.is_kernel = bool(STAGES & self.words)
        self.name, self.parameters, self.is_function = None, [], False
        self.find_parameters()

    def find_parameters(self):
        begin, i = None, 0
        while i < len(self.head) and self.head[i].text != "=":
            if self.head[i].text == "[[":
                i = msl.closing(self.head, i)
            elif self.head[i].text == "(" and i and self.head[i - 1].text not in NOT_FUNCTIONS:
                begin = i
                break
            i += 1
        if begin is None:
            return
        end = msl.closing(self.head, begin)
        self.name = self.head[begin - 1]
        self.is_function = True
        self.returned = self.head[: begin - 1]
        self.parameters = msl.split_commas(self.head[begin + 1 : end])

    def space(self):
        return ADDRESS_SPACES & self.words


def declarations(tokens, in_class=False):
    """Yields all at namespace scope and in classes; the bodies of functions are not searched."""
    begin = i = 0
    while i < len(tokens):
        text = tokens[i].text
        if text in ("(", "[", "[["):
            i = msl.closing(tokens, i)
        elif text == ";":
            if i > begin:
                yield Declaration(tokens[begin:i], None, tokens[i], in_class)
            begin = i + 1
        elif text == "{":
            end = msl.closing(tokens, i)
            head, body = tokens[begin:i], tokens[i + 1 : end]
            words = {token.text for token in head}
            if head and head[-1].text in (")", "const", "noexcept"):
                yield Declaration(head, body, tokens[end], in_class)
                begin = end + 1
            elif "namespace" in words or "extern" in words:
                yield from declarations(body)
                begin = end + 1
            elif words & {"struct", "class", "union"} and "=" not in words:
                yield from declarations(body, True)
                begin = msl.find(tokens, end, ";") + 1
                end = begin - 1
            i = end
        i += 1


# --- rules over tokens ---------------------------------------------------------------------------


def points(tokens):
    return any(token.text in ("*", "&", "[") for token in tokens)


def spaces_of(tokens):
    return ADDRESS_SPACES & {token.text for token in tokens}


def check_declaration(declaration, findings):
    if declaration.is_function:
        check_parameters(declaration, findings)
    elif declaration.in_class:
        if points([t for t in declaration.head if t.text != "["]) and not declaration.space():
            name = declaration.head[-1].text
            findings.add(declaration.head[0], "address-space", f"member '{name}' points to no address space")
    else:
        check_variable(declaration, findings)
    if declaration.is_function and declaration.body is not None:
        check_function(declaration, findings)


def check_parameters(declaration, findings):
    name = declaration.name.text
    for part in declaration.parameters:
        part, _ = msl.without_attributes(part)
        if points(part) and not spaces_of(part):
            called = [t.text for t in part[: next((i for i, t in enumerate(part) if t.text == "["), None)]][-1]
            findings.add(part[0], "address-space", f"parameter '{called}' of {name} points to no address space")
    returned = msl.without_attributes(declaration.returned)[0]
    words = {token.text for token in returned}
    if words & {"*", "&"} and "operator" not in words and not spaces_of(returned):
        findings.add(declaration.name, "address-space", f"what {name} returns points to no address space")


def check_variable(declaration, findings):
    """At namespace scope."""
    if declaration.words & NOT_VARIABLES or len(declaration.head) < 2:
        return
    stop = next((i for i, t in enumerate(declaration.head) if t.text in ("=", "[", "{", "[[")), len(declaration.head))
    name = declaration.head[stop - 1].text
    if "threadgroup" in declaration.words:
        findings.add(declaration.head[0], "threadgroup", f"'{name}' is declared outside of a kernel")
    elif "constant" not in declaration.words:
        findings.add(declaration.head[0], "address-space", f"variable '{name}' at namespace scope is not constant")


def check_function(declaration, findings):
    check_locals(declaration, findings)
    check_lambdas(declaration, findings)
    check_threadgroup_variables(declaration, findings)
    name = declaration.name
    if declaration.is_kernel:
        lines = declaration.last.line - declaration.head[0].line + 1
        if lines > MAX_KERNEL_LINES:
            findings.add(name, "kernel-size", f"{name.text} has {lines} lines, at most {MAX_KERNEL_LINES} are allowed")
        if "void" not in {token.text for token in declaration.returned}:
            findings.add(name, "binding", f"{name.text}: a kernel returns void")
    elif not declaration.in_class:
        if not ("static" in declaration.words and declaration.words & {"inline", "METAL_FUNC"}):
            findings.add(name, "static-inline", f"{name.text} is neither a kernel nor static inline")


def statement_begin(tokens, i):
    """The index of the first token of the statement, or of the declaration in a for's, if's or while's parentheses."""
    while i > 0 and tokens[i - 1].text not in (";", "{", "}"):
        if tokens[i - 1].text == "(" and i > 1 and tokens[i - 2].text in ("for", "if", "while"):
            break
        i -= 1
    return i


def check_locals(declaration, findings):
    """T* name and T& name at the beginning of a statement."""
    tokens = declaration.body
    for i in range(1, len(tokens) - 2):
        if tokens[i].text not in ("*", "&"):
            continue
        name = i + 2 if tokens[i + 1].text == "const" else i + 1
        if name + 1 >= len(tokens) or tokens[name].kind != "name":
            continue
        if tokens[name + 1].text not in ("=", ";", ",", "[", ":"):
            continue
        declared = tokens[statement_begin(tokens, i) : i]
        words = [t.text for t in declared]
        plain = bool(words) and all(t.kind == "name" or t.text in ("::", "<", ">", ",") for t in declared)
        plain = plain and words.count("<") == words.count(">")  # else a comparison
        if plain and words[0] not in ("return", "auto", "else", "case") and not spaces_of(declared):
            findings.add(tokens[i], "address-space", f"local '{tokens[name].text}' points to no address space")


def check_lambdas(declaration, findings):
    tokens = declaration.body
    for i, token in enumerate(tokens):
        if token.text == "[" and i and tokens[i - 1].text in ("=", "(", ",", "return", "{"):
            after = tokens[min(msl.closing(tokens, i) + 1, len(tokens) - 1)].text
            if after in ("(", "{"):
                findings.add(token, "banned", "MSL 3 has no lambda expressions")


def check_threadgroup_variables(declaration, findings):
    tokens = declaration.body
    for i, token in enumerate(tokens):
        if token.text != "threadgroup" or (i and tokens[i - 1].text not in (";", "{", "}", "static")):
            continue
        declared = tokens[i + 1 : msl.find(tokens, i, ";")]
        stop = next((k for k, t in enumerate(declared) if t.text in "[={"), len(declared))
        if any(t.text in ("*", "&") for t in declared[:stop]):
            continue
        name = declared[stop - 1].text
        if not declaration.is_kernel:
            findings.add(token, "threadgroup", f"'{name}' is declared outside of a kernel")
        if any(t.text in ("=", "{") for t in declared):
            findings.add(token, "threadgroup", f"'{name}' is in threadgroup memory and cannot be initialised")


def check_words(tokens, language, findings):
    for i, token in enumerate(tokens):
        if token.text == "threadgroup" and i + 1 < len(tokens) and tokens[i + 1].text == "atomic_float":
            findings.add(token, "atomic", "floating-point atomics exist in device memory only")
        if token.kind == "name" and token.text in BANNED:
            findings.add(token, "banned", BANNED[token.text])
        if token.text == "double":
            findings.add(token, "double", "MSL has no double")
        if token.kind == "number" and DOUBLE.fullmatch(token.text):
            findings.add(token, "double", f"{token.text} is a double in C++: write {token.text.rstrip('lL')}f")
        if token.kind in ("name", "number") and BFLOAT.fullmatch(token.text) and language < (3, 1):
            findings.add(token, "language", f"{token.text} needs Metal 3.1, this is {language[0]}.{language[1]}")


def check_members(declaration, findings):
    """Members of structs that take more room than their components."""
    if declaration.is_function or not declaration.in_class:
        return
    for token in declaration.head:
        if VECTOR3.fullmatch(token.text):
            message = f"{token.text} in a struct takes the room of four; packed_{token.text} takes that of three"
            findings.add(token, "vector3", message)


def check_recursion(functions, findings):
    """Of functions that are not overloaded; type_check.py sees the others as far as they are instantiated."""
    names = [function.name.text for function in functions]
    calls = {name: set() for name in names if names.count(name) == 1}
    for function in functions:
        for token, after in zip(function.body, function.body[1:]):
            if function.name.text in calls and token.text in calls and after.text in ("(", "<"):
                calls[function.name.text].add(token.text)
    for function in functions:
        name = function.name.text
        if name in calls and name in type_check.reached(calls, name, set()):
            findings.add(function.name, "recursion", f"{name} calls itself")


# --- kernels -------------------------------------------------------------------------------------


def check_kernel(kernel, findings):
    shapes = {}  # of positions: components, and the first parameter that has so many
    used = {}
    for parameter in kernel.parameters:
        first = next((t for t in parameter.tokens if t.text != "const"), None)
        if first is None or first.text == "void":
            continue
        where = f"parameter '{parameter.name}' of {kernel.name}"
        check_index(parameter, first, where, used, findings)
        fault = binding_fault(parameter, first.text)
        if fault:
            findings.add(first, "binding", f"{where}: {fault}")
        if msl.POSITIONS & set(parameter.attributes):
            shapes.setdefault(first.text[-1] if first.text[-1] in "23" else "1", first)
    if len(shapes) > 1:
        findings.add(list(shapes.values())[1], "binding", f"{kernel.name}: positions are scalars and vectors")


def check_index(parameter, token, where, used, findings):
    for kind in ("buffer", "threadgroup"):
        index = parameter.index(kind)
        if index is None:
            continue
        if not 0 <= index <= MAX_BUFFER_INDEX:
            findings.add(token, "buffer-index", f"{where}: {kind}({index}), only 0 to {MAX_BUFFER_INDEX} exist")
        if (kind, index) in used:
            findings.add(token, "buffer-index", f"{where}: '{used[kind, index]}' has {kind}({index}) already")
        if not any(attribute.startswith("function_constant") for attribute in parameter.attributes):
            used[kind, index] = parameter.name  # else there may be one for each value of the constant


def binding_fault(parameter, kind):
    """Why a parameter gets no value, or None."""
    words = {token.text for token in parameter.tokens}
    built_in = next((a for a in parameter.attributes if a in msl.POSITIONS | msl.SCALAR_BUILT_INS), None)
    names = {re.match(r"\w*", attribute).group() for attribute in parameter.attributes}
    if built_in:
        wrong = kind not in BUILT_IN_TYPES or (built_in in msl.SCALAR_BUILT_INS and kind[-1] in "23")
        return f"{built_in} cannot be {kind}" if wrong or parameter.is_memory() else None
    if "buffer" in names:
        if not parameter.is_memory():
            return "[[buffer]] needs a pointer or a reference"
        return None if words & {"device", "constant"} else "a buffer is in device or constant memory"
    if "threadgroup" in names:
        return None if "threadgroup" in words and parameter.is_memory() else "is no pointer to threadgroup memory"
    if names & {"texture", "sampler"}:
        return None
    if names - {"function_constant"}:
        return f"unknown attribute {', '.join(sorted(names))}"
    return "has no attribute that says where it comes from"


def check_function_constants(constants, findings):
    """One index is one name and one type in all files."""
    first = {}
    for index, kind, name, token in sorted(constants, key=lambda c: (c[0], c[3].file, c[3].line)):
        other = first.setdefault(index, (kind, name, token))
        if other[:2] != (kind, name):
            place = f"{other[2].file}:{other[2].line}"
            findings.add(
                token, "function-constant", f"{index} is '{kind} {name}' here and '{other[0]} {other[1]}' at {place}"
            )


# --- files ---------------------------------------------------------------------------------------


def lint_file(source, options, findings):
    """Adds the findings of one file; returns its function constants."""
    text = msl.preprocess(source, options.clang, options.language, options.include)
    name = msl.short_path(source, os.getcwd())
    tokens = msl.tokenize(msl.short_markers(text, os.getcwd()), name)
    words = msl.significant(tokens)
    check_words(words, options.language, findings)
    declared = list(declarations(words))
    for declaration in declared:
        check_declaration(declaration, findings)
        check_members(declaration, findings)
    check_recursion([d for d in declared if d.is_function and d.body is not None], findings)
    rewriter = msl.Rewriter(tokens)
    rewritten = rewriter.run()
    for kernel in rewriter.kernels.values():
        check_kernel(kernel, findings)
    type_check.check(rewritten, name, options.clang, rewriter.kernels, findings.at)
    entries = [(index, kind, name, token) for name, (index, kind, token) in rewriter.function_constants.items()]
    return [entry for entry in entries if entry[0] is not None]


def lint(sources, options):
    """The findings of all files, sorted: (file, line, rule, message)."""
    findings, constants = Findings(), []
    for source in sources:
        try:
            constants += lint_file(source, options, findings)
        except msl.SyntaxFault as fault:
            findings.add(fault.token, "syntax", fault.message)
    check_function_constants(constants, findings)
    return sorted(findings.found)


def version(text):
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.metal")
    parser.add_argument("--clang", default=msl.COMPILER)
    parser.add_argument("--language", type=version, default=(3, 1), help="version of MSL, 3.1 without this")
    parser.add_argument("--include", action="append", default=[], metavar="DIR")
    return parser.parse_args(argv)


def main():
    options = arguments()
    if not shutil.which(options.clang):
        print(f"metal_lint: {options.clang} is missing: scripts/setup.sh --ci installs it", file=sys.stderr)
        return 2
    found = lint(options.files, options)
    for file, line, rule, message in found:
        print(f"{file}:{line}: {rule}: {message}")
    print(f"metal_lint: {len(found)} finding(s)" if found else f"metal_lint: {len(options.files)} file(s), ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
