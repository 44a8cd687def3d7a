"""Chat templates are programs of strangers: good ones render as transformers renders them, hostile ones end soon."""

import time
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from processing_editreward import _LimitedTemplates
from tests.helpers.trainers import ROOT

MESSAGES = [
    {"role": "system", "content": [{"type": "text", "text": "Judge."}]},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Compare "}, {"type": "image"}, {"type": "text", "text": "x"}],
    },
]
TEMPLATES = sorted(
    [*ROOT.glob("checkpoints/*/chat_template.jinja"), *ROOT.glob("tests/golden/**/chat_template.jinja")]
)
MORE = """{% macro part(p) %}{{ p.text if p.type == 'text' else '<i>' }}{% endmacro %}
{%- set ns = namespace(images=0) -%}{%- set head %}{{ messages|length }}{% endset -%}{{ head }}{{ eos_token }}
{%- for m in messages %}{% for p in m.content %}{% if p.type == 'image' %}{% set ns.images = ns.images + 1 %}
{%- endif %}{{ part(p)|trim }}{% endfor %}{% if loop.last %}{{ ns.images * 2 }}{{ m|tojson }}{% endif %}{% endfor %}
{{- 'a,b'.split(',')[::-1]|join('-') }}{{ strftime_now('%Y') }}"""


@pytest.mark.parametrize(
    "template", [MORE, *TEMPLATES], ids=lambda one: one.parent.name if isinstance(one, Path) else "own"
)
def test_a_good_template_renders_as_in_transformers(template):
    text = template.read_text() if isinstance(template, Path) else template
    given = {"chat_template": text, "add_generation_prompt": True, "eos_token": "<e>"}
    (expected,), _ = render_jinja_template(conversations=[MESSAGES], **given)
    rendered = _LimitedTemplates.render(text, messages=MESSAGES, add_generation_prompt=True, eos_token="<e>")
    assert rendered == expected and "x" in rendered


BIG = "{% set x = 'a' * 60000 %}"
HOSTILE = {
    "loops": "{% for a in range(9000) %}{% for b in range(9000) %}{% endfor %}{% endfor %}",
    "long range": "{% for a in range(100000) %}{% endfor %}",
    "product": "{{ 'a' * 10000000000 }}",
    "growing text": "{% set n = namespace(x='aa') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "growing number": "{% set n = namespace(x=3) %}{% for a in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "growing block": "{% set x = 'aaaa' %}" + "{% set x %}{{ x }}{{ x }}{{ x }}{% endset %}" * 40,
    "growing list": "{% set x = [1] %}" + "{% set x = [x, x, x, x] %}" * 30 + "{{ x }}",
    "growing argument": "{% macro m(a) %}{{ m(a ~ a) }}{% endmacro %}{{ m('aaaa') }}",
    "calls of calls": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call m() %}" * 25
    + "{% endcall %}" * 25,
    "recursion": "{% for a in [[1]] recursive %}{{ loop([a, a]) }}{% endfor %}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "width": "{{ 'a'.ljust(1000000000) }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "percent": "{{ '%01000000000d' % 1 }}",
    "filter": "{{ 'a'|center(1000000000) }}",
    "indent": "{{ 'a'|indent(1000000000) }}",
    "tojson": "{{ [1]|tojson(indent=1000000000) }}",
    "replace": BIG + "{{ x|replace('a', x) }}",
    "replace of a text": BIG + "{{ x.replace('a', x) }}",
    "join": BIG + "{{ [x, x, x, x]|join(x) }}",
    "output": BIG + "{% for a in range(999) %}{{ x }}{% endfor %}",
    "lorem ipsum": "{{ lipsum(n=10000000) }}",
    "another file": "{% include '/etc/passwd' %}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "size": "a" * 10_000_000,
    "no template": "{% for %}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_template_is_an_error_and_soon(kind):
    start = time.monotonic()
    with pytest.raises(ValueError, match="chat template"):
        _LimitedTemplates.render(HOSTILE[kind], messages=MESSAGES)
    assert time.monotonic() - start < 30


def test_no_template_at_all_is_an_error():
    with pytest.raises(ValueError, match="no text"):
        _LimitedTemplates.render({"default": "x"}, messages=MESSAGES)
