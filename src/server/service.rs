//! The RPCs: each takes its request apart, lets [`Scoring`] work, and puts the answer together.

use std::sync::{Arc, OnceLock};

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::call::Call;
use super::error::ServiceError;
use super::scoring::{Clock, Scoring};
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
        let clock = clock(&request)?;
        let proto::ScoreImageRequest { prompt, image, .. } = request.into_inner();
        let score = self.ready()?.score(Track::Image, "image", &prompt, image, clock).await?;
        Ok(Response::new(proto::ScoreImageResponse { score: Some(score) }))
    }

    async fn score_video(
        &self,
        request: Request<proto::ScoreVideoRequest>,
    ) -> Result<Response<proto::ScoreVideoResponse>, Status> {
        let clock = clock(&request)?;
        let proto::ScoreVideoRequest { prompt, video, .. } = request.into_inner();
        let score = self.ready()?.score(Track::Video, "video", &prompt, video, clock).await?;
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
        let clock = clock(&request)?;
        let proto::RankImagesRequest { prompt, images, .. } = request.into_inner();
        let ranked = self.ready()?.rank(&prompt, images, clock).await?;
        Ok(Response::new(proto::RankImagesResponse { ranked }))
    }

    async fn get_model(&self, _: Request<proto::GetModelRequest>) -> Result<Response<proto::GetModelResponse>, Status> {
        Ok(Response::new(proto::GetModelResponse { model: Some(self.ready()?.model()) }))
    }
}

fn clock(request: &Request<impl Sized>) -> Result<Clock, ServiceError> {
    let Call { arrived, deadline, .. } = call(request)?;
    Ok(Clock { arrived, deadline })
}

fn call(request: &Request<impl Sized>) -> Result<Call, ServiceError> {
    let found = request.extensions().get::<Call>().cloned();
    found.ok_or_else(|| ServiceError::internal("the call has not passed its layer"))
}
