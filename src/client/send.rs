//! One item's way: read the file when its turn comes, pick the RPC, ask.

use std::path::Path;

use bytes::Bytes;
use prost::Message;
use tokio::io::AsyncReadExt;
use tonic::Status;

use super::call::{self, Policy};
use super::connect::Session;
use super::items::Item;
use super::kind::{self, Kind};
use super::output::{Failure, Row, Scored};
use crate::proto::{Limits, Score, ScoreImageRequest, ScoreVideoRequest};

/// Scores one item. Whatever goes wrong is the row's outcome.
pub async fn score(session: &Session, policy: Policy, item: Item) -> Row {
    let mut kind = None;
    let outcome = try_score(session, policy, &item, &mut kind).await;
    Row { place: None, id: item.id, name: item.name, prompt: item.prompt, kind, outcome }
}

async fn try_score(session: &Session, policy: Policy, item: &Item, kind: &mut Option<Kind>) -> Result<Scored, Failure> {
    let limits = &session.limits;
    let (is, bytes) = read_medium(&item.path, limits).await?;
    *kind = Some(is);
    check_medium(is, &bytes, limits)?;
    let prompt = item.prompt.to_string();
    let priority = policy.priority.into();
    let mut client = session.client.clone();
    let (score, round_trip) = match is {
        Kind::Image => {
            let request = ScoreImageRequest { prompt, image: bytes, priority };
            check_message(&request, limits)?;
            let (answer, round_trip) = policy.call(request, async |request| client.score_image(request).await).await?;
            (answer.score, round_trip)
        }
        Kind::Video => {
            let request = ScoreVideoRequest { prompt, video: bytes, priority };
            check_message(&request, limits)?;
            let (answer, round_trip) = policy.call(request, async |request| client.score_video(request).await).await?;
            (answer.score, round_trip)
        }
    };
    Ok(Scored { score: present(score)?, round_trip })
}

/// Reads a file and says what it is. Files that are longer than any medium may be are not read.
pub async fn read_medium(path: &Path, limits: &Limits) -> Result<(Kind, Bytes), Failure> {
    let bytes = read(path, limits.max_image_bytes.max(limits.max_video_bytes)).await?;
    let kind = kind::of(&bytes, path)
        .ok_or_else(|| Failure::invalid("is neither an image nor a video by its content or its name".to_owned()))?;
    Ok((kind, bytes))
}

/// Reads a file whole unless it is longer than `limit` bytes.
pub async fn read(path: &Path, limit: u64) -> Result<Bytes, Failure> {
    let unreadable = |error: std::io::Error| Failure { code: "UNREADABLE", message: error.to_string() };
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    check_length(length, limit)?;
    // Pipes have no length, and files grow.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).await.map_err(unreadable)?;
    if length_of(&bytes) > limit {
        return Err(Failure::invalid(format!("has more than {limit} bytes, the server's limit")));
    }
    Ok(bytes.into())
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Refuses media that the server would refuse, before they travel.
pub fn check_medium(kind: Kind, bytes: &[u8], limits: &Limits) -> Result<(), Failure> {
    let limit = match kind {
        Kind::Image => limits.max_image_bytes,
        Kind::Video => limits.max_video_bytes,
    };
    check_length(length_of(bytes), limit)
}

fn check_length(length: u64, limit: u64) -> Result<(), Failure> {
    if length > limit {
        return Err(Failure::invalid(format!("has {length} bytes, the server's limit is {limit}")));
    }
    Ok(())
}

/// Refuses a request that the server's transport would break off.
pub fn check_message(request: &impl Message, limits: &Limits) -> Result<(), Failure> {
    let length = u64::try_from(request.encoded_len()).unwrap_or(u64::MAX);
    let limit = limits.max_message_bytes;
    if length > limit {
        return Err(Failure::invalid(format!("makes a request of {length} bytes, the server's limit is {limit}")));
    }
    Ok(())
}

/// The score of an answer.
pub fn present(score: Option<Score>) -> Result<Score, Failure> {
    score.ok_or_else(|| Failure { code: "INTERNAL", message: "the server's answer holds no score".to_owned() })
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { code: call::code_name(status.code()), message: status.message().to_owned() }
    }
}
