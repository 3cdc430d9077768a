//! What a picture shows, in the words of its prompt: objects of a shape and a colour, how many, where, before what, and
//! in a clip how they move. No pixels.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Everything that a prompt may ask for and a picture may get wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// Objects of the first kind, 1 to 4.
    pub count: u32,
    /// What they are.
    pub thing: Thing,
    /// One more object, of another shape and colour, and how the first ones lie to it.
    pub second: Option<(Relation, Thing)>,
    /// What they lie on.
    pub ground: Ground,
    /// How the first ones move; none in a picture.
    pub motion: Option<Motion>,
}

/// One kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thing {
    /// Its shape.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
}

/// A plain list of names: the enum, all its members, their words, and one of them by chance.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$member_doc:meta])* $member:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$member_doc])* $member),+ }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$member),+];

            /// Its word in a prompt.
            pub fn word(self) -> &'static str {
                match self { $(Self::$member => $word),+ }
            }

            /// One by chance.
            fn draw(rng: &mut ChaCha8Rng) -> Self {
                Self::ALL[rng.random_range(0..Self::ALL.len())]
            }

            /// Another than `self` by chance.
            fn draw_other(self, rng: &mut ChaCha8Rng) -> Self {
                let step = rng.random_range(1..Self::ALL.len());
                Self::ALL[(self as usize + step) % Self::ALL.len()]
            }
        }
    };
}

names! {
    /// Outline of an object.
    Shape {
        /// A disc.
        Circle = "circle",
        /// A square.
        Square = "square",
        /// A triangle.
        Triangle = "triangle",
        /// A star of five rays.
        Star = "star",
        /// A disc with a hole.
        Ring = "ring",
        /// Two bars.
        Cross = "cross",
    }
}

names! {
    /// Colour of an object.
    Colour {
        /// Red.
        Red = "red",
        /// Yellow.
        Yellow = "yellow",
        /// Green.
        Green = "green",
        /// Blue.
        Blue = "blue",
        /// Purple.
        Purple = "purple",
        /// White.
        White = "white",
    }
}

names! {
    /// What fills the rest of the picture.
    Ground {
        /// Pale blue with clouds.
        Sky = "in the sky",
        /// Dull green blades.
        Grass = "on grass",
        /// Beige ripples.
        Sand = "on sand",
        /// A brick wall.
        Bricks = "on a brick wall",
        /// Dark, with stars.
        Night = "at night",
        /// Grey stones of all sizes.
        Pebbles = "on pebbles",
    }
}

names! {
    /// How the first objects lie to the second one. None of them changes when a picture is mirrored, as test-time and
    /// training augmentation do.
    Relation {
        /// Higher.
        Above = "above",
        /// Lower.
        Below = "below",
        /// To one side.
        Beside = "beside",
    }
}

names! {
    /// How the first objects of a clip move.
    Motion {
        /// Upwards.
        Rising = "rising",
        /// Downwards.
        Falling = "falling",
        /// Larger.
        Growing = "growing",
        /// Smaller.
        Shrinking = "shrinking",
    }
}

/// What a picture got wrong of its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Other colour of the first objects.
    Colour,
    /// Other shape of the first objects.
    Shape,
    /// Other ground.
    Ground,
    /// Other number of the first objects.
    Count,
    /// The second object missing, surplus, or of other shape or colour.
    Second,
    /// Other relation to the second object.
    Relation,
    /// Other motion.
    Motion,
}

impl Fault {
    /// Its name in lists.
    pub fn word(self) -> &'static str {
        match self {
            Self::Colour => "colour",
            Self::Shape => "shape",
            Self::Ground => "ground",
            Self::Count => "count",
            Self::Second => "second",
            Self::Relation => "relation",
            Self::Motion => "motion",
        }
    }
}

/// Length of [`Scene::traits`].
pub const TRAITS: usize =
    Colour::ALL.len() + Shape::ALL.len() + Ground::ALL.len() + Relation::ALL.len() + Motion::ALL.len();

const NUMBERS: [&str; 4] = ["one", "two", "three", "four"];

/// Most objects of the first kind.
pub const MOST: u32 = NUMBERS.len() as u32;

impl Scene {
    /// Any scene; half of them have a second object. Only a `moving` one has a motion.
    pub fn draw(moving: bool, rng: &mut ChaCha8Rng) -> Self {
        let thing = Thing { shape: Shape::draw(rng), colour: Colour::draw(rng) };
        Self {
            count: rng.random_range(1..=MOST),
            thing,
            second: rng.random_bool(0.5).then(|| (Relation::draw(rng), thing.draw_other(rng))),
            ground: Ground::draw(rng),
            motion: moving.then(|| Motion::draw(rng)),
        }
    }

    /// The scene in plain words: "two red stars above a blue ring on sand".
    pub fn words(&self) -> String {
        format!("{} {}", self.things(), self.ground.word())
    }

    /// A prompt that asks for the scene: its words in one of several orders and beginnings.
    pub fn prompt(&self, rng: &mut ChaCha8Rng) -> String {
        let medium = if self.motion.is_some() { "video" } else { "picture" };
        match rng.random_range(0..5) {
            0 => format!("a {medium} of {}", self.words()),
            1 => format!("{}, {}", self.ground.word(), self.things()),
            2 => format!("{}, {}", self.things(), self.ground.word()),
            3 => format!("a {medium} with {}", self.words()),
            _ => self.words(),
        }
    }

    fn things(&self) -> String {
        let number = NUMBERS.get(self.count as usize - 1).copied().unwrap_or_default();
        let motion = self.motion.map_or(String::new(), |motion| format!("{} ", motion.word()));
        let second =
            self.second.map_or(String::new(), |(relation, thing)| format!(" {} a {}", relation.word(), thing.words(1)));
        format!("{number} {motion}{}{second}", self.thing.words(self.count))
    }

    /// The scene as numbers from 0 to 1: of every colour and of every shape how many objects have it, in quarters; then
    /// 1 for the ground, the relation and the motion that it has. Order is that of the enums.
    pub fn traits(&self) -> [f32; TRAITS] {
        let mut traits = [0.0; TRAITS];
        let shapes = Colour::ALL.len();
        let grounds = shapes + Shape::ALL.len();
        let relations = grounds + Ground::ALL.len();
        let motions = relations + Relation::ALL.len();
        let second = self.second.iter().map(|&(_, thing)| (thing, 1));
        for (thing, count) in std::iter::once((self.thing, self.count)).chain(second) {
            traits[thing.colour as usize] += count as f32 / MOST as f32;
            traits[shapes + thing.shape as usize] += count as f32 / MOST as f32;
        }
        traits[grounds + self.ground as usize] = 1.0;
        if let Some((relation, _)) = self.second {
            traits[relations + relation as usize] = 1.0;
        }
        if let Some(motion) = self.motion {
            traits[motions + motion as usize] = 1.0;
        }
        traits
    }

    /// All that a generator can get wrong of it.
    pub fn possible_faults(&self) -> Vec<Fault> {
        let mut possible = vec![Fault::Colour, Fault::Shape, Fault::Ground, Fault::Count];
        possible.extend(self.second.iter().flat_map(|_| [Fault::Second, Fault::Relation]));
        possible.extend(self.motion.map(|_| Fault::Motion));
        possible
    }

    /// What a generator shows that gets `faults` things wrong, or as many as there are.
    pub fn with_faults(&self, faults: usize, rng: &mut ChaCha8Rng) -> Self {
        let mut possible = self.possible_faults();
        let mut shown = self.clone();
        for _ in 0..faults.min(possible.len()) {
            let fault = possible.swap_remove(rng.random_range(0..possible.len()));
            shown.commit(fault, rng);
        }
        shown
    }

    fn commit(&mut self, fault: Fault, rng: &mut ChaCha8Rng) {
        match fault {
            Fault::Colour => self.thing.colour = self.thing.colour.draw_other(rng),
            Fault::Shape => self.thing.shape = self.thing.shape.draw_other(rng),
            Fault::Ground => self.ground = self.ground.draw_other(rng),
            // Three for four is hardly a fault: the wrong number is off by two at least.
            Fault::Count => self.count = (self.count + 1) % MOST + 1,
            Fault::Second => self.second = self.second.map(|(relation, thing)| (relation, thing.draw_other(rng))),
            Fault::Relation => self.second = self.second.map(|(relation, thing)| (relation.draw_other(rng), thing)),
            Fault::Motion => self.motion = self.motion.map(|motion| motion.draw_other(rng)),
        }
    }

    /// What is wrong where `shown` is seen and `self` was asked for.
    pub fn faults(&self, shown: &Self) -> Vec<Fault> {
        let second = |scene: &Self| scene.second.map(|(_, thing)| thing);
        let relation = |scene: &Self| scene.second.map(|(relation, _)| relation);
        let wrong = [
            (Fault::Colour, self.thing.colour != shown.thing.colour),
            (Fault::Shape, self.thing.shape != shown.thing.shape),
            (Fault::Ground, self.ground != shown.ground),
            (Fault::Count, self.count != shown.count),
            (Fault::Second, second(self) != second(shown)),
            (Fault::Relation, relation(self) != relation(shown)),
            (Fault::Motion, self.motion != shown.motion),
        ];
        wrong.into_iter().filter_map(|(fault, is_wrong)| is_wrong.then_some(fault)).collect()
    }
}

impl Thing {
    fn draw_other(self, rng: &mut ChaCha8Rng) -> Self {
        Self { shape: self.shape.draw_other(rng), colour: self.colour.draw_other(rng) }
    }

    fn words(self, count: u32) -> String {
        let ending = match (count, self.shape) {
            (1, _) => "",
            (_, Shape::Cross) => "es",
            _ => "s",
        };
        format!("{} {}{ending}", self.colour.word(), self.shape.word())
    }
}
