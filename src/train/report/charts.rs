//! The report's pictures.

use super::axis::Axis;
use super::plot::Plot;
use super::{Chart, escape};
use crate::train::statistics::{Judged, Logistic, Metrics, quantile};

/// Dots of a scatter plot; more only make the page slow.
const MOST_DOTS: usize = 4000;
/// Generators that are drawn; those with the most items.
const MOST_GENERATORS: usize = 24;
const ROW: f64 = 26.0;
/// Classes of colours in the style sheet: one for each kind of backbone.
const COLOURS: usize = 5;

/// Lines over steps, with a legend.
pub(super) fn curves(chart: &Chart) -> String {
    let all = || chart.series.iter().flat_map(|series| series.points.iter().copied());
    let values = all().map(|(_, y)| y);
    let y = if chart.is_log { Axis::decades(values) } else { Axis::around(values) };
    let x = Axis::around(all().map(|(x, _)| x));
    let mut plot = Plot::new((520.0, 300.0), (x, &chart.x_label), (y, ""));
    let mut legend = String::new();
    for (i, series) in chart.series.iter().enumerate() {
        let colour = i % COLOURS;
        plot.line(&format!("line c{colour}"), &series.points);
        if series.points.len() <= 60 {
            plot.dots(&format!("dot c{colour}"), &series.points);
        }
        legend += &format!(r#"<li class="c{colour}">{}</li>"#, escape(&series.label));
    }
    format!(r#"{}<ul class="legend">{legend}</ul>"#, plot.finish(&chart.title))
}

/// Each row's SRCC with its interval.
pub(super) fn ranking(rows: &[(String, Metrics)]) -> String {
    let figures: Vec<_> = rows.iter().filter_map(|(name, metrics)| Some((name, metrics.srcc?))).collect();
    let ends = figures.iter().flat_map(|(_, figure)| figure.interval.unwrap_or([figure.value; 2]));
    let axis = Axis::around(ends.chain([0.0]));
    let names: Vec<String> = figures.iter().map(|(name, _)| (*name).clone()).collect();
    let mut plot = Plot::rows(760.0, ROW, &names, (axis, "SRCC, with its 95 % interval"));
    for (i, (name, figure)) in figures.iter().enumerate() {
        let class = if is_floor(name) { "floor" } else { "c0" };
        let y = plot.row(i, ROW);
        if let Some([low, high]) = figure.interval {
            plot.segment(&format!("bar {class}"), (plot.at_x(low), y), (plot.at_x(high), y));
        }
        plot.circle(&format!("mark {class}"), (plot.at_x(figure.value), y), 5.0);
    }
    plot.finish("SRCC of each system")
}

/// Whether a row is of predictions that need no pixels.
pub(super) fn is_floor(name: &str) -> bool {
    name.starts_with("floor")
}

/// MOS over predictions, with the curve. Also how many dots there are, where not all items are drawn.
pub(super) fn scatter(judged: &[Judged], curve: Option<Logistic>) -> (String, Option<usize>) {
    let x = Axis::around(judged.iter().map(|item| item.predicted));
    let y = Axis::around(judged.iter().map(|item| item.mos));
    let (low, high, opinions) = (x.low, x.high, y.low..=y.high);
    let mut plot = Plot::new((520.0, 420.0), (x, "predicted"), (y, "MOS"));
    let step = judged.len().div_ceil(MOST_DOTS).max(1);
    let dots: Vec<_> = judged.iter().step_by(step).map(|item| (item.predicted, item.mos)).collect();
    plot.dots("point c0", &dots);
    if let Some(curve) = curve {
        let line = (0..=100).map(|i| low + (high - low) * f64::from(i) / 100.0);
        let inside = line.map(|x| (x, curve.apply(x))).filter(|(_, y)| opinions.contains(y));
        plot.line("line c1", &inside.collect::<Vec<_>>());
    }
    (plot.finish("MOS over predictions"), (step > 1).then_some(dots.len()))
}

/// The spread of what is wrong by generator: median, quarters, and the middle 90 %. Also the number of generators that
/// are not drawn. None where no item names one.
pub(super) fn residuals(judged: &[Judged], residual: impl Fn(&Judged) -> f64) -> Option<(String, usize)> {
    let mut generators: Vec<(&str, Vec<f64>)> = Vec::new();
    for item in judged {
        let Some(generator) = item.generator.as_deref() else { continue };
        match generators.iter_mut().find(|(name, _)| *name == generator) {
            Some((_, values)) => values.push(residual(item)),
            None => generators.push((generator, vec![residual(item)])),
        }
    }
    if generators.is_empty() {
        return None;
    }
    generators.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then(a.0.cmp(b.0)));
    let left_out = generators.len().saturating_sub(MOST_GENERATORS);
    generators.truncate(MOST_GENERATORS);
    let mut boxes: Vec<(String, [f64; 5])> = generators.into_iter().filter_map(spread).collect();
    boxes.sort_by(|a, b| a.1[2].total_cmp(&b.1[2]));
    let axis = Axis::around(boxes.iter().flat_map(|(_, spread)| *spread).chain([0.0]));
    let names: Vec<String> = boxes.iter().map(|(name, _)| name.clone()).collect();
    let mut plot = Plot::rows(520.0, ROW, &names, (axis, "predicted − MOS"));
    let zero = plot.at_x(0.0);
    plot.segment("zero", (zero, plot.row(0, ROW) - ROW / 2.0), (zero, plot.row(boxes.len(), ROW) - ROW / 2.0));
    for (i, (_, spread)) in boxes.iter().enumerate() {
        let [least, low, median, high, most] = spread.map(|value| plot.at_x(value));
        let y = plot.row(i, ROW);
        plot.segment("whisker", (least, y), (most, y));
        plot.rectangle("box", (low, y - 7.0), (high - low, 14.0));
        plot.segment("median", (median, y - 7.0), (median, y + 7.0));
    }
    Some((plot.finish("residuals by generator"), left_out))
}

fn spread((name, mut values): (&str, Vec<f64>)) -> Option<(String, [f64; 5])> {
    values.sort_unstable_by(f64::total_cmp);
    let mut quantiles = [0.0; 5];
    for (quantile_at, share) in quantiles.iter_mut().zip([0.05, 0.25, 0.5, 0.75, 0.95]) {
        *quantile_at = quantile(&values, share)?;
    }
    Some((format!("{name} ({})", values.len()), quantiles))
}
