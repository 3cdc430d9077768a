//! `pcqa rank`: several images of one prompt, best first.

use std::collections::BTreeMap;

use bytes::Bytes;
use tonic::Status;
use tonic_types::StatusExt;

use super::args::{RankArgs, ServerArgs};
use super::call::Policy;
use super::connect::{self, Session};
use super::items::{self, Item};
use super::kind::{self, Kind};
use super::output::{Failure, Layout, Row, Scored, Sink};
use super::{Error, complain, send};
use crate::proto::RankImagesRequest;

/// Ranks the images and writes them best first. Returns 1 when they could not be ranked.
///
/// # Errors
/// What keeps the command from starting or from writing.
pub async fn run(server: &ServerArgs, args: RankArgs) -> Result<usize, Error> {
    let items = items::from_paths(&args.files, &args.prompt, &[Kind::Image])?;
    items::keep_from("--out", args.output.out.as_deref(), items.iter().map(|item| item.path.as_path()))?;
    let session = connect::open(server).await?;
    session.warn_if_untrained();
    let mut sink = Sink::open(&args.output, &session.model, Layout::Rank)?;
    match rank(&session, args.calls.policy(), &args.prompt, &items).await {
        Ok(rows) => {
            for row in rows {
                sink.write(row)?;
            }
            sink.finish()?;
            Ok(0)
        }
        Err(failures) => {
            failures.iter().for_each(|failure| complain("error", failure));
            Ok(1)
        }
    }
}

/// One line of complaint per image to blame, or a single line when none is.
async fn rank(session: &Session, policy: Policy, prompt: &str, items: &[Item]) -> Result<Vec<Row>, Vec<String>> {
    let limit = session.limits.max_rank_images;
    if u32::try_from(items.len()).map_or(true, |length| length > limit) {
        let failure = Failure::invalid(format!("{} images, the server ranks at most {limit} in one call", items.len()));
        return Err(vec![failure.to_string()]);
    }
    let images = read_all(session, items).await?;
    let request = RankImagesRequest { prompt: prompt.to_owned(), images, priority: policy.priority.into() };
    send::check_message(&request, &session.limits)
        .map_err(|failure| vec![format!("{failure}; rank fewer images at once")])?;
    let mut client = session.client.clone();
    let (answer, round_trip) = policy
        .call(request, async |request| client.rank_images(request).await)
        .await
        .map_err(|status| blame(&status, items))?;
    if answer.ranked.len() != items.len() {
        let counts = format!("the server ranked {} of {} images", answer.ranked.len(), items.len());
        return Err(vec![Failure { code: "INTERNAL", message: counts }.to_string()]);
    }
    let mut rows = Vec::new();
    for (place, ranked) in (1..).zip(answer.ranked) {
        let item = usize::try_from(ranked.index).ok().and_then(|index| items.get(index));
        let (Some(item), Ok(score)) = (item, send::present(ranked.score)) else {
            let message = format!("the server's place {place} names no image or holds no score");
            return Err(vec![Failure { code: "INTERNAL", message }.to_string()]);
        };
        rows.push(Row {
            place: Some(place),
            id: item.id.clone(),
            name: item.name.clone(),
            prompt: item.prompt.clone(),
            kind: Some(Kind::Image),
            outcome: Ok(Scored { score, round_trip }),
        });
    }
    Ok(rows)
}

/// Reads every image, as long as they fit into one message together.
async fn read_all(session: &Session, items: &[Item]) -> Result<Vec<Bytes>, Vec<String>> {
    let limits = &session.limits;
    let mut images = Vec::with_capacity(items.len());
    let mut failures = Vec::new();
    let mut total = 0_u64;
    for item in items {
        match read_image(item, limits.max_image_bytes).await {
            Ok(image) => {
                total = total.saturating_add(u64::try_from(image.len()).unwrap_or(u64::MAX));
                images.push(image);
            }
            Err(failure) => failures.push(format!("{}: {failure}", item.name)),
        }
        if total > limits.max_message_bytes {
            let limit = limits.max_message_bytes;
            let message =
                format!("the images up to {} have {total} bytes, the server takes {limit} in one call", item.name);
            failures.push(format!("{}; rank fewer images at once", Failure::invalid(message)));
            break;
        }
    }
    if failures.is_empty() { Ok(images) } else { Err(failures) }
}

async fn read_image(item: &Item, limit: u64) -> Result<Bytes, Failure> {
    let bytes = send::read(&item.path, limit).await?;
    if kind::of(&bytes, &item.path) == Some(Kind::Video) && !kind::is_gif(&bytes) {
        return Err(Failure::invalid("is a video; only images are ranked".to_owned()));
    }
    Ok(bytes)
}

/// The server names the images at fault as `images[N]`; people know them by their files.
fn blame(status: &Status, items: &[Item]) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    let mut failures = BTreeMap::new();
    for violation in violations {
        let index = violation.field.strip_prefix("images[").and_then(|rest| rest.strip_suffix(']'));
        let Some(index) = index.and_then(|index| index.parse::<usize>().ok()) else { continue };
        if let Some(item) = items.get(index) {
            failures.insert(index, format!("{}: {}", item.name, Failure::invalid(violation.description)));
        }
    }
    if failures.is_empty() { vec![Failure::from(status.clone()).to_string()] } else { failures.into_values().collect() }
}
