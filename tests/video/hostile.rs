//! Input that is no video, or more of one than allowed.

use pcqa::media::{DecoderConfig, MediaError, VideoLimits};

use crate::clips::Clip;
use crate::{config, decode, decode_on, pool, soon};

const TINY: &str = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=2 -c:v libx264 -preset veryfast -pix_fmt yuv420p";

fn refusal(video: &[u8]) -> MediaError {
    match decode(video, &[32]) {
        Ok(decoded) => panic!("decoded to {} frames", decoded.frames.count),
        Err(error) => error,
    }
}

fn refusal_within(limits: VideoLimits, video: &[u8]) -> MediaError {
    let pool = pool(DecoderConfig { limits, ..config() });
    match decode_on(&pool, video, soon()) {
        Ok(decoded) => panic!("decoded to {} frames", decoded.frames.count),
        Err(error) => error,
    }
}

/// Bytes without structure, the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

#[test]
fn no_video_at_all() {
    assert_eq!(refusal(b""), MediaError::Empty);
    let lines = b"a plain text\n".repeat(1000);
    let inputs: [&[u8]; 4] = [b"x", &lines, &noise(100_000), &[0; 4096]];
    for input in inputs {
        assert!(matches!(refusal(input), MediaError::UnknownFormat { .. }), "{:?}", refusal(input));
    }
}

#[test]
fn pictures_are_no_videos() {
    for (name, found) in [("still.png", "a PNG image"), ("still.jpg", "a JPEG image"), ("still.bmp", "a BMP image")] {
        let still = Clip::make(name, "-f lavfi -i testsrc2=size=64x64 -frames:v 1");
        assert!(matches!(refusal(&still.bytes), MediaError::WrongKind { found: is, .. } if is == found), "{name}");
    }
}

#[test]
fn playlists_are_no_containers() {
    let playlists = [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile /etc/passwd\n",
        "<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\"></MPD>",
    ];
    for playlist in playlists {
        assert!(matches!(refusal(playlist.as_bytes()), MediaError::UnknownFormat { .. }), "{playlist}");
    }
}

#[test]
fn truncated_and_damaged_files_of_each_container() {
    let names = ["clip.mp4", "clip.mov", "clip.mkv", "clip.avi"];
    let others = [
        Clip::make("first.mp4", &format!("{TINY} -movflags +faststart")),
        Clip::make("clip.gif", "-f lavfi -i testsrc2=size=96x64:rate=25:duration=1"),
    ];
    let clips = names.map(|name| Clip::make(name, TINY)).into_iter().chain(others);
    for clip in clips {
        let name = clip.path.display();
        for part in [1, 5, 9] {
            let cut = &clip.bytes[..clip.bytes.len() * part / 10];
            assert!(matches!(refusal(cut), MediaError::Corrupt { .. }), "{name} cut to {part}/10: {:?}", refusal(cut));
        }
        // Headers of noise behind a valid signature.
        let mut damaged = clip.bytes.clone();
        damaged[16..].copy_from_slice(&noise(clip.bytes.len() - 16));
        let error = refusal(&damaged);
        assert!(error.is_callers_fault() && !matches!(error, MediaError::Empty), "{name}: {error}");
    }
    for signature in [&b"GIF89a"[..], b"\x1a\x45\xdf\xa3", b"RIFF\x00\x00\x00\x00AVI ", b"\x00\x00\x00\x18ftypisom"] {
        let bytes = [signature, &noise(5000)].concat();
        assert!(refusal(&bytes).is_callers_fault(), "{}", signature.escape_ascii());
    }
}

#[test]
fn sound_alone_is_no_video() {
    let sound = Clip::make("sound.mp4", "-f lavfi -i sine=duration=1 -c:a aac");
    assert_eq!(refusal(&sound.bytes), MediaError::NoVideoStream);

    let cover = Clip::make("cover.png", "-f lavfi -i testsrc2=size=64x64 -frames:v 1");
    let options = format!("-i {} -map 0 -map 1 -c:a copy -c:v png -disposition:v:0 attached_pic", cover.path.display());
    let with_cover = sound.remake("cover.mp4", "", &options);
    assert_eq!(refusal(&with_cover.bytes), MediaError::NoVideoStream);
}

#[test]
fn codecs_that_are_not_ours() {
    let clip = Clip::make("flv1.avi", "-f lavfi -i testsrc2=size=96x64:duration=1 -c:v flv");
    assert!(matches!(refusal(&clip.bytes), MediaError::Corrupt { reason } if reason.contains("flv1")));
}

#[test]
fn three_hours_are_too_long() {
    let options = "-f lavfi -i testsrc2=size=64x48:rate=1/60:duration=10800 -c:v libx264 -preset ultrafast";
    for name in ["hours.mp4", "hours.mkv", "hours.avi"] {
        let clip = Clip::make(name, options);
        assert!(matches!(refusal(&clip.bytes), MediaError::TooLong { limit: 900.0, .. }), "{name}");
    }
    // Without a duration in the header.
    let clip = Clip::make("live.mp4", &format!("{options} -movflags frag_keyframe+empty_moov"));
    assert!(matches!(refusal(&clip.bytes), MediaError::TooLong { limit: 900.0, .. }));
}

#[test]
fn limits_of_bytes_pixels_and_frames() {
    let clip = Clip::make("clip.mp4", TINY);
    let limits = VideoLimits::default();
    let bytes = clip.bytes.len() as u64;
    let error = refusal_within(VideoLimits { max_bytes: bytes - 1, ..limits.clone() }, &clip.bytes);
    assert_eq!(error, MediaError::TooManyBytes { bytes, limit: bytes - 1 });
    let error = refusal_within(VideoLimits { max_pixels: 96 * 64 - 1, ..limits.clone() }, &clip.bytes);
    assert_eq!(error, MediaError::TooManyPixels { width: 96, height: 64, limit: 96 * 64 - 1 });
    let error = refusal_within(VideoLimits { max_frames: 49, ..limits.clone() }, &clip.bytes);
    assert_eq!(error, MediaError::TooManyFrames { limit: 49 });

    let exact =
        VideoLimits { max_bytes: bytes, max_pixels: 96 * 64, max_frames: 50, max_seconds: 2.0, max_frames_used: 3 };
    let pool = pool(DecoderConfig { limits: exact, ..config() });
    let decoded = decode_on(&pool, &clip.bytes, soon()).expect("all limits just hold");
    assert_eq!(decoded.frames.count, 3);
}
