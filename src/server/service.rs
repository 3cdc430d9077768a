//! The RPCs: each takes its request apart, lets [`Scoring`] work, and puts the answer together.

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::call::{Call, Terms};
use super::convert;
use super::decode::Media;
use super::error::ServiceError;
use super::served::Served;
use super::shares::Share;
use super::stream::Streams;
use super::trust::Guest;
use crate::model::Track;
use crate::proto;
use crate::proto::scoring_service_server::ScoringService;

/// The scoring service; it answers UNAVAILABLE until the model is loaded.
#[derive(Clone)]
pub(super) struct Service {
    pub served: Served,
    pub streams: Streams,
}

/// What a unary call brings.
struct Arrival<M> {
    message: M,
    /// Of the bytes in flight.
    share: Arc<Share>,
    terms: Terms,
    guest: Guest,
}

#[tonic::async_trait]
impl ScoringService for Service {
    async fn score_image(
        &self,
        request: Request<proto::ScoreImageRequest>,
    ) -> Result<Response<proto::ScoreImageResponse>, Status> {
        let Arrival { message, share, terms, guest } = received(request, |message| message.priority)?;
        let proto::ScoreImageRequest { prompt, image, .. } = message;
        let scoring = self.served.ready()?;
        guest.spend(scoring.most_frames(Track::Image))?;
        let score = scoring.score(Track::Image, "image", &prompt, Media::new(image, share), terms).await?;
        Ok(Response::new(proto::ScoreImageResponse { score: Some(score) }))
    }

    async fn score_video(
        &self,
        request: Request<proto::ScoreVideoRequest>,
    ) -> Result<Response<proto::ScoreVideoResponse>, Status> {
        let Arrival { message, share, terms, guest } = received(request, |message| message.priority)?;
        let proto::ScoreVideoRequest { prompt, video, .. } = message;
        let scoring = self.served.ready()?;
        guest.spend(scoring.most_frames(Track::Video))?;
        let score = scoring.score(Track::Video, "video", &prompt, Media::new(video, share), terms).await?;
        Ok(Response::new(proto::ScoreVideoResponse { score: Some(score) }))
    }

    type ScoreStreamStream = ReceiverStream<Result<proto::ScoreStreamResponse, Status>>;

    async fn score_stream(
        &self,
        request: Request<Streaming<proto::ScoreStreamRequest>>,
    ) -> Result<Response<Self::ScoreStreamStream>, Status> {
        self.served.ready()?;
        let call = call(&request)?;
        Ok(Response::new(self.streams.clone().answers(self.served.clone(), call, request.into_inner())))
    }

    async fn rank_images(
        &self,
        request: Request<proto::RankImagesRequest>,
    ) -> Result<Response<proto::RankImagesResponse>, Status> {
        let Arrival { message, share, terms, guest } = received(request, |message| message.priority)?;
        let proto::RankImagesRequest { prompt, images, .. } = message;
        let images: Vec<_> = images.into_iter().map(|image| Media::new(image, share.clone())).collect();
        drop(share);
        let scoring = self.served.ready()?;
        // A request that is refused for its length does not lock its key out for days.
        let most = scoring.limits.max_rank_images.get();
        guest.spend(u32::try_from(images.len()).unwrap_or(u32::MAX).min(most))?;
        let ranked = scoring.rank(&prompt, images, terms).await?;
        Ok(Response::new(proto::RankImagesResponse { ranked }))
    }

    async fn get_model(&self, _: Request<proto::GetModelRequest>) -> Result<Response<proto::GetModelResponse>, Status> {
        Ok(Response::new(proto::GetModelResponse { model: Some(self.served.ready()?.model()) }))
    }
}

fn received<M>(request: Request<M>, priority: impl FnOnce(&M) -> i32) -> Result<Arrival<M>, ServiceError> {
    let Call { caller, guest, received, arrived, deadline, span, .. } = call(&request)?;
    let message = request.into_inner();
    let terms = Terms { caller, priority: convert::priority(priority(&message))?, arrived, deadline, span };
    Ok(Arrival { message, share: Arc::new(received.take_message()), terms, guest })
}

fn call(request: &Request<impl Sized>) -> Result<Call, ServiceError> {
    let found = request.extensions().get::<Call>().cloned();
    found.ok_or_else(|| ServiceError::internal("the call has not passed its layer"))
}
