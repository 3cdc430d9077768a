//! A scene set up: where its objects stand, painted at any moment of a clip.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::canvas::{Canvas, Noise, Rgb, lit, mix, ramp};
use super::ground;
use super::outline::distance;
use super::scene::{Colour, Motion, Relation, Scene, Shape, Thing};

/// Cells across a picture; an object stands in one.
const CELLS: u32 = 4;

/// A scene with everything that its words leave open.
pub(super) struct Stage {
    ground: Canvas,
    actors: Vec<Actor>,
    noise: Noise,
}

struct Actor {
    shape: Shape,
    colour: Rgb,
    /// Centre and radius in units of the picture's side.
    centre: (f32, f32),
    radius: f32,
    /// Sine and cosine of its turn.
    turn: (f32, f32),
    motion: Option<Motion>,
}

impl Stage {
    pub(super) fn new(scene: &Scene, side: usize, rng: &mut ChaCha8Rng) -> Self {
        let (mut first, mut second) = places(scene.second.map(|(relation, _)| relation), rng);
        first.shuffle(rng);
        second.shuffle(rng);
        let radius = rng.random_range(0.1..0.12);
        let mut actors: Vec<Actor> = first
            .into_iter()
            .take(scene.count as usize)
            .map(|cell| Actor::new(scene.thing, cell, radius, scene.motion, rng))
            .collect();
        if let (Some((_, thing)), Some(&cell)) = (scene.second, second.first()) {
            actors.push(Actor::new(thing, cell, radius, None, rng));
        }
        Self { ground: ground::paint(scene.ground, side, rng), actors, noise: Noise::new(rng) }
    }

    /// The picture at `time`, 0 to 1 over a clip.
    pub(super) fn paint(&self, time: f32) -> Canvas {
        let mut canvas = self.ground.clone();
        for actor in &self.actors {
            actor.at(time).paint(&mut canvas, &self.noise);
        }
        canvas
    }

    /// Mean height of the first objects and their radius at `time`, in units of the picture's side.
    pub(super) fn first(&self, count: u32, time: f32) -> [f32; 2] {
        let actors: Vec<Actor> = self.actors.iter().take(count as usize).map(|actor| actor.at(time)).collect();
        let height = actors.iter().map(|actor| actor.centre.1).sum::<f32>() / actors.len().max(1) as f32;
        [height, actors.first().map_or(0.0, |actor| actor.radius)]
    }
}

type Cell = (u32, u32);

/// Cells for the first objects and for the second one.
fn places(relation: Option<Relation>, rng: &mut ChaCha8Rng) -> (Vec<Cell>, Vec<Cell>) {
    let mirrored = rng.random_bool(0.5);
    let is_second = |(column, row): Cell| match relation {
        None => false,
        Some(Relation::Above) => row >= CELLS / 2,
        Some(Relation::Below) => row < CELLS / 2,
        Some(Relation::Beside) => (column < CELLS / 2) == mirrored,
    };
    let cells = (0..CELLS * CELLS).map(|i| (i % CELLS, i / CELLS));
    cells.partition(|&cell| !is_second(cell))
}

impl Actor {
    fn new(thing: Thing, cell: Cell, radius: f32, motion: Option<Motion>, rng: &mut ChaCha8Rng) -> Self {
        let mut place = |index: u32| (index as f32 + rng.random_range(0.44..0.56)) / CELLS as f32;
        let centre = (place(cell.0), place(cell.1));
        let turn = libm::sincosf(rng.random_range(-0.25..0.25));
        let colour = rgb(thing.colour).map(|value: f32| value + rng.random_range(-12.0..12.0));
        Self { shape: thing.shape, colour, centre, radius, turn, motion }
    }

    fn at(&self, time: f32) -> Self {
        let (mut centre, mut radius) = (self.centre, self.radius);
        match self.motion {
            None => {}
            Some(Motion::Rising) => centre.1 += 0.3 * (0.5 - time),
            Some(Motion::Falling) => centre.1 -= 0.3 * (0.5 - time),
            Some(Motion::Growing) => radius *= 0.4 + 0.8 * time,
            Some(Motion::Shrinking) => radius *= 1.2 - 0.8 * time,
        }
        Self { centre, radius, ..*self }
    }

    /// Its shadow, then itself, lit from above on the left.
    fn paint(&self, canvas: &mut Canvas, noise: &Noise) {
        let side = canvas.side as f32;
        let reach = 1.6 * self.radius;
        let first = |centre: f32| ((centre - reach) * side).max(0.0) as usize;
        let last = |centre: f32| (((centre + reach) * side).max(0.0) as usize + 1).min(canvas.side);
        let (rows, columns) = (first(self.centre.1)..last(self.centre.1), first(self.centre.0)..last(self.centre.0));
        for row in rows {
            for column in columns.clone() {
                let (x, y) = ((column as f32 + 0.5) / side, (row as f32 + 0.5) / side);
                let point = ((x - self.centre.0) / self.radius, (y - self.centre.1) / self.radius);
                let shadow = ramp(0.3, -0.2, self.distance((point.0 - 0.15, point.1 - 0.2)));
                let depth = self.distance(point);
                let cover = (0.5 - depth * self.radius * side).clamp(0.0, 1.0);
                let light = -18.0 * (point.0 + point.1) + 25.0 * noise.fractal(24.0 * x, 24.0 * y, 3);
                let edge = 1.0 - 0.3 * ramp(-0.12, -0.02, depth);
                let surface = lit(self.colour, light).map(|value| value * edge);
                let pixel = &mut canvas.pixels[row * canvas.side + column];
                *pixel = mix(pixel.map(|value| value * (1.0 - 0.4 * shadow)), surface, cover);
            }
        }
    }

    fn distance(&self, (x, y): (f32, f32)) -> f32 {
        let (sine, cosine) = self.turn;
        distance(self.shape, (cosine * x + sine * y, cosine * y - sine * x))
    }
}

fn rgb(colour: Colour) -> Rgb {
    match colour {
        Colour::Red => [220.0, 35.0, 35.0],
        Colour::Yellow => [240.0, 215.0, 30.0],
        Colour::Green => [20.0, 170.0, 60.0],
        Colour::Blue => [35.0, 70.0, 225.0],
        Colour::Purple => [150.0, 40.0, 190.0],
        Colour::White => [240.0, 240.0, 240.0],
    }
}
