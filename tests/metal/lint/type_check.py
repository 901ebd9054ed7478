"""What clang says of the types in a .metal file: it reads the text that msl.Rewriter makes, with real address spaces
(address_spaces.h). Its messages, and what its syntax tree shows besides: casts that change an address space, calls."""
import re
import subprocess
import tempfile
from pathlib import Path

import msl

HEADER = Path(__file__).resolve().parent / "address_spaces.h"
MAX_THREADGROUP_BYTES = 32768

FLAGS = [
    "-fsyntax-only",
    "-std=c++14",
    "-Wno-everything",
    "-Wc++17-extensions",
    "-Wc++20-extensions",
    "-Wvla",
    "-fno-caret-diagnostics",
    "-fno-color-diagnostics",
    "-ferror-limit=0",
    "-Xclang",
    "-ast-dump",
]
# What clang says of text that Metal accepts.
ACCEPTED = [
    "bool __attribute__((ext_vector_type",  # clang's comparisons of vectors give vectors of int, Metal's of bool
    "hexadecimal floating literals",
]
SPACE = re.compile(r"MARLIN_(DEVICE|CONSTANT|THREADGROUP)(?:_SPACE)?|__attribute__\(\(address_space\((\d)\)\)\)")
SPACE_NAMES = {"1": "device", "2": "constant", "3": "threadgroup"}
COPIED = re.compile(r"no matching constructor for initialization of '([^']*)'|no viable overloaded '='")


def check(text, source, compiler, kernels, add):
    """Calls add(file, line, rule, message) for each finding."""
    with tempfile.NamedTemporaryFile("w", suffix=".cc") as file:
        file.write(f'#include "{HEADER}"\n{text}')
        file.flush()
        result = subprocess.run([compiler, *FLAGS, file.name], capture_output=True, text=True)
    diagnostics = read_diagnostics(result.stderr)
    check_messages(diagnostics, add)
    check_threadgroup_bytes(diagnostics, kernels, add)
    check_tree(result.stdout, source, add)


# --- messages ------------------------------------------------------------------------------------


class Diagnostic:
    def __init__(self, file, line, message):
        self.file, self.line, self.message, self.notes = file, line, message, []


def read_diagnostics(text):
    """Errors and warnings, each with its notes."""
    found = []
    for line in text.splitlines():
        match = re.match(r"(.*?):(\d+):\d+: (fatal error|error|warning|note): (.*)", line)
        if not match:
            continue
        if match.group(3) == "note":
            found[-1].notes.append(match.group(4))
        else:
            found.append(Diagnostic(match.group(1), int(match.group(2)), match.group(4)))
    return found


def check_messages(diagnostics, add):
    for diagnostic in diagnostics:
        message = diagnostic.message
        if msl.THREADGROUP_BYTES in message or any(text in message for text in ACCEPTED):
            continue
        if COPIED.match(message) and any("in address space" in note for note in diagnostic.notes):
            message = "copies a whole struct between memories: name its members"
            add(diagnostic.file, diagnostic.line, "struct-copy", message)
            continue
        message = SPACE.sub(lambda m: SPACE_NAMES.get(m.group(2)) or m.group(1).lower(), message)
        add(diagnostic.file, diagnostic.line, "type", message)


def check_threadgroup_bytes(diagnostics, kernels, add):
    """Sums what the assertions of msl.Rewriter.threadgroup_memory say, for each instance of a kernel."""
    bytes_of, instance = {}, ""
    for diagnostic in diagnostics:
        _, found, name = diagnostic.message.partition(msl.THREADGROUP_BYTES)
        notes = "\n".join(diagnostic.notes)
        begun = re.search(r"in instantiation of function template specialization '(.*)' requested", notes)
        if begun:  # said once, of the first message
            instance = begun.group(1)
        value = re.search(r"expression evaluates to '(\d+) == 0'", notes)
        if found and value:
            key = (name, instance)
            bytes_of[key] = bytes_of.get(key, 0) + int(value.group(1))
    for name, kernel in kernels.items():
        most = max((count for (of, _), count in bytes_of.items() if of == name), default=0)
        if most > MAX_THREADGROUP_BYTES:
            message = f"{name} has {most} bytes of threadgroup memory, at most {MAX_THREADGROUP_BYTES} are allowed"
            add(kernel.token.file, kernel.token.line, "threadgroup-size", message)


# --- the syntax tree -----------------------------------------------------------------------------

LOCATION = re.compile(r"([^\s:<>,]+):(\d+):\d+|\bcol:\d+")
DECLARED = re.compile(r"(?:FunctionDecl|CXXMethodDecl) (0x\w+)(?: parent 0x\w+)?(?: prev (0x\w+))?")
NAME = re.compile(r"(\S+) '")
# A pointer or reference without space binds to any when its type is a parameter of a template: T gets the space then.
DEDUCED = re.compile(r"TemplateArgument type '((?:const |volatile )*(?:MARLIN_|__attribute__\(\(address_space)[^*&]*?)'")
REFERRED = re.compile(r"DeclRefExpr .* (?:Function|CXXMethod) (0x\w+)|MemberExpr .*<bound member.*(?:->|\.)\S+ (0x\w+)")


def locations(line, place):
    """(where the node of a line of the dump begins, the last location that the line names): each location is given by
    what differs from the one before."""
    begin = None
    for match in LOCATION.finditer(line.split("'", 1)[0]):
        if match.group(1):
            place = (place[0] if match.group(1) == "line" else match.group(1), int(match.group(2)))
        begin = begin or place
    return begin or place, place


def check_tree(dump, source, add):
    place = (source, 0)
    calls, where, first = {}, {}, {}  # by address of a function's first declaration; `first` leads there
    stack = []  # (depth, address) of the functions around a line
    for line in dump.splitlines():
        begin, place = locations(line, place)
        depth = re.match(r"[|` -]*", line).end()
        while stack and stack[-1][0] >= depth:
            stack.pop()
        if "CStyleCastExpr" in line and "<AddressSpaceConversion>" in line:
            add(*begin, "cast", "a cast changes the address space")
        declared = DECLARED.match(line, depth)
        if declared:
            address, before = declared.groups()
            first[address] = first.get(before, before) if before else address
            stack.append((depth, first[address]))
            name = NAME.search(line)
            where[address] = (first[address], *place, name.group(1) if name else "?")
            continue
        deduced = DEDUCED.match(line, depth)
        if deduced and stack and stack[-1][1] in where:
            _, file, number, name = where[stack[-1][1]]
            add(file, number, "type", f"{name} is called with memory of another address space")
        referred = REFERRED.match(line, depth)
        if referred and stack:
            calls.setdefault(stack[-1][1], set()).add(referred.group(1) or referred.group(2))
    calls = {caller: {first.get(callee, callee) for callee in callees} for caller, callees in calls.items()}
    bodies = {entry[0]: entry for entry in where.values()}  # the last declaration is the one with the body
    for address, file, line, name in bodies.values():
        if address in reached(calls, address, set()):
            add(file, line, "recursion", f"{name} calls itself")


def reached(calls, name, seen):
    """All that can be called from name."""
    for other in calls.get(name, set()) - seen:
        seen.add(other)
        reached(calls, other, seen)
    return seen
