//! The RPCs: each takes its request apart, lets [`Scoring`] work, and puts the answer together.

use std::sync::{Arc, OnceLock};

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::call::{Call, Terms};
use super::convert;
use super::decode::Media;
use super::error::ServiceError;
use super::scoring::Scoring;
use super::shares::Share;
use super::stream::Streams;
use crate::model::Track;
use crate::proto;
use crate::proto::scoring_service_server::ScoringService;

/// The scoring service; it answers UNAVAILABLE until the model is loaded.
#[derive(Clone)]
pub(super) struct Service {
    pub scoring: Arc<OnceLock<Arc<Scoring>>>,
    pub streams: Streams,
}

impl Service {
    /// Not there before the model is loaded and warm.
    fn ready(&self) -> Result<Arc<Scoring>, ServiceError> {
        self.scoring.get().cloned().ok_or(ServiceError::Unavailable("the model is loading"))
    }
}

#[tonic::async_trait]
impl ScoringService for Service {
    async fn score_image(
        &self,
        request: Request<proto::ScoreImageRequest>,
    ) -> Result<Response<proto::ScoreImageResponse>, Status> {
        let (message, share, terms) = received(request, |message| message.priority)?;
        let proto::ScoreImageRequest { prompt, image, .. } = message;
        let score = self.ready()?.score(Track::Image, "image", &prompt, Media::new(image, share), terms).await?;
        Ok(Response::new(proto::ScoreImageResponse { score: Some(score) }))
    }

    async fn score_video(
        &self,
        request: Request<proto::ScoreVideoRequest>,
    ) -> Result<Response<proto::ScoreVideoResponse>, Status> {
        let (message, share, terms) = received(request, |message| message.priority)?;
        let proto::ScoreVideoRequest { prompt, video, .. } = message;
        let score = self.ready()?.score(Track::Video, "video", &prompt, Media::new(video, share), terms).await?;
        Ok(Response::new(proto::ScoreVideoResponse { score: Some(score) }))
    }

    type ScoreStreamStream = ReceiverStream<Result<proto::ScoreStreamResponse, Status>>;

    async fn score_stream(
        &self,
        request: Request<Streaming<proto::ScoreStreamRequest>>,
    ) -> Result<Response<Self::ScoreStreamStream>, Status> {
        let scoring = self.ready()?;
        let call = call(&request)?;
        Ok(Response::new(self.streams.clone().answers(scoring, call, request.into_inner())))
    }

    async fn rank_images(
        &self,
        request: Request<proto::RankImagesRequest>,
    ) -> Result<Response<proto::RankImagesResponse>, Status> {
        let (message, share, terms) = received(request, |message| message.priority)?;
        let proto::RankImagesRequest { prompt, images, .. } = message;
        let images = images.into_iter().map(|image| Media::new(image, share.clone())).collect();
        drop(share);
        let ranked = self.ready()?.rank(&prompt, images, terms).await?;
        Ok(Response::new(proto::RankImagesResponse { ranked }))
    }

    async fn get_model(&self, _: Request<proto::GetModelRequest>) -> Result<Response<proto::GetModelResponse>, Status> {
        Ok(Response::new(proto::GetModelResponse { model: Some(self.ready()?.model()) }))
    }
}

/// The message of a unary call, its share of the bytes in flight, and the terms of the call.
fn received<M>(request: Request<M>, priority: impl FnOnce(&M) -> i32) -> Result<(M, Arc<Share>, Terms), ServiceError> {
    let Call { caller, received, arrived, deadline, .. } = call(&request)?;
    let message = request.into_inner();
    let terms = Terms { caller, priority: convert::priority(priority(&message))?, arrived, deadline };
    Ok((message, Arc::new(received.take_message()), terms))
}

fn call(request: &Request<impl Sized>) -> Result<Call, ServiceError> {
    let found = request.extensions().get::<Call>().cloned();
    found.ok_or_else(|| ServiceError::internal("the call has not passed its layer"))
}
