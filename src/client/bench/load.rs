//! What is sent: media that are read or made once, and prompts, drawn by seed and number of the request.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::args::{BenchArgs, Format};
use super::picture;
use super::random::Random;
use crate::client::items::{self, Item};
use crate::client::kind::Kind;
use crate::client::output::Failure;
use crate::client::{Error, list, send};
use crate::proto::{Limits, Priority, ScoreImageRequest};

/// Prompts of generated pictures that are sent again and again, from a few tokens to many.
const PROMPTS: [&str; 8] = [
    "a red fox in the snow",
    "portrait of an old fisherman, oil on canvas",
    "isometric city block at night, neon signs, rain on the asphalt",
    "a bowl of ramen on a wooden table, soft morning light, shallow depth of field",
    "macro photograph of a dragonfly on a reed",
    "an astronaut riding a horse on the moon, cinematic, highly detailed, 35 mm film grain, volumetric light",
    "a cosy library with a spiral staircase, tall windows, dust in the sunbeams, a cat asleep on an armchair, \
     watercolour with ink lines, warm palette, storybook illustration",
    "teapot",
];
/// Bytes of media that are held in memory at most.
const MOST_BYTES: u64 = 4 << 30;
/// Longest `new_start`.
const LONGEST_START: u64 = 26;

/// Everything that a run may send.
#[derive(Debug)]
pub struct Load {
    media: Vec<Medium>,
    new_prompts: f64,
    seed: u64,
    priority: Priority,
    /// Sides and format of generated pictures.
    generated: Option<(Vec<u32>, Format)>,
}

#[derive(Debug)]
struct Medium {
    kind: Kind,
    bytes: Bytes,
    prompts: Arc<[Arc<str>]>,
}

/// One request's content.
#[derive(Debug)]
pub struct Shot {
    /// Which RPC.
    pub kind: Kind,
    /// The prompt.
    pub prompt: String,
    /// The encoded medium.
    pub bytes: Bytes,
    /// What goes first under load.
    pub priority: Priority,
}

/// What a load consists of, for reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    pub images: usize,
    pub videos: usize,
    /// Of the shortest and of the longest medium.
    pub bytes: (usize, usize),
}

impl Load {
    /// Reads the files or makes the pictures, and refuses what the server would refuse for its length.
    ///
    /// # Errors
    /// Lists, folders or files that cannot be used.
    pub async fn new(args: &BenchArgs, items: Vec<Item>, limits: &Limits, seed: u64) -> Result<Self, Error> {
        let (media, generated) = if items.is_empty() {
            (generated(args, limits, seed)?, Some((args.size.clone(), args.format)))
        } else {
            (read(items, limits).await?, None)
        };
        let media = shuffled(media, seed);
        let load = Self { media, new_prompts: args.new_prompts, seed, priority: args.priority.into(), generated };
        load.check(limits)?;
        Ok(load)
    }

    /// The request of this number, the same whoever asks.
    pub fn shot(&self, number: u64) -> Option<Shot> {
        // One after the other, not with replacement: what waits for one batch is different, as callers' pictures are.
        let length = u64::try_from(self.media.len()).ok().filter(|length| *length > 0)?;
        let medium = self.media.get(usize::try_from(number % length).ok()?)?;
        let prompt = Random::new(self.seed, number).pick(&medium.prompts)?;
        let prompt =
            if self.is_new(number) { format!("{} {prompt}", self.new_start(number)) } else { prompt.to_string() };
        Some(Shot { kind: medium.kind, prompt, bytes: medium.bytes.clone(), priority: self.priority })
    }

    /// Evenly spread: of the first N requests, N times the share are new, rounded down.
    #[expect(clippy::cast_precision_loss, reason = "nobody sends 2^53 requests")]
    fn is_new(&self, number: u64) -> bool {
        let new_before = |count: u64| (count as f64 * self.new_prompts).floor();
        new_before(number + 1) > new_before(number)
    }

    /// What a new prompt begins with: at its end, the tokenizer would cut it off long prompts.
    fn new_start(&self, number: u64) -> String {
        format!("{:08x}-{number:x}", Random::new(self.seed, u64::MAX).next() >> 32)
    }

    /// For reports.
    pub fn extent(&self) -> Extent {
        let videos = self.media.iter().filter(|medium| medium.kind == Kind::Video).count();
        let lengths = || self.media.iter().map(|medium| medium.bytes.len());
        let bytes = (lengths().min().unwrap_or_default(), lengths().max().unwrap_or_default());
        Extent { images: self.media.len() - videos, videos, bytes }
    }

    /// Sides and format of the pictures when they were made here.
    pub fn generated(&self) -> Option<(&[u32], Format)> {
        self.generated.as_ref().map(|(sizes, format)| (sizes.as_slice(), *format))
    }

    fn check(&self, limits: &Limits) -> Result<(), Error> {
        let start = if self.new_prompts > 0.0 { LONGEST_START } else { 0 };
        for medium in &self.media {
            for prompt in &*medium.prompts {
                let length = length(prompt.len()) + start;
                if length > limits.max_prompt_bytes {
                    let limit = limits.max_prompt_bytes;
                    let problem =
                        format!("a prompt has {length} bytes with what makes it new, the server's limit is {limit}");
                    return Err(Error::Usage(problem));
                }
                // A request for a video is as long as one for an image.
                let request = ScoreImageRequest {
                    prompt: " ".repeat(usize::try_from(length).unwrap_or_default()),
                    image: medium.bytes.clone(),
                    priority: self.priority.into(),
                };
                send::check_message(&request, limits).map_err(|failure| Error::Usage(failure.message))?;
            }
        }
        Ok(())
    }
}

/// In an order that depends on the seed (Fisher and Yates), so that sizes and kinds are mixed.
fn shuffled(mut media: Vec<Medium>, seed: u64) -> Vec<Medium> {
    let mut random = Random::new(seed, u64::MAX - 1);
    for end in (1..media.len()).rev() {
        let other = usize::try_from(random.next() % (length(end) + 1)).unwrap_or(end);
        media.swap(end, other);
    }
    media
}

/// The items that the command line names; none when pictures are to be generated.
///
/// # Errors
/// Lists and folders that cannot be used.
pub fn items(args: &BenchArgs) -> Result<Vec<Item>, Error> {
    match &args.from {
        Some(list) => list::read(list),
        None => items::from_paths(&args.files, args.prompt.as_deref().unwrap_or_default(), &[Kind::Image, Kind::Video]),
    }
}

/// Each file once, though items may share it.
async fn read(items: Vec<Item>, limits: &Limits) -> Result<Vec<Medium>, Error> {
    let mut files: HashMap<PathBuf, (Kind, Bytes)> = HashMap::new();
    let mut total = 0;
    let mut media = Vec::with_capacity(items.len());
    for item in items {
        let (kind, bytes) = match files.get(&item.path) {
            Some(known) => known.clone(),
            None => {
                let file = read_one(&item, limits)
                    .await
                    .map_err(|failure| Error::Usage(format!("{}: {failure}", item.name)))?;
                total += length(file.1.len());
                files.insert(item.path.clone(), file.clone());
                file
            }
        };
        if total > MOST_BYTES {
            let problem = format!("the files up to {} have {total} bytes, more than the {MOST_BYTES} held", item.name);
            return Err(Error::Usage(problem));
        }
        media.push(Medium { kind, bytes, prompts: [item.prompt].into() });
    }
    Ok(media)
}

async fn read_one(item: &Item, limits: &Limits) -> Result<(Kind, Bytes), Failure> {
    let (kind, bytes) = send::read_medium(&item.path, limits).await?;
    send::check_medium(kind, &bytes, limits)?;
    Ok((kind, bytes))
}

fn generated(args: &BenchArgs, limits: &Limits, seed: u64) -> Result<Vec<Medium>, Error> {
    let prompts: Arc<[Arc<str>]> = match &args.prompt {
        Some(prompt) => [prompt.as_str().into()].into(),
        None => PROMPTS.map(Arc::from).into(),
    };
    let mut media = Vec::new();
    for (place, &side) in (0..).zip(&args.size) {
        let fail = |problem: String| Error::Usage(format!("--size {side}: {problem}"));
        let pixels = u64::from(side) * u64::from(side);
        if pixels > limits.max_image_pixels {
            let limit = limits.max_image_pixels;
            return Err(fail(format!("makes {pixels} pixels, the server's limit is {limit}")));
        }
        for picture in 0..u64::from(args.pictures) {
            // The places of pictures lie above those of requests.
            let random = Random::new(seed, u64::MAX / 2 + place * u64::from(args.pictures) + picture);
            let bytes = picture::encoded(side, args.format, random).map_err(|error| fail(error.to_string()))?;
            send::check_medium(Kind::Image, &bytes, limits)
                .map_err(|failure| fail(format!("a picture {}", failure.message)))?;
            media.push(Medium { kind: Kind::Image, bytes: bytes.into(), prompts: prompts.clone() });
        }
    }
    Ok(media)
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
