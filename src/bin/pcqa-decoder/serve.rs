//! Requests in, replies out.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use crate::shared::protocol::{Decoded, MAX_MESSAGE, Refusal, Reply, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use crate::frames::ChosenFrames;
use crate::{container, decode, demux};

/// Answers requests until the pool closes its end of the socket, after telling it how the sandbox went.
pub fn run(sandbox: Result<(), String>) -> io::Result<()> {
    if let Err(reason) = sandbox {
        return answer(&Reply::Unusable { reason });
    }
    answer(&Reply::Ready)?;
    while let Some((request, video, output)) = next_request()? {
        let outcome = decode_video(&request, video).and_then(|chosen| {
            chosen.write_to(&output)?;
            Ok(Decoded { frames: chosen.count(), resize_us: chosen.resize_time().as_micros() as u64 })
        });
        answer(&Reply::Answer { number: request.number, outcome })?;
    }
    Ok(())
}

fn decode_video(request: &Request, video: File) -> Result<ChosenFrames, Refusal> {
    container::check(&video)?;
    let clip = demux::read(video, request)?;
    decode::choose(&clip, request)
}

fn answer(reply: &Reply) -> io::Result<()> {
    let message = serde_json::to_vec(reply)?;
    send(io::stdin().as_fd(), &message, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn next_request() -> io::Result<Option<(Request, File, File)>> {
    let mut message = [0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut message)];
    let received = recvmsg(io::stdin().as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut files = control
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .map(File::from);
    let (Some(video), Some(output)) = (files.next(), files.next()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    };
    drop(files);
    let request = serde_json::from_slice(&message[..received.bytes])?;
    Ok(Some((request, video, output)))
}
