"""The four kinds of panel that the dashboards are made of, with everything that they have in common."""

import re

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard, prometheus as query
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode

DATASOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
SERVICE = 'namespace=~"$namespace",job=~"$job"'
CHOSEN = SERVICE + ',instance=~"$instance"'
HEIGHT = 8


def chosen(expression):
    """`expression` on one line, with @ in its selectors put for the instances, @@ for the services that were chosen."""
    return re.sub(r"\s+", " ", expression).replace("@@", SERVICE).replace("@", CHOSEN).strip()


def targets(panel, queries, instant=False, form=query.PromQueryFormat.TIME_SERIES):
    """Gives `panel` its `queries`: pairs of a legend and an expression."""
    for position, (legend, expression) in enumerate(queries):
        target = prometheus.Dataquery().expr(chosen(expression)).legend_format(legend).format(form)
        target = target.ref_id(chr(ord("A") + position)).datasource(DATASOURCE)
        panel.with_target(target.instant() if instant else target.range())
    return panel


def common_parts(panel, title, description, unit, width, height):
    return panel.title(title).description(description).unit(unit).span(width).height(height).datasource(DATASOURCE)


def steps(*bounds, low_is_bad=False):
    """Green, and from each bound on the next colour: orange, red. With `low_is_bad` it is red below the first bound."""
    colours = ["green", "orange", "red"] if len(bounds) == 2 else ["green", "red"]
    if low_is_bad:
        colours.reverse()
    found = [dashboard.Threshold(value=bound, color=colour) for bound, colour in zip([None, *bounds], colours)]
    return DescribedSteps(dashboard.ThresholdsConfig(mode=dashboard.ThresholdsMode.ABSOLUTE, steps=found))


class DescribedSteps:
    """What the library's panels want in the place of a finished ThresholdsConfig."""

    def __init__(self, config):
        self._config = config

    def build(self):
        return self._config


def lines(title, description, unit, *queries, width=8, height=HEIGHT, stacked=False, limits=(), top=None, none=None):
    """Lines over time. `limits` draws dashed lines; `none` is what an empty panel says."""
    panel = common_parts(timeseries.Panel(), title, description, unit, width, height).min(0)
    panel.show_points(options.VisibilityMode.NEVER).line_width(1).fill_opacity(40 if stacked else 10)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(options.LegendDisplayMode.TABLE)
        .placement(options.LegendPlacement.BOTTOM)
        .calcs(["lastNotNull", "max"])
    )
    sort = options.SortOrder.DESCENDING
    panel.tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(sort))
    if stacked:
        panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL).group("A"))
    if limits:
        panel.thresholds(steps(*limits))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.DASHED))
    if top is not None:
        panel.max(top)
    if none is not None:
        panel.no_value(none)
    # What is not measured but asked for.
    dashes = dashboard.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 8]})
    empty = dashboard.DynamicConfigValue("custom.fillOpacity", 0)
    panel.override_by_regexp("/^objective/", [dashes, empty])
    return targets(panel, queries)


def signed(panel):
    """`panel` with an axis that goes below 0."""
    defaults = panel.build().field_config.defaults
    defaults.min_val = None
    return panel


def events(title, description, *queries, width=8, height=HEIGHT, none="none"):
    """Bars that count rare events. They are whole, so that one event is seen as 1."""
    panel = lines(title, description, "short", *queries, width=width, height=height, none=none)
    panel.draw_style(options.GraphDrawStyle.BARS).fill_opacity(60).decimals(0)
    return panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL).group("A"))


def number(title, description, unit, expression, width=4, limits=(), low_is_bad=False, none=None, decimals=None):
    """One figure with its course behind it, coloured by `limits`."""
    panel = common_parts(stat.Panel(), title, description, unit, width, 4)
    panel.graph_mode(options.BigValueGraphMode.AREA).color_mode(options.BigValueColorMode.VALUE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
    panel.thresholds(steps(*limits, low_is_bad=low_is_bad))
    if none is not None:
        panel.no_value(none)
    if decimals is not None:
        panel.decimals(decimals)
    return targets(panel, [("", expression)])


def heat(title, description, unit, expression, width=12, height=HEIGHT):
    """How the values of a Prometheus histogram are distributed over time; `expression` is by le."""
    panel = common_parts(heatmap.Panel(), title, description, "short", width, height)
    panel.calculate(False).cell_gap(1).y_axis(heatmap.YAxisConfig().unit(unit))
    panel.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
    panel.filter_values(heatmap.FilterValueRange().le(1e-9)).show_y_histogram()
    return targets(panel, [("{{le}}", expression)], form=query.PromQueryFormat.HEATMAP)


def rows(title, description, *expressions, hide=(), rename=None, width=24, height=6, none=None, units=None):
    """A table of series: one row each, their labels as columns, joined by what they have in common."""
    panel = common_parts(table.Panel(), title, description, "short", width, height)
    if none is not None:
        panel.no_value(none)
    for name, unit in (units or {}).items():
        panel.override_by_name(name, [dashboard.DynamicConfigValue("unit", unit)])
    if len(expressions) > 1:
        panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    arrange = {"excludeByName": {name: True for name in ("Time", "__name__", *hide)}, "renameByName": rename or {}}
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="organize", options=arrange))
    queries = [("", expression) for expression in expressions]
    return targets(panel, queries, instant=True, form=query.PromQueryFormat.TABLE)
