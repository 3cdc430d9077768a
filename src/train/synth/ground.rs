//! What fills a picture behind its objects: six textures with the statistics of nature (fractals, and discs of all sizes
//! over each other), so that quality learnt on them means something on photographs.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::canvas::{Canvas, Noise, Rgb, lit, mix, ramp};
use super::scene::Ground;

/// A picture of `ground` in a light of its own.
pub(super) fn paint(ground: Ground, side: usize, rng: &mut ChaCha8Rng) -> Canvas {
    let noise = Noise::new(rng);
    let mut canvas = match ground {
        Ground::Sky => Canvas::paint(side, |x, y| sky(&noise, x, y)),
        Ground::Grass => Canvas::paint(side, |x, y| grass(&noise, x, y)),
        Ground::Sand => Canvas::paint(side, |x, y| sand(&noise, x, y)),
        Ground::Bricks => Canvas::paint(side, |x, y| bricks(&noise, x, y)),
        Ground::Night => Canvas::paint(side, |x, y| night(&noise, x, y)),
        Ground::Pebbles => pebbles(&noise, side, rng),
    };
    let (exposure, slope) = (rng.random_range(0.85..1.1), rng.random_range(-0.2..0.2));
    for (i, pixel) in canvas.pixels.iter_mut().enumerate() {
        let across = (i % side) as f32 / side as f32 - 0.5;
        *pixel = pixel.map(|value| value * (exposure + slope * across));
    }
    canvas
}

fn sky(noise: &Noise, x: f32, y: f32) -> Rgb {
    let clear = mix([110.0, 160.0, 215.0], [185.0, 210.0, 235.0], y);
    let clouds = ramp(-0.1, 0.6, noise.fractal(3.0 * x, 5.0 * y, 6));
    mix(clear, [238.0, 238.0, 240.0], clouds)
}

fn grass(noise: &Noise, x: f32, y: f32) -> Rgb {
    let blades = noise.fractal(45.0 * x, 9.0 * y, 3);
    let patches = noise.fractal(4.0 * x, 4.0 * y, 4);
    lit(mix([62.0, 88.0, 40.0], [120.0, 126.0, 70.0], 0.5 + patches), 60.0 * blades)
}

fn sand(noise: &Noise, x: f32, y: f32) -> Rgb {
    let bend = noise.fractal(2.0 * x, 2.0 * y, 3);
    let ripples = libm::sinf(std::f32::consts::TAU * (9.0 * y + 1.5 * bend));
    lit([200.0, 172.0, 130.0], 14.0 * ripples + 40.0 * noise.fractal(30.0 * x, 30.0 * y, 3))
}

fn bricks(noise: &Noise, x: f32, y: f32) -> Rgb {
    let (row, across) = ((8.0 * y).floor(), 4.0 * x);
    let across = if row as i32 % 2 == 0 { across } else { across + 0.5 };
    let (u, v) = (across - across.floor(), 8.0 * y - row);
    let joint = u.min(1.0 - u).min(0.5 * v.min(1.0 - v));
    let brick = lit([140.0, 92.0, 74.0], 22.0 * noise.cell(across.floor() as i32, row as i32));
    let grain = 45.0 * noise.fractal(20.0 * x, 20.0 * y, 4);
    lit(mix([176.0, 168.0, 156.0], brick, ramp(0.02, 0.06, joint)), grain)
}

fn night(noise: &Noise, x: f32, y: f32) -> Rgb {
    let haze = noise.fractal(3.0 * x, 3.0 * y, 5);
    let dark = mix([14.0, 17.0, 38.0], [44.0, 40.0, 74.0], 0.4 + haze);
    let (column, row) = (28.0 * x, 28.0 * y);
    let star = noise.cell(column.floor() as i32 + 40, row.floor() as i32 + 90);
    let (dx, dy) = (column - column.floor() - 0.5, row - row.floor() - 0.5);
    let glow = ramp(0.3, 0.0, dx * dx + dy * dy) * ramp(0.85, 1.0, star);
    lit(dark, 200.0 * glow)
}

/// Discs whose number falls with the cube of their size, the next always over the last.
fn pebbles(noise: &Noise, side: usize, rng: &mut ChaCha8Rng) -> Canvas {
    let mut canvas = Canvas::paint(side, |x, y| lit([120.0; 3], 30.0 * noise.at(8.0 * x, 8.0 * y)));
    for _ in 0..500 {
        let radius = 0.012 / libm::sqrtf(rng.random_range(0.01..1.0));
        let (x, y): (f32, f32) = (rng.random(), rng.random());
        let grey = rng.random_range(60.0..200.0);
        let tint = rng.random_range(-14.0..14.0);
        disc(&mut canvas, (x, y), radius, [grey + tint, grey, grey - tint], noise);
    }
    canvas
}

fn disc(canvas: &mut Canvas, (x, y): (f32, f32), radius: f32, colour: Rgb, noise: &Noise) {
    let side = canvas.side as f32;
    let first = |centre: f32| ((centre - radius) * side).max(0.0) as usize;
    let last = |centre: f32| (((centre + radius) * side) as usize + 1).min(canvas.side);
    for row in first(y)..last(y) {
        for column in first(x)..last(x) {
            let (u, v) = ((column as f32 + 0.5) / side, (row as f32 + 0.5) / side);
            let (dx, dy) = ((u - x) / radius, (v - y) / radius);
            let from_centre = dx * dx + dy * dy;
            if from_centre < 1.0 {
                let light = -18.0 * (dx + dy) - 25.0 * from_centre + 30.0 * noise.fractal(16.0 * u, 16.0 * v, 3);
                canvas.pixels[row * canvas.side + column] = lit(colour, light);
            }
        }
    }
}
