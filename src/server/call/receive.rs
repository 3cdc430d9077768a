//! Bytes in flight: what callers have sent and the service still holds, counted while it arrives.
//!
//! tonic reserves room for a message as soon as its length is known, but only what has arrived is memory in use; that is
//! what a caller is charged for, until its media has been decoded.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::server::error::ServiceError;
use crate::server::shares::Share;

/// What one call has sent; clones are the same account.
#[derive(Debug, Clone)]
pub(in crate::server) struct Received(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    share: Share,
    framing: Framing,
    /// Bytes of each message that has arrived whole and is not yet taken.
    whole: VecDeque<u64>,
}

impl Received {
    /// Charges `share` with what arrives.
    pub fn new(share: Share) -> Self {
        Self(Arc::new(Mutex::new(State { share, framing: Framing::default(), whole: VecDeque::new() })))
    }

    /// The share of the next message in order of arrival. Its bytes are in flight until this is dropped.
    pub fn take_message(&self) -> Share {
        let mut state = self.lock();
        let bytes = state.whole.pop_front().unwrap_or(0);
        state.share.split(bytes)
    }

    /// `body`, charged to this account; ends with RESOURCE_EXHAUSTED where the share does not reach.
    pub fn count(&self, body: Body) -> Body {
        Body::new(CountedBody { body, received: self.clone() })
    }

    fn add(&self, data: &[u8]) -> Result<(), ServiceError> {
        let State { share, framing, whole } = &mut *self.lock();
        let bytes = framing.read(data, |message| whole.push_back(message));
        share.grow(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct CountedBody {
    body: Body,
    received: Received,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(refused) = self.received.add(data)
        {
            return Poll::Ready(Some(Err(refused.into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where a body stands between its messages, each of which has a flag and its length, in 4 bytes, before it.
#[derive(Debug, Default)]
struct Framing {
    head: [u8; 5],
    /// Bytes of the head that have been read.
    head_read: usize,
    /// Bytes of the message that have not been read, once the head has.
    left: usize,
}

impl Framing {
    /// Bytes of messages, without heads, in the next `data` of the body. `whole` gets the length of each message that
    /// ends in it.
    fn read(&mut self, mut data: &[u8], mut whole: impl FnMut(u64)) -> u64 {
        let mut bytes = 0;
        loop {
            let (head, rest) = data.split_at(data.len().min(self.head.len() - self.head_read));
            self.head[self.head_read..][..head.len()].copy_from_slice(head);
            self.head_read += head.len();
            if self.head_read < self.head.len() {
                return bytes;
            }
            if !head.is_empty() {
                self.left = self.length() as usize;
            }
            let (message, rest) = rest.split_at(rest.len().min(self.left));
            bytes += message.len() as u64;
            self.left -= message.len();
            if self.left > 0 {
                return bytes;
            }
            whole(self.length().into());
            self.head_read = 0;
            data = rest;
        }
    }

    fn length(&self) -> u32 {
        let [_compressed, a, b, c, d] = self.head;
        u32::from_be_bytes([a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::Caller;
    use crate::server::shares::Shares;

    fn framed(lengths: &[usize]) -> Vec<u8> {
        let message = |&length: &usize| {
            let head = [&[0], (length as u32).to_be_bytes().as_slice()].concat();
            [head, vec![7; length]].concat()
        };
        lengths.iter().flat_map(message).collect()
    }

    #[test]
    fn each_message_gives_back_its_own_bytes() {
        let shares = Shares::new(1000, "bytes are held");
        let received = Received::new(shares.none(Caller(1)));
        let body = framed(&[100, 0, 30]);
        received.add(&body[..50]).unwrap();
        assert_eq!(shares.used(), 45);
        received.add(&body[50..]).unwrap();
        assert_eq!(shares.used(), 130);
        let (first, second) = (received.take_message(), received.take_message());
        drop(second);
        assert_eq!(shares.used(), 130);
        drop(first);
        assert_eq!(shares.used(), 30);
        drop(received);
        assert_eq!(shares.used(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_not_counted() {
        let shares = Shares::new(100, "bytes are held");
        let received = Received::new(shares.none(Caller(1)));
        received.add(&framed(&[50])).unwrap();
        assert!(matches!(received.add(&framed(&[1])), Err(ServiceError::Overloaded { .. })));
        assert_eq!(shares.used(), 50);
        assert!(Received::new(shares.none(Caller(2))).add(&framed(&[50])).is_ok());
        assert!(Received::new(shares.none(Caller(1))).add(&framed(&[0])).is_ok());
    }

    proptest! {
        /// However the transport cuts a body, every message is counted whole and once.
        #[test]
        fn messages_are_found_however_the_body_is_cut(
            lengths in proptest::collection::vec(0usize..50, 0..20),
            cuts in proptest::collection::vec(0usize..20, 0..200),
        ) {
            let body = framed(&lengths);
            let (mut rest, mut framing, mut found, mut bytes) = (&body[..], Framing::default(), Vec::new(), 0);
            for cut in cuts.into_iter().chain([body.len()]) {
                let (data, after) = rest.split_at(cut.min(rest.len()));
                bytes += framing.read(data, |message| found.push(message as usize));
                rest = after;
            }
            prop_assert_eq!(bytes as usize, lengths.iter().sum::<usize>());
            prop_assert_eq!(found, lengths);
        }
    }
}
