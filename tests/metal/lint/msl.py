"""Reads .metal files for the lint: preprocessing, tokens, kernels with their parameters, and the text whose types clang
can check (Rewriter), in which each of MSL's own constructs is one of C++ with address spaces."""
import ast
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPILER = "clang++-19"
# The built-in variables that a kernel's parameters can be, by attribute.
SCALAR_BUILT_INS = {
    "dispatch_quadgroups_per_threadgroup",
    "dispatch_simdgroups_per_threadgroup",
    "quadgroup_index_in_threadgroup",
    "quadgroups_per_threadgroup",
    "simdgroup_index_in_threadgroup",
    "simdgroups_per_threadgroup",
    "thread_execution_width",
    "thread_index_in_quadgroup",
    "thread_index_in_simdgroup",
    "thread_index_in_threadgroup",
    "threads_per_simdgroup",
}
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
# Words of MSL that C++ lacks, and what stands for them.
WORDS = {
    "device": "MARLIN_DEVICE",
    "constant": "MARLIN_CONSTANT const",
    "threadgroup": "MARLIN_THREADGROUP_SPACE",
    "thread": "",
    "kernel": "",
    "METAL_FUNC": "inline",
}
THREADGROUP_BYTES = "threadgroup bytes of "  # how the type check is told of threadgroup memory: see Rewriter

TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<directive>^\#[^\n]*)
    |(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    |(?P<number>0[xX][0-9a-fA-F.']+[pP][+-]?\d+[a-zA-Z]*|0[xX][0-9a-fA-F']+[uUlL]*|(?:\d[\d']*\.\d*|\.\d+|\d[\d']*)(?:[eE][+-]?\d+)?[a-zA-Z]*)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<symbol>\[\[|\]\]|::|->|<<=|>>=|<<|>>|[-+*/%&|^=!<>]=|&&|\|\||\+\+|--|.)""",
    re.S | re.M | re.X,
)
BLANK = {"space", "comment", "directive"}
FLOAT_WITHOUT_SUFFIX = re.compile(r"0[xX][0-9a-fA-F.']+[pP][+-]?\d+|(?=.*[.eE])(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?")
BFLOAT = re.compile(r"([^xX]*)(bf|BF)")


class SyntaxFault(Exception):
    """Text that the lint cannot follow."""

    def __init__(self, token, message):
        super().__init__(f"{token.file}:{token.line}: {message}")
        self.token, self.message = token, message


class Token:
    __slots__ = ("kind", "text", "file", "line")

    def __init__(self, kind, text, file, line):
        self.kind, self.text, self.file, self.line = kind, text, file, line


class Parameter:
    """A parameter of a kernel: its tokens without attributes, and the attributes."""

    def __init__(self, tokens, attributes):
        self.tokens = significant(tokens)
        self.attributes = [part for attribute in attributes for part in split_text(attribute)]

    @property
    def name(self):
        return self.tokens[-1].text if self.tokens else "?"

    def is_memory(self):
        return any(token.text in "*&" for token in self.tokens)

    def index(self, kind):
        """n of [[kind(n)]], or None."""
        for attribute in self.attributes:
            match = re.fullmatch(kind + r"\s*\((.*)\)", attribute, re.S)
            if match:
                return integer(match.group(1), self.tokens[0])
        return None


class Kernel:
    def __init__(self, name, token, parameters):
        self.name, self.token, self.parameters = name, token, parameters


# --- tokens --------------------------------------------------------------------------------------


def tokenize(text, file):
    tokens, line, position = [], 1, 0
    while position < len(text):
        match = TOKEN.match(text, position)
        kind, found = match.lastgroup, match.group()
        if kind == "directive":
            marker = re.match(r'#(?: line)?\s*(\d+)\s+"([^"]*)"', found)
            if marker:
                line, file = int(marker.group(1)) - 1, marker.group(2)
        tokens.append(Token(kind, found, file, line))
        line += found.count("\n")
        position = match.end()
    return split_subscripts(tokens)


def split_subscripts(tokens):
    """Takes ]] apart where it ends two subscripts, as in a[b[i]]."""
    result, stack = [], []
    for token in tokens:
        if token.text in ("[", "[["):
            stack.append(token.text)
        if token.text == "]]" and not (stack and stack[-1] == "[["):
            for _ in range(2):
                if stack:
                    stack.pop()
                result.append(Token("symbol", "]", token.file, token.line))
            continue
        if token.text in ("]", "]]") and stack:
            stack.pop()
        result.append(token)
    return result


def significant(tokens):
    return [token for token in tokens if token.kind not in BLANK]


def joined(tokens, separator=""):
    return separator.join(token.text for token in tokens).strip()


def newlines(tokens):
    """What keeps later lines in their places when tokens are removed."""
    return "\n" * sum(token.text.count("\n") for token in tokens)


def closing(tokens, begin):
    """The index of the bracket that closes the one at begin."""
    open_text = tokens[begin].text
    close_text = {"(": ")", "{": "}", "[": "]", "[[": "]]"}[open_text]
    depth = 0
    for i in range(begin, len(tokens)):
        if tokens[i].text == open_text:
            depth += 1
        elif tokens[i].text == close_text:
            depth -= 1
            if depth == 0:
                return i
    raise SyntaxFault(tokens[begin], f"'{open_text}' is never closed")


def find(tokens, begin, texts):
    """The index of the first of texts at or after begin that is in no attribute."""
    i = begin
    while i < len(tokens):
        if tokens[i].text == "[[":
            i = closing(tokens, i)
        elif tokens[i].text in texts:
            return i
        i += 1
    raise SyntaxFault(tokens[begin], f"none of {' '.join(texts)} follows")


def without_attributes(tokens):
    """(tokens outside [[...]], the attributes' texts)"""
    rest, attributes, i = [], [], 0
    while i < len(tokens):
        if tokens[i].text == "[[":
            end = closing(tokens, i)
            attributes += split_text(joined(tokens[i + 1 : end]))
            i = end + 1
        else:
            rest.append(tokens[i])
            i += 1
    return rest, attributes


def split_text(text):
    return [part.strip() for part in re.split(r",(?![^(]*\))", text)]


def split_commas(tokens):
    parts, current, depth = [], [], 0
    for token in tokens:
        depth += {"(": 1, "[": 1, "{": 1, "<": 1, "[[": 1, ")": -1, "]": -1, "}": -1, ">": -1, "]]": -1, ">>": -2}.get(
            token.text, 0
        )
        if token.text == "," and depth == 0:
            parts.append(current)
            current = []
        else:
            current.append(token)
    if significant(current):
        parts.append(current)
    return parts


def integer(text, token):
    """The value of an expression of integers, as macros leave it."""

    def value(node):
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            operations = {ast.Add: int.__add__, ast.Sub: int.__sub__, ast.Mult: int.__mul__}
            if type(node.op) in operations:
                return operations[type(node.op)](left, right)
        raise ValueError

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        raise SyntaxFault(token, f"'{text.strip()}' is no integer: use a literal or a macro") from None


# --- rewriting -----------------------------------------------------------------------------------

VECTOR = re.compile(r"(packed_)?(float|half|bfloat|bool|char|uchar|short|ushort|int|uint|long|ulong)[234]")


class Rewriter:
    """One pass over the tokens of a preprocessed file: the text for the type check, the kernels, the function
    constants."""

    def __init__(self, tokens):
        self.tokens = tokens
        self.position = 0
        self.out = []
        self.kernels = {}  # by name
        self.kernel_name = ""  # of the last one
        self.scopes = []  # of each open brace: whether it is a namespace's
        self.parentheses = 0
        self.template = False  # a template<...> was seen, its declaration not yet
        self.attributes = []  # seen since the last declaration
        self.function_constants = {}  # name -> (index or None if computed from others, type, token)
        self.instances = 0

    def run(self):
        while self.position < len(self.tokens):
            self.step(self.tokens[self.position])
        return "".join(self.out)

    def emit(self, text):
        self.out.append(text)

    # What stands for the constructs that C++ cannot express.

    def instance(self, expression):
        """Has clang instantiate a kernel."""
        self.instances += 1
        return f"static void* const marlin_instance_{self.instances} = (void*)({expression});"

    def threadgroup_memory(self, kind, name, dimensions):
        """A reference, since clang has no constructors for objects of a class in an address space. That the assertion
        fails makes clang say how many bytes there are."""
        space, of = f"MARLIN_THREADGROUP_SPACE marlin_type_{name}", THREADGROUP_BYTES + self.kernel_name
        size = f'static_assert(sizeof(marlin_type_{name}) == 0, "{of}");'
        return f"typedef {kind} marlin_type_{name}{dimensions}; {space}& {name} = *({space}*)0; {size} "

    # The pass.

    def in_function(self):
        return not all(self.scopes)

    def previous(self):
        """The last significant token before the position."""
        for token in reversed(self.tokens[: self.position]):
            if token.kind not in BLANK:
                return token.text
        return ""

    def step(self, token):
        handled = False
        if token.text == "[[":
            end = closing(self.tokens, self.position)
            _, attributes = without_attributes(self.tokens[self.position : end + 1])
            self.attributes += attributes
            self.emit(newlines(self.tokens[self.position : end + 1]))
            if "kernel" in attributes and not self.in_function():
                self.kernel(self.position)
            self.position = end + 1
            return
        if token.text in "{}":
            self.brace(token)
        elif token.kind == "name":
            handled = self.name(token)
        elif token.kind == "number" and FLOAT_WITHOUT_SUFFIX.fullmatch(token.text):
            self.emit(token.text + "f")
            handled = True
        elif token.kind == "number" and BFLOAT.fullmatch(token.text):
            self.emit(f"bfloat({token.text[:-2]}f)")
            handled = True
        self.parentheses += {"(": 1, ")": -1}.get(token.text, 0)
        if handled is True:
            self.position += 1
        elif handled is False:
            self.emit(token.text)
            self.position += 1
        if token.text in ("}", ";"):
            self.declaration_ends()

    def declaration_ends(self):
        if not self.in_function():
            self.template = False
            self.attributes = []

    def brace(self, token):
        if token.text == "}":
            if self.scopes:
                self.scopes.pop()
            return
        before = joined(significant(self.tokens[max(0, self.position - 16) : self.position]), " ")
        self.scopes.append(bool(re.search(r'(\bnamespace( \w+( :: \w+)*)?|\bextern "C")$', before)))

    def name(self, token):
        """Whether the token at the position was dealt with: True (one token), None (the position was moved), False."""
        if token.text == "template" and not self.in_function():
            return self.template_word(token)
        if token.text == "kernel" and not self.in_function():
            self.kernel(self.position)
            return True
        if token.text == "constant" and not self.in_function() and self.parentheses == 0:
            if self.constant(token):
                return None
        if token.text == "threadgroup" and self.in_function() and self.parentheses == 0:
            if self.previous() in ("{", "}", ";", ")", "else", ":") and self.threadgroup_variable(token):
                return None
        if token.text in WORDS:
            self.emit(WORDS[token.text])
            return True
        following = self.tokens[self.position + 1 : self.position + 4]
        after = next((t for t in following if t.kind not in BLANK), None)
        if VECTOR.fullmatch(token.text) and after and after.text == "(":
            self.emit(f"metal::marlin_make<{token.text}>")
            return True
        return False

    def template_word(self, token):
        after = next(t for t in self.tokens[self.position + 1 :] if t.kind not in BLANK)
        if after.text == "<":
            self.template = True
            return False
        end = find(self.tokens, self.position, ";")
        body, attributes = without_attributes(self.tokens[self.position : end])
        names = [attribute for attribute in attributes if attribute.startswith("host_name")]
        if not names or not ("kernel" in attributes or any(t.text == "kernel" for t in body)):
            return False
        name, expression = instantiated(significant(body))
        kernel = self.kernels.get(name)
        if not kernel:
            raise SyntaxFault(token, f"'{name}' is instantiated but is no kernel template of this file")
        self.emit(self.instance(expression))
        self.emit(newlines(self.tokens[self.position : end + 1]))
        self.position = end + 1
        self.attributes = []
        return None

    def kernel(self, begin):
        """Reads the declaration of a kernel, whose tokens then pass as any others."""
        parenthesis = find(self.tokens, begin, "(")
        name = [t for t in significant(without_attributes(self.tokens[begin:parenthesis])[0]) if t.kind == "name"][-1]
        end = closing(self.tokens, parenthesis)
        parameters = [
            Parameter(*without_attributes(part)) for part in split_commas(self.tokens[parenthesis + 1 : end])
        ]
        self.kernels[name.text] = Kernel(name.text, name, parameters)
        self.kernel_name = name.text

    def constant(self, token):
        """constant T name [[function_constant(n)]]; or constant T name = something of function constants;"""
        end = find(self.tokens, self.position, ";{(=")
        declared, attributes = without_attributes(self.tokens[self.position : end])
        declared = significant(declared)
        if len(declared) < 3 or any(t.text in "*&[" for t in declared):
            return False
        kind, name = joined(declared[1:-1], " "), declared[-1].text
        index = Parameter(declared, attributes).index("function_constant")
        if index is not None and self.tokens[end].text == ";":
            self.emit(f"extern MARLIN_CONSTANT const {kind} {name};")
        elif self.tokens[end].text == "=" and "constexpr" not in kind:
            initialiser = self.tokens[end + 1 : find(self.tokens, end, ";")]
            if not any(t.text in self.function_constants for t in initialiser):
                return False
            end = find(self.tokens, end, ";")
            self.emit(f"MARLIN_CONSTANT const {kind} {name} = {Rewriter(initialiser).run()};")
        else:
            return False
        self.function_constants[name] = (index, kind, declared[-1])
        self.emit(newlines(self.tokens[self.position : end + 1]))
        self.position = end + 1
        self.attributes = []
        return True

    def threadgroup_variable(self, token):
        end = find(self.tokens, self.position, ";")
        declared = significant(without_attributes(self.tokens[self.position + 1 : end])[0])
        declarators = split_commas(declared)
        first = declarators[0]
        stop = next((i for i, t in enumerate(first) if t.text in "[="), len(first))
        if any(t.text in "*&" for t in first[:stop]):
            return False  # a pointer into threadgroup memory, itself private
        kind = joined(first[: stop - 1], " ")
        declarators[0] = first[stop - 1 :]
        for declarator in declarators:
            dimensions = next((i for i, t in enumerate(declarator) if t.text == "["), len(declarator))
            value = next((i for i, t in enumerate(declarator) if t.text == "="), len(declarator))
            self.emit(self.threadgroup_memory(kind, declarator[0].text, joined(declarator[dimensions:value])))
        self.emit(newlines(self.tokens[self.position : end + 1]))
        self.position = end + 1
        return True


def instantiated(tokens):
    """(name, name<arguments>) of template [[host_name("x")]] kernel void name<arguments>(parameters), or without them."""
    depth, end = 0, len(tokens)
    steps = {"<": 1, ">": -1, ">>": -2}
    for i, token in enumerate(tokens):
        depth += steps.get(token.text, 0)
        if token.text == "(" and depth == 0 and tokens[i - 1].text != "decltype":
            end = i
            break
    begin = end - 1
    if tokens[begin].text in (">", ">>"):
        depth = 0
        while True:
            depth -= steps.get(tokens[begin].text, 0)
            begin -= 1
            if depth == 0:
                break
    return tokens[begin].text, joined([t for t in tokens[begin:end]], " ")


# --- files ---------------------------------------------------------------------------------------


def preprocess(source, compiler=COMPILER, language=(3, 1), includes=()):
    command = [compiler, "-E", "-x", "c++", "-std=c++17", "-undef", "-nostdinc"]
    command += ["-isystem", HERE.parent / "emulator" / "shim" / "stdlib"]
    command += ["-D__METAL__=1", f"-D__METAL_VERSION__={language[0] * 100 + language[1] * 10}"]
    if language >= (3, 1):
        command.append("-D__HAVE_BFLOAT__=1")
    for include in includes:
        command += ["-I", include]
    result = subprocess.run([*map(str, command), str(source)], capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr.rstrip())
    return result.stdout


def short_path(path, root):
    """path from root if it is there."""
    path, root = os.path.abspath(path), os.path.abspath(root)
    return os.path.relpath(path, root) if path.startswith(root + os.sep) else path


def short_markers(text, root):
    """Line markers with paths from root."""

    def shorter(match):
        return match.group(1) + short_path(match.group(2), root) + match.group(3)

    return re.sub(r'^(# \d+ ")([^"<]*)("[^\n]*)$', shorter, text, flags=re.M)
