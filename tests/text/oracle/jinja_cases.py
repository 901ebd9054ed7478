"""Renders the templates of jinja_cases.json again with Python's jinja2, set up as transformers does it.

python3 jinja_cases.py ../jinja_cases.json    # rewrites the expected texts; null stands for an error
"""
import json
import sys

import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


def make_environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment


def render(environment, source, context):
    try:
        return environment.from_string(source).render(**context)
    except Exception:  # whatever goes wrong, the engine must refuse it too
        return None


def main(path):
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    environment = make_environment()
    lines = [json.dumps([source, render(environment, source, data["context"])], ensure_ascii=False)
             for source, _ in data["cases"]]
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"context": ' + json.dumps(data["context"], ensure_ascii=False) + ',\n "cases": [\n')
        file.write(",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main(sys.argv[1])
