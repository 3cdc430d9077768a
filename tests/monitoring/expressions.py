"""The expressions of dashboards and rules, and what they are about."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/pcqa"
# Prometheus' own, of every target and alert.
BUILT_IN = {"ALERTS", "up"}
KEYWORDS = {
    "and",
    "or",
    "unless",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "offset",
    "inf",
    "nan",
}
STRING = re.compile(r'"(?:[^"\\]|\\.)*"' r"|'(?:[^'\\]|\\.)*'")
LABELS = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)", re.IGNORECASE)
NAME = re.compile(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)\s*(\{[^{}]*\})?(?!\s*[\w:({])")
COMPARISON = re.compile(r"(==|!=|<=|>=|(?<![=!<>])[<>](?!=))(?!\s*bool\b)")


@dataclass(frozen=True)
class Expression:
    """One PromQL expression and where it stands."""

    place: str
    text: str


def dashboards():
    """Every dashboard by its file's name."""
    return {path.name: json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))}


def panels(board):
    """The panels of a dashboard, those in collapsed rows too, without the rows."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def of_panels():
    """The expression of every panel's every target."""
    for name, board in dashboards().items():
        for panel in panels(board):
            for target in panel["targets"]:
                yield Expression(f"{name}: {panel['title']}: {target['refId']}", target["expr"])


def rules():
    """Every rule of every file, with the file's name."""
    for path in sorted((CHART / "rules").glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield path.name, rule


def recorded():
    """The names that recording rules make."""
    return {rule["record"] for _, rule in rules() if "record" in rule}


def of_rules():
    """The expression of every rule."""
    for name, rule in rules():
        yield Expression(f"{name}: {rule.get('record') or rule['alert']}", rule["expr"])


def without_strings(text):
    """`text` with its strings blanked: what is left has the same length, and nothing in it is a label's value."""
    return STRING.sub(lambda found: '"' + "0" * (len(found[0]) - 2) + '"', text)


def selectors(text):
    """The vector selectors of an expression: pairs of a metric's name and its matchers in braces, or nothing."""
    bare = LABELS.sub(lambda found: " " * len(found[0]), without_strings(text))
    for found in NAME.finditer(re.sub(r"\[[^\]]*\]", lambda found: " " * len(found[0]), bare)):
        if found[1].lower() in KEYWORDS or inside_braces(bare, found.start()):
            continue
        yield found[1], text[found.start(2) : found.end(2)] if found[2] else ""


def inside_braces(text, position):
    return text.rfind("{", 0, position) > text.rfind("}", 0, position)


def names(text):
    """The metrics that an expression is about."""
    return {name for name, _ in selectors(text)}


def compared(text):
    """`text` with comparisons that answer 0 or 1 in the place of leaving out what does not hold."""
    bare = without_strings(text)
    outside = [found for found in COMPARISON.finditer(bare) if not inside_braces(bare, found.start())]
    for found in reversed(outside):
        text = text[: found.end()] + " bool" + text[found.end() :]
    return text


def substituted(text, window):
    """`text` as Grafana sends it where every choice is All."""
    for name, value in {"__rate_interval": window, "namespace": ".*", "job": ".*", "instance": ".*"}.items():
        text = text.replace(f"${name}", value)
    return text
