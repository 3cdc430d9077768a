//! Outlines of objects as signed distances: negative inside, in units of the object's radius.

use super::scene::Shape;

/// A point in an object's own coordinates: its centre is (0, 0), its reach about 1, y points down.
pub(super) type Point = (f32, f32);

/// How far `point` is from the outline of `shape`.
pub(super) fn distance(shape: Shape, point: Point) -> f32 {
    let (x, y) = point;
    let (across, down) = (x.abs(), y.abs());
    let from_centre = libm::sqrtf(x * x + y * y);
    match shape {
        Shape::Circle => from_centre - 1.0,
        Shape::Ring => (from_centre - 0.76).abs() - 0.26,
        Shape::Square => across.max(down) - 0.88,
        Shape::Cross => (across - 0.3).max(down - 1.05).min((across - 1.05).max(down - 0.3)),
        Shape::Triangle => polygon(&TRIANGLE, point),
        Shape::Star => polygon(&STAR, point),
    }
}

const TRIANGLE: [Point; 3] = [(0.0, -1.15), (1.08, 0.8), (-1.08, 0.8)];

/// Five rays of length 1.25, cut in at 0.5.
const STAR: [Point; 10] = [
    (0.0, -1.25),
    (0.294, -0.405),
    (1.189, -0.386),
    (0.476, 0.155),
    (0.735, 1.011),
    (0.0, 0.5),
    (-0.735, 1.011),
    (-0.476, 0.155),
    (-1.189, -0.386),
    (-0.294, -0.405),
];

/// The distance to the nearest edge, negative where a line to the right crosses an odd number of edges.
fn polygon(corners: &[Point], (x, y): Point) -> f32 {
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    let ends = corners.iter().skip(1).chain(corners.first());
    for (&(ax, ay), &(bx, by)) in corners.iter().zip(ends) {
        let (ex, ey) = (bx - ax, by - ay);
        let (px, py) = (x - ax, y - ay);
        let along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
        let (dx, dy) = (px - ex * along, py - ey * along);
        nearest = nearest.min(dx * dx + dy * dy);
        if (ay > y) != (by > y) && x < ax + ex * (y - ay) / ey {
            inside = !inside;
        }
    }
    let distance = libm::sqrtf(nearest);
    if inside { -distance } else { distance }
}
