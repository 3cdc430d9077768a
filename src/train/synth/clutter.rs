//! Pictures of nothing in particular, for a generator that has missed its prompt altogether. They have what photographs
//! have and scenes lack: things of every size, shape, colour and sharpness, the next always before the last, so that
//! quality learnt on them means something on photographs.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::canvas::{Canvas, Noise, Rgb, lit, mix, ramp};

/// Radii of things, in units of the picture's side: their number falls with the cube of their size, as in nature.
const RADII: (f32, f32) = (0.03, 0.6);

/// One thing: an ellipse or a rectangle.
struct Leaf {
    centre: (f32, f32),
    /// Half its length and half its width.
    reach: (f32, f32),
    /// Sine and cosine of its turn.
    turn: (f32, f32),
    has_corners: bool,
    colour: Rgb,
    /// How fast its light falls from one end to the other.
    slope: f32,
    /// Cells of its grain in the picture's side along it and across it, and the grain's levels.
    grain: (f32, f32, f32),
    /// Part of it over which its edge fades.
    softness: f32,
}

/// Painted at twice the side and halved, since a camera too sees what is finer than its pixels only as their mean.
pub(super) fn paint(side: usize, rng: &mut ChaCha8Rng) -> Canvas {
    let noise = Noise::new(rng);
    let (top, bottom) = (colour(rng), colour(rng));
    let (scale, depth) = (rng.random_range(1.5..6.0), rng.random_range(10.0..90.0));
    let mut canvas =
        Canvas::paint(2 * side, |x, y| lit(mix(top, bottom, y), depth * noise.fractal(scale * x, scale * y, 5)));
    for _ in 0..rng.random_range(4..60) {
        Leaf::draw(rng).paint(&mut canvas, &noise);
    }
    canvas.halved()
}

/// Any lightness; rarely vivid.
fn colour(rng: &mut ChaCha8Rng) -> Rgb {
    let light = rng.random_range(15.0..240.0);
    let mut tint = || {
        let part: f32 = rng.random_range(-1.0..1.0);
        70.0 * part * part * part
    };
    let (red, blue) = (tint(), tint());
    [light + red, light - 0.5 * (red + blue), light + blue]
}

impl Leaf {
    fn draw(rng: &mut ChaCha8Rng) -> Self {
        let square = |value: f32| value * value;
        let part: f32 = rng.random();
        let radius = libm::sqrtf(part / square(RADII.0) + (1.0 - part) / square(RADII.1)).recip();
        let grain = rng.random_range(4.0..40.0);
        Self {
            centre: (rng.random(), rng.random()),
            reach: (radius, radius * rng.random_range(0.2..0.9)),
            turn: libm::sincosf(rng.random_range(0.0..std::f32::consts::TAU)),
            has_corners: rng.random(),
            colour: colour(rng),
            slope: rng.random_range(-40.0..40.0),
            grain: (grain * rng.random_range(0.2..1.0), grain, 120.0 * square(rng.random())),
            softness: 0.02 + 0.4 * square(square(rng.random())),
        }
    }

    fn paint(&self, canvas: &mut Canvas, noise: &Noise) {
        let side = canvas.side as f32;
        // Of a rectangle the corner lies farthest, of a soft one what has nearly faded.
        let farthest = (1.0 + self.softness) * libm::sqrtf(self.reach.0.powi(2) + self.reach.1.powi(2));
        let first = |centre: f32| ((centre - farthest) * side).max(0.0) as usize;
        let last = |centre: f32| (((centre + farthest) * side) as usize + 1).min(canvas.side);
        let (rows, columns) = (first(self.centre.1)..last(self.centre.1), first(self.centre.0)..last(self.centre.0));
        for row in rows {
            for column in columns.clone() {
                let (x, y) = ((column as f32 + 0.5) / side, (row as f32 + 0.5) / side);
                let (dx, dy) = (x - self.centre.0, y - self.centre.1);
                let (sine, cosine) = self.turn;
                let (along, across) = (cosine * dx + sine * dy, cosine * dy - sine * dx);
                let (u, v) = (along / self.reach.0, across / self.reach.1);
                let outward = if self.has_corners { u.abs().max(v.abs()) } else { libm::sqrtf(u * u + v * v) };
                let cover = ramp(1.0 + self.softness, 1.0 - self.softness, outward);
                if cover > 0.0 {
                    let (cells_along, cells_across, levels) = self.grain;
                    let grain = levels * noise.fractal(cells_along * along, cells_across * across, 3);
                    let pixel = &mut canvas.pixels[row * canvas.side + column];
                    *pixel = mix(*pixel, lit(self.colour, grain + self.slope * u), cover);
                }
            }
        }
    }
}
