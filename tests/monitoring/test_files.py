"""What dashboards, alerts and the runbook must be whatever the server does.

    python tests/monitoring/test_files.py

needs the packages of deploy/setup/tools.in.
"""

import re
import subprocess
import sys

import expressions
from expressions import CHART, ROOT
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

VARIABLES = ["datasource", "namespace", "job", "instance"]
COLUMNS = 24
SEVERITIES = {"warning", "critical"}
SECTIONS = ["Meaning", "Impact", "Look at", "What to do"]


def plain(value):
    """`value` as its JSON says it."""
    if hasattr(value, "to_json"):
        value = value.to_json()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


def surplus(value, known, place=""):
    """Where `value` has what `known` has not, or has otherwise."""
    if isinstance(value, dict) and isinstance(known, dict):
        parts = [surplus(part, known.get(name), f"{place}.{name}") for name, part in value.items()]
        return [found for part in parts for found in part]
    if isinstance(value, list) and isinstance(known, list) and len(value) == len(known):
        parts = [surplus(part, other, f"{place}[{index}]") for index, (part, other) in enumerate(zip(value, known))]
        return [found for part in parts for found in part]
    return [] if value == known else [place]


def test_names_are_found():
    """The reader of expressions, on what is hard to read."""
    text = (
        'sum by (job, le) (rate(a_bucket{rpc=~"b{c}|sum",le!="x"}[5m])) / on (d) group_left () (e:f > 1 or vector(0))'
    )
    assert list(expressions.selectors(text)) == [("a_bucket", '{rpc=~"b{c}|sum",le!="x"}'), ("e:f", "")]
    assert expressions.compared('a{b!="c>d"} > 0.1 and e == 1') == 'a{b!="c>d"} > bool 0.1 and e == bool 1'
    assert expressions.substituted('a{job=~"$job"}[$__rate_interval]', "9s") == 'a{job=~".*"}[9s]'


def test_dashboards_are_what_their_source_writes():
    source = ROOT / "deploy/monitoring/dashboards.py"
    checked = subprocess.run([sys.executable, source, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_dashboards_fit_grafana_s_schema():
    """The library drops what the schema does not know, so that whatever comes back is known."""
    register_default_plugins()
    for name, board in expressions.dashboards().items():
        found = surplus(board, plain(Dashboard.from_json(board)))
        assert not found, f"{name}: Grafana's schema knows no {found}"
    name, board = next(iter(expressions.dashboards().items()))
    board["panels"][-1]["fieldConfig"]["defaults"]["units"] = "s"
    found = surplus(board, plain(Dashboard.from_json(board)))
    assert len(found) == 1 and found[0].endswith(".fieldConfig.defaults.units"), (name, found)


def test_dashboards_have_distinct_identities():
    boards = expressions.dashboards()
    for key in ("uid", "title"):
        values = [board[key] for board in boards.values()]
        assert len(set(values)) == len(values) and all(values), (key, values)
    for name, board in boards.items():
        rows = [panel for panel in board["panels"] if panel["type"] == "row"]
        ids = [panel["id"] for panel in [*rows, *expressions.panels(board)]]
        assert len(set(ids)) == len(ids), (name, ids)


def test_dashboards_have_their_variables():
    for name, board in expressions.dashboards().items():
        found = board["templating"]["list"]
        assert [variable["name"] for variable in found] == VARIABLES, name
        assert found[0]["type"] == "datasource" and found[0]["query"] == "prometheus", name
        for variable in found[1:]:
            assert variable["datasource"]["uid"] == "${datasource}" and variable["includeAll"], (name, variable["name"])


def test_panels_do_not_overlap():
    for name, board in expressions.dashboards().items():
        taken = {}
        for panel in board["panels"]:
            place = panel["gridPos"]
            x, y, w, h = (place.get(side, 0) for side in "xywh")
            assert 0 < w and 0 < h and x + w <= COLUMNS, (name, panel["title"])
            for cell in ((column, row) for column in range(x, x + w) for row in range(y, y + h)):
                other = taken.setdefault(cell, panel["title"])
                assert other == panel["title"], f"{name}: {panel['title']} lies on {other}"


def test_panels_say_what_they_show():
    for name, board in expressions.dashboards().items():
        for panel in expressions.panels(board):
            place = f"{name}: {panel['title']}"
            assert panel["title"] and len(panel.get("description", "")) > 20, place
            assert panel["fieldConfig"]["defaults"].get("unit"), f"{place} has no unit"
            assert panel["targets"], place
            for target in panel["targets"]:
                assert (
                    target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
                ), place


def test_expressions_obey_the_choices():
    """Every selector is of the namespaces and jobs that were chosen, and of the instances where it has them."""
    for expression in expressions.of_panels():
        for metric, matchers in expressions.selectors(expression.text):
            if metric == "pcqa:request_seconds:objective":
                continue
            wanted = ["namespace", "job"]
            if metric.startswith(("pcqa_", "instance_")):
                wanted.append("instance")
            for label in wanted:
                assert f'{label}=~"${label}"' in matchers, f"{expression.place}: {metric} is of every {label}"


def test_rules_name_no_target():
    """A namespace, job or instance of ours is none of theirs."""
    for expression in expressions.of_rules():
        for _, matchers in expressions.selectors(expression.text):
            assert not re.search(r"\b(namespace|job|instance|pod|container)\s*[=!]", matchers), expression


def test_rules_are_distinct_and_used():
    alerts = {(rule["alert"], rule["labels"]["severity"]) for _, rule in expressions.rules() if "alert" in rule}
    assert len(alerts) == sum("alert" in rule for _, rule in expressions.rules()), "an alert stands twice"
    used = {
        name
        for expression in [*expressions.of_panels(), *expressions.of_rules()]
        for name in expressions.names(expression.text)
    }
    assert expressions.recorded() <= used, f"nobody looks at {expressions.recorded() - used}"


def test_alerts_have_their_section():
    """Each alert has a section of the runbook with the four questions, and no section is of no alert."""
    text = (CHART / "RUNBOOK.md").read_text()
    sections = dict(re.findall(r"^## (Pcqa\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    titles = {panel["title"] for board in expressions.dashboards().values() for panel in expressions.panels(board)}
    alerts = [rule for _, rule in expressions.rules() if "alert" in rule]
    assert {rule["alert"] for rule in alerts} == set(sections)
    for rule in alerts:
        name, notes = rule["alert"], rule["annotations"]
        assert rule["labels"]["severity"] in SEVERITIES, name
        assert notes["summary"] and notes["description"], name
        assert notes["runbook_url"] == f"RUNBOOK.md#{name.lower()}", name
        section = sections[name]
        questions = re.findall(r"^\*\*(.+?)\.\*\*", section, re.MULTILINE)
        assert questions == SECTIONS, (name, questions)
        looked_at = re.findall(r"panel \*([^*]+)\*", " ".join(section.split()))
        assert looked_at, f"{name} names no panel"
        assert set(looked_at) <= titles, f"{name}: no panel is called {set(looked_at) - titles}"
        assert "```" in section, f"{name} has no command"


def test_runbook_s_table_is_true():
    text = (CHART / "RUNBOOK.md").read_text()
    for name in {rule["alert"] for _, rule in expressions.rules() if "alert" in rule}:
        same = [rule for _, rule in expressions.rules() if rule.get("alert") == name]
        severities = ", ".join(rule["labels"]["severity"] for rule in same)
        spans = ", ".join(re.sub(r"m$", " min", re.sub(r"h$", " h", rule.get("for", "0"))) for rule in same)
        assert re.search(rf"^\| \[{name}\]\(#{name.lower()}\) \| {severities} \| .+ \| {spans} \|$", text, re.M), name


def main():
    tests = {name: test for name, test in globals().items() if name.startswith("test_")}
    failed = 0
    for name, test in tests.items():
        try:
            test()
            print(f"ok      {name}")
        except Exception as error:  # noqa: BLE001: a test may fail in any way
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__}: {error}")
    print(f"{len(tests) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
