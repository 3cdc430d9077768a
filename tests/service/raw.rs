//! gRPC by hand, frame by frame: what no client library would send.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use pcqa::proto::ScoreImageRequest;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

    /// Whether the server still takes calls on this connection.
    pub async fn takes_calls(&self) -> bool {
        self.sender.clone().ready().await.is_ok()
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

/// Opens calls and resets each at once, up to `most`, byte for byte: a client library never sends what is taken back in
/// time. Ends when the server closes the connection.
pub async fn reset_until_closed(house: &House, most: u32) {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const END_HEADERS: u8 = 4;
    const CANCEL: u32 = 8;
    // POST, http, a path and an authority, in HPACK.
    let path = b"/pcqa.v1.ScoringService/GetModel";
    let call = [&[0x83, 0x86, 0x44, path.len() as u8], &path[..], &[0x41, 1, b'a']].concat();
    let mut bytes = hello();
    for number in 0..most {
        let stream = 2 * number + 1;
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &call));
        bytes.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
    }
    let (mut reader, mut writer) = TcpStream::connect(&house.address).await.unwrap().into_split();
    // Fails where the server closes before it has read all.
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let mut answer = Vec::new();
    let _ = reader.read_to_end(&mut answer).await;
    drop(writing.await);
}

/// Begins a connection and answers nothing. Ends when the server closes it.
pub async fn say_hello_and_no_more(house: &House) {
    let mut stream = TcpStream::connect(&house.address).await.unwrap();
    stream.write_all(&hello()).await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// Opens a connection and never says a word. Ends when the server closes it.
pub async fn say_nothing(house: &House) {
    let mut stream = TcpStream::connect(&house.address).await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// The first bytes of a connection, with no settings.
pub fn hello() -> Vec<u8> {
    const SETTINGS: u8 = 4;
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
