#!/usr/bin/env python3
"""Makes C++ of a .metal file: generate.py IN.metal OUT.cc [--depfile OUT.d] [--root DIR] [-I DIR]... [-D NAME]...

--target cuda makes a file for nvcc (tests/metal/cuda) instead of one for the emulator.

The text goes through clang's preprocessor and then, token by token, into the output. Only what C++ cannot express is
rewritten: threadgroup variables, function constants, attributes, explicit instantiations with a host_name, and literals
of type double, which MSL does not have. Line markers are kept, so that every later message names a line of the .metal
file. A table of kernels follows: the generator says where each parameter comes from, and the compiler finds its type.
"""
import argparse
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

TOKEN = re.compile(r'''
    (?P<space>[ \t\n]+)
  | (?P<comment>//[^\n]*|/\*.*?\*/)
  | (?P<marker>^\#[^\n]*)
  | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
  | (?P<number>0[xX][0-9a-fA-F]+[uUlL]*|(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?[a-zA-Z]*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<sign>\[\[|\]\]|::|->|<<=|>>=|<<|[-+*/%&|^=!<>]=|&&|\|\||\+\+|--|.)''', re.S | re.M | re.X)
UNSIGNIFICANT = ('space', 'comment', 'marker')
LINE_MARKER = re.compile(r'#(?: line)?\s*(\d+)\s+"([^"]*)"')
DOUBLE_LITERAL = re.compile(r'\d+\.\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+')

# Attributes of parameters that are no buffers.
SOURCES = {
    'thread_position_in_threadgroup': 'kThreadInThreadgroup',
    'thread_position_in_grid': 'kThreadInGrid',
    'threadgroup_position_in_grid': 'kThreadgroupInGrid',
    'threads_per_threadgroup': 'kThreadsPerThreadgroup',
    'dispatch_threads_per_threadgroup': 'kThreadsPerThreadgroup',
    'threadgroups_per_grid': 'kThreadgroupsPerGrid',
    'threads_per_grid': 'kThreadsPerGrid',
    'thread_index_in_threadgroup': 'kIndexInThreadgroup',
    'thread_index_in_simdgroup': 'kLane',
    'simdgroup_index_in_threadgroup': 'kSimdgroup',
    'simdgroups_per_threadgroup': 'kSimdgroups',
    'threads_per_simdgroup': 'kThreadsPerSimdgroup',
}


class Failure(Exception):
    """What the .metal file has and we cannot translate."""


class Token:
    __slots__ = ('kind', 'text', 'line', 'file')

    def __init__(self, kind, text, line, file):
        self.kind, self.text, self.line, self.file = kind, text, line, file

    def significant(self):
        return self.kind not in UNSIGNIFICANT


# ---- tokens ---------------------------------------------------------------------------------------------------------

def tokenize(text, file):
    tokens, position, line = [], 0, 1
    while position < len(text):
        match = TOKEN.match(text, position)
        kind, word = match.lastgroup, match.group()
        if kind == 'marker':
            marker = LINE_MARKER.match(word)
            if marker:  # it counts from the next line on
                line, file = int(marker.group(1)) - 1, marker.group(2)
        tokens.append(Token(kind, word, line, file))
        line += word.count('\n')
        position = match.end()
    return split_subscripts(tokens)


def split_subscripts(tokens):
    """The `]]` of a[b[i]] is no end of an attribute: two tokens."""
    opened, result = [], []
    for token in tokens:
        if token.text in ('[', '[['):
            opened.append(token.text)
        elif token.text == ']':
            if opened:
                opened.pop()
        elif token.text == ']]':
            if opened and opened[-1] == '[[':
                opened.pop()
            else:
                del opened[-2:]
                result += [Token('sign', ']', token.line, token.file) for _ in range(2)]
                continue
        result.append(token)
    return result


def significant(tokens):
    return [token for token in tokens if token.significant()]


def text_of(tokens):
    return ''.join(token.text for token in tokens).strip()


def words_of(tokens):
    return ' '.join(token.text for token in tokens)


def closing(tokens, start, opener, closer):
    """The index of the token that closes the one at `start`."""
    depth = 0
    for i in range(start, len(tokens)):
        if tokens[i].text == opener:
            depth += 1
        elif tokens[i].text == closer:
            depth -= 1
            if depth == 0:
                return i
    raise Failure(f'{tokens[start].file}:{tokens[start].line}: no {closer} for this {opener}')


def find(tokens, start, text):
    for i in range(start, len(tokens)):
        if tokens[i].text == text:
            return i
    raise Failure(f'{tokens[start].file}:{tokens[start].line}: expected {text} somewhere after this')


def without_attributes(tokens):
    """The other tokens, and the text of each attribute."""
    rest, attributes, i = [], [], 0
    while i < len(tokens):
        if tokens[i].text == '[[':
            end = closing(tokens, i, '[[', ']]')
            attributes.append(text_of(tokens[i + 1:end]))
            i = end + 1
        else:
            rest.append(tokens[i])
            i += 1
    return rest, attributes


def nesting(text):
    """By how much a token changes the depth of brackets, those of templates included."""
    if text in ('(', '[', '{', '<', '[['):
        return 1
    if text in (')', ']', '}', '>', ']]'):
        return -1
    return 0


def split_commas(tokens):
    parts, part, depth = [], [], 0
    for token in tokens:
        depth += nesting(token.text)
        if token.text == ',' and depth == 0:
            parts.append(part)
            part = []
        else:
            part.append(token)
    if significant(part):
        parts.append(part)
    return parts


def line_structure(tokens):
    """What must stay of replaced tokens for the lines after them to keep their numbers."""
    kept = ''
    for token in tokens:
        if token.kind == 'marker':
            kept += token.text
        else:
            kept += '\n' * token.text.count('\n')
    return kept


# ---- what the file declares -----------------------------------------------------------------------------------------

class Kernel:
    def __init__(self, name, is_template, parameters, token):
        self.name, self.is_template, self.parameters = name, is_template, parameters
        self.where = f'{token.file}:{token.line}: kernel {name}'

    def sources(self):
        """(source, index) of each parameter; buffers without an index get the lowest free ones, as in Metal."""
        taken = set()
        for _, attributes in self.parameters:
            taken |= {int(n) for n in re.findall(r'\bbuffer\s*\(\s*(\d+)', ','.join(attributes))}
        return [self.source(tokens, attributes, taken) for tokens, attributes in self.parameters]

    def source(self, tokens, attributes, taken):
        for attribute in re.split(r',(?![^(]*\))', ','.join(attributes)):
            attribute = attribute.strip()
            match = re.fullmatch(r'(buffer|threadgroup)\s*\(\s*(\d+)\s*\)', attribute)
            if match:
                kind = 'kBuffer' if match.group(1) == 'buffer' else 'kThreadgroupBuffer'
                return kind, int(match.group(2))
            if attribute in SOURCES:
                return SOURCES[attribute], 0
        words = [token.text for token in significant(tokens)]
        if '*' not in words and '&' not in words:
            raise Failure(f'{self.where}: parameter {words[-1]} has no attribute that says where it comes from')
        index = next(n for n in range(len(taken) + 1) if n not in taken)
        taken.add(index)
        return 'kBuffer', index


class CpuTarget:
    """How the constructs that C++ lacks are written for the emulator."""

    def __init__(self):
        self.words = {}  # what stands for a name

    def literal(self, text):
        return text + 'f' if DOUBLE_LITERAL.fullmatch(text) else text

    def header(self, source):
        return f'#include "shim/metal.h"\n#define MARLIN_METAL_FILE "{source}"\nnamespace {{\n'

    def threadgroup_variable(self, type_name, name, dimensions):
        return f'MARLIN_THREADGROUP_VARIABLE(({type_name}), {name}, {dimensions});'

    def function_constant(self, type_name, name, index):
        return f'MARLIN_FUNCTION_CONSTANT({type_name}, {name}, {index});'

    def footer(self, entries):
        lines = ['\n}  // namespace', '#include "shim/end.h"']
        for number, (host_name, expression, sources) in enumerate(entries):
            kinds, indices = sources_and_indices(sources)
            lines.append(f'MARLIN_KERNEL({number}, "{host_name}", ({expression}), ({kinds}), ({indices}))')
        return '\n'.join(lines) + '\n'


class CudaTarget:
    """The same for nvcc. CUDA's own headers use MSL's words, so those are no macros here; and since they declare names
    like exp, the text goes into a namespace within `metal`, where names of the shim hide them."""

    def __init__(self, source):
        self.space = 'file_' + re.sub(r'\W', '_', os.path.basename(source))
        self.words = {'device': '', 'threadgroup': '', 'thread': '', 'constant': 'const', 'kernel': 'static __device__',
                      'inline': '__device__ inline'}

    def literal(self, text):
        if text.endswith('h') and DOUBLE_LITERAL.fullmatch(text[:-1]):
            return f'half({text[:-1]}f)'
        return text + 'f' if DOUBLE_LITERAL.fullmatch(text) else text

    def header(self, _):
        return (f'#include "cuda/shim/metal.h"\nnamespace metal::{self.space} {{\n'
                'static __constant__ uint marlin_constants[marlin::metal_on_cuda::kConstants];\n')

    def threadgroup_variable(self, type_name, name, dimensions):
        return f'__shared__ {type_name} {name}{dimensions};'

    def function_constant(self, type_name, name, index):
        self.words[name] = f'{type_name}(marlin_constants[{index}])'
        return ';'

    def footer(self, entries):
        lines = [f'\n}}  // namespace metal::{self.space}']
        for host_name, expression, sources in entries:
            kinds, indices = sources_and_indices(sources)
            abi = 'marlin::emulator::abi'
            lines += [
                f'static __global__ void __launch_bounds__(1024, 1) metal_{host_name}(',
                '    const __grid_constant__ marlin::metal_on_cuda::Arguments arguments) {',
                '  marlin::metal_on_cuda::run<marlin::metal_on_cuda::Launch<',
                f'      (metal::{self.space}::{expression}), {abi}::Sources<{kinds}>,',
                f'      {abi}::Indices<{indices}>>>(arguments);',
                '}',
                f'static const marlin::metal_on_cuda::Kernel registration_{host_name}("{host_name}",',
                f'    reinterpret_cast<const void*>(&metal_{host_name}), &metal::{self.space}::marlin_constants);']
        return '\n'.join(lines) + '\n'


def sources_and_indices(sources):
    kinds = ', '.join(f'marlin::emulator::abi::Source::{kind}' for kind, _ in sources)
    return kinds, ', '.join(str(index) for _, index in sources)


# ---- the pass over the tokens ---------------------------------------------------------------------------------------

class Rewriter:
    def __init__(self, tokens, target):
        self.tokens, self.target = tokens, target
        self.output = []
        self.previous = ''  # the significant token before this one, as the output has it
        self.recent = []    # a few of those
        self.kernels = {}
        self.instantiations = []  # (name for the host, name of the template, expression)
        self.braces = []          # of each open brace: whether it is one of a namespace
        self.parentheses = 0
        self.after_template = False

    def run(self):
        i = 0
        while i < len(self.tokens):
            i = self.rewrite(i)
        return ''.join(self.output)

    def rewrite(self, i):
        """Takes one construct; returns the index after it."""
        token = self.tokens[i]
        if token.text == '[[':
            end = closing(self.tokens, i, '[[', ']]') + 1
            self.output.append(line_structure(self.tokens[i:end]))
            return end
        if token.kind == 'number':
            self.write(self.target.literal(token.text))
            return i + 1
        for construct in (self.instantiation, self.function_constant, self.threadgroup_variables):
            end = construct(i)
            if end is not None:
                return end
        if token.text == 'kernel' and token.kind == 'name' and not self.in_function():
            self.note_kernel(i)
        if token.significant():
            self.track(token)
            self.write(self.target.words.get(token.text, token.text))
        else:
            self.output.append(token.text)
        return i + 1

    def write(self, text):
        self.output.append(text)
        self.previous = text
        self.recent = self.recent[-3:] + [text]

    def replace(self, start, end, text):
        """Writes `text`, which ends in a semicolon, for the tokens from `start` to before `end`."""
        self.output.append(text)
        self.output.append(line_structure(self.tokens[start:end]))
        self.previous = ';'
        self.recent = [';']
        return end

    def in_function(self):
        return not all(self.braces)

    def track(self, token):
        text = token.text
        if text == '{':
            self.braces.append(bool(re.search(r'(\bnamespace( [\w:]+)*|\bextern "C\S*")$', ' '.join(self.recent))))
        elif text == '}' and self.braces:
            self.braces.pop()
        elif text == '(':
            self.parentheses += 1
        elif text == ')':
            self.parentheses -= 1
        if text in (';', '}') and not self.in_function():
            self.after_template = False

    def next_significant(self, i):
        while i < len(self.tokens) and not self.tokens[i].significant():
            i += 1
        return i

    def instantiation(self, i):
        """template [[host_name("x")]] kernel void f<..>(..);"""
        if self.tokens[i].text != 'template' or self.in_function():
            return None
        if self.tokens[self.next_significant(i + 1)].text == '<':
            self.after_template = True
            return None
        end = find(self.tokens, i, ';')
        body, attributes = without_attributes(self.tokens[i:end])
        host_names = [attribute for attribute in attributes if attribute.startswith('host_name')]
        words = significant(body)
        if not host_names or not any(word.text == 'kernel' for word in words):
            return None
        name, expression = instantiated(words)
        self.instantiations.append((re.search(r'"([^"]*)"', host_names[0]).group(1), name, expression))
        return self.replace(i, end + 1, '')

    def function_constant(self, i):
        """constant T name [[function_constant(n)]];"""
        if self.tokens[i].text != 'constant' or self.in_function() or self.parentheses > 0:
            return None
        end = i
        while end < len(self.tokens) and self.tokens[end].text not in (';', '{', '('):
            end = closing(self.tokens, end, '[[', ']]') + 1 if self.tokens[end].text == '[[' else end + 1
        if end == len(self.tokens) or self.tokens[end].text != ';':
            return None
        body, attributes = without_attributes(self.tokens[i:end])
        indices = [attribute for attribute in attributes if attribute.startswith('function_constant')]
        if not indices:
            return None
        words = significant(body)
        index = re.fullmatch(r'function_constant\s*\((.*)\)', indices[0], re.S).group(1)
        text = self.target.function_constant(words_of(words[1:-1]), words[-1].text, index)
        return self.replace(i, end + 1, text)

    def threadgroup_variables(self, i):
        """threadgroup T x[n], y; in a function. Pointers to threadgroup memory are variables like any other."""
        if self.tokens[i].text != 'threadgroup' or not self.in_function() or self.parentheses > 0:
            return None
        if self.previous not in ('{', '}', ';', ')', 'else', ':'):
            return None
        end = find(self.tokens, i, ';')
        declarators = split_commas(significant(without_attributes(self.tokens[i + 1:end])[0]))
        first = declarators[0]
        stop = next((n for n, token in enumerate(first) if token.text in ('[', '=')), len(first))
        if any(token.text in ('*', '&') for token in first[:stop]):
            return None
        type_name = words_of(first[:stop - 1])
        text = ''
        for declarator in declarators:
            brackets = next((n for n, token in enumerate(declarator) if token.text == '['), len(declarator))
            dimensions = ''.join(token.text for token in declarator[brackets:])
            text += self.target.threadgroup_variable(type_name, declarator[brackets - 1].text, dimensions)
        return self.replace(i, end + 1, text)

    def note_kernel(self, i):
        start = find(self.tokens, i, '(')
        name = [token.text for token in self.tokens[i:start] if token.kind == 'name'][-1]
        end = closing(self.tokens, start, '(', ')')
        parameters = [without_attributes(part) for part in split_commas(self.tokens[start + 1:end])]
        self.kernels[name] = Kernel(name, self.after_template, parameters, self.tokens[i])
        self.after_template = False

    def entries(self):
        """(name for the host, expression, sources) of each function that a host can call."""
        named = [(kernel.name, kernel.name, kernel.name)
                 for kernel in self.kernels.values() if not kernel.is_template]
        result = []
        for host_name, name, expression in named + self.instantiations:
            if name not in self.kernels:
                raise Failure(f'host_name("{host_name}"): there is no kernel {name}')
            result.append((host_name, expression, self.kernels[name].sources()))
        return result


def instantiated(words):
    """Of an explicit instantiation: the template's name, and the name with its arguments."""
    depth, end = 0, len(words)
    for n, word in enumerate(words):
        if word.text == '(' and depth == 0:
            end = n
            break
        depth += {'<': 1, '>': -1}.get(word.text, 0)
    start = end - 1
    if words[start].text == '>':
        depth = 0
        for n in range(end - 1, -1, -1):
            depth += {'>': 1, '<': -1}.get(words[n].text, 0)
            if depth == 0:
                start = n - 1
                break
    return words[start].text, words_of(words[start:end])


# ---- program --------------------------------------------------------------------------------------------------------

def preprocess(options):
    command = [options.clang, '-E', '-x', 'c++', '-std=c++17', '-undef', '-nostdinc',
               '-I', os.path.join(HERE, 'shim', 'stdlib'),
               '-D__METAL_VERSION__=310', '-D__METAL__=1', '-D__HAVE_BFLOAT__=1']
    command += [f'-I{folder}' for folder in options.includes] + [f'-D{name}' for name in options.defines]
    if options.depfile:
        command += ['-MD', '-MF', options.depfile, '-MT', options.output]
    result = subprocess.run(command + [options.source], capture_output=True, text=True, check=False)
    sys.stderr.write(result.stderr)
    if result.returncode:
        sys.exit(result.returncode)
    return result.stdout


def relative_markers(text, root):
    """Paths below `root` without it: messages are shorter, and a compiler cache works in every checkout."""
    prefix = re.escape(os.path.join(os.path.abspath(root), ''))
    return re.sub(r'^(# \d+ ")' + prefix, r'\1', text, flags=re.M)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('source')
    parser.add_argument('output')
    parser.add_argument('--depfile')
    parser.add_argument('--root', default='/', help='paths in messages count from here')
    parser.add_argument('--clang', default='clang++-19')
    parser.add_argument('--target', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('-I', dest='includes', action='append', default=[])
    parser.add_argument('-D', dest='defines', action='append', default=[])
    options = parser.parse_args()

    text = relative_markers(preprocess(options), options.root)
    source = os.path.relpath(options.source, options.root)
    target = CudaTarget(source) if options.target == 'cuda' else CpuTarget()
    rewriter = Rewriter(tokenize(text, source), target)
    try:
        body = rewriter.run()
        footer = target.footer(rewriter.entries())
    except Failure as failure:
        sys.exit(f'generate.py: {failure}')
    with open(options.output, 'w', encoding='utf-8') as file:
        file.write(target.header(source) + body + footer)


main()
