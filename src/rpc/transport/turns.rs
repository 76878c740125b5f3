//! Whose turn it is on a connection of the HTTP port, and a stream that keeps to it: a peer that stops in the middle of its
//! request's headers, or does not read its answer, does not hold its connection.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::rpc::clock::now;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The peer's, which has sent nothing of another request since this moment.
    Waiting(Instant),
    /// The peer's, which has to send a request's headers since this moment: the first one when it connects, every other one
    /// when its first byte has arrived.
    Headers(Instant),
    /// The server's, until its answer is written.
    Answer,
}

/// Whose turn it is on a connection.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Mutex<Turn>>);

impl Turns {
    /// The turns of a connection that begins now.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Turn::Headers(now()))))
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes have arrived.
    fn bytes(&self) {
        let mut turn = self.lock();
        if matches!(*turn, Turn::Waiting(_)) {
            *turn = Turn::Headers(now());
        }
    }

    /// A request's headers have arrived.
    pub(super) fn request(&self) {
        *self.lock() = Turn::Answer;
    }

    /// Its answer is written.
    pub(super) fn answered(&self) {
        *self.lock() = Turn::Waiting(now());
    }

    /// How long the peer has left: `headers` for headers that have begun, `idle` for another request. `None` when it has no
    /// time left, `headers` while it is not the peer's turn.
    fn left(&self, headers: Duration, idle: Duration) -> Option<Duration> {
        let (limit, since) = match *self.lock() {
            Turn::Answer => return Some(headers),
            Turn::Headers(since) => (headers, since),
            Turn::Waiting(since) => (idle, since),
        };
        let left = limit.checked_sub(now().saturating_duration_since(since))?;
        // Headers that begin meanwhile are noticed in time.
        (!left.is_zero()).then_some(left.min(headers))
    }

    /// Resolves when the peer has taken too long.
    pub(super) async fn until_late(&self, headers: Duration, idle: Duration) {
        while let Some(left) = self.left(headers, idle) {
            sleep(left).await;
        }
    }
}

/// A stream that tells when bytes arrive, and fails when the peer does not take bytes for too long.
pub(super) struct TurnStream<T> {
    stream: T,
    turns: Turns,
    /// Longest time that the peer may not take anything.
    longest_stall: Duration,
    /// Runs while the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<T> TurnStream<T> {
    pub(super) fn new(stream: T, turns: Turns, longest_stall: Duration) -> Self {
        Self {
            stream,
            turns,
            longest_stall,
            stalled: None,
        }
    }

    /// The result of writing, or a failure when the peer has taken nothing for too long.
    fn in_time<R>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let longest = self.longest_stall;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(longest)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for TurnStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.turns.bytes();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for TurnStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.in_time(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.in_time(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        self.in_time(context, closed)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const HEADERS: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(300);
    const STALL: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn a_peer_has_time_for_headers_and_more_between_requests() {
        let turns = Turns::new();
        let began = now();
        turns.until_late(HEADERS, IDLE).await;
        assert_eq!(
            now() - began,
            HEADERS,
            "the first request is awaited from the beginning"
        );
        turns.request();
        assert_eq!(
            turns.left(HEADERS, IDLE),
            Some(HEADERS),
            "a request that is worked on has no limit here"
        );
        turns.answered();
        let idle = now();
        turns.until_late(HEADERS, IDLE).await;
        assert_eq!(now() - idle, IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_begin_the_time_for_headers_and_do_not_extend_it() {
        let turns = Turns::new();
        let (mut peer, stream) = duplex(64);
        let mut stream = TurnStream::new(stream, turns.clone(), STALL);
        turns.request();
        turns.answered();
        sleep(IDLE / 2).await;
        peer.write_all(b"P").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'P');
        let first = now();
        sleep(HEADERS / 2).await;
        peer.write_all(b"O").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'O');
        turns.until_late(HEADERS, IDLE).await;
        assert_eq!(now() - first, HEADERS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_ends_the_stream() {
        let (mut peer, stream) = duplex(1);
        let mut stream = TurnStream::new(stream, Turns::new(), STALL);
        stream.write_all(b"a").await.unwrap();
        let began = now();
        let error = stream.write_all(b"b").await.unwrap_err();
        assert_eq!((error.kind(), now() - began), (io::ErrorKind::TimedOut, STALL));
        // One that reads now and then has its time again.
        assert_eq!(peer.read_u8().await.unwrap(), b'a');
        let writing = async {
            stream.write_all(b"cd").await.unwrap();
            now()
        };
        let reading = async {
            for expected in [b'c', b'd'] {
                sleep(STALL - HEADERS).await;
                assert_eq!(peer.read_u8().await.unwrap(), expected);
            }
        };
        let began = now();
        let (written, ()) = tokio::join!(writing, reading);
        assert_eq!(written - began, STALL - HEADERS);
    }
}
