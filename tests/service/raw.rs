//! gRPC by hand, frame by frame: what no client library would send.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use pcqa::proto::ScoreImageRequest;
use prost::Message;
use tokio::net::TcpStream;
use tonic::Status;

use crate::house::House;

/// One connection.
pub struct Wire {
    sender: SendRequest<Bytes>,
    address: String,
}

/// A call whose body is being sent.
pub struct Open {
    pub body: SendStream<Bytes>,
    response: ResponseFuture,
}

impl Wire {
    pub async fn connect(house: &House) -> Self {
        let stream = TcpStream::connect(&house.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { sender, address: house.address.clone() }
    }

    /// Sends the head of a call of `rpc`, with `timeout` as its `grpc-timeout`.
    pub async fn open(&self, rpc: &str, timeout: Option<&str>) -> Open {
        let mut sender = self.sender.clone().ready().await.unwrap();
        let mut request = Request::post(format!("http://{}/pcqa.v1.ScoringService/{rpc}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let (response, body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        Open { body, response }
    }
}

impl Open {
    pub fn send(&mut self, bytes: impl Into<Bytes>) {
        // The server may have answered already; the answer is what counts.
        let _ = self.body.send_data(bytes.into(), false);
    }

    /// Ends the body and waits for the answer.
    pub async fn finish(mut self) -> Status {
        let _ = self.body.send_data(Bytes::new(), true);
        self.answer().await
    }

    /// Waits for the answer, whatever has been sent.
    pub async fn answer(self) -> Status {
        let (head, body) = self.response.await.unwrap().into_parts();
        match Status::from_header_map(&head.headers) {
            Some(status) => status,
            None => Status::from_header_map(&trailers(body).await).unwrap(),
        }
    }
}

async fn trailers(mut body: RecvStream) -> HeaderMap {
    while let Some(data) = body.data().await {
        let length = data.unwrap().len();
        let _ = body.flow_control().release_capacity(length);
    }
    body.trailers().await.unwrap().unwrap()
}

/// The five bytes before a message of `length` bytes.
pub fn head(length: u32) -> Bytes {
    [&[0], length.to_be_bytes().as_slice()].concat().into()
}

/// A ScoreImage message with its head.
pub fn score_image(prompt: &str, image: Vec<u8>) -> Bytes {
    let message = ScoreImageRequest { prompt: prompt.to_owned(), image: image.into(), ..Default::default() };
    let message = message.encode_to_vec();
    [&head(message.len() as u32)[..], &message].concat().into()
}
