"""Writes the Grafana dashboards of the chart.

    python deploy/monitoring/dashboards.py            # writes deploy/helm/pcqa/dashboards/*.json
    python deploy/monitoring/dashboards.py --check    # says which of them differ from what this would write

needs deploy/setup/monitoring.in. The JSON files are what is shipped; this is where they are changed.
"""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard
from panels import DATASOURCE, chosen, events, heat, lines, number, rows, signed

OUT = Path(__file__).resolve().parents[1] / "helm/pcqa/dashboards"
NO_FAULT = "none"
DAY = 86400
QUANTILES = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
RATE = "[$__rate_interval]"
IS_FAULT = 'code=~"Internal|Unknown|DataLoss"'


def overview():
    """RED: rate, errors, duration; then how full the house is and what runs in it."""
    calls, refused = f"sum(rate(pcqa_requests_total{{@}}{RATE}))", f"sum(rate(pcqa_items_refused_total{{@}}{RATE}))"
    scored = f'sum(rate(pcqa_stage_seconds_count{{stage="head",@}}{RATE}))'
    p99 = "job_rpc:pcqa_request_seconds:p99_rate5m{@@}"
    buckets = "instance_rpc_le:pcqa_request_seconds_bucket:rate5m{@}"
    objective = [("objective {{rpc}}", "max by (rpc) (pcqa:request_seconds:objective)")]
    return {
        "": [
            number("Ready replicas", "Replicas whose bundle is warm and that are not draining.", "none",
                   "sum(pcqa_ready{@})", limits=(1,), low_is_bad=True, decimals=0),
            number("Calls", "Calls answered per second, whatever the answer.", "reqps", calls),
            number("Scored items", "Images and videos scored per second, items of streams and ranks included.", "ops",
                   scored),
            number("Faults", "Share of calls that ended by a fault of the server (Internal, Unknown, DataLoss).",
                   "percentunit",
                   f"(sum(rate(pcqa_requests_total{{{IS_FAULT},@}}{RATE})) or vector(0)) / {calls}",
                   limits=(0.001, 0.01)),
            number("Shed", "Share of items that got no place in line, of those and the scored ones.", "percentunit",
                   f"({refused} or vector(0)) / (({refused} or vector(0)) + {scored})", limits=(0.01, 0.05)),
            number("p99 of its objective",
                   "The slowest rpc: its p99 of the last five minutes over its objective, for the whole service. Over "
                   "100 % the objective is missed.", "percentunit",
                   f"max({p99} / on (rpc) group_left () max by (rpc) (pcqa:request_seconds:objective))",
                   limits=(0.8, 1), decimals=0),
        ],
        "Rate": [
            lines("Calls by rpc", "Calls answered per second, by rpc.", "reqps",
                  ("{{rpc}}", f"sum by (rpc) (rate(pcqa_requests_total{{@}}{RATE}))")),
            lines("Calls by source", "Calls answered per second, by what the caller said it was in x-pcqa-source: a "
                  "name of --metrics-sources, other, or nothing.", "reqps",
                  ("{{source}}", f'label_replace(sum by (source) (rate(pcqa_requests_total{{@}}{RATE})), "source", '
                   '"(none)", "source", "")')),
            lines("Scored items by track", "Images and videos scored per second.", "ops",
                  ("{{track}}", f'sum by (track) (rate(pcqa_stage_seconds_count{{stage="head",@}}{RATE}))')),
        ],
        "Errors": [
            lines("Calls that failed", "Calls per second that did not end in OK, by gRPC code. InvalidArgument and "
                  "Unauthenticated are the caller's; Internal and Unknown are ours.", "reqps",
                  ("{{code}}", f'sum by (code) (rate(pcqa_requests_total{{code!="Ok",@}}{RATE}))'), none=NO_FAULT),
            lines("Items refused", "Items per second that got no place in line: queue_full (--max-queue-frames), "
                  "share_full (of one connection), hopeless (would not be done by its deadline).", "ops",
                  ("{{reason}}", f"sum by (reason) (rate(pcqa_items_refused_total{{@}}{RATE}))"), none=NO_FAULT),
            lines("Items that left the line", "Items per second that had a place and were not scored: their deadline "
                  "passed, or their caller went away.", "ops",
                  ("expired", f"sum(rate(pcqa_items_expired_total{{@}}{RATE}))"),
                  ("cancelled", f"sum(rate(pcqa_items_cancelled_total{{@}}{RATE}))"), none=NO_FAULT),
        ],
        "Duration": [
            *(lines(f"{name} by rpc", f"{name} of the time from the arrival of a call's head to its answer, over five "
                    "minutes." + (" Dashed: the objective." if name == "p99" else ""), "s",
                    ("{{rpc}}", f"histogram_quantile({quantile}, sum by (le, rpc) ({buckets}))"),
                    *(objective if name == "p99" else []))
              for quantile, name in (QUANTILES[0], QUANTILES[2])),
            heat("Durations of calls that score",
                 "Unary calls by their duration. Two bands are two kinds of call, or a "
                 "line in front of some.", "s",
                 'sum by (le) (increase(pcqa_request_seconds_bucket{rpc=~"Score.+|RankImages",rpc!="ScoreStream",@}'
                 f"{RATE}))", width=8),
        ],
        "Saturation": [
            lines("Device utilisation", "Share of the time in which a device computes. At 100 % the line grows.",
                  "percentunit",
                  ("{{instance}} {{device}}",
                   f"sum by (instance, device) (rate(pcqa_device_busy_seconds_total{{@}}{RATE}))"), top=1),
            lines("Frames in line", "Frames that have a place in line, decoded or not; --max-queue-frames is the most.",
                  "short", ("{{instance}}", "sum by (instance) (pcqa_queue_frames{@})")),
            lines("Calls in progress", "Calls that hold a place; --max-calls is the most.", "short",
                  ("{{instance}}", "sum by (instance) (pcqa_calls_in_progress{@})")),
        ],
        "What runs": [
            rows("Replicas",
                 "Server, libtorch and model of each replica. During a roll-out there are two of something.",
                 'label_replace(pcqa_model_info{@} == 1, "model_version", "$1", "version", "(.*)")'
                 " * on (namespace, job, instance) group_left (server, libtorch)"
                 ' label_replace(pcqa_build_info{@}, "server", "$1", "version", "(.*)")',
                 hide=("Value", "version", "container", "endpoint", "pod", "service"), width=14),
            rows("Alerts", "Alerts of this service that fire or are about to. RUNBOOK.md has a section for each.",
                 'ALERTS{alertname=~"Pcqa.+",@@}', hide=("Value",), width=10, none="no alert"),
        ],
    }


def queue():
    """From the line to the batch: how long, how full, and what the text cache spares."""
    waited = 'instance_track_stage_le:pcqa_stage_seconds_bucket:rate5m{stage="queue",@}'
    text = 'instance_track_stage_le:pcqa_stage_seconds_bucket:rate5m{stage="text",@}'
    hits = f'sum(rate(pcqa_text_cache_requests_total{{outcome="hit",@}}{RATE}))'
    mean = "sum by (track) (rate({0}_sum{{@}}" + RATE + ")) / sum by (track) (rate({0}_count{{@}}" + RATE + "))"
    return {
        "Queue": [
            lines("In line", "What has a place in line, decoded or not: frames (an image is 1, a video up to 16) and "
                  "items.", "short", ("frames", "sum(pcqa_queue_frames{@})"), ("items", "sum(pcqa_queue_items{@})")),
            lines("Age of the oldest item", "How long the oldest item has been in line. Red: the alert's bound.", "s",
                  ("{{instance}}", "max by (instance) (pcqa_queue_oldest_age_seconds{@})"), limits=(10,)),
            lines("Wait for a device",
                  "Time from decoded to taken by a device, of scored items, over five minutes.", "s",
                  *((f"{name} {{{{track}}}}", f"histogram_quantile({quantile}, sum by (le, track) ({waited}))")
                    for quantile, name in (QUANTILES[0], QUANTILES[2]))),
        ],
        "What is not scored": [
            lines("Share refused", "Share of items that got no place in line, for the whole service over five minutes. "
                  "Red: the alert's bound.", "percentunit",
                  ("{{namespace}} {{job}}", "job:pcqa_items_refused:ratio_rate5m{@@}"), limits=(0.05,)),
            events("Refused", "Items refused, by reason.",
                   ("{{reason}}", f"sum by (reason) (increase(pcqa_items_refused_total{{@}}{RATE}))")),
            events("Expired and cancelled", "Items that left the line without a score.",
                   ("expired", f"sum(increase(pcqa_items_expired_total{{@}}{RATE}))"),
                   ("cancelled", f"sum(increase(pcqa_items_cancelled_total{{@}}{RATE}))")),
        ],
        "Batches": [
            lines("Batches by reason", "Batches that devices took per second: full, delay (its first item had waited "
                  "--max-queue-delay-seconds) or alone (nothing could join).", "ops",
                  ("{{track}} {{reason}}", f"sum by (track, reason) (rate(pcqa_batches_total{{@}}{RATE}))"),
                  stacked=True),
            lines("Frames per batch", "Mean frames of a batch, by track.", "short",
                  ("{{track}}", mean.format("pcqa_batch_frames"))),
            lines("Fill of batches", "Mean of a batch's frames over --max-batch-frames. Low is right while there is "
                  "little to do, and a waste when items wait.", "percentunit",
                  ("{{track}}", mean.format("pcqa_batch_fill_ratio")), top=1),
        ],
        "Sizes": [
            heat("Frames of a batch", "Batches by their frames.", "short",
                 f"sum by (le) (increase(pcqa_batch_frames_bucket{{@}}{RATE}))"),
            heat("Fill of a batch", "Batches by their frames over --max-batch-frames.", "percentunit",
                 f"sum by (le) (increase(pcqa_batch_fill_ratio_bucket{{@}}{RATE}))"),
        ],
        "Text cache": [
            number("Hits", "Share of batches' distinct prompts whose embedding was kept.", "percentunit",
                   f"{hits} / sum(rate(pcqa_text_cache_requests_total{{@}}{RATE}))", width=6),
            number("Prompts kept", "Prompts whose embeddings are kept, on all devices.", "short",
                   "sum(pcqa_text_cache_entries{@})", width=6),
            number("Memory",
                   "Embeddings that are kept, on all devices; --text-cache-bytes is the most of each.", "bytes",
                   "sum(pcqa_text_cache_bytes{@})", width=6),
            number("p99 of the text towers",
                   "Time of the text towers for the prompts of a batch, over five minutes.", "s",
                   f"histogram_quantile(0.99, sum by (le) ({text}))", width=6),
            lines("Prompts by outcome", "Distinct prompts of batches per second: hit (the embedding was kept) or miss "
                  "(the text towers ran).", "ops",
                  ("{{outcome}}", f"sum by (outcome) (rate(pcqa_text_cache_requests_total{{@}}{RATE}))"), width=12,
                  stacked=True),
            lines("Memory by device", "Embeddings that are kept. When it is full and prompts miss, raise "
                  "--text-cache-bytes.", "bytes",
                  ("{{instance}} {{device}}", "sum by (instance, device) (pcqa_text_cache_bytes{@})"), width=12),
        ],
    }


def stages():
    """Where a request's time goes, what the devices do, and how the decoder fares."""
    rated = 'sum by (stage) (rate(pcqa_stage_seconds_{part}{{track="{track}",@}}' + RATE + "))"
    buckets = "instance_track_stage_le:pcqa_stage_seconds_bucket:rate5m"
    share = (f"sum by (stage) (rate(pcqa_stage_seconds_sum{{@}}{RATE}))"
             f" / on () group_left () sum(rate(pcqa_stage_seconds_sum{{@}}{RATE}))")
    memory = 'sum by (instance, device) (pcqa_device_memory_bytes{{state="{0}",@}})'
    return {
        "Stages": [
            *(lines(f"Mean {track}", f"Mean time of each stage of a scored {track}. The stages follow each other, so "
                    "that the stack is the whole. Text, vision and head are those of its batch.", "s",
                    ("{{stage}}", rated.format(part="sum", track=track) + " / "
                     + rated.format(part="count", track=track)), stacked=True)
              for track in ("image", "video")),
            lines("Share of each stage",
                  "Where the time of all scored items goes.", "percentunit", ("{{stage}}", share),
                  stacked=True, top=1),
            *(lines(f"p99 {track}",
                    f"p99 of each stage of a scored {track}, over five minutes. They do not add up.", "s",
                    ("{{stage}}",
                     f'histogram_quantile(0.99, sum by (le, stage) ({buckets}{{track="{track}",@}}))'), width=12)
              for track in ("image", "video")),
        ],
        "Devices": [
            lines("Utilisation", "Share of the time in which a device computes.", "percentunit",
                  ("{{instance}} {{device}}",
                   f"sum by (instance, device) (rate(pcqa_device_busy_seconds_total{{@}}{RATE}))"), top=1),
            lines("Memory in use",
                  "Memory in use: of a GPU that of the device, of the CPU that of the process.", "bytes",
                  ("{{instance}} {{device}}", memory.format("used")),
                  ("{{instance}} {{device}} total", memory.format("total"))),
            lines("Share of memory", "Memory in use over what there is. Red: the alert's bound.", "percentunit",
                  ("{{instance}} {{device}}", memory.format("used") + " / " + memory.format("total")), limits=(0.9,),
                  top=1),
        ],
        "Decoder": [
            events("Media that could not be decoded",
                   "Items whose media was refused by a decoder, by track and kind of "
                   "failure.",
                   ("{{track}} {{kind}}",
                    f"sum by (track, kind) (increase(pcqa_decode_failures_total{{@}}{RATE})) > 0")),
            events("Restarts of decoder processes", "Processes of pcqa-decoder that were replaced, by reason. One that "
                   "hung or crashed cost one request.",
                   ("{{reason}}", f"sum by (reason) (increase(pcqa_decoder_restarts_total{{@}}{RATE}))")),
            lines("Decoding",
                  "Time from bytes to pixels, the wait for a decode place included, over five minutes.", "s",
                  *((f"{name} {{{{track}}}}",
                     f'histogram_quantile({quantile}, sum by (le, track) ({buckets}{{stage="decode",@}}))')
                    for quantile, name in (QUANTILES[0], QUANTILES[2]))),
        ],
        "Requests held": [
            lines("Bytes in flight", "Bytes of requests that are being received or wait to be decoded; "
                  "--max-in-flight-bytes is the most.", "bytes",
                  ("{{instance}}", "sum by (instance) (pcqa_in_flight_bytes{@})"), width=12),
            lines("Receiving",
                  "Time from the arrival of a request's head to its last byte, over five minutes. Slow here "
                  "is a slow caller or network.", "s",
                  *((name, f'histogram_quantile({quantile}, sum by (le) ({buckets}{{stage="receive",@}}))')
                    for quantile, name in QUANTILES), width=12),
        ],
    }


def scores():
    """What the scores look like, and whether they have moved."""
    def quantiles(metric, *wanted):
        window = f"sum by (le, track) (increase({metric}_bucket{{@}}[1h]))"
        return [(f"p{round(q * 100)} {{{{track}}}}", f"histogram_quantile({q}, {window})") for q in wanted]

    return {
        "z": [
            signed(lines("Quantiles of z", "z of the scores of the last hour: 0 is the mean of the calibration data, 1 "
                         "its standard deviation.", "short", *quantiles("pcqa_score_z", 0.1, 0.5, 0.9), width=12)),
            lines("Drift of z",
                  "Largest distance between the distributions of z in the last hour and in the last week, "
                  "for the whole service: 0 is the same, 1 is nothing in common, 0.2 is a shift by half a standard "
                  "deviation. Red: the alert's bound.", "short",
                  ("{{track}}", "max by (track) (job_track:pcqa_score_z:drift{@@})"), limits=(0.2,), width=12, top=1),
            *(heat(f"z of {track}s", f"Scored {track}s by their z.", "short",
                   f'sum by (le) (increase(pcqa_score_z_bucket{{track="{track}",@}}{RATE}))')
              for track in ("image", "video")),
        ],
        "Disagreement": [
            lines("Quantiles of the disagreement", "Standard deviation of the experts' z, of the scores of the last "
                  "hour. Large: the experts see something that they did not learn.", "short",
                  *quantiles("pcqa_score_disagreement", 0.5, 0.9, 0.99), width=12),
            heat("Disagreement", "Scored items by the disagreement of their experts.", "short",
                 f"sum by (le) (increase(pcqa_score_disagreement_bucket{{@}}{RATE}))"),
        ],
        "What was scored": [
            lines("Scores of the last hour",
                  "How many scores the hour's figures rest on. The alert wants 200.", "short",
                  ("{{track}}", "sum by (track) (job_track:pcqa_score_z_count:increase1h{@@})"), width=8),
            rows("Model", "The bundle that each replica serves.", "pcqa_model_info{@} == 1",
                 hide=("Value", "container", "endpoint", "pod", "service"), width=16, height=8),
        ],
    }


def access():
    """Who is let in, over what, and which bundle answers."""
    left = "min by (instance) (pcqa_tls_certificate_expiry_timestamp_seconds{@}) - time()"
    return {
        "Who is let in": [
            events("Calls without a valid key", "Calls that ended in UNAUTHENTICATED, by reason: missing, malformed, "
                   "unknown.", ("{{reason}}", f"sum by (reason) (increase(pcqa_unauthenticated_total{{@}}{RATE}))")),
            events("Over the limit of a key", "Calls and items over a limit of their key, by its name: calls "
                   "(max_calls) or rate (max_frames_per_second).",
                   ("{{key}} {{reason}}", f"sum by (key, reason) (increase(pcqa_key_limited_total{{@}}{RATE}))")),
            lines("Connections", "Connections that are open.", "short",
                  ("{{instance}}", "sum by (instance) (pcqa_connections{@})")),
            events("Reloads of keys and certificates",
                   "Attempts to take over changed files of API keys or TLS certificates: loaded, or failed (the old "
                   "ones hold).",
                   ("{{files}} {{outcome}}",
                    f"sum by (files, outcome) (increase(pcqa_trust_reloads_total{{@}}{RATE}))"), width=24, height=6),
        ],
        "Certificate": [
            number("Certificate ends in", "Time until the first of the replicas' certificates ends.", "s",
                   f"min({left})", width=6, limits=(2 * DAY, 14 * DAY), low_is_bad=True, none="no TLS"),
            lines("Certificate ends in, by replica", "Time until the certificate ends that a replica shows. Files that "
                  "change are read again within two seconds.", "s", ("{{instance}}", left), width=18, none="no TLS",
                  height=4),
        ],
        "Bundles": [
            events("Bundle reloads",
                   "Attempts to load the bundle again: loaded, unchanged, or failed (the one before it "
                   "is still served).",
                   ("{{outcome}}", f"sum by (outcome) (increase(pcqa_bundle_reloads_total{{@}}{RATE}))")),
            lines("Replicas by model", "How many replicas serve which bundle. Two lines for long are a roll-out that "
                  "is stuck.", "short",
                  ("{{name}} {{version}} {{digest}}", "count by (name, version, digest) (pcqa_model_info{@} == 1)")),
            lines("Time since start", "Age of each process. A fall to 0 is a restart.", "s",
                  ("{{instance}}", "time() - max by (instance) (pcqa_start_time_seconds{@})")),
        ],
        "Readiness": [
            lines("Ready", "1 while the bundle is warm and the replica is not draining.", "short",
                  ("{{instance}}", "max by (instance) (pcqa_ready{@})"), width=24, height=6, top=1),
        ],
    }


DASHBOARDS = {
    "overview": ("pcqa: overview", "Rate, errors, duration and saturation of the scoring service.", overview),
    "queue": ("pcqa: queue, batches, text cache", "From the line to the batch.", queue),
    "stages": ("pcqa: stages, devices, decoder", "Where the time goes, and what the machines do.", stages),
    "scores": ("pcqa: scores", "What the scores look like, and whether they have moved.", scores),
    "access": ("pcqa: access and bundles", "Keys, certificates, bundles, restarts.", access),
}


def variable(name, label, query):
    """A choice of the values of a label, by default all of them, those of targets without the label included."""
    every = dashboard.VariableOption(selected=True, text="All", value="$__all")
    found = build.QueryVariable(name).label(label).query(query).datasource(DATASOURCE).current(every)
    return (found.multi(True).include_all(True).all_value(".*").sort(dashboard.VariableSort.ALPHABETICAL_ASC)
            .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED))


def make(name, title, description, groups):
    """The dashboard `name` of the panels in `groups`, which are titled rows."""
    board = build.Dashboard(title).uid(f"pcqa-{name}").description(description).tags(["pcqa"]).refresh("30s")
    board.time("now-1h", "now").timezone("browser").tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    board.link(build.DashboardLink("pcqa").type(dashboard.DashboardLinkType.DASHBOARDS).tags(["pcqa"])
               .include_vars(True).keep_time(True))
    board.with_variable(build.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    board.with_variable(variable("namespace", "Namespace", "label_values(pcqa_build_info, namespace)"))
    board.with_variable(variable("job", "Job", 'label_values(pcqa_build_info{namespace=~"$namespace"}, job)'))
    board.with_variable(variable("instance", "Instance", chosen("label_values(pcqa_build_info{@@}, instance)")))
    number_of = 0
    for heading, panels in groups.items():
        if heading:
            number_of += 1
            board.with_row(build.Row(heading).id(number_of))
        for panel in panels:
            number_of += 1
            board.with_panel(panel.id(number_of))
    built = board.build()
    for choice in built.templating.list_val or []:
        # Of variables that are intervals, which these are not.
        choice.auto = choice.auto_min = choice.auto_count = None
    return json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main():
    texts = {OUT / f"{name}.json": make(name, title, description, groups())
             for name, (title, description, groups) in DASHBOARDS.items()}
    if sys.argv[1:] == ["--check"]:
        here = set(OUT.glob("*.json"))
        wrong = [path for path, text in texts.items() if path not in here or path.read_text() != text]
        wrong += sorted(here - set(texts))
        for path in wrong:
            print(f"{path.name} is not what {Path(__file__).name} writes")
        return 1 if wrong else 0
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 64
    for path, text in texts.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
