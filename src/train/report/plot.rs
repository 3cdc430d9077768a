//! SVG with axes. Colours are the page's, by class, so that a plot is readable on light and dark grounds.

use std::fmt::Write;

use super::axis::Axis;
use super::escape;

const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;

/// A picture that is being drawn.
pub(super) struct Plot {
    width: f64,
    height: f64,
    left: f64,
    x: Axis,
    y: Axis,
    svg: String,
}

impl Plot {
    /// Axes with their labels and grid.
    pub(super) fn new((width, height): (f64, f64), x: (Axis, &str), y: (Axis, &str)) -> Self {
        let longest = y.0.ticks().map(|(_, text)| text.chars().count()).max().unwrap_or(0);
        let left = 30.0 + 7.0 * longest as f64;
        let mut plot = Self { width, height, left, x: x.0, y: y.0, svg: String::new() };
        plot.grid();
        let (bottom, middle) = (height - BOTTOM, (left + width - RIGHT) / 2.0);
        plot.text("label", (middle, height - 6.0), "middle", x.1);
        let centre = (TOP + bottom) / 2.0;
        let label = escape(y.1);
        plot.push(format_args!(
            r#"<text class="label" text-anchor="middle" transform="translate(13 {centre:.1}) rotate(-90)">{label}</text>"#
        ));
        plot
    }

    /// A picture whose rows are names: `names` from top to bottom, each `row` high.
    pub(super) fn rows(width: f64, row: f64, names: &[String], x: (Axis, &str)) -> Self {
        let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).min(34);
        let left = 16.0 + 7.2 * longest as f64;
        let height = TOP + BOTTOM + row * names.len() as f64;
        let y = Axis::around([]);
        let mut plot = Self { width, height, left, x: x.0, y, svg: String::new() };
        plot.columns();
        for (i, name) in names.iter().enumerate() {
            let text: String = name.chars().take(34).collect();
            plot.text("name", (left - 10.0, TOP + row * (i as f64 + 0.5) + 4.0), "end", &text);
        }
        plot.text("label", ((left + width - RIGHT) / 2.0, height - 6.0), "middle", x.1);
        plot
    }

    /// The middle of row `i` of [`rows`](Self::rows).
    pub(super) fn row(&self, i: usize, row: f64) -> f64 {
        TOP + row * (i as f64 + 0.5)
    }

    pub(super) fn at_x(&self, value: f64) -> f64 {
        self.left + (self.width - RIGHT - self.left) * self.x.place(value)
    }

    fn at_y(&self, value: f64) -> f64 {
        let bottom = self.height - BOTTOM;
        bottom - (bottom - TOP) * self.y.place(value)
    }

    /// A line through points in the axes' units.
    pub(super) fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let places = points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        let places: Vec<String> = places.map(|&(x, y)| format!("{:.1},{:.1}", self.at_x(x), self.at_y(y))).collect();
        self.push(format_args!(r#"<polyline class="{class}" points="{}"/>"#, places.join(" ")));
    }

    /// Dots, as one path: thousands of circles make a page slow.
    pub(super) fn dots(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut path = String::new();
        for &(x, y) in points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()) {
            // Writing to a string cannot fail.
            let _ = write!(path, "M{:.1} {:.1}h0", self.at_x(x), self.at_y(y));
        }
        self.push(format_args!(r#"<path class="{class}" d="{path}"/>"#));
    }

    /// A segment in pixels.
    pub(super) fn segment(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#));
    }

    /// A rectangle in pixels.
    pub(super) fn rectangle(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
        self.push(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2"/>"#
        ));
    }

    /// A circle in pixels.
    pub(super) fn circle(&mut self, class: &str, (x, y): (f64, f64), radius: f64) {
        self.push(format_args!(r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius}"/>"#));
    }

    /// The picture; `description` is for those who cannot see it.
    pub(super) fn finish(self, description: &str) -> String {
        let Self { width, height, svg, .. } = self;
        let description = escape(description);
        format!(r#"<svg viewBox="0 0 {width:.0} {height:.0}" role="img" aria-label="{description}">{svg}</svg>"#)
    }

    fn grid(&mut self) {
        self.columns();
        for (tick, text) in self.y.ticks().collect::<Vec<_>>() {
            let y = self.at_y(tick);
            self.segment("grid", (self.left, y), (self.width - RIGHT, y));
            self.text("tick", (self.left - 6.0, y + 4.0), "end", &text);
        }
    }

    fn columns(&mut self) {
        let bottom = self.height - BOTTOM;
        for (tick, text) in self.x.ticks().collect::<Vec<_>>() {
            let x = self.at_x(tick);
            self.segment("grid", (x, TOP), (x, bottom));
            self.text("tick", (x, bottom + 16.0), "middle", &text);
        }
    }

    fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: &str, text: &str) {
        let text = escape(text);
        self.push(format_args!(r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#));
    }

    fn push(&mut self, element: std::fmt::Arguments) {
        // Writing to a string cannot fail.
        let _ = self.svg.write_fmt(element);
    }
}
