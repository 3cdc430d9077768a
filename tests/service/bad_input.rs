//! Bad input is refused with the field, the limit and the value, and a good request sent at the same moment succeeds.

use bytes::{Buf, BufMut, Bytes};
use image::ImageFormat;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::house::{House, assert_same, blamed};
use crate::media::{clip, encoded, ffmpeg, picture, png, png_that_claims, tiff_that_claims};

const PROMPT: &str = "a lighthouse";

#[tokio::test]
async fn bad_images_are_refused_while_a_good_one_is_scored() {
    let house = House::start(&["--max-image-bytes=2000000"]).await;
    let reference = house.image(PROMPT, png(1)).await.unwrap();
    let mut bad = vec![
        ("empty", Vec::new(), "is empty"),
        ("text", b"these are only words".to_vec(), "is not in a known format"),
        ("zero-sized", png_that_claims(0, 0), ""),
        ("bomb", png_that_claims(30_000, 30_000), "is 30000x30000 = 900000000 pixels, the limit is 33554432"),
        ("huge tiff", tiff_that_claims(20_000, 10_000), "is 20000x10000 = 200000000 pixels, the limit is 33554432"),
        ("too many bytes", vec![0x89; 2_000_001], "has 2000001 bytes, the limit is 2000000"),
        ("a video", clip(2), ""),
    ];
    let picture = picture(200, 150, 3);
    for format in
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff]
    {
        let mut truncated = encoded(&picture, format);
        truncated.truncate(truncated.len() / 3);
        bad.push((format.extensions_str()[0], truncated, ""));
    }
    for (name, image, problem) in bad {
        let (refused, good) = tokio::join!(house.image(PROMPT, image), house.image(PROMPT, png(1)));
        let (field, message) = blamed(&refused.expect_err(name));
        assert_eq!(field, "image", "{name}: {message}");
        assert!(message.starts_with("image: ") && message.contains(problem), "{name}: {message}");
        assert_same(&good.unwrap(), &reference);
    }
}

#[tokio::test]
async fn bad_videos_are_refused_while_a_good_one_is_scored() {
    let house = House::start(&["--max-video-seconds=20", "--max-video-frames=100", "--max-video-pixels=100000"]).await;
    let good_clip = clip(3);
    let reference = house.video(PROMPT, good_clip.clone()).await.unwrap();
    let mut corrupt = clip(30);
    // The index stands, no frame does. One damaged frame among good ones costs that frame only.
    let start = |kind: &[u8]| corrupt.windows(4).position(|window| window == kind).unwrap();
    let frames = start(b"mdat") + 4..start(b"moov") - 4;
    corrupt[frames].fill(0x5a);
    let mut truncated = clip(30);
    truncated.truncate(200);
    let source = "-f lavfi -i testsrc=size=64x64";
    let bad = [
        ("empty", Vec::new(), "is empty"),
        ("text", b"these are only words".to_vec(), ""),
        ("truncated", truncated, ""),
        ("corrupt", corrupt, ""),
        ("an image", png(1), ""),
        ("sound only", ffmpeg("-f lavfi -i sine -t 1 -c:a aac", "mp4"), "has no video stream"),
        ("too long", ffmpeg(&format!("{source}:rate=1 -t 30 -c:v libx264"), "mp4"), "the limit is 20 s"),
        ("too many frames", ffmpeg(&format!("{source}:rate=25 -t 5 -c:v libx264"), "mp4"), "more than 100 frames"),
        (
            "too large",
            ffmpeg("-f lavfi -i testsrc=size=400x300 -frames:v 2 -c:v libx264", "mp4"),
            "is 400x300 = 120000 pixels, the limit is 100000",
        ),
        (
            "playlist",
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n".to_vec(),
            "",
        ),
        ("concat", b"ffconcat version 1.0\nfile '/etc/passwd'\n".to_vec(), ""),
    ];
    for (name, video, problem) in bad {
        let (refused, good) = tokio::join!(house.video(PROMPT, video), house.video(PROMPT, good_clip.clone()));
        let (field, message) = blamed(&refused.expect_err(name));
        assert_eq!(field, "video", "{name}: {message}");
        assert!(message.starts_with("video: ") && message.contains(problem), "{name}: {message}");
        assert!(!message.contains("root:"), "{name}: {message}");
        assert_same(&good.unwrap(), &reference);
    }
}

#[tokio::test]
async fn bad_prompts_and_bad_lists_are_refused() {
    let house = House::start(&["--max-rank-images=3"]).await;
    let prompts = [
        (String::new(), "prompt: is empty"),
        (" \n\t\u{3000}".to_owned(), "prompt: is only white space"),
        ("p".repeat(1_000_000), "prompt: has 1000000 bytes, the limit is 16384"),
    ];
    for (prompt, expected) in prompts {
        for refused in [
            house.image(&prompt, png(1)).await.map(|_| ()),
            house.video(&prompt, png(1)).await.map(|_| ()),
            house.rank(&prompt, vec![png(1)]).await.map(|_| ()),
        ] {
            assert_eq!(blamed(&refused.unwrap_err()), ("prompt".to_owned(), expected.to_owned()));
        }
    }
    let empty = house.rank(PROMPT, Vec::new()).await.unwrap_err();
    assert_eq!(blamed(&empty).1, "images: is empty; at least one image is needed");
    let many = house.rank(PROMPT, vec![png(1); 4]).await.unwrap_err();
    assert_eq!(blamed(&many).1, "images: has 4 elements, the limit is 3");

    let mixed = house.rank(PROMPT, vec![Vec::new(), png(1), b"words".to_vec()]).await.unwrap_err();
    assert_eq!(mixed.code(), Code::InvalidArgument);
    let details = mixed.get_error_details();
    let fields: Vec<_> = details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["images[0]", "images[2]"]);
    house.rank(PROMPT, vec![png(1); 3]).await.unwrap();
}

#[tokio::test]
async fn messages_that_no_client_of_ours_would_send_are_refused() {
    let house = House::start(&[
        "--max-message-bytes=100000",
        "--max-image-bytes=90000",
        "--max-video-bytes=90000",
        "--max-prompt-bytes=1000",
    ])
    .await;
    let raw = |bytes: &'static [u8]| send_raw(&house, Bytes::from_static(bytes));

    let not_utf8 = raw(b"\x0a\x02\xff\xfe\x12\x01x").await.unwrap_err();
    assert_eq!(blamed(&not_utf8).0, "prompt");
    let broken = raw(b"\xff\xff\xff").await.unwrap_err();
    assert_eq!(blamed(&broken).0, "request");
    let nothing = raw(b"").await.unwrap_err();
    assert_eq!(blamed(&nothing).0, "prompt");

    let too_long = house.image(PROMPT, vec![0; 100_000]).await.unwrap_err();
    let (_, message) = blamed(&too_long);
    assert!(message.starts_with("message: has 1000") && message.ends_with("the limit is 100000"), "{message}");
    let (_, message) = blamed(&house.image(PROMPT, vec![0x89; 90_001]).await.unwrap_err());
    assert_eq!(message, "image: has 90001 bytes, the limit is 90000");

    let request = pcqa::proto::ScoreImageRequest { prompt: PROMPT.to_owned(), image: png(1).into(), priority: 7 };
    let status = house.client().score_image(request).await.unwrap_err();
    assert_eq!(blamed(&status), ("priority".to_owned(), "priority: is 7, which is no Priority".to_owned()));

    let mut request = Request::new(pcqa::proto::GetModelRequest {});
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let status = house.client().get_model(request).await.unwrap_err();
    assert_eq!(blamed(&status).0, "grpc-timeout");
}

async fn send_raw(house: &House, message: Bytes) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(house.channel.clone());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/pcqa.v1.ScoringService/ScoreImage");
    client.unary(Request::new(message), path, RawCodec).await.map(|_| ())
}

/// Sends bytes as they are.
#[derive(Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
