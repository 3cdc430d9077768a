//! The chosen frames equal ffmpeg's, over containers, codecs, colours, shapes and times.

use crate::clips::Clip;

const X264: &str = "-c:v libx264 -preset veryfast -g 12 -bf 2 -pix_fmt yuv420p";

fn source(size: &str, seconds: f64) -> String {
    format!("-f lavfi -i testsrc2=size={size}:rate=25:duration={seconds}")
}

fn check(name: &str, size: (u32, u32), seconds: f64, options: &str) {
    let (width, height) = size;
    // testsrc2 rounds odd sizes down.
    let source = source(&format!("{width}x{height}"), seconds);
    let source = if width % 2 == 1 || height % 2 == 1 { source.replace("testsrc2", "testsrc") } else { source };
    let clip = Clip::make(name, &format!("{source} {options}"));
    clip.assert_equals_ffmpeg(&format!("{name} {width}x{height} {options}"), width, height);
}

#[test]
fn every_container_and_codec() {
    let cases = [
        ("clip.mp4", X264),
        ("moov-first.mp4", "-c:v libx264 -preset veryfast -pix_fmt yuv420p -movflags +faststart"),
        ("fragmented.mp4", "-c:v libx264 -preset veryfast -g 10 -pix_fmt yuv420p -movflags frag_keyframe+empty_moov"),
        ("clip.mov", X264),
        ("clip.mkv", X264),
        ("clip.avi", X264),
        ("clip265.mp4", "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=12 -tag:v hvc1"),
        ("clip8.webm", "-c:v libvpx -deadline realtime -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 10 -b:v 200k"),
        ("clip9.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 12 -b:v 200k"),
        ("clipav1.mp4", "-c:v libsvtav1 -preset 12 -g 12"),
        ("clipav1.webm", "-c:v libaom-av1 -usage realtime -cpu-used 8 -g 12 -b:v 200k"),
        ("clip4.avi", "-c:v mpeg4 -bf 2 -g 12"),
        ("clip4.mp4", "-c:v mpeg4 -g 12"),
        ("clipjpeg.avi", "-c:v mjpeg"),
        ("clipjpeg.mov", "-c:v mjpeg -pix_fmt yuvj420p"),
        ("clip.gif", ""),
    ];
    for (name, options) in cases {
        check(name, (96, 64), 2.4, options);
    }
}

#[test]
fn odd_sizes() {
    check("odd.mp4", (97, 63), 1.5, "-c:v libx264 -preset veryfast -pix_fmt yuv444p");
    check("odd420.webm", (97, 63), 1.5, "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 200k -pix_fmt yuv420p");
    check("odd.gif", (97, 63), 1.0, "");
    check("odd.avi", (82, 63), 1.0, "-c:v mpeg4");
}

#[test]
fn colours() {
    for (space, range) in [("bt709", "tv"), ("smpte170m", "tv"), ("bt709", "pc"), ("bt2020nc", "tv")] {
        let options = format!("{X264} -colorspace {space} -color_range {range}");
        check("colours.mp4", (96, 64), 1.0, &options);
    }
    check("ten-bits.mp4", (96, 64), 1.0, "-c:v libx264 -preset veryfast -pix_fmt yuv420p10le -colorspace bt709");
    check("chroma422.mp4", (96, 64), 1.0, "-c:v libx264 -preset veryfast -pix_fmt yuv422p");
    check("chroma444.mp4", (96, 64), 1.0, "-c:v libx264 -preset veryfast -pix_fmt yuv444p");
}

#[test]
fn clips_of_one_to_five_and_around_sixteen_frames() {
    for frames in [1, 2, 3, 4, 5, 15, 16, 17, 18] {
        let name = format!("frames{frames}.mp4");
        let clip = Clip::make(&name, &format!("{} -frames:v {frames} {X264}", source("96x64", 2.0)));
        assert_eq!(clip.assert_equals_ffmpeg(&name, 96, 64), frames);
    }
}

#[test]
fn rotated_and_mirrored() {
    let clip = Clip::make("upright.mp4", &format!("{} {X264}", source("96x62", 1.2)));
    for degrees in [0, 90, 180, 270] {
        let turned = clip.remake("turned.mp4", "", &format!("-c copy -metadata:s:v:0 rotate={degrees}"));
        let (width, height) = if degrees % 180 == 0 { (96, 62) } else { (62, 96) };
        turned.assert_equals_ffmpeg(&format!("rotated by {degrees}"), width, height);

        // Mirrored: the display matrix with its first column negated.
        let mirrored = turned.with_bytes(mirror(turned.bytes.clone()));
        mirrored.assert_equals_ffmpeg(&format!("mirrored and rotated by {degrees}"), width, height);
    }
    let clip = Clip::make("upright.mp4", &format!("{} -c:v libx264 -pix_fmt yuv422p", source("96x64", 1.0)));
    let turned = clip.remake("turned.mp4", "", "-c copy -metadata:s:v:0 rotate=90");
    turned.assert_equals_ffmpeg("4:2:2 rotated", 64, 96);
    // The half-size chroma of an odd size is rounded up, on the other side after turning.
    let vp9 = "-f lavfi -i testsrc=size=97x63:rate=25:duration=1 -c:v libvpx-vp9 -deadline realtime -pix_fmt yuv420p";
    let clip = Clip::make("odd.mp4", vp9);
    for (degrees, width, height) in [(90, 63, 97), (180, 97, 63), (270, 63, 97)] {
        let turned = clip.remake("turned.mp4", "", &format!("-c copy -metadata:s:v:0 rotate={degrees}"));
        turned.assert_equals_ffmpeg(&format!("odd 4:2:0 rotated by {degrees}"), width, height);
    }
}

/// Negates the first column of the track header's display matrix.
fn mirror(mut bytes: Vec<u8>) -> Vec<u8> {
    let at = bytes.windows(4).position(|name| name == b"tkhd").expect("a track header") + 4 + 40;
    for entry in [at, at + 12] {
        let value = i32::from_be_bytes(bytes[entry..entry + 4].try_into().expect("four bytes"));
        bytes[entry..entry + 4].copy_from_slice(&(-value).to_be_bytes());
    }
    bytes
}

#[test]
fn references_across_key_frames() {
    let x264 = "-c:v libx264 -preset veryfast -pix_fmt yuv420p -x264-params";
    check("open.mp4", (96, 64), 4.0, &format!("{x264} open-gop=1:keyint=10:min-keyint=10:bframes=3:b-pyramid=normal"));
    check("refresh.mp4", (96, 64), 4.0, &format!("{x264} intra-refresh=1:keyint=20:bframes=0"));
    check("no-bframes.mp4", (96, 64), 4.0, &format!("{x264} keyint=10:bframes=0"));
    check("one-gop.mkv", (96, 64), 6.0, &format!("{x264} keyint=1000:bframes=8:b-adapt=0"));
    check("interlaced.mp4", (96, 64), 2.0, &format!("{x264} interlaced=1:keyint=12"));
    let x265 = "-c:v libx265 -preset ultrafast -x265-params log-level=none:open-gop=1:keyint=10:min-keyint=10";
    check("open265.mp4", (96, 64), 4.0, &format!("{x265}:bframes=4:b-pyramid=1"));
    check("layers265.mp4", (96, 64), 4.0, &format!("{x265}:bframes=4:temporal-layers=3"));
}

#[test]
fn uneven_times() {
    let drop = "-vf select='not(eq(mod(n\\,7)\\,3))*not(between(n\\,20\\,30))' -fps_mode vfr";
    check("uneven.mp4", (96, 64), 4.0, &format!("{X264} {drop}"));
    check("uneven.mkv", (96, 64), 4.0, &format!("{X264} {drop}"));
    check("late.mp4", (96, 64), 2.0, &format!("{X264} -output_ts_offset 5"));
    check("early.mkv", (96, 64), 2.0, &format!("{X264} -output_ts_offset -0.5 -avoid_negative_ts disabled"));
}

#[test]
fn edit_lists() {
    let clip = Clip::make("whole.mp4", &format!("{} {X264}", source("96x64", 4.0)));
    for start in ["0.3", "0.9", "1.7"] {
        let trimmed = clip.remake("trimmed.mp4", &format!("-ss {start}"), "-c copy");
        trimmed.assert_equals_ffmpeg(&format!("trimmed at {start}"), 96, 64);
    }
}

#[test]
fn damage_in_the_middle() {
    let clips = [
        Clip::make("damaged.mp4", &format!("{} {X264}", source("96x64", 3.0))),
        Clip::make("damaged4.avi", &format!("{} -c:v mpeg4 -g 12", source("96x64", 3.0))),
    ];
    for clip in clips {
        let mut bytes = clip.bytes.clone();
        // From the middle of the media on, every so often a byte is another.
        let (from, to) = (bytes.len() * 2 / 5, bytes.len() * 3 / 5);
        bytes[from..to].iter_mut().step_by(97).for_each(|byte| *byte ^= 0x55);
        let what = clip.path.display().to_string();
        clip.with_bytes(bytes).assert_equals_ffmpeg(&what, 96, 64);
    }
}

#[test]
fn ten_minutes() {
    let options = "-f lavfi -i testsrc=size=64x48:rate=25:duration=600 -c:v libx264 -preset ultrafast -pix_fmt yuv420p";
    let clip = Clip::make("long.mp4", options);
    assert_eq!(clip.assert_equals_ffmpeg("ten minutes", 64, 48), 15_000);
}
