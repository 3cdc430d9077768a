//! A sweep as a picture: goodput above, latencies below, over the offered load.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::report::Context;
use super::summary::Summary;
use super::sweep::Sweep;
use crate::client::Error;

const SIZE: (u32, u32) = (960, 880);
const TITLE_HEIGHT: i32 = 78;
const FONT: &str = "sans-serif";
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(213, 94, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const GREY: RGBColor = RGBColor(120, 120, 120);

/// Opens the file, so that a place that cannot be written is found before any work.
///
/// # Errors
/// When it cannot be opened.
pub fn create(path: &Path) -> Result<File, Error> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    Ok(File::create(path).map_err(named)?)
}

/// The picture as SVG.
///
/// # Errors
/// When it cannot be drawn.
pub fn svg(context: &Context<'_>, sweep: &Sweep) -> io::Result<String> {
    let mut page = String::new();
    draw(&mut page, context, sweep).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(page)
}

/// A line with a mark at each load.
struct Series {
    label: &'static str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

impl Series {
    fn new(label: &'static str, colour: RGBColor, sweep: &Sweep, figure: impl Fn(&Summary) -> Option<f64>) -> Self {
        let rows = sweep.rows.iter().map(|(_, summary)| summary);
        let points = rows.filter_map(|summary| Some((summary.offered_per_s?, figure(summary)?))).collect();
        Self { label, colour, points }
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Fault<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn draw<'a>(page: &'a mut String, context: &Context<'_>, sweep: &Sweep) -> Result<(), Fault<'a>> {
    let root = SVGBackend::with_string(page, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, panels) = root.split_vertically(TITLE_HEIGHT);
    title(&head, context)?;
    let (above, below) = panels.split_vertically(400);

    let saturation = sweep.saturation.goodput_per_s.unwrap_or_default();
    let goodput = Series::new("goodput", BLUE, sweep, |summary| summary.goodput_per_s);
    let offered = Series::new("all that is offered", GREY, sweep, |summary| summary.offered_per_s);
    let most = |points: &[(f64, f64)]| points.iter().map(|point| point.0.max(point.1)).fold(saturation, f64::max);
    let x = 0.0..1.05 * positive(most(&offered.points));
    let highest = goodput.points.iter().map(|point| point.1).fold(saturation, f64::max);
    let y = 0.0..1.25 * positive(highest);
    let panel = Panel { x: x.clone(), saturation, top: y.end, bottom: 0.0, y_label: "goodput, scores/s" };
    panel.draw(&above, y, &[goodput], Some(&offered))?;

    let latencies = [
        Series::new("p50", GREEN, sweep, |summary| summary.latency_ms.p50),
        Series::new("p99", ORANGE, sweep, |summary| summary.latency_ms.p99),
        Series::new("p99 of shed requests", GREY, sweep, |summary| summary.shed()?.latency_ms.p99),
    ];
    let y = decades(latencies.iter().flat_map(|series| &series.points).map(|point| point.1));
    let panel = Panel { x, saturation, top: y.end, bottom: y.start, y_label: "latency, ms (log scale)" };
    panel.draw(&below, y.log_scale(), &latencies, None)?;
    root.present()
}

fn title<'a>(area: &Area<'a>, context: &Context<'_>) -> Result<(), Fault<'a>> {
    let args = context.args;
    let settings = format!(
        "open loop, each load {} s after {} s of warm-up; {}; seed {}",
        args.duration.as_secs_f64(),
        args.warm_up.as_secs_f64(),
        args.priority.name(),
        context.seed
    );
    let lines = [(format!("pcqa bench: {}", context.model_line()), 20), (context.load_line(), 14), (settings, 14)];
    for ((text, size), top) in lines.into_iter().zip([10, 36, 56]) {
        // XML has no way to write these two.
        let text = text.replace(['\u{fffe}', '\u{ffff}'], "?");
        area.draw(&Text::new(text, (20, top), (FONT, size)))?;
    }
    Ok(())
}

/// An axis must have some length, even when nothing was scored.
fn positive(end: f64) -> f64 {
    if end > 0.0 { end } else { 1.0 }
}

/// Whole powers of ten around the values.
fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) = values.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)));
    if least > most {
        return 1.0..10.0;
    }
    let start = 10_f64.powf(least.max(1e-3).log10().floor());
    start..10_f64.powf(most.max(1e-3).log10().ceil()).max(10.0 * start)
}

struct Panel {
    x: Range<f64>,
    saturation: f64,
    top: f64,
    bottom: f64,
    y_label: &'static str,
}

impl Panel {
    /// Axes, the saturation, each series, and `dashed` as a broken line.
    fn draw<'a, Y>(&self, area: &Area<'a>, y: Y, series: &[Series], dashed: Option<&Series>) -> Result<(), Fault<'a>>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let mut chart = ChartBuilder::on(area)
            .margin(14)
            .x_label_area_size(48)
            .y_label_area_size(78)
            .build_cartesian_2d(self.x.clone(), y)?;
        chart
            .configure_mesh()
            .x_desc("offered load, requests/s")
            .y_desc(self.y_label)
            .axis_desc_style((FONT, 16))
            .label_style((FONT, 14))
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .x_max_light_lines(0)
            .light_line_style(BLACK.mix(0.05))
            .draw()?;
        let edge = [(self.saturation, self.bottom), (self.saturation, self.top)];
        chart
            .draw_series(DashedLineSeries::new(edge, 4, 4, BLACK.into()))?
            .label(format!("saturation, {} scores/s", short(self.saturation)))
            .legend(|at| broken_line(at, BLACK));
        if let Some(Series { label, colour, points }) = dashed {
            let colour = *colour;
            let inside = points.iter().map(|&(x, y)| (x.min(self.top), y.min(self.top)));
            chart
                .draw_series(DashedLineSeries::new(inside.collect::<Vec<_>>(), 8, 6, colour.into()))?
                .label(*label)
                .legend(move |at| broken_line(at, colour));
        }
        for Series { label, colour, points } in series.iter().filter(|series| !series.points.is_empty()) {
            let colour = *colour;
            chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
            chart
                .draw_series(points.iter().map(|&point| Circle::new(point, 4, colour.filled())))?
                .label(*label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(3)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font((FONT, 14))
            .background_style(WHITE.mix(0.85))
            .border_style(GREY)
            .draw()
    }
}

/// The mark of a dashed series in the legend.
fn broken_line<'a, B: DrawingBackend + 'a>(at: (i32, i32), colour: RGBColor) -> impl IntoDynElement<'a, B, (i32, i32)> {
    EmptyElement::at(at) + PathElement::new([(0, 0), (8, 0)], colour) + PathElement::new([(13, 0), (21, 0)], colour)
}

/// Few digits, without the dirt of binary fractions.
fn short(value: f64) -> String {
    let digits = if value.abs() >= 100.0 { 0 } else { 3 };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_every_value() {
        assert_eq!(decades([3.0, 250.0].into_iter()), 1.0..1000.0);
        assert_eq!(decades([10.0].into_iter()), 10.0..100.0);
        assert_eq!(decades([0.0, 0.2].into_iter()), 0.001..1.0);
        assert_eq!(decades(std::iter::empty()), 1.0..10.0);
        assert_eq!([0.1 + 0.2, 20.0, 1234.5, 0.0].map(short), ["0.3", "20", "1234", "0"]);
    }
}
